//! Reader of one response after another on a connection.
//!
//! ```text
//! Head -> (1xx: Head) -> Empty | Length | Chunked | UntilClose -> done
//! ```
//! Body bytes are read in place and compared with what the origin must have sent; nothing is kept.

use crate::chunked;
use crate::pattern;

/// Longest response head, bytes.
const HEAD_MAX: usize = 64 * 1024;
/// Most header fields of a response.
const FIELDS_MAX: usize = 64;

/// Why a response cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What the request asked, as far as the reading of its response depends on it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// The method was HEAD.
    pub head: bool,
    /// The body to compare a 200 with; `None`: bodies are only counted.
    pub expected: Option<pattern::Expected>,
}

/// Which field names the server that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// The nearest `Via` entry, else `X-Served-By`.
    Auto,
    /// The nearest (last) `Via` entry.
    Via,
    /// A field of this name.
    Field(String),
}

impl std::str::FromStr for NamedBy {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "via" => Self::Via,
            field => Self::Field(field.to_owned()),
        })
    }
}

#[derive(Debug)]
enum State {
    Head,
    Length(u64),
    Chunked(chunked::Decoder),
    UntilClose,
}

/// A response that was read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The connection may carry another request.
    pub keep_alive: bool,
    /// `Cache-Status` (RFC 9211) or `X-Cache-Status` says hit; `None`: neither field was there.
    pub hit: Option<bool>,
    /// The body was compared and differs.
    pub mismatch: bool,
    /// Body bytes.
    pub body_len: u64,
}

/// State between reads.
#[derive(Debug)]
pub struct Reader {
    state: State,
    partial: Vec<u8>,
    asked: Asked,
    answer: Answer,
    served_by: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            state: State::Head,
            partial: Vec::new(),
            asked: Asked::default(),
            answer: EMPTY,
            served_by: Vec::new(),
        }
    }
}

const EMPTY: Answer = Answer { status: 0, keep_alive: false, hit: None, mismatch: false, body_len: 0 };

impl Reader {
    /// Forgets the last response; the next bytes answer `asked`.
    pub fn begin(&mut self, asked: Asked) {
        self.state = State::Head;
        self.partial.clear();
        self.asked = asked;
        self.answer = EMPTY;
        self.served_by.clear();
    }

    /// Whether any byte of the response has come.
    pub fn started(&self) -> bool {
        self.answer.status != 0 || !self.partial.is_empty()
    }

    /// Whether the head was read, so that a body is missing.
    pub fn in_body(&self) -> bool {
        !matches!(self.state, State::Head)
    }

    /// The server that answered; empty: it did not say.
    pub fn served_by(&self) -> &[u8] {
        &self.served_by
    }

    /// Takes bytes as they come. `Some` at the end of the response, with the number of bytes used.
    pub fn feed(&mut self, input: &[u8], named_by: &NamedBy) -> Result<Option<(Answer, usize)>, Malformed> {
        let mut at = 0;
        if matches!(self.state, State::Head) {
            match self.feed_head(input, named_by)? {
                Some((done, used)) if done => return Ok(Some((self.finish(), used))),
                Some((_, used)) => at = used,
                None => return Ok(None),
            }
        }
        while at < input.len() {
            let rest = &input[at..];
            let (body, used, done) = match &mut self.state {
                State::Length(left) => {
                    let take = (*left).min(rest.len() as u64) as usize;
                    *left -= take as u64;
                    (&rest[..take], take, *left == 0)
                }
                State::UntilClose => (rest, rest.len(), false),
                State::Chunked(decoder) => match decoder.advance(rest).map_err(|_| Malformed)? {
                    chunked::Step::Data(n) => (&rest[..n], n, false),
                    chunked::Step::More(n) => (&rest[..0], n, false),
                    chunked::Step::Done(n) => (&rest[..0], n, true),
                },
                State::Head => return Err(Malformed),
            };
            if let Some(expected) = self.asked.expected.filter(|_| self.answer.status == 200) {
                self.answer.mismatch |= !pattern::matches(expected.start, self.answer.body_len, body);
            }
            self.answer.body_len += body.len() as u64;
            at += used;
            if done {
                return Ok(Some((self.finish(), at)));
            }
        }
        Ok(None)
    }

