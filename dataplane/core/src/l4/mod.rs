//! Maglev tables, slots with a previous owner, and the model of the XDP program.

pub mod decap;
pub mod flows;
pub mod fragment;
pub mod gue;
mod icmp;
pub mod maglev;
pub mod nat;
pub mod packet;
pub mod slots;
