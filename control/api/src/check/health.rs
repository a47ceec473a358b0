//! Health checks: the checked types, and how they come from raw fields.

use super::error::Errors;
use super::limits::*;
use super::names;
use crate::placement::{self, HealthKind, Through, Verify};

/// A health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    probe: Probe,
    through: Through,
    interval_ms: u64,
    timeout_ms: u64,
    rise: u32,
    fall: u32,
    jitter_percent: u32,
}

/// What a health check sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A TCP handshake.
    Tcp {
        /// Port.
        port: u16,
    },
    /// GET answered 200..=399.
    Http {
        /// Port.
        port: u16,
        /// Path.
        path: String,
        /// Host field; none: the address.
        host: Option<String>,
    },
    /// GET over TLS answered 200..=399.
    Https {
        /// Port.
        port: u16,
        /// Path.
        path: String,
        /// Host field and server name; none: the address. Always there with [`Verify::Ca`].
        host: Option<String>,
        /// What is demanded of the certificate.
        verify: Verify,
    },
    /// A datagram.
    Udp {
        /// Port.
        port: u16,
        /// Payload.
        send: Vec<u8>,
        /// What the answer begins with; none: no answer is needed.
        expect: Option<Vec<u8>>,
    },
    /// A program.
    Script {
        /// Port it is told; may be 0.
        port: u16,
        /// File name.
        name: String,
    },
}

impl Probe {
    /// Port probed.
    pub const fn port(&self) -> u16 {
        match self {
            Probe::Tcp { port }
            | Probe::Http { port, .. }
            | Probe::Https { port, .. }
            | Probe::Udp { port, .. }
            | Probe::Script { port, .. } => *port,
        }
    }
}

impl Health {
    /// The check of group members: `GET /.sluice/health` each second, down after 3 bad, up after 2 good.
    pub fn of_member(port: u16) -> Self {
        Self {
            probe: Probe::Http { port, path: "/.sluice/health".to_owned(), host: None },
            through: Through::Backend,
            interval_ms: 1000,
            timeout_ms: 500,
            rise: 2,
            fall: 3,
            jitter_percent: 10,
        }
    }
    /// What is sent.
    pub const fn probe(&self) -> &Probe {
        &self.probe
    }
    /// Which way.
    pub const fn through(&self) -> Through {
        self.through
    }
    /// Time between the starts of two probes, ms.
    pub const fn interval_ms(&self) -> u64 {
        self.interval_ms
    }
    /// Time for an answer, ms.
    pub const fn timeout_ms(&self) -> u64 {
        self.timeout_ms
    }
    /// Good probes in a row that bring a backend back.
    pub const fn rise(&self) -> u32 {
        self.rise
    }
    /// Bad probes in a row that take a backend out.
    pub const fn fall(&self) -> u32 {
        self.fall
    }
    /// How far each interval may be off to either side, percent.
    pub const fn jitter_percent(&self) -> u32 {
        self.jitter_percent
    }
}

/// Checks the raw fields of a check at `path`.
pub(super) fn check(path: &str, raw: placement::Health, e: &mut Errors) -> Option<Health> {
    let at = |field: &str| format!("{path}.{field}");
    if raw.port == 0 && raw.kind != HealthKind::Script {
        e.add(at("port"), "port 0 is no port");
    }
    e.check(|| at("interval_ms"), names::within(raw.interval_ms, INTERVAL_MS_MIN, INTERVAL_MS_MAX));
    if raw.timeout_ms == 0 || raw.timeout_ms > raw.interval_ms {
        let message = format!("{} is not within 1..=interval_ms ({})", raw.timeout_ms, raw.interval_ms);
        e.add(at("timeout_ms"), message);
    }
    e.check(|| at("rise"), names::within(raw.rise, 1, RISE_FALL_MAX));
    e.check(|| at("fall"), names::within(raw.fall, 1, RISE_FALL_MAX));
    e.check(|| at("jitter_percent"), names::within(raw.jitter_percent, 0, JITTER_PERCENT_MAX));
    strangers(path, &raw, e);
    let probe = probe(path, &raw, e)?;
    if raw.through == Through::Vip {
        e.add(at("through"), "this version sends probes to the backend's own address only");
    }
    Some(Health {
        probe,
        through: raw.through,
        interval_ms: raw.interval_ms,
        timeout_ms: raw.timeout_ms,
        rise: raw.rise,
        fall: raw.fall,
        jitter_percent: raw.jitter_percent,
    })
}

