//! What a VIP wants beyond its mode, and how its row in the maps says so.
//!
//! One type per question, each with a default that asks nothing: a VIP of defaults has no flag and takes the
//! steady path.

use sluice_abi::layout::{VipValue, vip_flag};

/// Which flows of a VIP have an entry in the flow table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tracking {
    /// Those of slots whose owner changed, and only those that need one.
    #[default]
    Window,
    /// All.
    Always,
    /// None: a flow follows the current owner of its slot.
    Never,
}

/// Options of a VIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VipOptions {
    /// Flow table.
    pub tracking: Tracking,
}

impl VipOptions {
    /// Writes flags, and what they need to know, into a row.
    pub(crate) const fn write(&self, row: &mut VipValue) {
        row.flags |= match self.tracking {
            Tracking::Window => 0,
            Tracking::Always => vip_flag::TRACK,
            Tracking::Never => vip_flag::BYPASS,
        };
    }

    /// Reads them back.
    pub(crate) const fn read(row: &VipValue) -> Self {
        let tracking = if row.flags & vip_flag::BYPASS != 0 {
            Tracking::Never
        } else if row.flags & vip_flag::TRACK != 0 {
            Tracking::Always
        } else {
            Tracking::Window
        };
        VipOptions { tracking }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for tracking in [Tracking::Window, Tracking::Always, Tracking::Never] {
            let options = VipOptions { tracking };
            let mut row = VipValue::default();
            options.write(&mut row);
            assert_eq!(VipOptions::read(&row), options);
            assert_eq!(row.flags == 0, options == VipOptions::default(), "{options:?}");
        }
    }
}
