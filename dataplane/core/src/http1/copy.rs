//! Copying the field lines that pass on.
//!
//! Lines stand one behind the other and were checked byte by byte, so runs of kept lines are copied as they
//! are, one copy a run; most messages have two or three runs.

use super::field::{FieldId, FieldTable, Fields};
use super::framing::{CONNECTION_NAMES_MAX, HOP_BY_HOP, NOT_REMOVABLE};

/// Field names that Connection lists besides the known hop-by-hop ones.
pub(super) struct NamedFields<'a> {
    names: [&'a [u8]; CONNECTION_NAMES_MAX],
    len: usize,
}

impl<'a> NamedFields<'a> {
    /// `any`: [`super::ConnectionOptions::names_fields`] of the head.
    #[inline]
    pub(super) fn of(fields: Fields<'a>, any: bool) -> Self {
        let mut named = NamedFields { names: [b""; CONNECTION_NAMES_MAX], len: 0 };
        if any {
            named.collect(fields);
        }
        named
    }

    #[cold]
    fn collect(&mut self, fields: Fields<'a>) {
        for option in fields.list(FieldId::Connection) {
            let known = super::scan::field_id(option).bit() & (HOP_BY_HOP | NOT_REMOVABLE) != 0;
            // The parser has bounded how many are left.
            if !known && !option.eq_ignore_ascii_case(b"close") && self.len < self.names.len() {
                self.names[self.len] = option;
                self.len += 1;
            }
        }
    }

    fn contains(&self, name: &[u8]) -> bool {
        self.names[..self.len].iter().any(|n| n.eq_ignore_ascii_case(name))
    }
}

/// Appends the lines of `table` whose ids are not in `drop` and whose names are not in `named`. `end` is the
/// offset of the empty line; `irregular` lines are written anew instead of copied.
#[inline]
pub(super) fn copy_kept(
    buf: &[u8],
    table: &FieldTable,
    end: usize,
    drop: u64,
    named: &NamedFields<'_>,
    irregular: bool,
    out: &mut Vec<u8>,
) {
    let Some(first) = table.list.first() else { return };
    let mut run = usize::from(first.name.off);
    if table.present & drop == 0 && named.len == 0 && !irregular {
        out.extend_from_slice(buf.get(run..end).unwrap_or_default());
        return;
    }
    for (i, field) in table.list.iter().enumerate() {
        let kept = field.id.bit() & drop == 0 && (named.len == 0 || !named.contains(field.name.of(buf)));
        if kept && !irregular {
            continue;
        }
        let line = usize::from(field.name.off);
        let next = table.list.get(i + 1).map_or(end, |next| usize::from(next.name.off));
        out.extend_from_slice(buf.get(run..line).unwrap_or_default());
        run = next;
        if kept {
            write_line(field.name.of(buf), field.value.of(buf), out);
        }
    }
    out.extend_from_slice(buf.get(run..end).unwrap_or_default());
}

/// Appends `name: value` and CRLF.
pub(super) fn write_line(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends the values of all lines of `id`, each followed by `, `, empty ones left out.
#[inline]
pub(super) fn write_list_so_far(fields: Fields<'_>, id: FieldId, out: &mut Vec<u8>) {
    for value in fields.all(id).filter(|value| !value.is_empty()) {
        out.extend_from_slice(value);
        out.extend_from_slice(b", ");
    }
}
