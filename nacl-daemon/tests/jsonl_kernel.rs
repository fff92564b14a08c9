//! `explain --jsonl` at kernel level: the loaded programs answer every line as the engine does, each line on its own and all
//! as one sequence.

mod support;

use std::{convert::Infallible, fmt::Debug};

use nacl_common::{Direction, Packet, Verdict, flow::Met};
use nacl_daemon::{
    analyze::{Lines, answer},
    compile::{Compiled, compile},
    dataplane::{Options, TestBed},
    engine::Engine,
    policy,
    resolve::NoHost,
};
use support::lines;

fn ask<E: std::error::Error + Debug + 'static>(
    compiled: &Compiled,
    lines: Lines,
    input: &str,
    judge: impl FnMut(u64, Direction, &Packet) -> Result<(Verdict, Met), E>,
) -> (u64, String) {
    let mut output = Vec::new();
    let refused = answer("nacl", compiled, lines, judge, input.as_bytes(), &mut output).expect("nothing fails");
    (refused, String::from_utf8(output).expect("UTF-8"))
}

#[test]
fn the_loaded_programs_answer_as_the_engine_does() {
    let policy = policy::load("web.toml", lines::POLICY, &NoHost).resolved.expect("a policy");
    let interface = &policy.interfaces["eth0"];
    let compiled = compile(interface, None).expect("compiles");
    let sequence = lines::sequence().join("\n");
    let untimed: Vec<_> = lines::sequence().into_iter().filter(|line| !line.contains("time")).collect();
    for (lines, input, refusals) in [(Lines::Sequence, &sequence, 2), (Lines::Apart, &untimed.join("\n"), 0)] {
        let host = match lines {
            Lines::Sequence => {
                let mut engine = Engine::new(interface, &compiled);
                ask(&compiled, lines, input, |time, direction, packet| {
                    engine.set_time(time);
                    let judged = engine.judged(direction, packet);
                    Ok::<_, Infallible>((judged.verdict, judged.met))
                })
            }
            Lines::Apart => ask(&compiled, lines, input, |_, direction, packet| {
                Ok::<_, Infallible>((compiled.judge(direction, packet), Met::Nothing))
            }),
        };
        let options = Options { forgetful: lines == Lines::Apart, ..Options::from(interface) };
        let mut bed = TestBed::load(&options, &compiled).expect("the programs load");
        let kernel = ask(&compiled, lines, input, |time, direction, packet| {
            bed.set_time(time);
            bed.judged(direction, packet)
        });
        assert_eq!(kernel, host, "{lines:?}");
        assert_eq!(host.0, refusals);
        assert_eq!(host.1.contains("\"flow\":\"reply\""), lines == Lines::Sequence, "{}", host.1);
    }
}
