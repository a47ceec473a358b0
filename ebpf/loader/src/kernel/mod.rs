//! The loader's one place with `unsafe`: values the kernel copies, memory it shares, questions only ioctl answers.

pub(crate) mod delete;
pub(crate) mod frame;
pub(crate) mod ifaces;
pub(crate) mod shared;
pub(crate) mod values;
