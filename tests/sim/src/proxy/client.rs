//! A client connection: requests out, pipelined or not, answers back in order, each looked at in full.

use super::content::{self, chunked};
use super::wire::{Message, Reader};
use crate::report::Violation;
use crate::rng::Rng;
use std::collections::VecDeque;

/// Field that names a request from end to end, so that the origin can tell who asked.
pub const ID_FIELD: &str = "x-sim-id";

/// A request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Unique in the run.
    pub id: u64,
    /// `GET`, `HEAD` or `POST`.
    pub method: &'static str,
    /// Host field.
    pub host: String,
    /// Path.
    pub path: String,
    /// Body of a `POST`.
    pub body: Vec<u8>,
    /// The body goes in chunks.
    pub chunked: bool,
    /// The client wants the connection closed after the answer.
    pub close: bool,
}

impl Ask {
    /// The request on the wire.
    pub fn bytes(&self, rng: &mut Rng) -> Vec<u8> {
        let mut out = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\n{ID_FIELD}: {}\r\n",
            self.method, self.path, self.host, self.id
        )
        .into_bytes();
        if self.close {
            out.extend(b"Connection: close\r\n");
        }
        if self.method != "POST" {
            out.extend(b"\r\n");
        } else if self.chunked {
            out.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            chunked(&self.body, rng, &mut out);
        } else {
            out.extend(format!("Content-Length: {}\r\n\r\n", self.body.len()).into_bytes());
            out.extend(&self.body);
        }
        out
    }
}

/// An answer of the origin that waits for its time.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The response.
    pub bytes: Vec<u8>,
    /// The connection ends after it.
    pub close: bool,
    /// What it answers.
    pub url: (String, String),
}

/// What an answer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What the origin has for this URL.
    Right,
    /// The proxy says that it could not, with this status.
    Refused(u16),
}

/// Statuses with which a proxy says that it could not get an answer.
const REFUSALS: [u16; 3] = [502, 503, 504];

/// The body is the one of the URL, or the proxy says that it has none.
pub fn body_is_right(ask: &Ask, got: &Message) -> Result<Answer, Violation> {
    let wrong =
        |what: String| Violation::new("body_is_right", format!("{ask:?} got {:?}: {what}", got.start));
    let status = got.status().ok_or_else(|| wrong("no status".to_owned()))?;
    if REFUSALS.contains(&status) {
        return Ok(Answer::Refused(status));
    }
    let object = content::object(&ask.host, &ask.path);
    if status != object.status {
        return Err(wrong(format!("status {} is right; fields {:?}", object.status, got.fields)));
    }
    let right: &[u8] = match ask.method {
        "HEAD" => &[],
        _ => &object.body,
    };
    if got.body != right {
        let same = got.body.iter().zip(right).take_while(|(a, b)| a == b).count();
        return Err(wrong(format!(
            "{} bytes, {} are right, the first {same} agree; fields {:?}",
            got.body.len(),
            right.len(),
            got.fields
        )));
    }
    Ok(Answer::Right)
}

/// What the end of a connection left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The answer that the end completed.
    pub last: Option<(Ask, Answer)>,
    /// Requests that got none.
    pub unanswered: Vec<Ask>,
}

/// One connection from the client's side.
pub struct Connection {
    reader: Reader,
    waiting: VecDeque<Ask>,
    /// An answer said that it is the last.
    pub last_seen: bool,
}

impl Default for Connection {
    fn default() -> Self {
        Self { reader: Reader::responses(), waiting: VecDeque::new(), last_seen: false }
    }
}

impl Connection {
    /// A request leaves on this connection.
    pub fn ask(&mut self, ask: Ask) {
        self.reader.expect(ask.method == "HEAD");
        self.waiting.push_back(ask);
    }

    /// Requests not answered yet.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes came: the requests that they answer.
    pub fn on_bytes(&mut self, bytes: &[u8]) -> Result<Vec<(Ask, Answer)>, Violation> {
        if self.last_seen && !bytes.is_empty() {
            return Err(Violation::new(
                "answered_once",
                format!("bytes after an answer that said close: {:?}", String::from_utf8_lossy(bytes)),
            ));
        }
        let messages = self.reader.feed(bytes).map_err(|fault| {
            let waiting = self.waiting.front();
            Violation::new("answered_once", format!("{} while {waiting:?} waits", fault.0))
        })?;
        messages.into_iter().filter(|m| !is_interim(m)).map(|m| self.on_message(&m)).collect()
    }

    /// The connection ended; `orderly` with a FIN.
    pub fn on_end(&mut self, orderly: bool) -> Result<End, Violation> {
        let last = match self.reader.end().filter(|_| orderly) {
            Some(message) => Some(self.on_message(&message)?),
            None => None,
        };
        Ok(End { last, unanswered: self.waiting.drain(..).collect() })
    }

    fn on_message(&mut self, message: &Message) -> Result<(Ask, Answer), Violation> {
        let ask = self.waiting.pop_front().ok_or_else(|| {
            Violation::new("answered_once", format!("an answer nobody asked for: {:?}", message.start))
        })?;
        self.last_seen |= message.says_close();
        let answer = body_is_right(&ask, message)?;
        Ok((ask, answer))
    }
}

fn is_interim(message: &Message) -> bool {
    message.status().is_some_and(|s| s < 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(n: u64) -> Ask {
        Ask {
            id: n,
            method: "GET",
            host: "h1.test".into(),
            path: format!("/c{n}"),
            body: Vec::new(),
            chunked: false,
            close: false,
        }
    }

    fn answer(ask: &Ask) -> Vec<u8> {
        let mut object = content::object(&ask.host, &ask.path);
        object.coding = content::Coding::Length;
        object.response(false, &mut Rng::new(1)).0
    }

    #[test]
    fn right_answers_in_order_are_right() {
        let mut connection = Connection::default();
        let asks: Vec<Ask> = (1..=3).map(ask).collect();
        asks.iter().cloned().for_each(|a| connection.ask(a));
        let bytes: Vec<u8> = asks.iter().flat_map(answer).collect();
        let mut got = Vec::new();
        for part in bytes.chunks(100) {
            got.extend(connection.on_bytes(part).expect("right"));
        }
        assert_eq!(got, asks.into_iter().map(|a| (a, Answer::Right)).collect::<Vec<_>>());
    }

    #[test]
    fn another_url_s_body_and_a_second_answer_are_found() {
        let mut connection = Connection::default();
        connection.ask(ask(1));
        let found = connection.on_bytes(&answer(&ask(2))).expect_err("the body of another URL");
        assert_eq!(found.checker, "body_is_right");
        let mut connection = Connection::default();
        connection.ask(ask(1));
        let mut twice = answer(&ask(1));
        twice.extend(answer(&ask(1)));
        assert_eq!(connection.on_bytes(&twice).expect_err("two answers").checker, "answered_once");
    }

    #[test]
    fn a_cut_answer_is_no_answer() {
        let mut connection = Connection::default();
        let cut = (1..).map(ask).find(|a| answer(a).len() > 200).expect("an object with a body");
        connection.ask(cut.clone());
        let bytes = answer(&cut);
        assert_eq!(connection.on_bytes(&bytes[..bytes.len() - 1]), Ok(vec![]));
        assert_eq!(connection.on_end(true), Ok(End { last: None, unanswered: vec![cut] }));
    }
}
