//! From the document to the [`Spec`]: limits, references between fields, defaults.

use super::document::{self, Document};
use super::{
    Boot, ConfigError, ConsoleTo, Cpus, Disk, MAX_CPUS, MAX_DEVICES, MAX_MEMORY, MIN_MEMORY, Mac, Memory,
    Nic, OnReset, Pages, Spec, size,
};
use crate::layout::CMDLINE_MAX;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Longest name of anything: it becomes part of file and interface names.
const MAX_NAME: usize = 63;
/// Longest serial number of a disk (VIRTIO 1.2, 5.2.6).
const MAX_DISK_ID: usize = 20;
/// Longest interface name that Linux takes (`IFNAMSIZ` with its final zero is 16).
const MAX_INTERFACE: usize = 15;
/// Longest path of a UNIX socket (`sun_path` with its final zero is 108).
const MAX_SOCKET_PATH: usize = 107;
/// Highest host CPU number that can be bound.
const MAX_HOST_CPU: u32 = 1023;

type Result<T> = std::result::Result<T, ConfigError>;

fn refuse<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T> {
    Err(ConfigError::new(field, reason))
}

/// Checks a document as a whole.
pub fn check(document: Document) -> Result<Spec> {
    let name = document.name.unwrap_or_else(|| "vm".to_owned());
    check_name("name", &name, MAX_NAME)?;
    let cpus = cpus(document.cpus)?;
    let memory = memory(document.memory)?;
    let disks = disks(document.disks)?;
    let nics = nics(document.nics, &name)?;
    let serial = console("serial", document.serial)?;
    let console = console("console", document.console)?;
    if serial == ConsoleTo::Stdio && console == ConsoleTo::Stdio {
        return refuse("console", "stdio is already the serial port's");
    }
    let rng = document.rng.unwrap_or(true);
    let devices = disks.len() + nics.len() + usize::from(rng) + usize::from(console != ConsoleTo::None);
    if devices > MAX_DEVICES {
        return refuse("disks", format!("{devices} devices in all, at most {MAX_DEVICES}"));
    }
    let api = document.api.map(|api| api.socket);
    let mut sockets = BTreeSet::new();
    let named = [
        ("serial.unix", unix_path(&serial)),
        ("console.unix", unix_path(&console)),
        ("api.socket", api.as_deref()),
    ];
    for (field, path) in named.into_iter().filter_map(|(field, path)| Some((field, path?))) {
        check_socket(field, path)?;
        if !sockets.insert(path.to_owned()) {
            return refuse(field, format!("{} is used twice", path.display()));
        }
    }
    Ok(Spec {
        name,
        cpus,
        memory,
        boot: boot(document.boot)?,
        serial,
        console,
        disks,
        nics,
        rng,
        api,
        on_reset: match document.on_reset {
            Some(document::OnReset::Restart) => OnReset::Restart,
            Some(document::OnReset::Exit) | None => OnReset::Exit,
        },
        debug_port: document.debug_port,
    })
}

fn unix_path(console: &ConsoleTo) -> Option<&Path> {
    match console {
        ConsoleTo::Unix(path) => Some(path),
        ConsoleTo::None | ConsoleTo::Stdio => None,
    }
}

fn check_name(field: &str, name: &str, longest: usize) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > longest || !name.chars().all(plain) || name.starts_with(['-', '.']) {
        return refuse(field, format!("{name:?} is not 1 to {longest} letters, digits, '-', '_' or '.'"));
    }
    Ok(())
}

fn check_socket(field: &str, path: &Path) -> Result<()> {
    let len = path.as_os_str().len();
    if len == 0 || len > MAX_SOCKET_PATH {
        return refuse(field, format!("a path of {len} bytes, must be 1 to {MAX_SOCKET_PATH}"));
    }
    Ok(())
}

