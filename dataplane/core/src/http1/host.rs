//! Authorities: host and port.

/// Splits `authority` into host and port and appends the host to `out` in normal form: lower case, no trailing
/// dot, IPv6 in brackets. `None` if it is neither a name of `[A-Za-z0-9._~-]`, an IPv4 address nor a bracketed
/// IPv6 address, or is longer than 255 bytes, or the port is not 0..=65535. An empty port counts as none.
pub fn normalise_authority(authority: &[u8], out: &mut Vec<u8>) -> Option<Option<u16>> {
    let _ = (authority, out);
    unimplemented!()
}
