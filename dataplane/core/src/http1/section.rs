//! Field sections: the lines between start line and empty line (RFC 9112 section 5).
//!
//! Resumable at every byte: a partial parse keeps the start of the current line and how far its value is known
//! to be clean, so slow senders cost one look at each byte (names, at most 256 bytes, are looked at again).

use super::field::{Field, FieldId, FieldTable, Span};
use super::scan;
use super::{Parse, RequestError, ResponseError};

/// Names longer than this are no names in use (the longest registered has 44 bytes).
const NAME_BYTES_MAX: usize = 256;

/// What is wrong with a field section, before it is known whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SectionError {
    BareCr,
    BareLf,
    InvalidFieldName,
    FieldNameTooLong,
    SpaceBeforeColon,
    ObsFold,
    InvalidFieldValue,
    TooManyFields,
}

impl From<SectionError> for RequestError {
    fn from(e: SectionError) -> Self {
        match e {
            SectionError::BareCr => RequestError::BareCr,
            SectionError::BareLf => RequestError::BareLf,
            SectionError::InvalidFieldName => RequestError::InvalidFieldName,
            SectionError::FieldNameTooLong => RequestError::FieldNameTooLong,
            SectionError::SpaceBeforeColon => RequestError::SpaceBeforeColon,
            SectionError::ObsFold => RequestError::ObsFold,
            SectionError::InvalidFieldValue => RequestError::InvalidFieldValue,
            SectionError::TooManyFields => RequestError::TooManyFields,
        }
    }
}

impl From<SectionError> for ResponseError {
    fn from(e: SectionError) -> Self {
        match e {
            SectionError::BareCr => ResponseError::BareCr,
            SectionError::BareLf => ResponseError::BareLf,
            // The response section tolerates and removes the space (RFC 9112 section 5.1).
            SectionError::InvalidFieldName | SectionError::SpaceBeforeColon => {
                ResponseError::InvalidFieldName
            }
            SectionError::FieldNameTooLong => ResponseError::FieldNameTooLong,
            SectionError::ObsFold => ResponseError::ObsFold,
            SectionError::InvalidFieldValue => ResponseError::InvalidFieldValue,
            SectionError::TooManyFields => ResponseError::TooManyFields,
        }
    }
}

/// Where a field section stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    /// Start of the current line.
    pub line: usize,
    /// End of its name, if the colon has been seen.
    name_end: usize,
    /// How far its value is clean; 0: the colon has not been seen.
    scanned: usize,
}

impl Cursor {
    pub(super) const fn at(line: usize) -> Self {
        Cursor { line, name_end: 0, scanned: 0 }
    }
}

/// Whether whitespace before the colon is an error or tolerated and flagged.
pub(super) enum Colon<'a> {
    Strict,
    Lenient(&'a mut bool),
}

/// Parses lines from `cursor` on. `head_len` of the result counts from the start of `buf`.
pub(super) fn parse_section(
    buf: &[u8],
    fields_max: usize,
    cursor: &mut Cursor,
    table: &mut FieldTable,
    mut colon: Colon<'_>,
) -> Result<Parse, SectionError> {
    let mut line = cursor.line;
    if cursor.scanned != 0 {
        let id = scan::field_id(buf.get(line..cursor.name_end).unwrap_or_default());
        let (name_end, scanned) = (cursor.name_end, cursor.scanned);
        match value(buf, line, name_end, scanned, id, fields_max, cursor, table)? {
            Some(next) => line = next,
            None => return Ok(Parse::Partial),
        }
    }
    loop {
        let (id, name_end, after_colon) = match scan::name_at(buf, line) {
            Some((id, end)) if end > line => (id, end, end + 1),
            _ => match name_slowly(buf, line, &mut colon)? {
                Name::Found { id, end, after_colon } => (id, end, after_colon),
                Name::Partial => {
                    *cursor = Cursor::at(line);
                    return Ok(Parse::Partial);
                }
                Name::EndOfSection { head_len } => {
                    *cursor = Cursor::at(head_len);
                    return Ok(Parse::Complete { head_len });
                }
            },
        };
        match value(buf, line, name_end, after_colon, id, fields_max, cursor, table)? {
            Some(next) => line = next,
            None => return Ok(Parse::Partial),
        }
    }
}

