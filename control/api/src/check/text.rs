//! From bytes to the raw document, with the cost of hostile text bounded before a parser sees it.

use super::error::FieldError;
use super::limits::{BRACKET_DEPTH_MAX, INDENT_COLUMNS_MAX, JSON_BYTES_MAX, YAML_BYTES_MAX};
use crate::placement::Document;

/// Parses YAML or JSON into a raw document.
pub(super) fn parse_raw(bytes: &[u8]) -> Result<Document, FieldError> {
    if bytes.len() > JSON_BYTES_MAX {
        return Err(whole(format!("{} bytes are more than {JSON_BYTES_MAX}", bytes.len())));
    }
    let text =
        std::str::from_utf8(bytes).map_err(|e| whole(format!("not UTF-8 at byte {}", e.valid_up_to())))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match text.trim_start().bytes().next() {
        None => Err(whole("the document is empty".to_owned())),
        Some(b'{') => parse_json(text),
        Some(_) => parse_yaml(text),
    }
}

fn parse_json(text: &str) -> Result<Document, FieldError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let document = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| at_path(&error.path().to_string(), &error.inner().to_string()))?;
    json.end().map_err(|error| whole(error.to_string()))?;
    Ok(document)
}

fn parse_yaml(text: &str) -> Result<Document, FieldError> {
    if text.len() > YAML_BYTES_MAX {
        return Err(whole(format!(
            "{} bytes are more than {YAML_BYTES_MAX} for YAML; JSON may have {JSON_BYTES_MAX}",
            text.len()
        )));
    }
    if !text.ends_with('\n') {
        return Err(whole("a YAML document ends with a newline: this one may be cut off".to_owned()));
    }
    shape(text).map_err(whole)?;
    let yaml = serde_norway::Deserializer::from_str(text);
    serde_path_to_error::deserialize(yaml)
        .map_err(|error| at_path(&error.path().to_string(), &error.inner().to_string()))
}

/// Bounds nesting and refuses anchors, line by line, without knowing YAML: no field of a document holds
/// free text, so what looks like an anchor or deep nesting is one (comment lines are left out).
fn shape(text: &str) -> Result<(), String> {
    let mut depth = 0usize;
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        if trimmed.starts_with('#') {
            continue;
        }
        // Compact nesting (`- - - x`) counts as indentation too.
        let indent = line.len() - trimmed.trim_start_matches([' ', '-', '?', ':', '\t']).len();
        if indent > INDENT_COLUMNS_MAX {
            return Err(format!("line {}: indented by more than {INDENT_COLUMNS_MAX} columns", number + 1));
        }
        let bytes = line.as_bytes();
        for (at, &byte) in bytes.iter().enumerate() {
            match byte {
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                b'&' => {
                    let starts = at == 0 || matches!(bytes[at - 1], b' ' | b'\t' | b'[' | b'{' | b',' | b':');
                    let named =
                        bytes.get(at + 1).is_some_and(|b| b.is_ascii_alphanumeric() || b"-_".contains(b));
                    if starts && named {
                        return Err(format!("line {}: anchors and aliases are not accepted", number + 1));
                    }
                }
                _ => {}
            }
            if depth > BRACKET_DEPTH_MAX {
                return Err(format!("line {}: nested deeper than {BRACKET_DEPTH_MAX}", number + 1));
            }
        }
    }
    Ok(())
}

fn whole(message: String) -> FieldError {
    FieldError { document: String::new(), path: String::new(), message }
}

fn at_path(path: &str, message: &str) -> FieldError {
    let path = if path == "." || path == "?" { "" } else { path };
    // The YAML parser puts its own idea of the path in front.
    let message = message.strip_prefix(path).and_then(|m| m.strip_prefix(": ")).unwrap_or(message);
    // A key seen twice is reported on the struct around it: name the key.
    let doubled =
        message.strip_prefix("duplicate field `").and_then(|m| m.split_once('`')).map(|(key, _)| key);
    let path = match doubled {
        Some(key) if path.is_empty() => key.to_owned(),
        Some(key) if path != key && !path.ends_with(&format!(".{key}")) => format!("{path}.{key}"),
        _ => path.to_owned(),
    };
    FieldError { document: String::new(), path, message: message.to_owned() }
}