/// Fields that the kind does not have.
fn strangers(path: &str, raw: &placement::Health, e: &mut Errors) {
    use HealthKind::{Http, Https, Script, Udp};
    let fields: [(&str, bool, &[HealthKind]); 6] = [
        ("path", raw.path.is_some(), &[Http, Https]),
        ("host", raw.host.is_some(), &[Http, Https]),
        ("verify", raw.verify.is_some(), &[Https]),
        ("send", raw.send.is_some(), &[Udp]),
        ("expect", raw.expect.is_some(), &[Udp]),
        ("script", raw.script.is_some(), &[Script]),
    ];
    for (field, there, kinds) in fields {
        if there && !kinds.contains(&raw.kind) {
            let kind = format!("{:?}", raw.kind).to_lowercase();
            e.add(format!("{path}.{field}"), format!("a check of kind {kind} has no {field}"));
        }
    }
}

fn probe(path: &str, raw: &placement::Health, e: &mut Errors) -> Option<Probe> {
    let at = |field: &str| format!("{path}.{field}");
    let port = raw.port;
    let url_path = raw.path.clone().unwrap_or_else(|| "/".to_owned());
    if matches!(raw.kind, HealthKind::Http | HealthKind::Https) {
        e.check(|| at("path"), names::path(&url_path));
        if let Some(host) = &raw.host {
            e.check(|| at("host"), names::upstream_host(host));
        }
    }
    match raw.kind {
        HealthKind::Tcp => Some(Probe::Tcp { port }),
        HealthKind::Http => Some(Probe::Http { port, path: url_path, host: raw.host.clone() }),
        HealthKind::Https => {
            let Some(verify) = raw.verify else {
                e.add(at("verify"), "is missing: none, or ca");
                return None;
            };
            if verify == Verify::Ca && raw.host.is_none() {
                e.add(at("host"), "is missing: a certificate is checked for a name");
            }
            Some(Probe::Https { port, path: url_path, host: raw.host.clone(), verify })
        }
        HealthKind::Udp => {
            let Some(send) = &raw.send else {
                e.add(at("send"), "is missing: what a datagram holds");
                return None;
            };
            let send = e.take(|| at("send"), payload(send))?;
            let expect = match &raw.expect {
                Some(text) => Some(e.take(|| at("expect"), payload(text))?),
                None => None,
            };
            Some(Probe::Udp { port, send, expect })
        }
        HealthKind::Script => {
            let Some(name) = &raw.script else {
                e.add(at("script"), "is missing: a file of the agent's directory of scripts");
                return None;
            };
            e.check(|| at("script"), script_name(name));
            Some(Probe::Script { port, name: name.clone() })
        }
    }
}

/// Text as it is, or bytes written as `hex:00ff`.
fn payload(text: &str) -> Result<Vec<u8>, String> {
    let bytes = match text.strip_prefix("hex:") {
        None => text.as_bytes().to_vec(),
        Some(digits) => {
            let byte = |pair: &[u8]| {
                let text =
                    std::str::from_utf8(pair).ok().filter(|t| t.bytes().all(|b| b.is_ascii_hexdigit()));
                text.filter(|t| t.len() == 2).and_then(|t| u8::from_str_radix(t, 16).ok())
            };
            let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(byte).collect();
            bytes.ok_or_else(|| format!("{text:?} is not pairs of hexadecimal digits"))?
        }
    };
    if bytes.len() > PROBE_BYTES_MAX {
        return Err(format!("{} bytes are more than {PROBE_BYTES_MAX}", bytes.len()));
    }
    Ok(bytes)
}

/// A plain file name: no path, nothing hidden.
fn script_name(name: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with('.') || !name.bytes().all(good) {
        return Err(format!(
            "{name:?} is not a file name of [A-Za-z0-9._-]{{1,{NAME_BYTES_MAX}}} without a dot in front"
        ));
    }
    Ok(())
}
