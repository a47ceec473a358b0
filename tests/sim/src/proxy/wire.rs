//! HTTP/1.1 as the simulated clients and origins speak it: written apart from the product's parser, so that
//! an error there cannot hide behind the same error here.
//!
//! Strict on what the proxy may send: a line ends in CRLF, a message has one framing, a chunk size is plain
//! hexadecimal. Anything else is a [`Fault`].

/// What was wrong with the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(pub String);

/// How a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// So many bytes.
    Length(usize),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Until the connection ends.
    UntilClose,
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The request or status line.
    pub start: String,
    /// Names in lower case, values trimmed, in order.
    pub fields: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// How it was framed.
    pub framing: Framing,
}

impl Message {
    /// The first field of this (lower-case) name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Status of a response.
    pub fn status(&self) -> Option<u16> {
        self.start.split(' ').nth(1)?.parse().ok()
    }

    /// Method and target of a request.
    pub fn request(&self) -> Option<(&str, &str)> {
        let mut parts = self.start.split(' ');
        Some((parts.next()?, parts.next()?))
    }

    /// This connection ends after the message.
    pub fn says_close(&self) -> bool {
        self.fields.iter().any(|(n, v)| {
            n == "connection" && v.split(',').any(|token| token.trim().eq_ignore_ascii_case("close"))
        })
    }
}

enum State {
    Head,
    Length { left: usize },
    ChunkSize,
    ChunkData { left: usize },
    ChunkEnd,
    Trailers,
    UntilClose,
}

/// Takes messages of one direction of a connection out of bytes that come in any portions.
pub struct Reader {
    /// Bytes not used yet.
    buffer: Vec<u8>,
    state: State,
    current: Option<Message>,
    /// Requests whose responses come here in order: true for HEAD, whose response has no body.
    head_only: std::collections::VecDeque<bool>,
    responses: bool,
}

impl Reader {
    /// Reads requests.
    pub fn requests() -> Self {
        Self {
            buffer: Vec::new(),
            state: State::Head,
            current: None,
            head_only: Default::default(),
            responses: false,
        }
    }

    /// Reads responses; say [`Reader::expect`] for each request sent.
    pub fn responses() -> Self {
        Self { responses: true, ..Self::requests() }
    }

    /// A request was sent whose response comes here.
    pub fn expect(&mut self, is_head: bool) {
        self.head_only.push_back(is_head);
    }

    /// A message has begun and is not whole, or bytes are left over.
    pub fn is_inside(&self) -> bool {
        self.current.is_some() || !self.buffer.is_empty()
    }

    /// Put in bytes; take out the messages that are whole now.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Message>, Fault> {
        self.buffer.extend_from_slice(bytes);
        let mut whole = Vec::new();
        while self.step(&mut whole)? {}
        Ok(whole)
    }

    /// The connection ended in order: a body that runs until then is whole.
    pub fn end(&mut self) -> Option<Message> {
        match self.state {
            State::UntilClose => self.finish(),
            _ => None,
        }
    }

    fn step(&mut self, whole: &mut Vec<Message>) -> Result<bool, Fault> {
        match self.state {
            State::Head => {
                let Some(end) = find(&self.buffer, b"\r\n\r\n") else { return Ok(false) };
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                let message = parse_head(&head[..end])?;
                self.begin(message, whole)?;
                Ok(true)
            }
            State::Length { left } => {
                let taken = self.take_body(left);
                if taken == left {
                    whole.extend(self.finish());
                    return Ok(true);
                }
                self.state = State::Length { left: left - taken };
                Ok(false)
            }
            State::ChunkSize => {
                let Some(line) = self.line()? else { return Ok(false) };
                if line.is_empty() || !line.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(Fault(format!("chunk size {line:?}")));
                }
                let left = usize::from_str_radix(&line, 16).map_err(|e| Fault(format!("{line:?}: {e}")))?;
                self.state = if left == 0 { State::Trailers } else { State::ChunkData { left } };
                Ok(true)
            }
            State::ChunkData { left } => {
                let taken = self.take_body(left);
                if taken == left {
                    self.state = State::ChunkEnd;
                    return Ok(true);
                }
                self.state = State::ChunkData { left: left - taken };
                Ok(false)
            }
            State::ChunkEnd => match self.line()? {
                None => Ok(false),
                Some(line) if line.is_empty() => {
                    self.state = State::ChunkSize;
                    Ok(true)
                }
                Some(line) => Err(Fault(format!("after a chunk: {line:?}"))),
            },
            State::Trailers => {
                let Some(line) = self.line()? else { return Ok(false) };
                if line.is_empty() {
                    whole.extend(self.finish());
                }
                Ok(true)
            }
            State::UntilClose => {
                self.take_body(usize::MAX);
                Ok(false)
            }
        }
    }

    fn begin(&mut self, mut message: Message, whole: &mut Vec<Message>) -> Result<(), Fault> {
        let mut framing = declared_framing(&message)?;
        if self.responses {
            let status = message.status().ok_or_else(|| Fault(format!("status line {:?}", message.start)))?;
            if (100..200).contains(&status) {
                // Interim: no body, the final response follows; the caller never asks for one.
                whole.push(message);
                return Ok(());
            }
            let Some(head_only) = self.head_only.pop_front() else {
                return Err(Fault(format!("a response nobody asked for: {:?}", message.start)));
            };
            if head_only || status == 204 || status == 304 {
                framing = Framing::None;
            } else if framing == Framing::None && message.field("content-length").is_none() {
                framing = Framing::UntilClose;
            }
        }
        message.framing = framing;
        self.current = Some(message);
        self.state = match framing {
            Framing::None | Framing::Length(0) => {
                whole.extend(self.finish());
                return Ok(());
            }
            Framing::Length(left) => State::Length { left },
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
        Ok(())
    }

    fn take_body(&mut self, most: usize) -> usize {
        let taken = most.min(self.buffer.len());
        let message = self.current.as_mut().expect("a body belongs to a message");
        message.body.extend(self.buffer.drain(..taken));
        taken
    }

    fn line(&mut self) -> Result<Option<String>, Fault> {
        let Some(end) = find(&self.buffer, b"\r\n") else { return Ok(None) };
        let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
        String::from_utf8(line).map(Some).map_err(|e| Fault(e.to_string()))
    }

    fn finish(&mut self) -> Option<Message> {
        self.state = State::Head;
        self.current.take()
    }
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|w| w == needle)
}