fn cpus(raw: document::Cpus) -> Result<Cpus> {
    let count = raw.count.unwrap_or(1);
    if count == 0 || count > MAX_CPUS {
        return refuse("cpus.count", format!("{count} is not between 1 and {MAX_CPUS}"));
    }
    if !raw.pin.is_empty() && raw.pin.len() != count as usize {
        return refuse("cpus.pin", format!("{} host CPUs for {count} vCPUs", raw.pin.len()));
    }
    let mut seen = BTreeSet::new();
    for (i, &cpu) in raw.pin.iter().enumerate() {
        if cpu > MAX_HOST_CPU {
            return refuse(format!("cpus.pin[{i}]"), format!("{cpu} is above {MAX_HOST_CPU}"));
        }
        if !seen.insert(cpu) {
            return refuse(format!("cpus.pin[{i}]"), format!("host CPU {cpu} is given to two vCPUs"));
        }
    }
    for (i, &cpu) in raw.housekeeping.iter().enumerate() {
        if cpu > MAX_HOST_CPU {
            return refuse(format!("cpus.housekeeping[{i}]"), format!("{cpu} is above {MAX_HOST_CPU}"));
        }
        if seen.contains(&cpu) {
            return refuse(format!("cpus.housekeeping[{i}]"), format!("host CPU {cpu} is a vCPU's"));
        }
    }
    if raw.dedicated && raw.pin.is_empty() {
        return refuse(
            "cpus.dedicated",
            "needs cpus.pin: a vCPU that never halts would starve whoever shares its CPU",
        );
    }
    Ok(Cpus {
        count,
        pin: raw.pin,
        housekeeping: raw.housekeeping,
        dedicated: raw.dedicated,
        halt_poll_ns: raw.halt_poll_ns,
    })
}

fn memory(raw: document::Memory) -> Result<Memory> {
    let size = match raw.size {
        None => 512 << 20,
        Some(document::Size::Bytes(bytes)) => bytes,
        Some(document::Size::Text(text)) => size::parse(&text).or_else(|e| refuse("memory.size", e))?,
    };
    let pages = match raw.pages {
        None | Some(document::Pages::Base) => Pages::Base,
        Some(document::Pages::Huge2M) => Pages::Huge2M,
        Some(document::Pages::Huge1G) => Pages::Huge1G,
    };
    if !(MIN_MEMORY..=MAX_MEMORY).contains(&size) {
        return refuse("memory.size", format!("{size} is not between {MIN_MEMORY} and {MAX_MEMORY} bytes"));
    }
    // Slots, huge pages and KVM's own large mappings all want 2 MiB.
    let unit = pages.size().max(2 << 20);
    if !size.is_multiple_of(unit) {
        return refuse("memory.size", format!("{size} is not a multiple of {unit} bytes"));
    }
    if raw.node.is_some_and(|node| node > MAX_HOST_CPU) {
        return refuse("memory.node", format!("above {MAX_HOST_CPU}"));
    }
    Ok(Memory {
        size,
        pages,
        node: raw.node,
        shared: raw.shared,
        lock: raw.lock,
        prefault: raw.prefault.unwrap_or(pages != Pages::Base),
    })
}

fn boot(raw: document::Boot) -> Result<Boot> {
    if raw.kernel.as_os_str().is_empty() {
        return refuse("boot.kernel", "an empty path");
    }
    if raw.cmdline.len() >= CMDLINE_MAX {
        return refuse("boot.cmdline", format!("{} bytes, at most {}", raw.cmdline.len(), CMDLINE_MAX - 1));
    }
    if raw.cmdline.bytes().any(|b| b == 0 || b == b'\n') {
        return refuse("boot.cmdline", "has a zero byte or a line end");
    }
    Ok(Boot { kernel: raw.kernel, initrd: raw.initrd, cmdline: raw.cmdline })
}

fn console(field: &str, raw: Option<document::Console>) -> Result<ConsoleTo> {
    Ok(match raw {
        None | Some(document::Console::None) => ConsoleTo::None,
        Some(document::Console::Stdio) => ConsoleTo::Stdio,
        Some(document::Console::Unix(path)) => {
            check_socket(&format!("{field}.unix"), &path)?;
            ConsoleTo::Unix(path)
        }
    })
}

fn disks(raw: Vec<document::Disk>) -> Result<Vec<Disk>> {
    let mut ids = BTreeSet::new();
    let mut paths = BTreeSet::<PathBuf>::new();
    let mut disks = Vec::with_capacity(raw.len());
    for (i, disk) in raw.into_iter().enumerate() {
        let id = disk.id.unwrap_or_else(|| format!("disk{i}"));
        check_name(&format!("disks[{i}].id"), &id, MAX_DISK_ID)?;
        if !ids.insert(id.clone()) {
            return refuse(format!("disks[{i}].id"), format!("{id} is used twice"));
        }
        if disk.path.as_os_str().is_empty() {
            return refuse(format!("disks[{i}].path"), "an empty path");
        }
        if !paths.insert(disk.path.clone()) {
            return refuse(format!("disks[{i}].path"), format!("{} is used twice", disk.path.display()));
        }
        disks.push(Disk { id, path: disk.path, read_only: disk.read_only, direct: disk.direct });
    }
    Ok(disks)
}