    /// The connection ended; `Some` when that is how the response ends.
    pub fn end_of_input(&mut self) -> Option<Answer> {
        matches!(self.state, State::UntilClose).then(|| self.finish())
    }

    fn finish(&mut self) -> Answer {
        if let Some(expected) = self.asked.expected
            && self.answer.status == 200
            && !self.asked.head
        {
            self.answer.mismatch |= self.answer.body_len != expected.len;
        }
        self.state = State::Head;
        self.answer
    }

    /// Reads a head; `(no body follows, bytes of this input used)`.
    fn feed_head(&mut self, input: &[u8], named_by: &NamedBy) -> Result<Option<(bool, usize)>, Malformed> {
        let mut used = 0;
        loop {
            let kept = self.partial.len();
            let head = if kept == 0 {
                self.parse(&input[used..], named_by)?
            } else {
                self.partial.extend_from_slice(&input[used..]);
                let whole = std::mem::take(&mut self.partial);
                let head = self.parse(&whole, named_by)?;
                self.partial = whole;
                head
            };
            let Some(len) = head else {
                if kept == 0 {
                    self.partial.extend_from_slice(&input[used..]);
                }
                return if self.partial.len() > HEAD_MAX { Err(Malformed) } else { Ok(None) };
            };
            used += len - kept;
            self.partial.clear();
            if self.answer.status >= 200 {
                let bodiless = self.asked.head || matches!(self.answer.status, 204 | 304);
                return Ok(Some((bodiless || matches!(self.state, State::Length(0)), used)));
            }
            self.answer = EMPTY;
            self.state = State::Head;
            if used == input.len() {
                return Ok(None);
            }
        }
    }

    fn parse(&mut self, input: &[u8], named_by: &NamedBy) -> Result<Option<usize>, Malformed> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut head = httparse::Response::new(&mut fields);
        let len = match head.parse(input).map_err(|_| Malformed)? {
            httparse::Status::Complete(len) => len,
            httparse::Status::Partial => return Ok(None),
        };
        self.answer.status = head.code.ok_or(Malformed)?;
        self.answer.keep_alive = head.version == Some(1);
        let (mut length, mut chunked) = (None, false);
        for field in head.headers.iter() {
            let name = field.name;
            match name.len() {
                14 if name.eq_ignore_ascii_case("content-length") => {
                    let text = std::str::from_utf8(field.value).map_err(|_| Malformed)?;
                    length = Some(text.parse().map_err(|_| Malformed)?);
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => chunked = true,
                10 if name.eq_ignore_ascii_case("connection") => {
                    self.answer.keep_alive &= !field.value.eq_ignore_ascii_case(b"close");
                }
                12 if name.eq_ignore_ascii_case("cache-status") => {
                    self.answer.hit = Some(says_hit(field.value));
                }
                14 if name.eq_ignore_ascii_case("x-cache-status") => {
                    self.answer.hit = Some(field.value.eq_ignore_ascii_case(b"hit"));
                }
                _ => {}
            }
            self.note_server(name, field.value, named_by);
        }
        self.state = match length {
            _ if chunked => State::Chunked(chunked::Decoder::default()),
            Some(length) => State::Length(length),
            None => State::UntilClose,
        };
        self.answer.keep_alive &= !matches!(self.state, State::UntilClose);
        Ok(Some(len))
    }