fn parse_head(head: &[u8]) -> Result<Message, Fault> {
    let text = std::str::from_utf8(head).map_err(|e| Fault(e.to_string()))?;
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    if start.is_empty() || text.replace("\r\n", "").contains(['\r', '\n']) {
        return Err(Fault(format!("head {text:?}")));
    }
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| Fault(format!("field line {line:?}")))?;
        if name.is_empty() || name.contains([' ', '\t']) {
            return Err(Fault(format!("field name {name:?}")));
        }
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(Message { start, fields, body: Vec::new(), framing: Framing::None })
}

fn declared_framing(message: &Message) -> Result<Framing, Fault> {
    let lengths: Vec<&str> =
        message.fields.iter().filter(|(n, _)| n == "content-length").map(|(_, v)| v.as_str()).collect();
    let codings: Vec<&str> =
        message.fields.iter().filter(|(n, _)| n == "transfer-encoding").map(|(_, v)| v.as_str()).collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(Framing::None),
        ([length], []) => {
            length.parse().map(Framing::Length).map_err(|e| Fault(format!("content-length {length:?}: {e}")))
        }
        ([], ["chunked"]) => Ok(Framing::Chunked),
        _ => Err(Fault(format!("two framings: lengths {lengths:?}, codings {codings:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(reader: &mut Reader, bytes: &[u8], portion: usize) -> Result<Vec<Message>, Fault> {
        let mut messages = Vec::new();
        for part in bytes.chunks(portion) {
            messages.extend(reader.feed(part)?);
        }
        Ok(messages)
    }

    #[test]
    fn any_portions_give_the_same_messages() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nTransfer-Encoding: \
            chunked\r\n\r\n2\r\nde\r\n1\r\nf\r\n0\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
        for portion in 1..bytes.len() {
            let mut reader = Reader::responses();
            for is_head in [false, false, true] {
                reader.expect(is_head);
            }
            let bodies: Vec<Vec<u8>> =
                all(&mut reader, bytes, portion).expect("good bytes").into_iter().map(|m| m.body).collect();
            assert_eq!(bodies, [b"abc".to_vec(), b"def".to_vec(), Vec::new()], "portions of {portion}");
            assert!(!reader.is_inside());
        }
    }

    #[test]
    fn a_body_until_close_is_whole_at_the_end() {
        let mut reader = Reader::responses();
        reader.expect(false);
        assert_eq!(reader.feed(b"HTTP/1.1 200 OK\r\n\r\nabc"), Ok(vec![]));
        assert_eq!(reader.end().map(|m| m.body), Some(b"abc".to_vec()));
    }

    #[test]
    fn what_a_proxy_may_not_send_is_a_fault() {
        for bytes in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n 2\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
            b"HTTP/1.1 200 OK\r\nA b: c\r\n\r\n",
            b"HTTP/1.1 200 OK\nA: c\r\n\r\n",
        ] {
            let mut reader = Reader::responses();
            reader.expect(false);
            assert!(reader.feed(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
        let mut reader = Reader::responses();
        assert!(reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err(), "nobody asked");
    }

    #[test]
    fn reads_pipelined_requests() {
        let bytes =
            b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nPOST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi";
        let mut reader = Reader::requests();
        let got = all(&mut reader, bytes, 7).expect("good bytes");
        assert_eq!(
            got.iter().filter_map(Message::request).collect::<Vec<_>>(),
            [("GET", "/a"), ("POST", "/b")]
        );
    }
}
