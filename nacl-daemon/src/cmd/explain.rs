//! `nacld explain`: the flow from the command line, or packets from standard input, to the engine and back.

use std::{
    convert::Infallible,
    io::{self, BufWriter},
};

use anyhow::bail;
use nacl_common::Direction;
use nacl_daemon::{
    analyze::{self, Flow, Outcome, StreamError},
    compile::{Compiled, compile},
    dataplane::TestBed,
    report,
    resolve::{Interface, NoHost, Resolved},
};

use super::{policy::usable, print};
use crate::{Exit, cli};

pub fn run(args: &cli::Explain) -> anyhow::Result<Exit> {
    let policy = usable(&args.config, &NoHost)?;
    let interface = policy.interface(args.interface.as_deref())?;
    let compiled = compile(interface, None)?;
    match (&args.protocol, &args.source, &args.destination) {
        (Some(protocol), Some(source), Some(destination)) => {
            let flow = Flow::parse(protocol, source, destination, args.icmp.as_deref())?;
            explain(args, &policy, interface, &compiled, flow)
        }
        _ => stream(args, interface, &compiled),
    }
}

fn explain(
    args: &cli::Explain,
    policy: &Resolved,
    interface: &Interface,
    compiled: &Compiled,
    flow: Flow,
) -> anyhow::Result<Exit> {
    let direction = args.direction.map(Direction::from);
    let explanation = match args.level {
        cli::Level::Host => {
            let judge = |direction, packet: &_| Ok::<_, Infallible>(compiled.judge(direction, packet));
            analyze::explain(interface, compiled, judge, flow, direction, args.client)?
        }
        cli::Level::Kernel => {
            let mut bed = TestBed::load(&interface.into(), compiled)?;
            let judge = |direction, packet: &_| bed.judge(direction, packet);
            analyze::explain(interface, compiled, judge, flow, direction, args.client)?
        }
    };
    print(if args.json {
        format!("{:#}\n", report::explain::json(policy, interface, &explanation))
    } else {
        report::explain::text(policy, interface, &explanation)
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
    let refused = match args.level {
        cli::Level::Host => {
            let judge = |direction, packet: &_| Ok::<_, Infallible>(compiled.judge(direction, packet));
            analyze::answer(nacl, compiled, judge, input, output).map_err(plain)?
        }
        cli::Level::Kernel => {
            let mut bed = TestBed::load(&interface.into(), compiled)?;
            let judge = |direction, packet: &_| bed.judge(direction, packet);
            analyze::answer(nacl, compiled, judge, input, output).map_err(plain)?
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
