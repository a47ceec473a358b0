//! HTTP/1.1 messages: parsing, framing, rewriting (RFC 9110, RFC 9112).
