//! `nacld explain`: the flow from the command line, or packets from standard input, to the engine and back.

use std::{
    convert::Infallible,
    io::{self, BufWriter},
};

use anyhow::bail;
use nacl_common::{Direction, flow::Met};
use nacl_daemon::{
    analyze::{
        self, Flow, Lines, Outcome, StreamError,
        path::{self, Ends},
    },
    compile::{Compiled, compile},
    dataplane::{Options, TestBed},
    engine::Engine,
    report::{self, explain::Asked},
    resolve::{Interface, NoHost, Resolved},
};

use super::{
    misuse,
    policy::{usable, what_if},
    print, say,
};
use crate::{Exit, cli};

pub fn run(args: &cli::Explain) -> anyhow::Result<Exit> {
    let policy = usable(&args.config, &args.parameters.given(), &NoHost)?;
    let flow = match (&args.protocol, &args.source, &args.destination) {
        (Some(protocol), Some(source), Some(destination)) => {
            Some(Flow::parse(protocol, source, destination, args.icmp.as_deref())?)
        }
        _ => None,
    };
    if let Some(flow) = flow
        && let Some(ends) = ends(args, &policy, flow)?
    {
        return path(args, &policy, ends, flow);
    }
    let (name, interface) = what_if(&policy, args.interface.as_deref(), args.mode, args.layers)?;
    let asked = Asked { policy: &policy, name: &name, interface: &interface };
    let compiled = compile(&interface, None)?;
    match flow {
        Some(flow) => explain(args, &asked, &compiled, flow),
        None => stream(args, &interface, &compiled),
    }
}

/// The ends of a flow that is to be followed along its way; `None` where it is to be explained at one interface.
fn ends(args: &cli::Explain, policy: &Resolved, flow: Flow) -> anyhow::Result<Option<Ends>> {
    let mut ends = if args.interface.is_none() && args.direction.is_none() {
        Some(Ends::of(policy, &flow)?).filter(|ends| ends.followed(policy))
    } else {
        None
    };
    if ends.is_none() && args.both_modes {
        let (name, interface) = what_if(policy, args.interface.as_deref(), None, args.layers)?;
        let direction = args.direction.map_or_else(|| flow.direction(&interface).0, Direction::from);
        ends = Some(Ends::at(&name, &interface, &flow, direction));
    }
    if let (Some(ends), Some(layers)) = (&mut ends, args.layers) {
        ends.set_layers(layers.into());
        let wanted = |end: &&path::End| end.interface.as_ref().is_some_and(|one| one.layers == layers.into());
        if !ends.both().iter().any(wanted) {
            misuse!("neither end has such layers: leave out --layers, or give one of them what is to judge");
        }
    }
    Ok(ends)
}

fn path(args: &cli::Explain, policy: &Resolved, ends: Ends, flow: Flow) -> anyhow::Result<Exit> {
    let (mode, client) = (args.mode.map(Into::into), args.client);
    let path = match args.level {
        cli::Level::Host => path::walk(ends, flow, mode, client, path::engine)?,
        cli::Level::Kernel => path::walk(ends, flow, mode, client, |interface, compiled| {
            let mut bed = TestBed::load(&interface.into(), compiled)?;
            Ok(Box::new(move |direction, packet: &_| bed.judge(direction, packet)))
        })?,
    };
    if args.json {
        print(format!("{:#}\n", report::path::json(policy, &path)))?;
    } else {
        say(report::path::text(policy, &path))?;
    }
    Ok(exit(args, path.walk().outcome))
}

fn exit(args: &cli::Explain, outcome: Outcome) -> Exit {
    match outcome {
        Outcome::RequestDenied if args.exit_code => Exit::RequestDenied,
        Outcome::ReplyDenied if args.exit_code => Exit::ReplyDenied,
        _ => Exit::Done,
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
    if args.json {
        print(format!("{:#}\n", report::explain::json(asked, &explanation)))?;
    } else {
        say(report::explain::text(asked, &explanation))?;
    }
    Ok(exit(args, explanation.outcome))
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
