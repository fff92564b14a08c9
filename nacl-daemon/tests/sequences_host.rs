//! Level 1 of the proof, with a memory: the engine against the naive oracle on random sequences of packets, changes and
//! passing time. `NACLD_SEQUENCES` asks for another number of them, `NACLD_SEED` for another seed.

mod support;

use std::thread;

use nacl_daemon::engine::Engine;
use support::{
    coverage::Coverage,
    generate::{self, Random},
    host::Host,
    sequence::{Policy, Trial},
};

const SEQUENCES: u64 = 100_000;

fn run(seed: u64, sequences: u64) -> (Coverage, u64) {
    let mut random = Random(seed);
    let policy = Policy::new(generate::interface(&mut random, 0, 0), None);
    let mut trial = Trial::new(Host(Engine::new(&policy.interface, &policy.compiled)), &policy);
    while trial.sequences < sequences {
        // Now and then hardly any room: such a sequence is alone in its batch.
        if random.once_in(2) {
            trial.batch(&mut random, 1, 2);
        } else {
            trial.batch(&mut random, 30, 65_536);
        }
    }
    (trial.coverage, trial.sequences)
}

#[test]
fn the_engine_agrees_with_the_oracle_on_sequences() {
    let setting = |name: &str, default| std::env::var(name).map_or(default, |value| value.parse().expect("a number"));
    let sequences = setting("NACLD_SEQUENCES", SEQUENCES);
    let seed = setting("NACLD_SEED", 2026);
    let workers = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let (mut coverage, mut done) = (Coverage::default(), 0);
    thread::scope(|scope| {
        let workers: Vec<_> =
            (0..workers).map(|worker| scope.spawn(move || run(seed + worker, sequences.div_ceil(workers)))).collect();
        for worker in workers {
            let (more, sequences) = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            coverage.merge(&more);
            done += sequences;
        }
    });
    println!("{done} sequences\n{coverage}");
    assert!(done >= sequences);
    assert_eq!(coverage.rare(50_000), [], "too rare to prove anything");
    assert_eq!(coverage.kinds(), 180, "every kind of packet, change, transition and edge is met");
}
