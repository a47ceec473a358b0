//! Reasons for refusing a message. Every variant has a stable name for counters and logs.

use thiserror::Error;

/// Declares a reason enum: variant, snake_case name, status, message.
macro_rules! reasons {
    ($(#[$meta:meta])* $enum:ident { $($(#[$vmeta:meta])* $variant:ident = $name:literal, $status:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
        #[repr(u8)]
        pub enum $enum {
            $(#[doc = $text] $(#[$vmeta])* #[error($text)] $variant,)*
        }

        impl $enum {
            /// Every reason in declaration order: `ALL[e.index()] == e`. Append only.
            pub const ALL: &'static [$enum] = &[$($enum::$variant),*];

            /// Position in [`Self::ALL`], for arrays of counters.
            pub const fn index(self) -> usize {
                self as usize
            }

            /// Stable name for counters, logs and error bodies.
            pub const fn name(self) -> &'static str {
                match self { $($enum::$variant => $name),* }
            }

            /// Status to answer the client with.
            pub const fn status(self) -> u16 {
                match self { $($enum::$variant => $status),* }
            }
        }
    };
}

reasons! {
    /// Why a request head was refused. The connection is closed after the answer: the bytes behind a refused
    /// head have no known reading.
    RequestError {
        InvalidMethod = "invalid_method", 400, "method is not a token of at most 32 bytes";
        InvalidTarget = "invalid_target", 400, "request target has no valid form for the method";
        TargetByte = "target_byte", 400, "request target holds a control, space, `#` or non-ASCII byte";
        TargetScheme = "target_scheme", 400, "absolute-form target of another scheme than http";
        TargetHttps = "target_https", 421, "absolute-form https target on a plain connection";
        RequestLineTooLong = "request_line_too_long", 414, "request line is longer than the limit";
        InvalidVersion = "invalid_version", 400, "no valid HTTP-version in the request line";
        Http09 = "http09", 400, "HTTP/0.9 request line without a version";
        Http2Preface = "http2_preface", 505, "HTTP/2 connection preface on an HTTP/1 port";
        UnsupportedVersion = "unsupported_version", 505, "major version is not 1";
        BareCr = "bare_cr", 400, "CR without LF";
        BareLf = "bare_lf", 400, "LF without CR";
        InvalidFieldName = "invalid_field_name", 400, "field name is empty or not a token";
        FieldNameTooLong = "field_name_too_long", 431, "field name is longer than 256 bytes";
        SpaceBeforeColon = "space_before_colon", 400, "whitespace between field name and colon";
        ObsFold = "obs_fold", 400, "field line starts with whitespace (obsolete line folding)";
        InvalidFieldValue = "invalid_field_value", 400, "field value holds a control byte";
        HeadTooLarge = "head_too_large", 431, "head is larger than the limit";
        TooManyFields = "too_many_fields", 431, "more field lines than the limit";
        MissingHost = "missing_host", 400, "HTTP/1.1 request without Host";
        DuplicateHost = "duplicate_host", 400, "more than one Host field line";
        InvalidHost = "invalid_host", 400, "Host or authority is not a host with an optional port";
        InvalidContentLength = "invalid_content_length", 400, "Content-Length is not one decimal number";
        DuplicateContentLength = "duplicate_content_length", 400, "Content-Length given more than once";
        ContentLengthTooLarge = "content_length_too_large", 413, "Content-Length is larger than the limit";
        ContentLengthWithTransferEncoding = "content_length_with_transfer_encoding", 400, "both Content-Length and Transfer-Encoding";
        TransferEncodingHttp10 = "transfer_encoding_http10", 400, "Transfer-Encoding in an HTTP/1.0 request";
        InvalidTransferEncoding = "invalid_transfer_encoding", 400, "Transfer-Encoding does not end in one `chunked`";
        UnknownTransferCoding = "unknown_transfer_coding", 501, "transfer coding other than chunked";
        InvalidConnection = "invalid_connection", 400, "Connection is not a list of tokens";
        UnknownExpectation = "unknown_expectation", 417, "expectation other than 100-continue";
    }
}

reasons! {
    /// Why a response head was refused. The client gets 502 and the upstream connection is closed.
    ResponseError {
        InvalidStatusLine = "invalid_status_line", 502, "status line is malformed";
        UnsupportedVersion = "unsupported_version", 502, "major version is not 1";
        InvalidStatus = "invalid_status", 502, "status code is not three digits from 100 to 599";
        BareCr = "bare_cr", 502, "CR without LF";
        BareLf = "bare_lf", 502, "LF without CR";
        InvalidFieldName = "invalid_field_name", 502, "field name is empty or not a token";
        FieldNameTooLong = "field_name_too_long", 502, "field name is longer than 256 bytes";
        ObsFold = "obs_fold", 502, "field line starts with whitespace (obsolete line folding)";
        InvalidFieldValue = "invalid_field_value", 502, "field value holds a control byte";
        HeadTooLarge = "head_too_large", 502, "head is larger than the limit";
        TooManyFields = "too_many_fields", 502, "more field lines than the limit";
        InvalidContentLength = "invalid_content_length", 502, "Content-Length is not one decimal number";
        DuplicateContentLength = "duplicate_content_length", 502, "Content-Length given more than once";
        ContentLengthWithTransferEncoding = "content_length_with_transfer_encoding", 502, "both Content-Length and Transfer-Encoding";
        TransferEncodingHttp10 = "transfer_encoding_http10", 502, "Transfer-Encoding in an HTTP/1.0 response";
        InvalidTransferEncoding = "invalid_transfer_encoding", 502, "Transfer-Encoding does not end in one `chunked`";
        UnknownTransferCoding = "unknown_transfer_coding", 502, "transfer coding other than chunked";
        InvalidConnection = "invalid_connection", 502, "Connection is not a list of tokens";
        UnexpectedUpgrade = "unexpected_upgrade", 502, "101 to a request that asked for no upgrade";
    }
}

reasons! {
    /// Why a body was refused. [`Self::status`] is for a request body; of a response body it means 502, or a
    /// cut connection when the head has left already.
    BodyError {
        InvalidChunkSize = "invalid_chunk_size", 400, "chunk size is not plain hexadecimal";
        ChunkSizeOverflow = "chunk_size_overflow", 400, "chunk size has more than 15 digits";
        InvalidChunkExtension = "invalid_chunk_extension", 400, "chunk extension is malformed";
        ChunkLineTooLong = "chunk_line_too_long", 400, "chunk-size line is longer than the limit";
        ChunkExtensionsTooLarge = "chunk_extensions_too_large", 400, "chunk extensions of the body exceed the limit";
        ChunkDataEnd = "chunk_data_end", 400, "chunk data is not followed by CRLF";
        BareCr = "bare_cr", 400, "CR without LF";
        BareLf = "bare_lf", 400, "LF without CR";
        InvalidTrailer = "invalid_trailer", 400, "trailer field line is malformed";
        TrailersTooLarge = "trailers_too_large", 431, "trailer section is larger than the limit";
        TooManyTrailers = "too_many_trailers", 431, "more trailer field lines than the limit";
        UnexpectedEnd = "unexpected_end", 400, "connection closed inside the body";
        BodyTooLarge = "body_too_large", 413, "chunked body is larger than the limit";
    }
}
