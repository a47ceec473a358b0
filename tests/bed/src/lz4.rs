//! Decoding of LZ4's legacy format, in which Debian packs the kernel inside its bzImage.
//!
//! A stream is a magic number and blocks, each with its packed length before it; blocks do not refer to each other.

const MAGIC: u32 = 0x184c_2102;

/// Unpacks a stream. `None`: it is not one, or broken.
pub fn unpack(stream: &[u8]) -> Option<Vec<u8>> {
    let (magic, mut rest) = stream.split_first_chunk()?;
    if u32::from_le_bytes(*magic) != MAGIC {
        return None;
    }
    let mut out = Vec::new();
    while let Some((len, more)) = rest.split_first_chunk() {
        let block = more.get(..u32::from_le_bytes(*len) as usize)?;
        unpack_block(block, &mut out)?;
        rest = &more[block.len()..];
    }
    Some(out)
}

/// Sequences of literals and of copies from what was written before; the last one is literals alone.
fn unpack_block(mut block: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    loop {
        let (&token, rest) = block.split_first()?;
        block = rest;
        let literals = length(usize::from(token >> 4), &mut block)?;
        out.extend(block.get(..literals)?);
        block = &block[literals..];
        if block.is_empty() {
            return Some(());
        }
        let (offset, rest) = block.split_first_chunk()?;
        block = rest;
        let offset = usize::from(u16::from_le_bytes(*offset));
        let copies = length(usize::from(token & 15), &mut block)? + 4;
        let from = out.len().checked_sub(offset).filter(|from| offset > 0 && *from >= start)?;
        // The copy may run into what it writes.
        for at in from..from + copies {
            out.push(out[at]);
        }
    }
}

/// A length of 15 goes on in the following bytes, as long as they are 255.
fn length(first: usize, block: &mut &[u8]) -> Option<usize> {
    let mut all = first;
    let mut more = first == 15;
    while more {
        let (&byte, rest) = block.split_first()?;
        *block = rest;
        all += usize::from(byte);
        more = byte == 255;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::unpack;

    fn stream(block: &[u8]) -> Vec<u8> {
        let mut all = super::MAGIC.to_le_bytes().to_vec();
        all.extend((block.len() as u32).to_le_bytes());
        all.extend(block);
        all
    }

    #[test]
    fn literals_and_copies() {
        // "ab", then eight bytes from two back, then "c".
        assert_eq!(
            unpack(&stream(&[0x24, b'a', b'b', 2, 0, 0x10, b'c'])).as_deref(),
            Some(b"ababababab\x63".as_slice())
        );
        let mut long = vec![0xf0, 255, 0];
        long.extend([7; 270]);
        assert_eq!(unpack(&stream(&long)), Some(vec![7; 270]));
    }

    #[test]
    fn broken_streams_are_refused() {
        assert_eq!(unpack(b"no magic"), None);
        assert_eq!(unpack(&stream(&[0x24, b'a'])), None, "cut short");
        assert_eq!(unpack(&stream(&[0x14, b'a', 9, 0, 0])), None, "from before the start");
        assert_eq!(unpack(&stream(&[0x14, b'a', 0, 0, 0])), None, "from nowhere");
    }
}
