//! Where header fields come from: a parsed message, a stored one, or one laid over another.

use crate::http1::{FieldId, Fields};

/// Header fields of a message.
pub trait FieldSource {
    /// Calls `visit` with the value of each line of a known field, in order.
    fn each(&self, id: FieldId, visit: &mut dyn FnMut(&[u8]));

    /// Calls `visit` with the value of each line named `name` (lower case).
    fn each_named(&self, name: &[u8], visit: &mut dyn FnMut(&[u8]));

    /// A line of that name is there.
    fn has(&self, id: FieldId) -> bool {
        let mut found = false;
        self.each(id, &mut |_| found = true);
        found
    }
}

impl FieldSource for Fields<'_> {
    fn each(&self, id: FieldId, visit: &mut dyn FnMut(&[u8])) {
        self.all(id).for_each(visit);
    }

    fn each_named(&self, name: &[u8], visit: &mut dyn FnMut(&[u8])) {
        self.named(name).for_each(visit);
    }

    fn has(&self, id: FieldId) -> bool {
        self.get(id).is_some()
    }
}

impl<T: FieldSource + ?Sized> FieldSource for &T {
    fn each(&self, id: FieldId, visit: &mut dyn FnMut(&[u8])) {
        (**self).each(id, visit);
    }

    fn each_named(&self, name: &[u8], visit: &mut dyn FnMut(&[u8])) {
        (**self).each_named(name, visit);
    }

    fn has(&self, id: FieldId) -> bool {
        (**self).has(id)
    }
}

/// A list of names (lower case) and values.
impl FieldSource for [(&str, &str)] {
    fn each(&self, id: FieldId, visit: &mut dyn FnMut(&[u8])) {
        self.each_named(id.name().as_bytes(), visit);
    }

    fn each_named(&self, name: &[u8], visit: &mut dyn FnMut(&[u8])) {
        self.iter().filter(|f| f.0.as_bytes().eq_ignore_ascii_case(name)).for_each(|f| visit(f.1.as_bytes()));
    }
}

/// Fields of a 304 over those stored: a name in `over` replaces all its lines in `under`
/// (RFC 9111 section 3.2).
pub struct Overlay<'a, A: ?Sized, B: ?Sized> {
    /// The newer message.
    pub over: &'a A,
    /// The stored one.
    pub under: &'a B,
}

impl<A: FieldSource + ?Sized, B: FieldSource + ?Sized> FieldSource for Overlay<'_, A, B> {
    fn each(&self, id: FieldId, visit: &mut dyn FnMut(&[u8])) {
        if self.over.has(id) { self.over.each(id, visit) } else { self.under.each(id, visit) }
    }

    fn each_named(&self, name: &[u8], visit: &mut dyn FnMut(&[u8])) {
        let mut there = false;
        self.over.each_named(name, &mut |_| there = true);
        if there { self.over.each_named(name, visit) } else { self.under.each_named(name, visit) }
    }
}
