//! Documents given with `-f`: files, directories, standard input; several YAML documents in one file.
//!
//! Only the name is looked at here. What is wrong with a document is the agent's to say, with the field's path.

use crate::exit::CommandError;
use serde::Deserialize;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Endings of files taken from a directory, as the agent's own watcher takes them.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// A document to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// File it came from, for messages.
    pub from: String,
    /// Its name field.
    pub name: String,
    /// Content.
    pub content: Value,
}

/// Reads all documents named, files of a directory in order of name.
pub fn read_all(files: &[PathBuf]) -> Result<Vec<Source>, CommandError> {
    let mut documents = Vec::new();
    for file in files {
        if file.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|e| failed(Path::new("-"), &e))?;
            documents.extend(parse("standard input", &text)?);
        } else if file.is_dir() {
            for path in files_of(file)? {
                documents.extend(read_one(&path)?);
            }
        } else {
            documents.extend(read_one(file)?);
        }
    }
    if documents.is_empty() {
        return Err(CommandError::Usage("no document in what was given with -f".into()));
    }
    Ok(documents)
}

fn files_of(dir: &Path) -> Result<Vec<PathBuf>, CommandError> {
    let entries = fs::read_dir(dir).map_err(|e| failed(dir, &e))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| !n.starts_with('.')))
        .filter(|p| p.extension().and_then(|e| e.to_str()).is_some_and(|e| ENDINGS.contains(&e)))
        .collect();
    paths.sort();
    Ok(paths)
}

fn read_one(path: &Path) -> Result<Vec<Source>, CommandError> {
    let text = fs::read_to_string(path).map_err(|e| failed(path, &e))?;
    parse(&path.display().to_string(), &text)
}

fn failed(path: &Path, error: &std::io::Error) -> CommandError {
    CommandError::Usage(format!("cannot read {}: {error}", path.display()))
}

fn parse(from: &str, text: &str) -> Result<Vec<Source>, CommandError> {
    let mut documents = Vec::new();
    // JSON is read as YAML, which contains it.
    for document in serde_norway::Deserializer::from_str(text) {
        let content = Value::deserialize(document)
            .map_err(|e| CommandError::Invalid(format!("{from}: neither YAML nor JSON: {e}")))?;
        if content.is_null() {
            continue;
        }
        let name = content.get("name").and_then(Value::as_str).ok_or_else(|| {
            CommandError::Invalid(format!("{from}: name: a document needs a name (text of a-z, 0-9 and -)"))
        })?;
        documents.push(Source { from: from.to_owned(), name: name.to_owned(), content });
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::REFUSED;

    #[test]
    fn several_documents_of_one_file_and_json() {
        let names = |text| parse("x", text).unwrap().into_iter().map(|d| d.name).collect::<Vec<_>>();
        assert_eq!(names("name: a\n---\nname: b\n"), ["a", "b"]);
        assert_eq!(names(r#"{"name": "c", "generation": 1}"#), ["c"]);
    }

    #[test]
    fn what_is_no_document_is_refused_with_its_place() {
        let error = parse("web.yaml", "name: a\n  b: [").unwrap_err();
        assert_eq!(error.code(), REFUSED);
        assert!(error.to_string().contains("web.yaml") && error.to_string().contains("line"), "{error}");
        assert!(parse("web.yaml", "generation: 1\n").unwrap_err().to_string().contains("name"));
    }

    #[test]
    fn a_directory_gives_its_documents_in_order_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in
            [("b.yaml", "name: b"), ("a.json", r#"{"name":"a"}"#), ("c.txt", "x"), (".d.yaml.new", "name: d")]
        {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let names: Vec<_> = read_all(&[dir.path().to_owned()]).unwrap().into_iter().map(|d| d.name).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