fn nics(raw: Vec<document::Nic>, name: &str) -> Result<Vec<Nic>> {
    let mut ids = BTreeSet::new();
    let mut taps = BTreeSet::new();
    let mut nics = Vec::with_capacity(raw.len());
    for (i, nic) in raw.into_iter().enumerate() {
        let id = nic.id.unwrap_or_else(|| format!("nic{i}"));
        check_name(&format!("nics[{i}].id"), &id, MAX_NAME)?;
        if !ids.insert(id.clone()) {
            return refuse(format!("nics[{i}].id"), format!("{id} is used twice"));
        }
        check_name(&format!("nics[{i}].tap"), &nic.tap, MAX_INTERFACE)?;
        if !taps.insert(nic.tap.clone()) {
            return refuse(format!("nics[{i}].tap"), format!("{} is used twice", nic.tap));
        }
        let mac = match &nic.mac {
            None => own_mac(name, i),
            Some(text) => mac(text).or_else(|e| refuse(format!("nics[{i}].mac"), e))?,
        };
        let host_address = match &nic.host_address {
            None => None,
            Some(text) => Some(prefix(text).or_else(|e| refuse(format!("nics[{i}].host_address"), e))?),
        };
        nics.push(Nic { id, tap: nic.tap, mac, host_address });
    }
    Ok(nics)
}

/// A locally administered address that is the same at every start (FNV-1a of name and place).
fn own_mac(name: &str, place: usize) -> Mac {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in name.bytes().chain([b'/', place as u8]) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    let h = hash.to_be_bytes();
    Mac([0x02, h[3], h[4], h[5], h[6], h[7]])
}

fn mac(text: &str) -> std::result::Result<Mac, String> {
    let wrong = || format!("{text:?} is not a unicast address such as 02:00:00:00:00:01");
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    if parts.next().is_some() || bytes[0] & 1 != 0 || bytes == [0; 6] {
        return Err(wrong());
    }
    Ok(Mac(bytes))
}

fn prefix(text: &str) -> std::result::Result<(Ipv4Addr, u8), String> {
    let wrong = || format!("{text:?} is not an address such as 10.0.0.1/24");
    let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
    let bits: u8 = bits.parse().map_err(|_| wrong())?;
    if bits == 0 || bits > 32 {
        return Err(wrong());
    }
    Ok((address.parse().map_err(|_| wrong())?, bits))
}

#[cfg(test)]
mod tests {
    use crate::config::{Pages, parse};

    fn field_of(text: &str) -> String {
        parse(text).expect_err(text).field
    }

    #[test]
    fn the_least_document_gets_its_defaults() {
        let spec = parse("boot: {kernel: /k}\n").unwrap();
        assert_eq!((spec.name(), spec.cpu_count(), spec.memory_size()), ("vm", 1, 512 << 20));
        assert!(spec.rng && !spec.debug_port);
    }

