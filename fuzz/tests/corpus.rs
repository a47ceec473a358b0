//! The kept corpus and every input that once broke a property, without a fuzzer.

use std::fs;
use std::path::Path;

fn run(target: &str, property: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut files: Vec<_> =
        fs::read_dir(&dir).expect("a corpus").map(|e| e.expect("an entry").path()).collect();
    files.sort();
    assert!(files.len() >= 10, "{} seeds in {}", files.len(), dir.display());
    for file in files {
        let data = fs::read(&file).expect("a seed");
        println!("{}", file.display());
        property(&data);
    }
}

#[test]
fn http1_request() {
    run("http1_request", sluice_fuzz::http1_request);
}

#[test]
fn http1_response() {
    run("http1_response", sluice_fuzz::http1_response);
}

#[test]
fn http1_chunked() {
    run("http1_chunked", sluice_fuzz::http1_chunked);
}

#[test]
fn placement() {
    run("placement", sluice_fuzz::placement);
}

#[test]
fn proxy_admin() {
    run("proxy_admin", sluice_fuzz::proxy_admin);
}

#[test]
fn cache_fields() {
    run("cache_fields", sluice_fuzz::cache_fields);
}

#[test]
fn frame() {
    run("frame", sluice_fuzz::frame);
}
