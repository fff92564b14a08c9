//! `nacld explain`: the flow from the command line, or packets from standard input, to the engine and back.

use std::{
    convert::Infallible,
    io::{self, BufWriter},
};

use anyhow::bail;
use nacl_common::{Direction, flow::Met};
use nacl_daemon::{
    analyze::{self, Flow, Lines, Outcome, StreamError},
    compile::{Compiled, compile},
    dataplane::{Options, TestBed},
    engine::Engine,
    report::{self, explain::Asked},
    resolve::{Interface, NoHost},
};

use super::{
    policy::{usable, what_if},
    print,
};
use crate::{Exit, cli};

pub fn run(args: &cli::Explain) -> anyhow::Result<Exit> {
    let policy = usable(&args.config, &NoHost)?;
    let (name, interface) = what_if(&policy, args.interface.as_deref(), args.mode, args.layers)?;
    let asked = Asked { policy: &policy, name: &name, interface: &interface };
    let compiled = compile(&interface, None)?;
    match (&args.protocol, &args.source, &args.destination) {
        (Some(protocol), Some(source), Some(destination)) => {
            let flow = Flow::parse(protocol, source, destination, args.icmp.as_deref())?;
            explain(args, &asked, &compiled, flow)
        }
        _ => stream(args, &interface, &compiled),
    }
}

fn explain(args: &cli::Explain, asked: &Asked<'_>, compiled: &Compiled, flow: Flow) -> anyhow::Result<Exit> {
    let (interface, direction) = (asked.interface, args.direction.map(Direction::from));
    let explanation = match args.level {
        cli::Level::Host => {
            let mut engine = Engine::new(interface, compiled);
            let judge = |direction, packet: &_| Ok::<_, Infallible>(engine.judge(direction, packet));
            analyze::explain(interface, compiled, judge, flow, direction, args.client)?
        }
        cli::Level::Kernel => {
            let mut bed = TestBed::load(&interface.into(), compiled)?;
            let judge = |direction, packet: &_| bed.judge(direction, packet);
            analyze::explain(interface, compiled, judge, flow, direction, args.client)?
        }
    };
    print(if args.json {
        format!("{:#}\n", report::explain::json(asked, &explanation))
    } else {
        report::explain::text(asked, &explanation)
    })?;
    Ok(match explanation.outcome {
        Outcome::RequestDenied if args.exit_code => Exit::RequestDenied,
        Outcome::ReplyDenied if args.exit_code => Exit::ReplyDenied,
        _ => Exit::Done,
    })
}

fn stream(args: &cli::Explain, interface: &Interface, compiled: &Compiled) -> anyhow::Result<Exit> {
    let (input, output) = (io::stdin().lock(), BufWriter::new(io::stdout().lock()));
    let nacl = &interface.nacl.name;
    let lines = if args.sequence { Lines::Sequence } else { Lines::Apart };
    let refused = match (args.level, lines) {
        (cli::Level::Host, Lines::Apart) => {
            let judge =
                |_, direction, packet: &_| Ok::<_, Infallible>((compiled.judge(direction, packet), Met::Nothing));
            analyze::answer(nacl, compiled, lines, judge, input, output).map_err(plain)?
        }
        (cli::Level::Host, Lines::Sequence) => {
            let mut engine = Engine::new(interface, compiled);
            let judge = |time, direction, packet: &_| {
                engine.set_time(time);
                let judged = engine.judged(direction, packet);
                Ok::<_, Infallible>((judged.verdict, judged.met))
            };
            analyze::answer(nacl, compiled, lines, judge, input, output).map_err(plain)?
        }
        (cli::Level::Kernel, lines) => {
            let options = Options { forgetful: lines == Lines::Apart, ..Options::from(interface) };
            let mut bed = TestBed::load(&options, compiled)?;
            let judge = |time, direction, packet: &_| {
                bed.set_time(time);
                bed.judged(direction, packet)
            };
            analyze::answer(nacl, compiled, lines, judge, input, output).map_err(plain)?
        }
    };
    match refused {
        0 => Ok(Exit::Done),
        1 => bail!("one line is no packet; its answer says what is wrong with it"),
        refused => bail!("{refused} lines are no packets; their answers say what is wrong with them"),
    }
}

/// A reader of our output that went away is no failure, and `main` knows it by the plain error of writing.
fn plain<E: std::error::Error + Send + Sync + 'static>(error: StreamError<E>) -> anyhow::Error {
    match error {
        StreamError::Io(error) => error.into(),
        error @ StreamError::Judge(_) => error.into(),
    }
}
