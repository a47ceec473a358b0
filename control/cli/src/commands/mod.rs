//! Commands that speak to an agent. Each prints a table or sentences, or with `--output json` the agent's own
//! answer.

pub mod act;
pub mod apply;
pub mod get;
pub mod source;
pub mod stats;
pub mod trace;

use serde::Serialize;

/// Prints an answer as JSON, indented.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// One path segment of a URL.
pub fn segment(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_cannot_change_the_path() {
        assert_eq!(super::segment("web"), "web");
        assert_eq!(super::segment("../v1?x#y"), "..%2Fv1%3Fx%23y");
    }
}