/// The value of the line at `line`, clean up to `from`, and the end of the line: start of the next line, or
/// `None` with the cursor set if more bytes are needed.
#[allow(clippy::too_many_arguments)] // inlined: its arguments are the variables of the loop
#[inline(always)]
fn value(
    buf: &[u8],
    line: usize,
    name_end: usize,
    from: usize,
    id: FieldId,
    fields_max: usize,
    cursor: &mut Cursor,
    table: &mut FieldTable,
) -> Result<Option<usize>, SectionError> {
    let stop = scan::skip_value(buf, from);
    match buf.get(stop..).and_then(<[u8]>::first_chunk) {
        Some(b"\r\n") => {}
        Some([b'\r', _]) => return Err(SectionError::BareCr),
        _ => {
            *cursor = Cursor { line, name_end, scanned: stop };
            return match buf.get(stop) {
                None | Some(b'\r') => Ok(None),
                Some(b'\n') => Err(SectionError::BareLf),
                Some(_) => Err(SectionError::InvalidFieldValue),
            };
        }
    }
    if table.list.len() >= fields_max {
        return Err(SectionError::TooManyFields);
    }
    table.push(Field { name: Span::between(line, name_end), value: trimmed(buf, name_end, stop), id });
    Ok(Some(stop + 2))
}

/// The value between the end of the name and the end of the line: behind optional whitespace (lenient parsing
/// only), one colon and optional whitespace, and without whitespace at its end.
#[inline]
fn trimmed(buf: &[u8], name_end: usize, stop: usize) -> Span {
    let mut start = name_end;
    while start < stop && matches!(buf[start], b' ' | b'\t') {
        start += 1;
    }
    start += 1;
    while start < stop && matches!(buf[start], b' ' | b'\t') {
        start += 1;
    }
    let mut end = stop;
    while end > start && matches!(buf[end - 1], b' ' | b'\t') {
        end -= 1;
    }
    Span::between(start, end)
}

enum Name {
    Found { id: FieldId, end: usize, after_colon: usize },
    EndOfSection { head_len: usize },
    Partial,
}

/// A name byte by byte: the end of the section, names near the end of the buffer, long ones, wrong ones.
fn name_slowly(buf: &[u8], line: usize, colon: &mut Colon<'_>) -> Result<Name, SectionError> {
    match buf.get(line) {
        None => return Ok(Name::Partial),
        Some(b'\r') => return end_of_section(buf, line),
        Some(b'\n') => return Err(SectionError::BareLf),
        Some(b' ' | b'\t') => return Err(SectionError::ObsFold),
        Some(_) => {}
    }
    let end = scan::skip_token(buf, line);
    if end - line > NAME_BYTES_MAX {
        return Err(SectionError::FieldNameTooLong);
    }
    match find_colon(buf, line, end, colon)? {
        Some(after_colon) => Ok(Name::Found { id: scan::field_id(&buf[line..end]), end, after_colon }),
        None => Ok(Name::Partial),
    }
}

#[inline]
fn end_of_section(buf: &[u8], line: usize) -> Result<Name, SectionError> {
    match buf.get(line + 1) {
        None => Ok(Name::Partial),
        Some(b'\n') => Ok(Name::EndOfSection { head_len: line + 2 }),
        Some(_) => Err(SectionError::BareCr),
    }
}

/// Offset behind the colon; `None` if more bytes are needed.
#[inline]
fn find_colon(
    buf: &[u8],
    line: usize,
    name_end: usize,
    colon: &mut Colon<'_>,
) -> Result<Option<usize>, SectionError> {
    match buf.get(name_end) {
        None => Ok(None),
        Some(b':') if name_end > line => Ok(Some(name_end + 1)),
        Some(b' ' | b'\t') => match colon {
            Colon::Strict => Err(SectionError::SpaceBeforeColon),
            Colon::Lenient(irregular) => {
                **irregular = true;
                let skipped = buf[name_end..].iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
                if skipped > NAME_BYTES_MAX {
                    return Err(SectionError::FieldNameTooLong);
                }
                match buf.get(name_end + skipped) {
                    None => Ok(None),
                    Some(b':') => Ok(Some(name_end + skipped + 1)),
                    Some(_) => Err(SectionError::InvalidFieldName),
                }
            }
        },
        Some(b'\n') => Err(SectionError::BareLf),
        Some(_) => Err(SectionError::InvalidFieldName),
    }
}
