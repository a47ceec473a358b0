//! Maglev tables, slots with a previous owner, and the model of the XDP program.

pub mod maglev;
pub mod slots;
