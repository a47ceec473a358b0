//! Reader of the chunked transfer coding (RFC 9112 section 7.1), incremental.
//!
//! ```text
//! Size -> SizeLf -> Data -> DataCr -> DataLf -> Size ...   size 0: Trailer -> Done
//! ```

/// Longest run of trailer and chunk-extension bytes accepted; what is measured sends none.
const FRAMING_MAX: u32 = 16 * 1024;

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The first `n` bytes of the input are body; call again with the rest.
    Data(usize),
    /// The first `n` bytes are framing and were consumed; more input is needed.
    More(usize),
    /// The first `n` bytes ended the message.
    Done(usize),
}

/// The input is not chunked coding.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size { digits: u8 },
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    LineStart,
    Line,
    LineLf { last: bool },
}

/// State between reads.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    remaining: u64,
    framing: u32,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Size { digits: 0 }, remaining: 0, framing: 0 }
    }
}

impl Decoder {
    /// Reads from the front of `input`.
    pub fn advance(&mut self, input: &[u8]) -> Result<Step, Malformed> {
        for (at, &byte) in input.iter().enumerate() {
            if self.state == State::Data {
                if at > 0 {
                    return Ok(Step::More(at));
                }
                let take = self.remaining.min(input.len() as u64);
                self.remaining -= take;
                if self.remaining == 0 {
                    self.state = State::DataCr;
                }
                return Ok(Step::Data(take as usize));
            }
            if self.framing_byte(byte)? {
                return Ok(Step::Done(at + 1));
            }
        }
        Ok(Step::More(input.len()))
    }

    /// One byte of framing; `true` after the last.
    fn framing_byte(&mut self, byte: u8) -> Result<bool, Malformed> {
        self.state = match (self.state, byte) {
            (State::Size { digits }, b) if b.is_ascii_hexdigit() && digits < 15 => {
                let value = (b as char).to_digit(16).ok_or(Malformed)?;
                self.remaining = self.remaining * 16 + u64::from(value);
                State::Size { digits: digits + 1 }
            }
            (State::Size { digits: 1.. }, b'\r') => State::SizeLf,
            (State::Size { digits: 1.. }, b';') => State::Extension,
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, _) => self.count(State::Extension)?,
            (State::SizeLf, b'\n') if self.remaining == 0 => State::LineStart,
            (State::SizeLf, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.remaining = 0;
                State::Size { digits: 0 }
            }
            (State::LineStart, b'\r') => State::LineLf { last: true },
            (State::Line, b'\r') => State::LineLf { last: false },
            (State::LineStart | State::Line, _) => self.count(State::Line)?,
            (State::LineLf { last: true }, b'\n') => return Ok(true),
            (State::LineLf { last: false }, b'\n') => State::LineStart,
            _ => return Err(Malformed),
        };
        Ok(false)
    }

    fn count(&mut self, next: State) -> Result<State, Malformed> {
        self.framing += 1;
        if self.framing > FRAMING_MAX { Err(Malformed) } else { Ok(next) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8], piece: usize) -> Result<(Vec<u8>, Option<usize>), Malformed> {
        let mut decoder = Decoder::default();
        let (mut body, mut at) = (Vec::new(), 0);
        while at < input.len() {
            let end = (at + piece).min(input.len());
            match decoder.advance(&input[at..end])? {
                Step::Data(n) => {
                    body.extend_from_slice(&input[at..at + n]);
                    at += n;
                }
                Step::More(n) => at += n,
                Step::Done(n) => return Ok((body, Some(at + n))),
            }
        }
        Ok((body, None))
    }

    #[test]
    fn any_split_gives_the_same_body() {
        let wire = b"5;name=v\r\nhello\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\nGET";
        for piece in 1..wire.len() {
            assert_eq!(read(wire, piece), Ok((b"hello0123456789".to_vec(), Some(wire.len() - 3))), "{piece}");
        }
    }

    #[test]
    fn refuses_what_is_no_chunk() {
        for wire in [&b"g\r\n"[..], b"\r\n", b"5\nhello", b"1\r\nab\r\n", b"-1\r\n", b"1234567890abcdef0\r\n"]
        {
            assert_eq!(read(wire, 64), Err(Malformed), "{wire:?}");
        }
        assert_eq!(read(b"5\r\nhel", 64), Ok((b"hel".to_vec(), None)));
    }
}