    fn note_server(&mut self, name: &str, value: &[u8], named_by: &NamedBy) {
        let via = name.eq_ignore_ascii_case("via");
        let served = !via && name.eq_ignore_ascii_case("x-served-by") && self.served_by.is_empty();
        let value = match named_by {
            NamedBy::Auto if served => value,
            NamedBy::Auto | NamedBy::Via if via => nearest_via(value),
            NamedBy::Field(wanted) if name.eq_ignore_ascii_case(wanted) => value,
            _ => return,
        };
        self.served_by.clear();
        self.served_by.extend_from_slice(value);
    }
}

/// Whether any cache of a `Cache-Status` list (RFC 9211) answered from its store.
fn says_hit(value: &[u8]) -> bool {
    value.split(|&b| b == b',').any(|member| {
        member
            .split(|&b| b == b';')
            .skip(1)
            .any(|parameter| parameter.trim_ascii().eq_ignore_ascii_case(b"hit"))
    })
}

/// `received-by` of the last member of a `Via` list (RFC 9110 section 7.6.3): the proxy next to the client.
fn nearest_via(value: &[u8]) -> &[u8] {
    let last = value.rsplit(|&b| b == b',').next().unwrap_or(value).trim_ascii();
    last.split(|&b| b == b' ').nth(1).unwrap_or(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(wire: &[u8], piece: usize, asked: Asked) -> Result<(Vec<Answer>, Vec<String>), Malformed> {
        let mut reader = Reader::default();
        reader.begin(asked);
        let (mut answers, mut names) = (Vec::new(), Vec::new());
        for part in wire.chunks(piece) {
            let mut at = 0;
            while at < part.len() {
                match reader.feed(&part[at..], &NamedBy::Auto)? {
                    Some((answer, used)) => {
                        answers.push(answer);
                        names.push(String::from_utf8_lossy(reader.served_by()).into_owned());
                        reader.begin(asked);
                        at += used;
                    }
                    None => break,
                }
            }
        }
        answers.extend(reader.end_of_input());
        Ok((answers, names))
    }

    #[test]
    fn any_split_reads_the_same() {
        let wire = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\nVia: 1.1 b, 1.1 n1\r\n\
            X-Served-By: o\r\nCache-Status: b; fwd=miss, n1; hit; ttl=3\r\n\r\nabc\
            HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\nX-Served-By: o\r\nConnection: close\r\n\r\n2\r\nab\r\n0\r\n\r\n";
        for piece in 1..wire.len() {
            let (answers, names) = read(wire, piece, Asked::default()).expect("readable");
            assert_eq!(answers.len(), 2, "piece {piece}");
            assert_eq!((answers[0].status, answers[0].hit, answers[0].body_len), (200, Some(true), 3));
            assert!(answers[0].keep_alive && !answers[1].keep_alive);
            assert_eq!((answers[1].status, answers[1].hit, answers[1].body_len), (503, None, 2));
            assert_eq!(names, ["n1", "o"]);
        }
    }

    #[test]
    fn bodies_are_compared() {
        let expected = Some(pattern::Expected { start: 5, len: 4 });
        let body = pattern::slice(5, 0, 4);
        let with = |body: &[u8]| {
            let mut wire = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
            wire.extend_from_slice(body);
            read(&wire, 7, Asked { head: false, expected }).expect("readable").0[0].mismatch
        };
        assert!(!with(body));
        assert!(with(&body[..3]), "a shorter object is not the object");
        assert!(with(&[body[0], body[1], body[2], body[3] ^ 1]));
    }

    #[test]
    fn head_and_close_delimited() {
        let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
        let (answers, _) = read(wire, 5, Asked { head: true, expected: None }).expect("readable");
        assert_eq!((answers.len(), answers[0].body_len), (1, 0));
        let (answers, _) = read(b"HTTP/1.1 200 OK\r\n\r\nabc", 4, Asked::default()).expect("readable");
        assert_eq!((answers[0].body_len, answers[0].keep_alive), (3, false));
        assert_eq!(read(b"HTP/1.1 200 OK\r\n\r\n", 64, Asked::default()).err(), Some(Malformed));
    }
}
