//! Field lines of a head: spans, known names, lookup by id and by name.

use super::scan;

/// A range of the parsed buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub off: u16,
    /// Number of bytes.
    pub len: u16,
}

impl Span {
    pub(crate) const fn between(start: usize, end: usize) -> Span {
        Span { off: start as u16, len: (end - start) as u16 }
    }

    /// The bytes. `buf` is the slice the span was parsed from; a shorter one yields an empty slice.
    #[inline]
    pub fn of(self, buf: &[u8]) -> &[u8] {
        let start = usize::from(self.off);
        buf.get(start..start + usize::from(self.len)).unwrap_or_default()
    }

    /// Offset of the first byte after the span.
    pub const fn end(self) -> usize {
        self.off as usize + self.len as usize
    }

    /// No bytes.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// Declares the known field names.
macro_rules! field_ids {
    ($($(#[$meta:meta])* $variant:ident = $name:literal,)*) => {
        /// A field name the data plane knows. All others are [`FieldId::Other`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum FieldId {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
            /// A name without an id; look it up by name.
            Other,
        }

        impl FieldId {
            /// Known ids in order of their number.
            pub const KNOWN: &'static [FieldId] = &[$(FieldId::$variant),*];

            /// The lower-case name; empty for [`FieldId::Other`].
            pub const fn name(self) -> &'static str {
                match self { $(FieldId::$variant => $name,)* FieldId::Other => "" }
            }
        }
    };
}

field_ids! {
    Host = "host",
    ContentLength = "content-length",
    TransferEncoding = "transfer-encoding",
    Connection = "connection",
    KeepAlive = "keep-alive",
    ProxyConnection = "proxy-connection",
    ProxyAuthenticate = "proxy-authenticate",
    ProxyAuthorization = "proxy-authorization",
    ProxyAuthenticationInfo = "proxy-authentication-info",
    Te = "te",
    Trailer = "trailer",
    Upgrade = "upgrade",
    Http2Settings = "http2-settings",
    Expect = "expect",
    MaxForwards = "max-forwards",
    Via = "via",
    XForwardedFor = "x-forwarded-for",
    XForwardedProto = "x-forwarded-proto",
    XForwardedHost = "x-forwarded-host",
    Forwarded = "forwarded",
    SluiceHop = "sluice-hop",
    CacheControl = "cache-control",
    Pragma = "pragma",
    Authorization = "authorization",
    Cookie = "cookie",
    SetCookie = "set-cookie",
    Range = "range",
    IfRange = "if-range",
    IfMatch = "if-match",
    IfNoneMatch = "if-none-match",
    IfModifiedSince = "if-modified-since",
    IfUnmodifiedSince = "if-unmodified-since",
    Accept = "accept",
    AcceptEncoding = "accept-encoding",
    AcceptLanguage = "accept-language",
    AcceptRanges = "accept-ranges",
    UserAgent = "user-agent",
    Referer = "referer",
    Origin = "origin",
    Age = "age",
    Date = "date",
    Expires = "expires",
    Etag = "etag",
    LastModified = "last-modified",
    Vary = "vary",
    Warning = "warning",
    Location = "location",
    ContentLocation = "content-location",
    ContentType = "content-type",
    ContentEncoding = "content-encoding",
    ContentRange = "content-range",
    Server = "server",
    SurrogateControl = "surrogate-control",
    CdnCacheControl = "cdn-cache-control",
    StrictTransportSecurity = "strict-transport-security",
    RetryAfter = "retry-after",
}

const _: () = assert!(FieldId::KNOWN.len() < 64, "ids are bits of a u64 set");

impl FieldId {
    /// Bit of this id in a set of ids; [`FieldId::Other`] has one too.
    pub const fn bit(self) -> u64 {
        1 << self as u8
    }
}

/// One field line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name as sent.
    pub name: Span,
    /// Value without surrounding whitespace.
    pub value: Span,
    /// Which known name it is.
    pub id: FieldId,
}

/// The field lines of one head, in the order received.
#[derive(Clone, Debug, Default)]
pub struct FieldTable {
    pub(crate) list: Vec<Field>,
    pub(crate) present: u64,
    pub(crate) repeated: u64,
}

impl FieldTable {
    pub(crate) fn clear(&mut self) {
        self.list.clear();
        self.present = 0;
        self.repeated = 0;
    }

    #[inline]
    pub(crate) fn push(&mut self, field: Field) {
        let bit = field.id.bit();
        self.repeated |= self.present & bit;
        self.present |= bit;
        self.list.push(field);
    }

    /// Field lines as spans.
    pub fn as_slice(&self) -> &[Field] {
        &self.list
    }

    /// A field of that name is there. For [`FieldId::Other`]: any unknown name.
    #[inline]
    pub const fn has(&self, id: FieldId) -> bool {
        self.present & id.bit() != 0
    }

    /// More than one line of that name is there.
    pub const fn is_repeated(&self, id: FieldId) -> bool {
        self.repeated & id.bit() != 0
    }

    /// Set of ids present, as [`FieldId::bit`]s.
    pub const fn present(&self) -> u64 {
        self.present
    }

    /// With the bytes, for reading names and values.
    pub const fn view<'a>(&'a self, buf: &'a [u8]) -> Fields<'a> {
        Fields { table: self, buf }
    }
}

/// Field lines together with the buffer they were parsed from.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    table: &'a FieldTable,
    buf: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Set of ids present, as [`FieldId::bit`]s.
    pub const fn present(self) -> u64 {
        self.table.present
    }

    /// More than one line of that name is there.
    pub const fn is_repeated(self, id: FieldId) -> bool {
        self.table.is_repeated(id)
    }

    /// Value of the first line of that name.
    #[inline]
    pub fn get(self, id: FieldId) -> Option<&'a [u8]> {
        if !self.table.has(id) {
            return None;
        }
        self.all(id).next()
    }

    /// Values of all lines of that name, in order.
    pub fn all(self, id: FieldId) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        let Fields { table, buf } = self;
        let list: &[Field] = if table.has(id) { &table.list } else { &[] };
        list.iter().filter(move |f| f.id == id).map(move |f| f.value.of(buf))
    }

    /// Values of all lines whose name equals `name`, ASCII case ignored; known names too.
    pub fn named<'n>(self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a, 'n> {
        let Fields { table, buf } = self;
        let id = scan::field_id(name);
        let list: &[Field] = if table.has(id) { &table.list } else { &[] };
        list.iter()
            .filter(move |f| {
                f.id == id && (id != FieldId::Other || f.name.of(buf).eq_ignore_ascii_case(name))
            })
            .map(move |f| f.value.of(buf))
    }

    /// Name as sent, value and id of every line, in order.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8], FieldId)> + Clone + use<'a> {
        let Fields { table, buf } = self;
        table.list.iter().map(move |f| (f.name.of(buf), f.value.of(buf), f.id))
    }

    /// Members of a comma-separated list over all lines of that name (RFC 9110 section 5.6.1), trimmed, empty
    /// members left out. Commas inside quoted strings do not separate.
    pub fn list(self, id: FieldId) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.all(id).flat_map(scan::list_members)
    }
}
