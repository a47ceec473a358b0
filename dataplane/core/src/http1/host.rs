//! Authorities: host and port.

use super::scan;
use std::net::Ipv6Addr;

/// DNS names have at most 253 bytes; one length byte of slack as everywhere.
const HOST_BYTES_MAX: usize = 255;

/// Splits `authority` into host and port and appends the host to `out` in normal form: lower case, no trailing
/// dot, IPv6 in brackets. `None` if it is neither a name of `[A-Za-z0-9._~-]` without empty labels, an IPv4
/// address nor a bracketed IPv6 address, or is longer than 255 bytes, or the port is not 0..=65535. An empty
/// port counts as none. When `None` comes back `out` is as it was.
pub fn normalise_authority(authority: &[u8], out: &mut Vec<u8>) -> Option<Option<u16>> {
    let (host, port) = if authority.first() == Some(&b'[') {
        let close = authority.iter().position(|&b| b == b']')?;
        let (host, tail) = authority.split_at(close + 1);
        check_ipv6(&host[1..close])?;
        (host, tail)
    } else {
        let end = authority.iter().position(|&b| !scan::is_host(b)).unwrap_or(authority.len());
        let (host, tail) = authority.split_at(end);
        (check_name(host)?, tail)
    };
    let port = match port {
        [] | [b':'] => None,
        [b':', digits @ ..] => Some(parse_port(digits)?),
        _ => return None,
    };
    let start = out.len();
    out.extend_from_slice(host);
    out[start..].make_ascii_lowercase();
    Some(port)
}

/// The name without its trailing dot.
fn check_name(host: &[u8]) -> Option<&[u8]> {
    let host = host.strip_suffix(b".").unwrap_or(host);
    if host.is_empty() || host.len() > HOST_BYTES_MAX || host[0] == b'.' || host[host.len() - 1] == b'.' {
        return None;
    }
    if host.windows(2).any(|w| w == b"..") {
        return None;
    }
    Some(host)
}

fn check_ipv6(literal: &[u8]) -> Option<()> {
    let text = std::str::from_utf8(literal).ok()?;
    text.parse::<Ipv6Addr>().ok().map(drop)
}

fn parse_port(digits: &[u8]) -> Option<u16> {
    if digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let port = digits.iter().fold(0u32, |n, &d| n * 10 + u32::from(d - b'0'));
    u16::try_from(port).ok()
}

#[cfg(test)]
mod tests {
    use super::normalise_authority;

    fn norm(authority: &str) -> Option<(String, Option<u16>)> {
        let mut out = Vec::new();
        let port = normalise_authority(authority.as_bytes(), &mut out);
        assert!(port.is_some() || out.is_empty(), "a refused authority leaves nothing behind");
        Some((String::from_utf8(out).ok()?, port?))
    }

    #[test]
    fn forms() {
        let some = |h: &str, p: Option<u16>| Some((h.to_owned(), p));
        assert_eq!(norm("Example.COM"), some("example.com", None));
        assert_eq!(norm("example.com."), some("example.com", None));
        assert_eq!(norm("example.com.:8080"), some("example.com", Some(8080)));
        assert_eq!(norm("a:"), some("a", None));
        assert_eq!(norm("10.0.0.1:1"), some("10.0.0.1", Some(1)));
        assert_eq!(norm("[2001:DB8::1]:443"), some("[2001:db8::1]", Some(443)));
        assert_eq!(norm("[::ffff:1.2.3.4]"), some("[::ffff:1.2.3.4]", None));
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a..",
            ":80",
            "a:65536",
            "a:+1",
            "a:8x",
            "a:000080",
            "u@h",
            "a b",
            "a/b",
            "a,b",
            "[::1",
            "[]",
            "[::1]x",
            "[::1%25eth0]",
            "::1",
            "a:1:2",
            "a\u{e9}",
        ] {
            assert_eq!(norm(bad), None, "{bad:?}");
        }
        assert_eq!(norm(&"a".repeat(256)), None);
        assert!(norm(&"a".repeat(255)).is_some());
    }
}
