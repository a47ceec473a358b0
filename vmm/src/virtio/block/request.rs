//! From a chain of buffers to a request (5.2.6): pure, so that every malformed one can be tried.

use super::{MAX_RANGE_SECTORS, SECTOR};
use crate::ram::GuestRam;
use crate::virtio::fault::Fault;
use crate::virtio::queue::{Chain, Segment, gather, skip, take_last_byte};

/// Length of the serial number field.
pub const ID_LEN: usize = 20;
const HEADER: u32 = 16;
const RANGE: usize = 16;
const UNMAP: u32 = 1;

/// Status byte of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Failed.
    IoError = 1,
    /// No such request here.
    Unsupported = 2,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read at an offset in bytes, into the chain's writable segments.
    Read(u64),
    /// Write at an offset, from the chain's readable segments.
    Write(u64),
    /// Make durable.
    Flush,
    /// The serial number.
    GetId,
    /// Give back offset and length.
    Discard(u64, u64),
    /// Zero offset and length; true: the space may be given back.
    WriteZeroes(u64, u64, bool),
    /// Answer with this at once.
    Refuse(Status),
}

/// What a disk takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes.
    pub size: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// Discard was offered.
    pub discard: bool,
    /// Write-zeroes was offered.
    pub zero: bool,
}

/// Takes header and status off the chain, which then holds the data alone. Says what to do and where the status goes.
pub fn parse(ram: &GuestRam, chain: &mut Chain, limits: &Limits) -> Result<(Action, u64), Fault> {
    let mut header = [0; HEADER as usize];
    if !gather(ram, &chain.readable, &mut header) || !skip(&mut chain.readable, HEADER) {
        return Err(Fault::RequestShape);
    }
    let status_at = take_last_byte(&mut chain.writable).ok_or(Fault::RequestShape)?;
    let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
    let (kind, sector) = (u32::from_le_bytes([t0, t1, t2, t3]), u64::from_le_bytes(sector));
    let action = match kind {
        0 => transfer(sector, chain.writable_bytes(), limits).map_or_else(Action::Refuse, Action::Read),
        1 if limits.read_only => Action::Refuse(Status::IoError),
        1 => transfer(sector, chain.readable_bytes(), limits).map_or_else(Action::Refuse, Action::Write),
        4 => Action::Flush,
        8 if chain.writable_bytes() < ID_LEN as u64 => return Err(Fault::RequestShape),
        8 => Action::GetId,
        11 if limits.discard => range(ram, &chain.readable, limits, false)?,
        13 if limits.zero => range(ram, &chain.readable, limits, true)?,
        _ => Action::Refuse(Status::Unsupported),
    };
    Ok((action, status_at))
}

/// Offset of a transfer that lies on the disk.
fn transfer(sector: u64, bytes: u64, limits: &Limits) -> Result<u64, Status> {
    let offset = sector.checked_mul(SECTOR).ok_or(Status::IoError)?;
    let end = offset.checked_add(bytes).ok_or(Status::IoError)?;
    let fits = bytes > 0 && bytes.is_multiple_of(SECTOR) && end <= limits.size;
    fits.then_some(offset).ok_or(Status::IoError)
}

