//! The program with its API socket, as an operator uses it, on this machine's `/dev/kvm`.
//!
//! Without a usable `/dev/kvm` every test prints `skipped: reason`.

#![forbid(unsafe_code)]

use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const GUEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/obj/guest.elf");

struct Running {
    child: Child,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

/// Starts the program; `None` where there is no KVM.
fn start() -> Option<Running> {
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        println!("skipped: no usable /dev/kvm: {error}");
        return None;
    }
    let folder = tempfile::tempdir().expect("folder");
    let (disk, socket) = (folder.path().join("disk"), folder.path().join("api"));
    std::fs::File::create(&disk).expect("disk").set_len(1 << 20).expect("disk");
    let mut program = Command::new(env!("CARGO_BIN_EXE_sluice-vmm"));
    program.args(["--kernel", GUEST, "--memory", "64M", "--cpus", "2", "--name", "one", "--debug-port"]);
    program.arg("--disk").arg(&disk).arg("--api").arg(&socket).stdout(Stdio::null());
    let child = program.spawn().expect("start sluice-vmm");
    Some(Running { child, socket, _folder: folder })
}

fn ask(socket: &Path, method: &str, path: &str, body: &str) -> std::io::Result<(u16, Value)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: vm\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").expect("a response");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    Ok((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}

impl Running {
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        ask(&self.socket, method, path, body).expect("an answer")
    }

    /// Pauses as soon as the VM runs.
    fn pause(&mut self) {
        loop {
            assert_eq!(self.child.try_wait().expect("child"), None, "it ended before it could be paused");
            if let Ok((202, body)) = ask(&self.socket, "PUT", "/vm/pause", "") {
                assert_eq!(body["state"], "paused");
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_vm_is_steered_over_its_socket() {
    let Some(mut vm) = start() else { return };
    vm.pause();
    let mode = std::fs::metadata(&vm.socket).expect("socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the socket is its user's alone");
    let (status, info) = vm.ask("GET", "/vm", "");
    assert_eq!((status, &info["name"], &info["state"]), (200, &"one".into(), &"paused".into()));
    assert_eq!((&info["memory_bytes"], info["cpus"].as_array().map(Vec::len)), (&(64 << 20).into(), Some(2)));
    assert_eq!(info["devices"], serde_json::json!(["disk0", "rng"]));
    assert!(vm.ask("GET", "/vm/stats", "").1["vcpu0.exit.mmio_write"].is_u64());
    assert_eq!(vm.ask("PUT", "/vm/pause", "").0, 409);
    assert_eq!(vm.ask("PUT", "/vm/power-button", "").0, 409, "nobody there to hear it");
    assert_eq!(vm.ask("GET", "/openapi.json", "").1["openapi"], "3.1.0");
    assert_eq!(vm.ask("PUT", "/vm/resume", "").0, 202);
    assert_eq!(vm.ask("PUT", "/vm/stop", "").0, 202);
    assert_eq!(vm.child.wait().expect("child").code(), Some(4));
    assert!(!vm.socket.exists(), "the socket is gone");
}

#[test]
fn a_guest_that_ignores_the_power_button_is_ended_at_the_deadline() {
    let Some(mut vm) = start() else { return };
    vm.pause();
    assert_eq!(vm.ask("PUT", "/vm/resume", "").0, 202);
    assert_eq!(vm.ask("PUT", "/vm/power-button", r#"{"deadline_ms": 1}"#).0, 202);
    assert_eq!(vm.child.wait().expect("child").code(), Some(4));
}

#[test]
fn wrong_documents_and_flags_end_with_usage() {
    let run = |args: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_sluice-vmm")).args(args).output().expect("start sluice-vmm");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = run(&["--kernel", "/k", "--memory", "1X"]);
    assert!(code == Some(2) && text.contains("memory.size"), "{code:?} {text}");
    let (code, text) = run(&["--config", "/nowhere.yaml"]);
    assert!(code == Some(2) && text.contains("/nowhere.yaml"), "{code:?} {text}");
    assert_eq!(run(&[]).0, Some(2));
}
