//! Numbers and dates as text, without allocation.

use std::time::{Duration, UNIX_EPOCH};

/// Appends `n` in decimal.
pub fn write_decimal(mut n: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends `n` in lower-case hexadecimal without leading zeros.
pub fn write_hex(n: u64, out: &mut Vec<u8>) {
    let digits = (16 - n.leading_zeros() as usize / 4).max(1);
    for i in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(n >> (4 * i)) as usize & 15]);
    }
}

/// An IMF-fixdate (`Sun, 06 Nov 1994 08:49:37 GMT`). Make one a second per worker, not one a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpDate([u8; 29]);

impl HttpDate {
    /// The date `unix_s` seconds after 1970-01-01; capped at the end of year 9999.
    pub fn new(unix_s: u64) -> Self {
        /// 9999-12-31T23:59:59Z, the last second the format can say.
        const LAST_S: u64 = 253_402_300_799;
        let when = UNIX_EPOCH + Duration::from_secs(unix_s.min(LAST_S));
        let text = httpdate::fmt_http_date(when);
        let mut bytes = [b' '; 29];
        let n = text.len().min(bytes.len());
        bytes[..n].copy_from_slice(&text.as_bytes()[..n]);
        HttpDate(bytes)
    }

    /// The 29 bytes.
    pub const fn as_bytes(&self) -> &[u8; 29] {
        &self.0
    }
}