fn range(ram: &GuestRam, data: &[Segment], limits: &Limits, zero: bool) -> Result<Action, Fault> {
    let bytes: u64 = data.iter().map(|s| u64::from(s.len)).sum();
    let mut raw = [0; RANGE];
    // One range a request was offered (max_discard_seg, max_write_zeroes_seg).
    if bytes != RANGE as u64 || !gather(ram, data, &mut raw) {
        return Err(Fault::RequestShape);
    }
    if limits.read_only {
        return Ok(Action::Refuse(Status::IoError));
    }
    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = raw;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let count = u32::from_le_bytes([n0, n1, n2, n3]);
    let flags = u32::from_le_bytes([f0, f1, f2, f3]);
    let known = if zero { UNMAP } else { 0 };
    if flags & !known != 0 {
        return Ok(Action::Refuse(Status::Unsupported));
    }
    if count > MAX_RANGE_SECTORS {
        return Ok(Action::Refuse(Status::IoError));
    }
    Ok(match transfer(sector, u64::from(count) * SECTOR, limits) {
        Ok(offset) if zero => Action::WriteZeroes(offset, u64::from(count) * SECTOR, flags & UNMAP != 0),
        Ok(offset) => Action::Discard(offset, u64::from(count) * SECTOR),
        Err(status) => Action::Refuse(status),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: u64 = 0x1000;
    const DATA: u64 = 0x2000;
    const LIMITS: Limits = Limits { size: 1 << 20, read_only: false, discard: true, zero: true };

    fn ask(
        kind: u32,
        sector: u64,
        readable: &[u32],
        writable: &[u32],
        data: &[u8],
        limits: Limits,
    ) -> Result<Action, Fault> {
        let ram = GuestRam::anonymous(2 << 20).expect("memory");
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        ram.write(HEAD, &header).expect("header");
        ram.write(DATA, data).expect("data");
        let lay = |lens: &[u32], mut addr: u64| {
            lens.iter()
                .map(|&len| {
                    let s = Segment { addr, len };
                    addr += u64::from(len);
                    s
                })
                .collect::<Vec<_>>()
        };
        let mut all = vec![Segment { addr: HEAD, len: 16 }];
        all.extend(lay(readable, DATA));
        let mut chain = Chain { head: 0, readable: all, writable: lay(writable, 0x4000) };
        parse(&ram, &mut chain, &limits).map(|(action, _)| action)
    }

    #[test]
    fn transfers_lie_on_the_disk() {
        let refused = Ok(Action::Refuse(Status::IoError));
        assert_eq!(ask(0, 3, &[], &[512, 512, 1], &[], LIMITS), Ok(Action::Read(1536)));
        assert_eq!(ask(1, 2047, &[512], &[1], &[], LIMITS), Ok(Action::Write(2047 * 512)));
        assert_eq!(ask(1, 2047, &[1024], &[1], &[], LIMITS), refused);
        assert_eq!(ask(1, 2048, &[512], &[1], &[], LIMITS), refused);
        assert_eq!(ask(0, u64::MAX, &[], &[513], &[], LIMITS), refused);
        assert_eq!(ask(0, u64::MAX / 512, &[], &[1025], &[], LIMITS), refused);
        assert_eq!(ask(0, 0, &[], &[100, 1], &[], LIMITS), refused);
        assert_eq!(ask(0, 0, &[], &[1], &[], LIMITS), refused, "no data at all");
        assert_eq!(ask(1, 0, &[512], &[1], &[], Limits { read_only: true, ..LIMITS }), refused);
    }

    #[test]
    fn what_has_no_header_or_no_status_is_no_request() {
        assert_eq!(ask(0, 0, &[], &[], &[], LIMITS), Err(Fault::RequestShape));
        assert_eq!(ask(8, 0, &[], &[20], &[], LIMITS), Err(Fault::RequestShape), "19 bytes for the name");
        assert_eq!(ask(8, 0, &[], &[21], &[], LIMITS), Ok(Action::GetId));
        let ram = GuestRam::anonymous(2 << 20).expect("memory");
        let mut chain = Chain {
            head: 0,
            readable: vec![Segment { addr: 0, len: 15 }],
            writable: vec![Segment { addr: 64, len: 1 }],
        };
        assert_eq!(parse(&ram, &mut chain, &LIMITS).err(), Some(Fault::RequestShape));
    }

    #[test]
    fn ranges() {
        let range = |sector: u64, count: u32, flags: u32| {
            let mut raw = sector.to_le_bytes().to_vec();
            raw.extend(count.to_le_bytes());
            raw.extend(flags.to_le_bytes());
            raw
        };
        let unsupported = Ok(Action::Refuse(Status::Unsupported));
        assert_eq!(ask(11, 0, &[16], &[1], &range(8, 8, 0), LIMITS), Ok(Action::Discard(4096, 4096)));
        assert_eq!(
            ask(13, 0, &[8, 8], &[1], &range(8, 8, 1), LIMITS),
            Ok(Action::WriteZeroes(4096, 4096, true))
        );
        assert_eq!(ask(11, 0, &[16], &[1], &range(8, 8, 1), LIMITS), unsupported);
        assert_eq!(ask(11, 0, &[16], &[1], &range(2047, 2, 0), LIMITS), Ok(Action::Refuse(Status::IoError)));
        assert_eq!(
            ask(11, 0, &[16], &[1], &range(0, u32::MAX, 0), LIMITS),
            Ok(Action::Refuse(Status::IoError))
        );
        assert_eq!(ask(11, 0, &[32], &[1], &range(0, 1, 0), LIMITS), Err(Fault::RequestShape));
        assert_eq!(ask(13, 0, &[16], &[1], &range(8, 8, 0), Limits { zero: false, ..LIMITS }), unsupported);
        assert_eq!(ask(99, 0, &[], &[1], &[], LIMITS), unsupported);
    }
}
