//! Keeping flow logs: windows end on the second, what they hold is written, and only then forgotten by the kernel. A log that
//! cannot be written is said loudly and changes nothing that is enforced; the window it should have had is told as SKIPDATA.

mod file;
mod stream;
mod tree;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, PoisonError},
    time::{Duration, SystemTime},
};

use super::{
    Service,
    state::{Enforced, State, StateError, chain},
};
use crate::{
    dataplane::Window,
    observe::{Clock, Eni, FlowRecord, History, InterfaceFlows, LogStatus, Place},
    report,
    resolve::{
        Interface,
        flowlog::{Destination, FlowLog},
    },
};

/// Windows end at multiples of this many seconds of Unix time, all of them: 600 is one.
const TICK: u64 = 60;

/// Where the journal takes entries.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// What tells this machine from others, as systemd has it; in a container, which often has none, what tells this boot: else all of
/// them would write records of one interface.
static MACHINE: LazyLock<String> = LazyLock::new(|| {
    let told = |file| std::fs::read_to_string(file).ok().map(|text| text.trim().to_owned()).filter(|id| !id.is_empty());
    told("/etc/machine-id").or_else(|| told("/proc/sys/kernel/random/boot_id")).unwrap_or_default()
});

/// An interface with its flow log.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Of {
    id: u64,
    log: Arc<FlowLog>,
    eni: Eni,
}

impl Of {
    /// Nothing where it has none.
    pub(super) fn new(held: &Enforced) -> Option<Self> {
        Self::under(held, &held.meant.interface)
    }

    /// As another policy has it.
    pub(super) fn under(held: &Enforced, interface: &Interface) -> Option<Self> {
        let log = Arc::clone(interface.flow_log.as_ref()?);
        let eni = Eni::new(held.place(), interface, &log, &MACHINE);
        Some(Self { id: held.id, log, eni })
    }
}

/// What a window of an interface holds, to be written.
pub(super) struct Batch {
    of: Of,
    window: u32,
    /// When it began, by the kernel's clock: with the window's id that tells it from all others since the machine was started.
    began: u64,
    records: Vec<FlowRecord>,
    /// From when to when.
    span: (u64, u64),
}

/// The state's half: what is over and not written yet.
#[derive(Default)]
pub(super) struct FlowLogs {
    claimed: Vec<Batch>,
    /// Windows that somebody writes, or is about to: by attachment and id.
    known: BTreeSet<(u64, u32)>,
    /// In which window each attachment was when it was last looked at.
    at: BTreeMap<u64, u64>,
    problems: Vec<String>,
}

impl FlowLogs {
    /// What a person must know, and do something about.
    pub(super) fn problems(&self) -> Vec<String> {
        self.problems.clone()
    }

    /// Ends the window that runs, and keeps what is over for the flow log that is meant now.
    pub(super) fn claim(&mut self, held: &mut Enforced) {
        if let Err(error) = held.attachment.turn() {
            tracing::warn!(interface = held.name, reason = %error, "the window of its flow log goes on");
        }
        self.collect(held);
    }

    /// As [`Self::claim`], where another policy gives the interface another flow log, or other names in it: what was met before
    /// belongs to the one that was.
    pub(super) fn claim_before(&mut self, held: &mut Enforced, next: &Interface) {
        if Of::new(held) != Of::under(held, next) {
            self.claim(held);
        }
    }

    /// The same, and has the kernel forget it at once.
    pub(super) fn take(&mut self, held: &mut Enforced) {
        self.claim(held);
        let own = |(id, window): &(u64, u32)| (*id == held.id).then_some(*window);
        let windows: Vec<u32> = self.known.iter().filter_map(own).collect();
        held.attachment.written(&windows);
    }

    /// Keeps what is over and not known yet.
    fn collect(&mut self, held: &Enforced) {
        let Some(of) = Of::new(held) else { return };
        match held.attachment.windows() {
            Ok((_, over)) => self.keep(Some(of), over, &held.history),
            Err(error) => tracing::warn!(interface = held.name, reason = %error, "its flow log cannot be read"),
        }
    }

