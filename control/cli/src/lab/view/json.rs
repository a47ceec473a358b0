//! Nothing while the lab runs: the ready document and the summary are all a program asked for.

use super::View;
use crate::lab::observe::Sample;

/// Draws nothing.
pub struct Quiet;

impl View for Quiet {
    fn sample(&mut self, _sample: &Sample) {}
}
