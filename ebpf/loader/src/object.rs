//! The compiled kernel programs, as `ebpf/build.sh` made them; hashes are beside them in `obj/SHA256SUMS`.

/// The balancer: program `sluice_l4`.
pub static L4: &[u8] = aya::include_bytes_aligned!("../obj/l4.bpf.o");
/// The node's side: programs `sluice_decap` and `sluice_pass`.
pub static NODE: &[u8] = aya::include_bytes_aligned!("../obj/node.bpf.o");
/// The measurer's harness and floors.
pub static BENCH: &[u8] = aya::include_bytes_aligned!("../obj/bench.bpf.o");
