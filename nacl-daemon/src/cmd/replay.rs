//! `nacld replay`: a capture from a file to the engine or the loaded program, and what became of it to standard output.

use std::{
    borrow::Cow,
    convert::Infallible,
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::Path,
};

use anyhow::Context;
use nacl_common::{Direction, Packet, Verdict, flow::Met};
use nacl_daemon::{
    analyze::{
        Replay,
        records::Windows,
        replay::{Local, Seen},
    },
    capture::{CaptureError, Captured, Reader},
    compile::{SlotTable, compile},
    dataplane::{Options, TestBed, Window},
    engine::Engine,
    frame,
    observe::{Clock, Eni, History, Place},
    report::{explain::Asked, flowlog, replay as report},
    resolve::{
        NoHost,
        flowlog::{Destination, FlowLog, Format},
    },
};

use super::{
    policy::{usable, what_if},
    tell,
};
use crate::{Exit, cli};

pub fn run(args: &cli::Replay) -> anyhow::Result<Exit> {
    let policy = usable(&args.config, &args.parameters.given(), &NoHost)?;
    let (name, interface) = what_if(&policy, args.interface.as_deref(), args.mode, args.layers)?;
    let asked = Asked { policy: &policy, name: &name, interface: &interface };
    let compiled = compile(&interface, None)?;
    let named: Vec<_> = args.local.iter().map(|within| within.0).collect();
    let replay = Replay::new(&interface, &compiled, Local::new(&interface, &named));
    let input: Box<dyn BufRead> = if args.file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
        Box::new(BufReader::with_capacity(1 << 16, file))
    };
    let place = Place { interface: name.clone(), device: interface.name.clone(), netns: interface.netns.clone() };
    // A capture knows neither account nor machine; what the policy knows of them is its flow log's.
    let log = interface.flow_log.as_deref().cloned();
    let log = log.unwrap_or_else(|| FlowLog::new("replay", Destination::Stdout));
    let mut history = History::default();
    history.begin(0, &compiled.slots);
    let format = args.format.clone().unwrap_or_default();
    let eni = Eni::new(place, &interface, &log, "");
    let told = Told { args, asked: &asked, slots: &compiled.slots, eni, history, format: &format };
    match args.level {
        cli::Level::Host => {
            let mut engine = Engine::new(&interface, &compiled);
            told.all(replay, input, |now, direction, packet, _| {
                engine.set_time(now);
                let judged = engine.judged(direction, packet);
                Ok::<_, Infallible>((judged.verdict, judged.met))
            })
        }
        cli::Level::Kernel => {
            let mut bed = TestBed::load(&Options::from(&interface), &compiled)?;
            told.all(replay, input, |now, direction, packet, captured| {
                bed.set_time(now);
                // The bytes as they were, but where the kernel runs no such frame: then some that mean the same.
                if TestBed::FRAME.contains(&captured.bytes.len()) {
                    bed.judged_frame(direction, captured.bytes)
                } else {
                    bed.judged_frame(direction, &frame::bytes(packet))
                }
            })
        }
    }
}

/// What is told, and how.
struct Told<'a> {
    args: &'a cli::Replay,
    asked: &'a Asked<'a>,
    slots: &'a SlotTable,
    /// Whose flow records they are, by which rules, in which form.
    eni: Eni,
    history: History,
    format: &'a Format,
}

impl Told<'_> {
    fn all<E: std::error::Error + Send + Sync + 'static>(
        &self,
        mut replay: Replay,
        input: impl BufRead,
        mut judge: impl FnMut(u64, Direction, &Packet, Captured<'_>) -> Result<(Verdict, Met), E>,
    ) -> anyhow::Result<Exit> {
        let mut out = BufWriter::new(anstream::stdout().lock());
        let mut windows = Windows::new(self.args.window);
        // What was read before an error is told all the same; of what is no capture there is nothing to tell.
        let read = self.packets(&mut replay, input, &mut judge, &mut windows, &mut out);
        if let Err(error) = &read
            && error.downcast_ref::<CaptureError>().is_none_or(CaptureError::at_the_beginning)
        {
            return read.map(|()| Exit::Done).with_context(|| format!("{} cannot be replayed", self.name()));
        }
        out.write_all(self.records(windows.finish()).as_bytes())?;
        let summary = replay.finish(self.asked.interface);
        if self.args.json {
            writeln!(out, "{}", report::summary_json(self.asked, &summary))?;
        } else {
            let gap = if self.args.summary || self.args.flows { "" } else { "\n" };
            let text = format!("{gap}{}", report::summary(self.asked, &summary));
            if self.args.flows { tell(text)? } else { out.write_all(text.as_bytes())? }
        }
        out.flush()?;
        read.map(|()| Exit::Done).with_context(|| format!("{} was not read to its end", self.name()))
    }

    fn name(&self) -> Cow<'_, str> {
        match self.args.file.to_str() {
            Some("-") => "standard input".into(),
            _ => self.args.file.to_string_lossy(),
        }
    }

    fn packets<E: std::error::Error + Send + Sync + 'static>(
        &self,
        replay: &mut Replay,
        input: impl BufRead,
        judge: &mut impl FnMut(u64, Direction, &Packet, Captured<'_>) -> Result<(Verdict, Met), E>,
        windows: &mut Windows,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let mut reader = Reader::new(input)?;
        let mut left = self.args.limit.unwrap_or(u64::MAX);
        while left > 0
            && let Some(record) = reader.next()?
        {
            left -= 1;
            let seen = replay.meet(&record, &mut *judge)?;
            out.write_all(self.line(replay, windows, &seen)?.as_bytes())?;
            // Who captures at the same time is told at once.
            if self.args.file == Path::new("-") {
                out.flush()?;
            }
        }
        Ok(())
    }

    /// The records of a window that is over.
    fn records(&self, window: Option<Window>) -> String {
        let records = window.map(|window| self.eni.records(&window, &self.history, Clock::UNIX, true));
        flowlog::table(&records.unwrap_or_default(), self.format, false)
    }

    fn line(&self, replay: &Replay, windows: &mut Windows, seen: &Seen) -> anyhow::Result<String> {
        let args = self.args;
        Ok(if args.flows {
            self.records(windows.meet(seen, replay.began()))
        } else if args.summary {
            String::new()
        } else if args.json {
            report::json_line(self.asked, self.slots, seen)?
        } else {
            report::line(self.slots, seen)
        })
    }
}
