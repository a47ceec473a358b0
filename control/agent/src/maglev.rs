//! From the members of a table to the owner of each slot.
use crate::goal::TableMember;
use crate::model::Owners;

pub(crate) fn owners(members: &[TableMember]) -> Owners {
    let total: u32 = members.iter().map(|m| u32::from(m.weight)).sum();
    (0..sluice_abi::SLOTS)
        .map(|slot| {
            let mut at = slot % total.max(1);
            for m in members {
                if at < u32::from(m.weight) {
                    return m.id;
                }
                at -= u32::from(m.weight);
            }
            0
        })
        .collect()
}
