//! Options for bpf-linker, which aya-build gives no way to set.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Packets are read at any offset: without this every header field is put together byte by byte, 1 to 3 ns a packet
    // and a fifth of the instructions more. BPF loads need no alignment on the machines nacld runs on; elsewhere the
    // kernel's verifier would say so when the program is loaded, not when a packet comes.
    println!("cargo:rustc-link-arg-bins=--cpu-features=+allows-misaligned-mem-access");
}
