//! Sizes as people write them: `512M`, `1G`, `4096`.

/// Parses a size: a decimal number with nothing or one of `K`, `M`, `G`, `T` (powers of 1024) after it.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        "T" | "t" | "TiB" => 40,
        other => return Err(format!("unit {other:?} is none of K, M, G, T")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a size such as 512M"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("512M"), Ok(512 << 20));
        assert_eq!(parse("1G"), Ok(1 << 30));
        assert_eq!(parse("2GiB"), Ok(2 << 30));
        for bad in ["", "G", "-1G", "1.5G", "1X", "99999999999999G", "1 G G"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