    /// Keeps windows that are over, those that are not known yet.
    pub(super) fn keep(&mut self, of: Option<Of>, mut windows: Vec<Window>, history: &History) {
        let Some(of) = of else { return };
        windows.retain(|window| !self.known.contains(&(of.id, window.id)));
        // Asked anew each time: the clock of the day may have been set.
        let clock = Clock::now();
        for window in windows {
            let records = of.eni.records(&window, history, clock, false);
            let span = (clock.rounded(window.began), clock.rounded(window.ended));
            self.known.insert((of.id, window.id));
            self.claimed.push(Batch { of: of.clone(), window: window.id, began: window.began, records, span });
        }
    }
}

impl State {
    /// Ends the windows whose time is over, and hands out what is to be written.
    pub(super) fn flow_batches(&mut self, unix: u64) -> Vec<Batch> {
        let clock = Clock::now();
        let here: BTreeSet<u64> = self.interfaces.values().map(|held| held.id).collect();
        self.flow_logs.at.retain(|id, _| here.contains(id));
        for held in self.interfaces.values_mut() {
            let Some(log) = &held.meant.interface.flow_log else { continue };
            let interval = u64::from(log.interval.max(1));
            let now = unix / interval;
            let before = match self.flow_logs.at.get(&held.id) {
                Some(before) => *before,
                // Taken over, or just attached to: its window tells when it began.
                None => match held.attachment.windows() {
                    Ok((Some(running), _)) => clock.rounded(running.began) / interval,
                    _ => now,
                },
            };
            self.flow_logs.at.insert(held.id, now);
            if before == now {
                self.flow_logs.collect(held);
            } else {
                self.flow_logs.claim(held);
            }
        }
        std::mem::take(&mut self.flow_logs.claimed)
    }

    /// Names of the flow logs that interfaces have.
    fn flow_log_names(&self) -> BTreeSet<String> {
        let logs = self.interfaces.values().filter_map(|held| held.meant.interface.flow_log.as_ref());
        logs.map(|log| log.name.clone()).collect()
    }

    /// Has the kernel forget what was written.
    fn flow_logs_written(&mut self, batches: &[Batch], problems: Vec<String>) {
        for Batch { of, window, .. } in batches {
            if let Some(held) = self.interfaces.values_mut().find(|held| held.id == of.id) {
                held.attachment.written(&[*window]);
            }
            self.flow_logs.known.remove(&(of.id, *window));
        }
        self.flow_logs.problems = problems;
    }

    /// What the windows that run hold so far, of all interfaces or of one.
    ///
    /// # Errors
    /// There is no such interface, or the kernel would not tell.
    pub fn flows(&self, asked: Option<&str>) -> Result<Vec<InterfaceFlows>, StateError> {
        let clock = Clock::now();
        let flows = |held: &Enforced| {
            let mut flows = InterfaceFlows::of(held.place());
            if let Some(of) = Of::new(held) {
                let (running, over) = held.attachment.windows().map_err(|source| held.kernel(source))?;
                // What is over and not written yet is nowhere else to be seen.
                let windows =
                    over.iter().map(|window| (window, false)).chain(running.iter().map(|window| (window, true)));
                let records = windows.flat_map(|(window, runs)| of.eni.records(window, &held.history, clock, runs));
                flows.records = records.collect();
                flows.began = running.as_ref().map(|window| clock.rounded(window.began));
                flows.flow_log = Some(of.log.name.clone());
            }
            Ok(flows)
        };
        self.selected(asked)?.into_iter().map(flows).collect()
    }
}

impl Service {
    /// Writes flow logs until the daemon ends.
    pub async fn keep_flow_logs(self: Arc<Self>) {
        loop {
            let service = Arc::clone(&self);
            if tokio::task::spawn_blocking(move || service.write_flow_logs()).await.is_err() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(until_next(SystemTime::now())) => {}
                // What belongs to a flow log that is no more.
                () = self.flow_logs_changed.notified() => {}
            }
        }
    }

    /// Ends the windows whose time is over, and writes what is over.
    pub fn write_flow_logs(&self) {
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let batches = self.state().flow_batches(unix);
        for batch in &batches {
            writers.write(batch);
        }
        let mut state = self.state();
        writers.forget_but(&state.flow_log_names());
        state.flow_logs_written(&batches, writers.problems());
    }
}

/// How long until the next tick.
fn until_next(now: SystemTime) -> Duration {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let over = Duration::new(since.as_secs() % TICK, since.subsec_nanos());
    Duration::from_secs(TICK).saturating_sub(over)
}

