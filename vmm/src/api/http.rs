//! As much of HTTP/1.1 as one request a connection needs. Reading is httparse's; what is ambiguous is refused.

use serde_json::{Value, json};

/// Longest request line and fields together.
pub const MAX_HEAD: usize = 8 << 10;
/// Longest body: the largest is a few bytes.
pub const MAX_BODY: usize = 4 << 10;
const MAX_FIELDS: usize = 32;

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// Method.
    pub method: String,
    /// Path, without query.
    pub path: String,
    /// Body.
    pub body: Vec<u8>,
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole request.
    Request(Request),
    /// The beginning of one.
    Partial,
    /// None that is served, with the status to answer.
    Refused(u16, &'static str),
}

/// Reads a request.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    let start = match head.parse(bytes) {
        Ok(httparse::Status::Complete(n)) if n <= MAX_HEAD => n,
        Ok(httparse::Status::Partial) if bytes.len() <= MAX_HEAD => return Parsed::Partial,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return Parsed::Refused(431, "the request head is too long");
        }
        Err(_) => return Parsed::Refused(400, "not a request"),
    };
    let mut length = None;
    for field in head.headers.iter() {
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            return Parsed::Refused(411, "a body needs Content-Length");
        }
        if field.name.eq_ignore_ascii_case("content-length") {
            let digits = field.value.iter().all(u8::is_ascii_digit);
            let value = std::str::from_utf8(field.value)
                .ok()
                .filter(|_| digits)
                .and_then(|v| v.parse::<usize>().ok());
            if length.is_some() || value.is_none() {
                return Parsed::Refused(400, "Content-Length is wrong");
            }
            length = value;
        }
    }
    let length = length.unwrap_or(0);
    if length > MAX_BODY {
        return Parsed::Refused(413, "the body is too long");
    }
    let Some(body) = bytes.get(start..start + length) else { return Parsed::Partial };
    let path = head.path.unwrap_or_default().split('?').next().unwrap_or_default();
    Parsed::Request(Request {
        method: head.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        body: body.to_vec(),
    })
}

/// A response.
#[derive(Debug)]
pub struct Response {
    /// Status.
    pub status: u16,
    kind: &'static str,
    body: Vec<u8>,
    allow: Option<String>,
}

impl Response {
    /// JSON.
    pub fn json(status: u16, value: &Value) -> Self {
        Self { status, kind: "application/json", body: value.to_string().into_bytes(), allow: None }
    }

    /// Plain text for Prometheus.
    pub fn text(body: String) -> Self {
        Self { status: 200, kind: "text/plain; version=0.0.4", body: body.into_bytes(), allow: None }
    }

    /// An error (RFC 9457).
    pub fn problem(status: u16, detail: &str) -> Self {
        let value =
            json!({"type": "about:blank", "title": reason(status), "status": status, "detail": detail});
        Self { kind: "application/problem+json", ..Self::json(status, &value) }
    }

    /// The method is another one (RFC 9110, 15.5.6).
    pub fn allow(methods: &str) -> Self {
        Self { allow: Some(methods.to_owned()), ..Self::problem(405, "another method is needed here") }
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// As it goes out.
    pub fn bytes(&self) -> Vec<u8> {
        let allow = self.allow.as_ref().map_or(String::new(), |methods| format!("Allow: {methods}\r\n"));
        let mut bytes = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
            self.status,
            reason(self.status),
            self.kind,
            self.body.len()
        )
        .into_bytes();
        bytes.extend(&self.body);
        bytes
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_comes_in_any_pieces() {
        let whole = b"PUT /vm/power-button?x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
        for n in 0..whole.len() {
            assert_eq!(parse(&whole[..n]), Parsed::Partial, "{n} bytes");
        }
        let request = Request { method: "PUT".into(), path: "/vm/power-button".into(), body: b"{}".to_vec() };
        assert_eq!(parse(whole), Parsed::Request(request));
    }

    #[test]
    fn what_is_ambiguous_or_too_long_is_refused() {
        let status = |text: &str| match parse(text.as_bytes()) {
            Parsed::Refused(status, _) => status,
            other => panic!("{text:?}: {other:?}"),
        };
        assert_eq!(status("\u{1}\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), 411);
        assert_eq!(status("GET / HTTP/1.1\r\nContent-Length: 5000\r\n\r\n"), 413);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(9000))), 431);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(40))), 431);
    }
}
