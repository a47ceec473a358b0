//! Checks of single values: names, hosts, paths, addresses, ranges.

use super::limits::{HOST_BYTES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX};
use super::types::Cidr;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A document name: `[a-z0-9-]{1,63}`, for it is a file name too.
pub(super) fn document_name(name: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(good) {
        return Err(format!("a document name is 1 to {NAME_BYTES_MAX} of a-z, 0-9 and '-'"));
    }
    Ok(())
}

/// Name of a node, pool, VIP, group, origin or network.
pub(super) fn name(name: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if !edge || name.len() > NAME_BYTES_MAX || !name.bytes().all(good) {
        return Err(format!(
            "a name is 1 to {NAME_BYTES_MAX} of A-Z, a-z, 0-9, '-', '_' and '.', and starts with a letter or digit"
        ));
    }
    Ok(())
}

/// A value in a range, both ends allowed.
pub(super) fn within<T: PartialOrd + Display>(value: T, min: T, max: T) -> Result<(), String> {
    if value < min || value > max {
        return Err(format!("{value} is not within {min}..={max}"));
    }
    Ok(())
}

/// A number of entries.
pub(super) fn count(len: usize, min: usize, max: usize) -> Result<(), String> {
    if len < min {
        return Err(if min == 1 {
            "must not be empty".to_owned()
        } else {
            format!("needs at least {min} entries")
        });
    }
    if len > max {
        return Err(format!("{len} entries are more than {max}"));
    }
    Ok(())
}

/// An IPv4 address that a host can have.
pub(super) fn ipv4(text: &str) -> Result<Ipv4Addr, String> {
    let address: Ipv4Addr = text.parse().map_err(|_| format!("{text:?} is no IPv4 address"))?;
    unicast(IpAddr::V4(address)).map(|()| address)
}

/// An IPv6 address that a host can have.
pub(super) fn ipv6(text: &str) -> Result<Ipv6Addr, String> {
    let address: Ipv6Addr = text.parse().map_err(|_| format!("{text:?} is no IPv6 address"))?;
    unicast(IpAddr::V6(address)).map(|()| address)
}

/// An address of either family that a host can have.
pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| format!("{text:?} is no IP address"))?;
    unicast(address).map(|()| address)
}

fn unicast(address: IpAddr) -> Result<(), String> {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if address.is_unspecified() || address.is_multicast() || broadcast || mapped {
        return Err(format!("{address} is not an address of one host"));
    }
    Ok(())
}

/// `address:port` of a host, `[address]:port` for IPv6.
pub(super) fn endpoint(text: &str) -> Result<SocketAddr, String> {
    let address = listen(text)?;
    unicast(address.ip()).map(|()| address)
}

/// `address:port` to listen on: an unspecified address is allowed.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| format!("{text:?} is no address:port (IPv6 in brackets)"))?;
    if address.port() == 0 {
        return Err("port 0 is no port".to_owned());
    }
    if !address.ip().is_unspecified() {
        unicast(address.ip())?;
    }
    Ok(address)
}

/// `address/prefix` with no bit set below the prefix.
pub(super) fn cidr(text: &str) -> Result<Cidr, String> {
    let bad = || format!("{text:?} is no address/prefix");
    let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
    let address: IpAddr = address.parse().map_err(|_| bad())?;
    if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let prefix: u8 = prefix.parse().map_err(|_| bad())?;
    Cidr::new(address, prefix)
        .ok_or_else(|| format!("{text:?} has a prefix out of range or address bits below its prefix"))
}

/// Host of a site: a lower-case name, `*.suffix`, `*`, or an address as clients write it in `Host`.
pub(super) fn site_host(host: &str) -> Result<(), String> {
    if host == "*" {
        return Ok(());
    }
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').unwrap_or("");
        return match inner.parse::<Ipv6Addr>() {
            Ok(v6) if v6.to_string() == inner => Ok(()),
            _ => Err(format!("{host:?} is no IPv6 address in brackets, written the short way")),
        };
    }
    host_name(host.strip_prefix("*.").unwrap_or(host))
        .map_err(|message| format!("{message}; a site is a lower-case name, \"*.suffix\" or \"*\""))
}

/// Host field sent upstream: a name with an optional port.
pub(super) fn upstream_host(host: &str) -> Result<(), String> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') => (name, Some(port)),
        _ => (host, None),
    };
    if let Some(port) = port
        && (port.is_empty()
            || !port.bytes().all(|b| b.is_ascii_digit())
            || !port.parse::<u16>().is_ok_and(|p| p > 0))
    {
        return Err(format!("{port:?} is no port"));
    }
    host_name(name)
}

fn host_name(host: &str) -> Result<(), String> {
    if host.is_empty() || host.len() > HOST_BYTES_MAX {
        return Err(format!("a host name is 1 to {HOST_BYTES_MAX} bytes"));
    }
    for label in host.split('.') {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        let edges = !label.starts_with('-') && !label.ends_with('-');
        if label.is_empty() || label.len() > 63 || !edges || !label.bytes().all(good) {
            return Err(format!("label {label:?} is not 1 to 63 of a-z, 0-9, '_' and inner '-'"));
        }
    }
    Ok(())
}

/// Path prefix of a route or path of a probe (RFC 3986 section 3.3), already in normal form.
pub(super) fn path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err("a path starts with '/'".to_owned());
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(format!("a path has at most {PATH_BYTES_MAX} bytes"));
    }
    let bytes = path.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        let good = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte);
        if !good {
            return Err(format!("byte {at} ({:?}) does not belong in a path", char::from(byte)));
        }
        if byte == b'%' {
            let hex = bytes.get(at + 1..at + 3).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
            if !hex {
                return Err(format!("byte {at}: '%' needs two hex digits"));
            }
        }
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err("a path has no '.' or '..' segments".to_owned());
    }
    Ok(())
}
