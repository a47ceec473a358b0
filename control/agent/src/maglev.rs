//! From the members of a table to the owner of each slot.

use crate::goal::TableMember;
use crate::model::Owners;
use sluice_core::l4::maglev::{self, Member};

/// Owners of all slots; 0 everywhere when there is no member.
pub(crate) fn owners(members: &[TableMember]) -> Owners {
    let members: Vec<Member<'_>> =
        members.iter().map(|m| Member { name: &m.name, weight: u32::from(m.weight), id: m.id }).collect();
    maglev::owners(&members).into()
}
