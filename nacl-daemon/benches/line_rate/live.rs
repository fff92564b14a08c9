//! nacld and its peers on the same path: the kernel puts frames into a veth of a namespace of ours
//! (BPF_F_TEST_XDP_LIVE_FRAMES), an XDP program meets them, and what it passes goes up the stack, where netfilter meets it.
//! A figure is the time of the program and of all the stack did with the frame. Before anything is timed, every subject
//! proves that it does what the list says, and that it was given every frame.

use std::{cell::RefCell, rc::Rc, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::{
    maps::{MapData, ProgramArray},
    programs::ProgramFd,
};
use nacl_common::Action;
use nacl_daemon::{
    compile::{Compiled, compile},
    dataplane::{BenchBed, Program},
};

use crate::{
    Plan, Scale,
    kernel::{Hook, Kernel},
    out::{Line, Out},
    peers::{Peer, decided},
    place::{self, Place},
    row::{Cell, Row, measure},
    rules::{self, Entry, PROBES, Probe},
    test_run::options,
};

const ACK: u8 = 16;

/// Frames and packets of the proof.
const PROOF: u32 = 1024;

/// Everything there is to measure this way.
pub fn run(plan: &Plan, out: &mut Out) -> Result<()> {
    if let Some(why) = place::lacks("nft", "nftables") {
        return out.missing("live", &format!("{why}; what the subjects pass ends in a chain of nftables"));
    }
    place::clean_up()?;
    let peers: Vec<_> = Peer::ALL.into_iter().filter(|peer| peer.missing().is_none()).collect();
    for peer in Peer::ALL {
        if let Some(why) = peer.missing() {
            out.missing(&format!("live: {}", peer.name()), &why)?;
        }
    }
    out.line(&Line::Limit {
        subject: Peer::NftSet.subject(),
        why: "one verdict map has no order: entries that overlap, as network ACLs may, cannot be put into it (these here do \
              not overlap), and a range of one protocol's ports beside a rule of all protocols takes a second map",
    })?;
    let all = [&[0], plan.sizes.as_slice()].concat();
    let (rounds, target, sizes) = match plan.scale {
        Scale::Smoke => (1, Duration::ZERO, vec![20]),
        Scale::Quick => (3, Duration::from_millis(4), vec![0, 20, 1000]),
        Scale::Full => (10, Duration::from_millis(10), all),
    };
    let mut bed = Bed::new(target)?;
    bed.floors()?;
    for size in sizes {
        out.say(&format!("{size} rules: loading and proving nacld, linear, {}", names(&peers)));
        bed.lists(size, &peers).with_context(|| format!("{size} rules"))?;
    }
    out.say(&format!("{} figures, {rounds} rounds", bed.cells.len()));
    measure(bed.cells, rounds)?.iter().try_for_each(|row| out.row(row))
}

fn names(peers: &[Peer]) -> String {
    peers.iter().map(|peer| peer.name()).collect::<Vec<_>>().join(", ")
}

/// What meets the frames.
enum Subject {
    /// A program of the benchmark.
    Own(Box<Kernel>, &'static str),
    /// The linear scan, of a list of one family.
    Linear(Rc<RefCell<Linear>>, u8, Vec<Entry>),
    /// nacld.
    Nacld(Box<BenchBed>),
}

impl Subject {
    /// Makes it ready, and has it meet frames.
    fn live(&mut self, place: &Place, frame: &[u8], frames: u32) -> Result<Duration> {
        self.ready()?;
        match self {
            Self::Own(kernel, name) => place.live(kernel.xdp(name)?, frame, frames),
            Self::Linear(linear, ..) => place.live(linear.borrow_mut().kernel.xdp("linear")?, frame, frames),
            Self::Nacld(bed) => place.live(bed.xdp()?, frame, frames),
        }
    }

    fn ready(&self) -> Result<()> {
        let Self::Linear(linear, family, entries) = self else { return Ok(()) };
        linear.borrow_mut().kernel.scan(*family, entries)
    }

    fn program(&mut self) -> Result<ProgramFd> {
        match self {
            Self::Own(kernel, name) => kernel.program(Hook::Xdp, name),
            Self::Linear(linear, ..) => linear.borrow_mut().kernel.program(Hook::Xdp, "linear"),
            Self::Nacld(bed) => Ok(bed.program(Program::Xdp)?),
        }
    }
}

/// The linear scan. One for all lists, because the verifier takes half a second for it; who is to be measured puts his list in.
struct Linear {
    kernel: Kernel,
    _next: ProgramArray<MapData>,
}

/// Scatters one frame over many flows, into whichever program is to meet it.
struct Scatter {
    kernel: Kernel,
    next: ProgramArray<MapData>,
}

impl Scatter {
    fn new(probes: &[Probe], first: &ProgramFd) -> Result<Self> {
        let mut kernel = Kernel::with(probes)?;
        let next = kernel.hand_to(first)?;
        Ok(Self { kernel, next })
    }

    fn live(&mut self, to: &ProgramFd, place: &Place, frame: &[u8], frames: u32) -> Result<Duration> {
        self.next.set(0, to, 0)?;
        place.live(self.kernel.xdp("scatter")?, frame, frames)
    }
}

/// What one family's frames of one list are.
struct Traffic {
    family: u8,
    entries: Vec<Entry>,
    frame: Vec<u8>,
    all: Rc<RefCell<Scatter>>,
    /// The packets of the proof, and how many of them the list lets pass.
    few: RefCell<Scatter>,
    pass: u64,
}

impl Traffic {
    fn new(family: u8, size: usize, first: &ProgramFd) -> Result<Self> {
        let entries = if size == 0 { Vec::new() } else { rules::entries(family, size) };
        // Without any rule the packets are those of one; all of them are denied.
        let aim = rules::entries(family, size.max(1));
        let few = rules::probes(&aim, PROOF as usize);
        let pass = few.iter().filter(|probe| rules::judge(&entries, **probe) == Action::Allow).count() as u64;
        Ok(Self {
            family,
            frame: rules::frame(rules::hot(family), ACK),
            all: Rc::new(RefCell::new(Scatter::new(&rules::probes(&aim, PROBES), first)?)),
            few: RefCell::new(Scatter::new(&few, first)?),
            pass,
            entries,
        })
    }
}

struct Bed {
    cells: Vec<Cell<'static>>,
    /// Netfilter's subjects meet the frame behind this.
    bare: Rc<RefCell<Subject>>,
    linear: Rc<RefCell<Linear>>,
    /// Where the XDP programs are; no netfilter there but the end.
    place: Rc<Place>,
    target: Duration,
    /// Keeps receive queues registered.
    ready: Vec<Kernel>,
}

impl Bed {
    fn new(target: Duration) -> Result<Self> {
        let bare = Subject::Own(Box::new(Kernel::load()?), "bare");
        let mut kernel = Kernel::load()?;
        let next = kernel.scan_on()?;
        let mut bed = Self {
            cells: Vec::new(),
            linear: Rc::new(RefCell::new(Linear { kernel, _next: next })),
            bare: Rc::new(RefCell::new(bare)),
            place: Rc::new(Place::new("xdp")?),
            target,
            ready: Vec::new(),
        };
        let place = Rc::clone(&bed.place);
        bed.prepare(&place)?;
        Ok(bed)
    }

    fn prepare(&mut self, place: &Place) -> Result<()> {
        let mut kernel = Kernel::load()?;
        place.ready(&mut kernel)?;
        place.catch()?;
        self.ready.push(kernel);
        Ok(())
    }

    /// Nothing at all: the frame is dropped, or goes up the stack to the end.
    fn floors(&mut self) -> Result<()> {
        for family in [4, 6] {
            let first = self.bare.borrow_mut().program()?;
            let traffic = Traffic::new(family, 100, &first)?;
            for (name, variant) in [("drop", "drop"), ("bare", "pass")] {
                let program = Rc::new(RefCell::new(Subject::Own(Box::new(Kernel::load()?), name)));
                let mut row = Row::new("bare", "live", "stateless", family, 0, "hot");
                row.detail.hook = Some("xdp");
                row.detail.variant = Some(variant);
                let place = Rc::clone(&self.place);
                self.cells(row, &program, &place, &traffic)?;
            }
        }
        Ok(())
    }

    /// Everybody with a list of so many rules.
    fn lists(&mut self, size: usize, peers: &[Peer]) -> Result<()> {
        let first = self.bare.borrow_mut().program()?;
        let both = [Traffic::new(4, size, &first)?, Traffic::new(6, size, &first)?];
        for traffic in &both {
            self.nacld(size, traffic).context("nacld")?;
            self.linear(size, traffic).context("linear")?;
        }
        for &peer in peers {
            if size == 0 && !peer.ordered() {
                continue;
            }
            let place = Rc::new(Place::new(&format!("{}.{size}", peer.word()))?);
            self.prepare(&place)?;
            for traffic in &both {
                self.peer(peer, size, traffic, &place)
                    .with_context(|| format!("{}, IPv{}", peer.name(), traffic.family))?;
            }
        }
        Ok(())
    }

    fn nacld(&mut self, size: usize, traffic: &Traffic) -> Result<()> {
        let interface = rules::interface(&traffic.entries);
        let compiled = compile(&interface, None)?;
        let bed = BenchBed::load(&options(&interface, Hook::Xdp), &compiled, true)?;
        let program = Rc::new(RefCell::new(Subject::Nacld(Box::new(bed))));
        let place = Rc::clone(&self.place);
        self.hot(&program, &place, traffic, false)?;
        if let (Subject::Nacld(bed), Some(number)) = (&*program.borrow(), last(&traffic.entries)) {
            let slot = slot(&compiled, number).context("the last rule has no counter")?;
            let counted = bed.counters()?.slots.get(&slot).map_or(0, |counter| counter.packets);
            decided("nacld", counted, PROOF.into())?;
        }
        self.prove(&program, &place, traffic)?;
        self.cells(Row::new("xdp", "live", "stateless", traffic.family, size, "hot"), &program, &place, traffic)
    }

    fn linear(&mut self, size: usize, traffic: &Traffic) -> Result<()> {
        let linear = Subject::Linear(Rc::clone(&self.linear), traffic.family, traffic.entries.clone());
        let program = Rc::new(RefCell::new(linear));
        let place = Rc::clone(&self.place);
        let scanned = |number: usize| self.linear.borrow_mut().kernel.scanned(number - 1);
        let number = last(&traffic.entries);
        let before = number.map(scanned).transpose()?;
        self.hot(&program, &place, traffic, false)?;
        if let (Some(before), Some(after)) = (before, number.map(scanned).transpose()?) {
            decided("linear", after - before, PROOF.into())?;
        }
        self.prove(&program, &place, traffic)?;
        self.cells(Row::new("linear", "live", "stateless", traffic.family, size, "hot"), &program, &place, traffic)
    }

    fn peer(&mut self, peer: Peer, size: usize, traffic: &Traffic, place: &Rc<Place>) -> Result<()> {
        let bare = Rc::clone(&self.bare);
        if size != 0 {
            peer.load(place, traffic.family, &traffic.entries, true)?;
            self.hot(&bare, place, traffic, true)?;
            decided(peer.name(), peer.last(place, traffic.family)?, PROOF.into())?;
        }
        peer.load(place, traffic.family, &traffic.entries, false)?;
        self.hot(&bare, place, traffic, true)?;
        self.prove(&bare, place, traffic)?;
        let mut row = Row::new(peer.subject(), "live", "stateless", traffic.family, size, "hot");
        row.detail.variant = peer.variant();
        self.cells(row, &bare, place, traffic)
    }

    /// None of the frames that the last rule denies comes through; `stack`: it is the stack that drops them, so all of
    /// them must have come to it.
    #[expect(clippy::unused_self, reason = "beside the other proof")]
    fn hot(&self, program: &RefCell<Subject>, place: &Place, traffic: &Traffic, stack: bool) -> Result<()> {
        let (received, passed) = (place.received(traffic.family)?, place.passed()?);
        program.borrow_mut().live(place, &traffic.frame, PROOF)?;
        let (received, passed) = (place.received(traffic.family)? - received, place.passed()? - passed);
        let expected = if stack { u64::from(PROOF) } else { 0 };
        ensure!(received == expected, "of {PROOF} frames {received} came to the stack, and not {expected}");
        ensure!(passed == 0, "{passed} of {PROOF} frames passed that the last rule denies");
        Ok(())
    }

    /// Of packets by chance, as many come through as the list says.
    #[expect(clippy::unused_self, reason = "beside the other proof")]
    fn prove(&self, program: &RefCell<Subject>, place: &Place, traffic: &Traffic) -> Result<()> {
        let before = place.passed()?;
        let fd = program.borrow_mut().program()?;
        traffic.few.borrow_mut().live(&fd, place, &traffic.frame, PROOF)?;
        let passed = place.passed()? - before;
        ensure!(
            passed == traffic.pass,
            "{passed} of {PROOF} packets by chance passed, the list allows {}",
            traffic.pass
        );
        Ok(())
    }

    /// The figure with one packet, and that with many.
    fn cells(
        &mut self,
        mut row: Row,
        program: &Rc<RefCell<Subject>>,
        place: &Rc<Place>,
        traffic: &Traffic,
    ) -> Result<()> {
        let (subject, here, frame) = (Rc::clone(program), Rc::clone(place), traffic.frame.clone());
        let take = self.paced(move |frames| subject.borrow_mut().live(&here, &frame, frames));
        self.cells.push(Cell { row: row.clone(), take });
        row.pattern = "random";
        let fd = program.borrow_mut().program()?;
        let (keep, here, frame) = (Rc::clone(program), Rc::clone(place), traffic.frame.clone());
        let all = Rc::clone(&traffic.all);
        let take = self.paced(move |frames| {
            keep.borrow().ready()?;
            all.borrow_mut().live(&fd, &here, &frame, frames)
        });
        self.cells.push(Cell { row, take });
        Ok(())
    }

    /// Takes a figure on as many frames as take about as long as a figure is to take; the first time it finds out how many.
    fn paced(&self, mut live: impl FnMut(u32) -> Result<Duration> + 'static) -> Box<dyn FnMut() -> Result<f64>> {
        const LEAST: u32 = 256;
        const MOST: u128 = 1 << 20;
        let target = self.target;
        let mut frames = None;
        Box::new(move || {
            let frames = if let Some(frames) = frames {
                frames
            } else {
                let one = live(LEAST)?.as_nanos().max(1);
                let count = (target.as_nanos() / one).clamp(LEAST.into(), MOST) as u32;
                *frames.insert(count)
            };
            Ok(live(frames)?.as_nanos() as f64)
        })
    }
}

/// Number of the last rule.
const fn last(entries: &[Entry]) -> Option<usize> {
    if entries.is_empty() { None } else { Some(entries.len()) }
}

/// The counter of a rule.
fn slot(compiled: &Compiled, number: usize) -> Option<u16> {
    compiled
        .slots
        .slots
        .iter()
        .find(|(_, slot)| slot.rule.is_some_and(|rule| usize::from(rule) == number))
        .map(|(n, _)| *n)
}
