//! Frames at the balancer's model.

/// Any bytes as a frame: a verdict, and what is sent is what came, one hop older, behind at most one outer
/// header. The program itself is held to the model by the loader's differential test.
pub fn frame(data: &[u8]) {
    sluice_core::l4::packet::fuzz_frame(data);
}