    #[test]
    fn a_whole_document_is_taken_in_yaml_and_json() {
        let yaml = "name: web\ncpus: {count: 2, pin: [2, 3], dedicated: true}\nmemory: {size: 1G, pages: 2M, node: 0}\n\
                    boot: {kernel: /k, initrd: /i, cmdline: quiet}\nserial: stdio\nconsole: !unix /c\n\
                    disks: [{path: /d}, {id: log, path: /e, read_only: true, direct: false}]\n\
                    nics: [{tap: t0, mac: '02:00:00:00:00:01', host_address: 10.0.0.1/24}]\napi: {socket: /a}\non_reset: restart\n";
        let spec = parse(yaml).unwrap();
        assert_eq!((spec.memory.pages, spec.disks[1].id.as_str()), (Pages::Huge2M, "log"));
        let json = r#"{"name":"web","cpus":{"count":2,"pin":[2,3],"dedicated":true},"memory":{"size":1073741824,"pages":"2M","node":0},
            "boot":{"kernel":"/k","initrd":"/i","cmdline":"quiet"},"serial":"stdio","console":{"unix":"/c"},
            "disks":[{"path":"/d"},{"id":"log","path":"/e","read_only":true,"direct":false}],
            "nics":[{"tap":"t0","mac":"02:00:00:00:00:01","host_address":"10.0.0.1/24"}],"api":{"socket":"/a"},"on_reset":"restart"}"#;
        assert_eq!(parse(json).unwrap(), spec);
    }

    #[test]
    fn every_refusal_names_its_field() {
        let boot = "boot: {kernel: /k}\n";
        for (text, field) in [
            ("{", "document"),
            ("[]", "document"),
            ("boot: {}\n", "boot"),
            ("boot: {kernel: ''}\n", "boot.kernel"),
            ("boot: {kernel: /k, colour: red}\n", "boot.colour"),
            ("name: 'a b'\n", "name"),
            ("name: -x\n", "name"),
            ("cpus: {count: 0}\n", "cpus.count"),
            ("cpus: {count: 255}\n", "cpus.count"),
            ("cpus: {count: 2, pin: [1]}\n", "cpus.pin"),
            ("cpus: {count: 2, pin: [1, 1]}\n", "cpus.pin[1]"),
            ("cpus: {pin: [4096]}\n", "cpus.pin[0]"),
            ("cpus: {pin: [1], housekeeping: [1]}\n", "cpus.housekeeping[0]"),
            ("cpus: {dedicated: true}\n", "cpus.dedicated"),
            ("memory: {size: 1X}\n", "memory.size"),
            ("memory: {size: 1M}\n", "memory.size"),
            ("memory: {size: 3M}\n", "memory.size"),
            ("memory: {size: 512M, pages: 1G}\n", "memory.size"),
            ("memory: {size: 300G}\n", "memory.size"),
            ("memory: {pages: 3M}\n", "memory.pages"),
            ("disks: [{path: /d}, {path: /d}]\n", "disks[1].path"),
            ("disks: [{path: /d, id: a}, {path: /e, id: a}]\n", "disks[1].id"),
            ("disks: [{path: /d, id: aaaaaaaaaaaaaaaaaaaaa}]\n", "disks[0].id"),
            ("nics: [{tap: aaaaaaaaaaaaaaaa}]\n", "nics[0].tap"),
            ("nics: [{tap: t}, {tap: t}]\n", "nics[1].tap"),
            ("nics: [{tap: t, mac: '01:00:00:00:00:00'}]\n", "nics[0].mac"),
            ("nics: [{tap: t, mac: '02:00:00:00:00'}]\n", "nics[0].mac"),
            ("nics: [{tap: t, host_address: 10.0.0.1}]\n", "nics[0].host_address"),
            ("nics: [{tap: t, host_address: 10.0.0.1/33}]\n", "nics[0].host_address"),
            ("serial: stdio\nconsole: stdio\n", "console"),
            ("serial: !unix /s\nconsole: !unix /s\n", "console.unix"),
            ("serial: telnet\n", "serial"),
            ("api: {socket: ''}\n", "api.socket"),
            ("on_reset: maybe\n", "on_reset"),
        ] {
            let text = if text.contains("boot") || field == "document" {
                text.to_owned()
            } else {
                format!("{boot}{text}")
            };
            assert_eq!(field_of(&text), field, "{text}");
        }
        let long = format!("boot: {{kernel: /k, cmdline: '{}'}}\n", "x".repeat(2048));
        assert_eq!(field_of(&long), "boot.cmdline");
        let many: String = (0..32).map(|i| format!("- {{path: /d{i}}}\n")).collect();
        assert_eq!(field_of(&format!("{boot}disks:\n{many}")), "disks");
    }

    #[test]
    fn hardware_addresses_are_stable_and_differ() {
        let text = "name: a\nboot: {kernel: /k}\nnics: [{tap: t0}, {tap: t1}]\n";
        let (one, two) = (parse(text).unwrap(), parse(text).unwrap());
        assert_eq!(one, two);
        assert_ne!(one.nics[0].mac, one.nics[1].mac);
        assert_ne!(one.nics[0].mac, parse(&text.replace("name: a", "name: b")).unwrap().nics[0].mac);
    }
}