/// What writes, and how that went last.
#[derive(Default)]
pub struct Writers {
    /// By flow log and interface: windows that could not be written, and are to be told of.
    skipped: BTreeMap<(String, String), (u64, u64)>,
    /// By flow log: why it cannot be written, and how many records that has cost.
    failing: BTreeMap<String, (String, u64)>,
    /// Files whose rotated ones were looked after since the start: a daemon before this one may have been killed over them.
    tidied: BTreeSet<PathBuf>,
}

impl Writers {
    fn problems(&self) -> Vec<String> {
        let problem = |(name, (why, lost)): (&String, &(String, u64))| {
            format!(
                "flow log {name:?} cannot be written ({why}), and {} lost; packets are judged as before",
                records(*lost)
            )
        };
        self.failing.iter().map(problem).collect()
    }

    /// Forgets how it went with flow logs that the policy no longer has: nothing will ever be written to them again.
    fn forget_but(&mut self, names: &BTreeSet<String>) {
        self.skipped.retain(|(name, _), _| names.contains(name));
        self.failing.retain(|name, (why, lost)| {
            let stays = names.contains(name);
            if !stays {
                tracing::warn!(
                    flow_log = name,
                    was = why,
                    lost,
                    "the flow log is no more, and what could not be written is lost"
                );
            }
            stays
        });
    }

    fn write(&mut self, batch: &Batch) {
        let Batch { of: Of { log, eni, .. }, records, span, .. } = batch;
        let key = (log.name.clone(), eni.place().interface.clone());
        let skipped = self.skipped.get(&key).copied();
        let before = skipped.map(|span| eni.without_packets(LogStatus::SkipData, span));
        let all: Vec<&FlowRecord> = before.iter().chain(records).collect();
        if all.is_empty() {
            return;
        }
        if let Destination::File(path) = &log.destination
            && self.tidied.insert(path.clone())
        {
            file::tidy(path, log.rotation);
        }
        match put(batch, &all) {
            Ok(()) => {
                self.skipped.remove(&key);
                // What another interface lost of the same log is not yet told.
                if !self.skipped.keys().any(|(name, _)| *name == log.name)
                    && let Some((why, lost)) = self.failing.remove(&log.name)
                {
                    tracing::warn!(flow_log = log.name, was = why, lost, "the flow log is written again");
                }
            }
            Err(Unwritten { why, written }) => {
                let why = chain(&why);
                // Said once for a reason, and then by the status until it is written again.
                if self.failing.get(&log.name).is_none_or(|(before, _)| *before != why) {
                    tracing::error!(
                        flow_log = log.name,
                        interface = key.1,
                        reason = why,
                        "the flow log cannot be written"
                    );
                }
                let told = usize::from(skipped.is_some());
                // What was missing before is told by now, where the first record went out.
                let (began, ended) = skipped.filter(|_| written < told).unwrap_or(*span);
                self.skipped.insert(key, (began.min(span.0), ended.max(span.1)));
                let failing = self.failing.entry(log.name.clone()).or_default();
                *failing = (why, failing.1 + (all.len() - written.max(told)) as u64);
            }
        }
    }
}

fn records(count: u64) -> String {
    if count == 1 { "1 record is".to_owned() } else { format!("{count} records are") }
}

/// Records that were not written, and how many before them were.
struct Unwritten {
    why: io::Error,
    written: usize,
}

impl From<io::Error> for Unwritten {
    fn from(why: io::Error) -> Self {
        Self { why, written: 0 }
    }
}

/// Writes records where they are to go: all of them or none, but for the journal, which takes one at a time.
fn put(batch: &Batch, records: &[&FlowRecord]) -> Result<(), Unwritten> {
    let Of { log, eni, .. } = &batch.of;
    let text =
        || records.iter().map(|record| report::flowlog::styled(record, &log.format, log.style)).collect::<String>();
    match &log.destination {
        Destination::File(path) => {
            let head = report::flowlog::head(&log.format, log.style);
            Ok(file::append(path, log.rotation, head.as_bytes(), text().as_bytes(), SystemTime::now())?)
        }
        Destination::Directory(tree) => {
            let bytes = report::flowlog::file(records, &log.format, log.style, tree.file_format)?;
            let Place { interface, device, netns } = eni.place();
            let window = [
                netns.as_deref().unwrap_or_default(),
                interface,
                device,
                &batch.window.to_string(),
                &batch.began.to_string(),
            ];
            let contents = tree::Contents { machine: &MACHINE, window: &window, began: batch.span.0 };
            let extension = report::flowlog::extension(log.style, tree.file_format);
            Ok(tree::put(&tree.root, &tree::place(log, tree, &contents, extension), &bytes)?)
        }
        Destination::Stdout => Ok(stream::put(text())?),
        Destination::Journal => {
            let entries = records.iter().map(|record| report::flowlog::journal(record, &log.format, log.style));
            journal(Path::new(JOURNAL), PATIENCE, entries)
        }
    }
}

