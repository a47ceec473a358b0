//! Cost of an XDP program per packet, in nanoseconds over a null program.
//!
//! BPF_PROG_TEST_RUN repeats a program over one frame and does not restore the frame in between, so a harness
//! program of ours does: it puts the headers back, varies the flow, and tail-calls the program under test. Every
//! subject runs behind its own harness; a null subject behind the same harness is subtracted round by round.
//! Absolute figures differ twofold between machines: only ratios of one run count.
//!
//! * [`packets`]: the frames. * [`subject`]: harness and program under test. * [`katran`]: fills Katran's maps.
//! * [`ours`]: fills ours, in shapes. * [`run`]: rounds and rows. * [`growth`]: cost as tables grow, times, memory.
//! * [`path`]: the whole path over two veth hops beside nftables.

pub mod growth;
pub mod katran;
pub mod ours;
pub mod packets;
pub mod path;
pub mod run;
pub mod subject;
