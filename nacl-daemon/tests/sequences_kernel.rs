//! Level 2 of the proof, with a memory: the loaded XDP and TC programs against the naive oracle on random sequences of
//! packets, changes and passing time, by BPF_PROG_TEST_RUN with the clock set by hand. `NACLD_KERNEL_SEQUENCES` asks for
//! another number of them.
