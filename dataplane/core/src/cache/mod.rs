//! Cache keys, RFC 9111 freshness and storage decisions.
