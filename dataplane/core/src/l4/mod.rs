//! Maglev tables, slots with a previous owner, and the model of the XDP program.

pub mod flows;
mod icmp;
pub mod maglev;
pub mod packet;
pub mod slots;