/// How long the journal may take for an entry. One that has stopped must not keep other flow logs waiting.
const PATIENCE: Duration = Duration::from_secs(5);

fn journal(socket: &Path, patience: Duration, entries: impl Iterator<Item = Vec<u8>>) -> Result<(), Unwritten> {
    let sender = UnixDatagram::unbound()?;
    sender.set_write_timeout(Some(patience))?;
    for (written, entry) in entries.enumerate() {
        sender.send_to(&entry, socket).map_err(|why| Unwritten { why, written })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use super::*;
    use crate::resolve::{Interface, Nacl};

    #[test]
    fn ticks_are_whole_minutes() {
        let at = |seconds, nanoseconds| until_next(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds));
        assert_eq!(at(120, 0), Duration::from_mins(1));
        assert_eq!(at(179, 250_000_000), Duration::from_millis(750));
    }

    /// A journal that has stopped takes what there is room for; how much that is, is known.
    #[test]
    fn of_a_journal_that_stopped_it_is_known_what_it_took() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let stopped = UnixDatagram::bind(&path).unwrap();
        let entries = (0_u32..100_000).map(|entry| entry.to_le_bytes().to_vec());
        let Err(Unwritten { why, written }) = journal(&path, Duration::from_millis(50), entries) else {
            panic!("there is no end to it");
        };
        assert_eq!(why.kind(), io::ErrorKind::WouldBlock);
        stopped.set_nonblocking(true).unwrap();
        let mut entry = [0; 4];
        for number in 0..written {
            stopped.recv(&mut entry).unwrap();
            assert_eq!(u32::from_le_bytes(entry) as usize, number);
        }
        assert!(stopped.recv(&mut entry).is_err() && written > 0);
        drop(stopped);
        let gone = journal(&path, Duration::from_millis(50), [vec![1]].into_iter());
        assert!(matches!(gone, Err(Unwritten { written: 0, .. })), "nobody is there");
    }

    /// A directory in the file's place is as good as a full disk.
    #[test]
    fn what_cannot_be_written_is_said_and_told_as_skipped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows.log");
        fs::create_dir(&path).unwrap();
        let nacl = Nacl { name: "web".into(), id: None, inbound: Vec::new(), outbound: Vec::new() };
        let log = Arc::new(FlowLog::new("flows", Destination::File(path.clone())));
        let place = Place { interface: "eth0".into(), device: "eth0".into(), netns: None };
        let interface = Interface { id: Some("eni-1".into()), ..Interface::new("eth0", Arc::new(nacl)) };
        let eni = Eni::new(place, &interface, &log, "");
        let batch = |span| Batch {
            of: Of { id: 1, log: Arc::clone(&log), eni: eni.clone() },
            window: 1,
            began: 0,
            records: vec![eni.without_packets(LogStatus::NoData, span)],
            span,
        };
        let mut writers = Writers::default();
        writers.write(&batch((60, 120)));
        writers.write(&batch((120, 180)));
        let [problem] = &writers.problems()[..] else { panic!("{:?}", writers.problems()) };
        assert!(problem.contains("\"flows\"") && problem.contains("2 records are lost"), "{problem}");
        fs::remove_dir(&path).unwrap();
        writers.write(&batch((180, 240)));
        assert_eq!(writers.problems(), Vec::<String>::new());
        writers.write(&batch((240, 300)));
        let written = fs::read_to_string(&path).unwrap();
        let line = |start, end, status| format!("2 - eni-1 - - - - - - - {start} {end} - {status}\n");
        let head = report::flowlog::head(&log.format, log.style);
        assert_eq!(written, head + &line(60, 180, "SKIPDATA") + &line(180, 240, "NODATA") + &line(240, 300, "NODATA"));
    }
}
