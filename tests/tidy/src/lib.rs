//! Checks of the tree itself: where `unsafe` may live, file sizes, module names, what the docs promise.
//!
//! Reads the files that git tracks, runs nothing. Each check returns its findings, so that the tests below
//! can show that a check is able to fail.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines a source file may have, tests not counted.
pub const MAX_LINES: usize = 800;

/// Folders whose code may be `unsafe`, and the measurer's AF_XDP server: the crate of the rings has no safe ones.
pub const UNSAFE_ROOMS: [&str; 6] = [
    "ebpf/xdp/",
    "ebpf/loader/",
    "dataplane/uring/",
    "vmm/src/sys/",
    "vmm/guest/",
    "bench/src/polled/xsk.rs",
];

/// Module names that say nothing.
pub const EMPTY_NAMES: [&str; 6] = ["util", "utils", "common", "helper", "helpers", "manager"];

/// A tracked text file.
pub struct File {
    /// Path from the root of the tree.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// The root of the tree.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every tracked file with one of these endings.
pub fn tracked(endings: &[&str]) -> Vec<File> {
    let listed = Command::new("git").args(["ls-files"]).current_dir(root()).output().expect("git ls-files");
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    String::from_utf8(listed.stdout)
        .expect("paths are UTF-8")
        .lines()
        .filter(|path| endings.iter().any(|ending| path.ends_with(ending)))
        .filter_map(|path| {
            // A file that the working tree deleted is still listed until the commit.
            let text = std::fs::read_to_string(root().join(path)).ok()?;
            Some(File { path: path.to_owned(), text })
        })
        .collect()
}

/// The code of a file before its test module.
fn without_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

/// Files longer than [`MAX_LINES`] without their tests.
pub fn too_long(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|f| !f.path.contains("/tests/"))
        .filter_map(|f| {
            let lines = without_tests(&f.text).lines().count();
            (lines > MAX_LINES).then(|| format!("{}: {lines} lines, at most {MAX_LINES}", f.path))
        })
        .collect()
}

/// `unsafe` outside its rooms.
pub fn unsafe_elsewhere(files: &[File]) -> Vec<String> {
    let opens = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
    files
        .iter()
        .filter(|f| !UNSAFE_ROOMS.iter().any(|room| f.path.starts_with(room)))
        .filter(|f| !f.path.starts_with("tests/tidy/"))
        .flat_map(|f| {
            f.text.lines().enumerate().filter_map(|(n, line)| {
                let code = line.split("//").next().unwrap_or(line);
                opens
                    .iter()
                    .any(|o| code.contains(o))
                    .then(|| format!("{}:{}: {}", f.path, n + 1, line.trim()))
            })
        })
        .collect()
}

/// Modules whose name says nothing.
pub fn empty_names(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|f| {
            let path = Path::new(&f.path);
            let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
            let named = if stem == "mod" {
                path.parent().and_then(|p| p.file_name()).and_then(|s| s.to_str()).unwrap_or_default()
            } else {
                stem
            };
            // `tests/common/mod.rs` is how cargo shares code between integration tests.
            EMPTY_NAMES.contains(&named) && !f.path.contains("tests/common/")
        })
        .map(|f| f.path.clone())
        .collect()
}

/// The ids of all requirement rows.
pub fn requirement_ids() -> Vec<String> {
    [('A', 7), ('B', 11), ('C', 9), ('D', 5), ('E', 8)]
        .iter()
        .flat_map(|(letter, count)| (1..=*count).map(move |n| format!("{letter}{n}")))
        .collect()
}

/// Requirement rows that `docs/status.md` has no line for, and lines whose state is none of the three.
pub fn status_gaps(status: &str) -> Vec<String> {
    let mut gaps = Vec::new();
    for id in requirement_ids() {
        match status.lines().find(|l| l.starts_with(&format!("| {id} |"))) {
            None => gaps.push(format!("{id}: no line")),
            Some(line) => {
                let state = line.split('|').nth(3).unwrap_or_default().trim();
                if !["works", "partly", "not yet"].contains(&state) {
                    gaps.push(format!("{id}: state '{state}' is none of works, partly, not yet"));
                }
            }
        }
    }
    gaps
}

/// Test functions that `docs/status.md` names and no source has: names in back quotes with two underscores or
/// more, which no other word of that page is.
pub fn missing_tests(status: &str, sources: &[File]) -> Vec<String> {
    let is_name = |s: &&str| {
        s.matches('_').count() >= 2
            && s.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    status
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(is_name)
        .filter(|name| !sources.iter().any(|f| f.text.contains(&format!("fn {name}("))))
        .map(str::to_owned)
        .collect()
}

/// Paths in back quotes in the docs that lead nowhere.
pub fn dead_paths(files: &[File]) -> Vec<String> {
    let top = ["bench/", "control/", "dataplane/", "docs/", "ebpf/", "fuzz/", "scripts/", "tests/"];
    let mut dead = Vec::new();
    for f in files {
        for quoted in f.text.split('`').skip(1).step_by(2) {
            let path = quoted.split([' ', ':', '#']).next().unwrap_or_default();
            let concrete = !path.contains(['*', '{', '<', '$']);
            if concrete && top.iter().any(|t| path.starts_with(t)) && !root().join(path).exists() {
                dead.push(format!("{}: `{path}`", f.path));
            }
        }
    }
    dead
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_none(what: &str, found: Vec<String>) {
        assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
    }

    #[test]
    fn the_tree_is_tidy() {
        let sources = tracked(&[".rs"]);
        assert!(sources.len() > 20, "git lists only {} sources", sources.len());
        assert_none("files too long", too_long(&sources));
        assert_none("unsafe outside its rooms", unsafe_elsewhere(&sources));
        assert_none("module names that say nothing", empty_names(&sources));
    }

    #[test]
    fn the_docs_are_whole() {
        let docs = tracked(&[".md"]);
        assert_none("paths that lead nowhere", dead_paths(&docs));
        let status = docs.iter().find(|f| f.path == "docs/status.md").expect("docs/status.md");
        assert_none("status", status_gaps(&status.text));
        assert_none("tests that status names", missing_tests(&status.text, &tracked(&[".rs"])));
    }

    #[test]
    fn a_check_can_fail() {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        let long = "x\n".repeat(MAX_LINES + 1);
        assert_eq!(too_long(&[file("a/src/a.rs", &long)]).len(), 1);
        assert_eq!(
            too_long(&[file("a/src/a.rs", &format!("x\n#[cfg(test)]\nmod tests {{\n{long}}}"))]).len(),
            0
        );
        assert_eq!(unsafe_elsewhere(&[file("control/a.rs", "let x = unsafe { y };")]).len(), 1);
        assert_eq!(unsafe_elsewhere(&[file("dataplane/uring/src/a.rs", "unsafe { y }")]).len(), 0);
        assert_eq!(empty_names(&[file("control/src/util.rs", ""), file("a/helpers/mod.rs", "")]).len(), 2);
        assert_eq!(dead_paths(&[file("a.md", "see `docs/nowhere.md` and `tests/tidy/src/lib.rs`")]).len(), 1);
        assert!(
            status_gaps("| A1 | x | done | |")
                .contains(&"A1: state 'done' is none of works, partly, not yet".to_owned())
        );
    }
}
