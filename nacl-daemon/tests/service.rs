//! The daemon's life and its API, over a real socket and with a kernel that is made up: no root needed. What the real
//! kernel does is shown by `kernel_service.rs`.

mod service {
    pub mod api;
    pub mod broken;
    pub mod follow;
    pub mod links;
    pub mod metrics;
}

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, RwLock},
    time::{Duration, Instant},
};

use http_body_util::BodyExt;
use hyper::{Method, body::Incoming};
use nacl_common::{
    Action, Control, Counter, Direction, Event, Reason,
    border::{Entry, FlowKey, NO_SLOT, group_implicit_slot, implicit_slot, tracked_slot},
    flow::{Met, Sought, State as Stands},
};
use nacl_daemon::{
    compile::{Compiled, SlotTable},
    dataplane::{Counters, Events, Note, Options, Target, Terms},
    observe::{Filter, Hits, Hooks, InterfaceRules, Memory, Number, Record, Setting},
    policy::Severity,
    report,
    resolve::{Layers, Mode, NoHost, OnExit},
    service::{
        api::SetMode,
        client::{Client, ClientError, Told},
        notify,
        plane::{Attached, Left, Plane, PlaneError, Table, Which},
        prepare,
        serve::{self, Config, Ended, Notice, RunError},
        state::{Settings, State, StateError},
    },
};
use serde_json::Value;
use tokio::task::JoinHandle;

const WEB: &str = r#"version = 1
[nacl.web]
inbound = [
  { rule = 100, action = "allow", protocol = "tcp", ports = 443, source = "0.0.0.0/0" },
  { rule = 110, action = "deny", protocol = "tcp", ports = 22, source = "198.51.100.0/24" },
]
outbound = [
  { rule = 100, action = "allow", protocol = "tcp", ports = "1024-65535", destination = "0.0.0.0/0" },
]
[interface.fake0]
nacl = "web"
"#;

const SECOND: &str = "[interface.fake1]\nnacl = \"web\"\nside = \"router\"\n";

/// What the made-up kernel has on one interface.
#[derive(Default)]
struct Device {
    epoch: u32,
    slots: Arc<SlotTable>,
    flags: u64,
    enforce: bool,
    /// Generations written since it was attached: a toggle writes none.
    installed: u32,
    flows: BTreeMap<FlowKey, Entry>,
    events: Option<Events>,
    /// Requests that are reported though they pass.
    sought: Vec<Sought>,
    counters: Counters,
    queue: VecDeque<Event>,
    bell: Option<io::PipeWriter>,
    target: Option<Target>,
    /// The interface is no longer there.
    gone: bool,
    /// What it is called, where that changed.
    renamed: Option<String>,
    /// What was noted with each epoch, with what slots meant in it and its flags.
    notes: BTreeMap<u32, (Note, Arc<SlotTable>, u64)>,
    /// Number of the last change.
    last: u32,
    /// A change that awaits confirmation: until when, and the epoch before it.
    pending: Option<(Instant, u32)>,
}

impl Device {
    fn begin(&mut self, options: &Options, compiled: &Compiled, terms: Terms) {
        let before = self.in_force();
        self.last += 1;
        self.epoch = self.last;
        self.slots = compiled.slots.clone();
        self.flags = compiled.flags;
        self.enforce = options.enforce;
        self.events = Some(options.events);
        self.notes.insert(self.epoch, (terms.note, compiled.slots.clone(), compiled.flags));
        self.pending = terms.confirm.map(|confirm| (Instant::now() + confirm, before));
    }

    /// As the programs do it: without anybody's help.
    fn in_force(&self) -> u32 {
        match self.pending {
            Some((until, before)) if until <= Instant::now() => before,
            _ => self.epoch,
        }
    }

    fn in_force_flags(&self) -> Option<u64> {
        self.notes.get(&self.in_force()).map(|(.., flags)| *flags)
    }
}

/// What it is to refuse.
#[derive(Default)]
struct Inner {
    attached: BTreeMap<String, Device>,
    refuse_attach: BTreeSet<String>,
    /// How often it was to be attached.
    tries: u32,
    /// Interfaces that are not here; all others are.
    hidden: BTreeSet<String>,
    refuse_install: BTreeSet<String>,
    lacking: Vec<String>,
    /// While somebody writes here, no connection table can be read.
    gate: Arc<RwLock<()>>,
    /// How many were to be read.
    tables_read: u32,
    /// Devices whose daemon is gone and that go on enforcing.
    left: BTreeSet<String>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Inner>>);

impl Fake {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    fn names(&self) -> Vec<String> {
        self.lock().attached.keys().cloned().collect()
    }

    fn slot(&self, name: &str, direction: Direction, rule: u16) -> u16 {
        let inner = self.lock();
        let slots = &inner.attached[name].slots.slots;
        *slots.iter().find(|(_, slot)| slot.direction == direction && slot.rule == Some(rule)).unwrap().0
    }

    fn hit(&self, name: &str, slot: u16, packets: u64) {
        let mut inner = self.lock();
        let device = inner.attached.get_mut(name).unwrap();
        // As the kernel does: a packet has one reason, and the slots of what judged it.
        if device.slots.slots[&slot].action == Action::Deny {
            device.counters.denied += packets;
        }
        let counter = device.counters.slots.entry(slot).or_default();
        counter.packets += packets;
        counter.bytes += 60 * packets;
        let reason = device.counters.reasons.entry((Reason::NaclRule, Direction::Inbound)).or_default();
        reason.packets += packets;
    }

    fn flags(&self, name: &str) -> u64 {
        self.lock().attached[name].flags
    }

    fn enforces(&self, name: &str) -> bool {
        self.lock().attached[name].enforce
    }

    /// Flags by which packets are judged now; nothing where none are.
    fn judges(&self, name: &str) -> Option<u64> {
        self.lock().attached.get(name)?.in_force_flags()
    }

    /// The interface goes away.
    fn vanish(&self, name: &str) {
        let mut inner = self.lock();
        inner.hidden.insert(name.to_owned());
        if let Some(device) = inner.attached.get_mut(name) {
            device.gone = true;
        }
    }

    /// One of this name is here.
    fn appear(&self, name: &str) {
        self.lock().hidden.remove(name);
    }

    /// The interface has another name.
    fn rename(&self, name: &str, new: &str) {
        let mut inner = self.lock();
        inner.hidden.insert(name.to_owned());
        inner.hidden.remove(new);
        inner.attached.get_mut(name).unwrap().renamed = Some(new.to_owned());
    }

    fn take_over(&self, name: &str) -> Box<dyn Attached> {
        let (ready, bell) = io::pipe().unwrap();
        self.lock().attached.get_mut(name).unwrap().bell = Some(bell);
        Box::new(FakeAttachment { fake: self.clone(), name: name.to_owned(), ready, stays: false })
    }

    fn remember(&self, name: &str, key: FlowKey, entry: Entry) {
        self.lock().attached.get_mut(name).unwrap().flows.insert(key, entry);
    }

    fn emit(&self, name: &str, event: Event) {
        let mut inner = self.lock();
        let device = inner.attached.get_mut(name).unwrap();
        device.queue.push_back(Event { epoch: device.epoch, ..event });
        device.bell.as_mut().unwrap().write_all(b"!").unwrap();
    }
}

/// The made-up kernel's clock.
const NOW: u64 = 1_000_000_000_000;
/// Its connection tables have room for so many.
const CAPACITY: u32 = 10;

/// A device, and its namespace where it has one.
fn key(target: &Target) -> String {
    target.netns.as_ref().map_or_else(|| target.name.clone(), |netns| format!("{netns}/{}", target.name))
}

struct FakeAttachment {
    fake: Fake,
    name: String,
    ready: io::PipeReader,
    /// The kernel goes on by itself when this is dropped.
    stays: bool,
}

impl Plane for Fake {
    fn lacking(&self) -> Vec<String> {
        self.lock().lacking.clone()
    }

    fn attach(
        &self,
        target: &Target,
        options: &Options,
        compiled: &Compiled,
        terms: Terms,
    ) -> Result<Box<dyn Attached>, PlaneError> {
        let mut inner = self.lock();
        inner.tries += 1;
        if inner.refuse_attach.contains(&target.name) {
            return Err("there is no such interface".into());
        }
        let (ready, bell) = io::pipe()?;
        let mut device = Device { bell: Some(bell), target: Some(target.clone()), ..Device::default() };
        device.begin(options, compiled, terms);
        let there = inner.attached.insert(key(target), device).is_some();
        assert_eq!(there, inner.left.remove(&key(target)), "attached twice");
        Ok(Box::new(FakeAttachment { fake: self.clone(), name: key(target), ready, stays: false }))
    }

    fn find(&self, target: &Target) -> Result<Option<u32>, PlaneError> {
        Ok((!self.lock().hidden.contains(&key(target))).then_some(7))
    }

    fn open(&mut self) -> Result<(), PlaneError> {
        Ok(())
    }

    fn restore(&self) -> Vec<Left> {
        let names = std::mem::take(&mut self.lock().left);
        let restore = |name: String| {
            let mut inner = self.lock();
            let device = inner.attached.get_mut(&name).unwrap();
            match device.pending {
                Some((until, 0)) if until <= Instant::now() => {
                    let (note, ..) = device.notes.remove(&device.epoch).unwrap();
                    inner.attached.remove(&name);
                    return Left::Unconfirmed(note);
                }
                _ => drop(inner),
            }
            let mut attached = self.take_over(&name);
            if attached.pending().is_some_and(|left| left.is_zero()) {
                attached.undo();
            }
            Left::Here(attached)
        };
        names.into_iter().map(restore).collect()
    }

    fn sweep(&self) -> Vec<String> {
        let mut inner = self.lock();
        for name in std::mem::take(&mut inner.left) {
            inner.attached.remove(&name);
        }
        Vec::new()
    }

    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    fn now(&self) -> u64 {
        NOW
    }
}

impl Attached for FakeAttachment {
    fn hooks(&self) -> Hooks {
        Hooks { ifindex: 7, ingress: "XDP, native".into(), egress: "TC (tcx)".into(), ..Hooks::default() }
    }

    fn install(&mut self, options: &Options, compiled: &Compiled, terms: Terms) -> Result<u32, PlaneError> {
        let mut inner = self.fake.lock();
        if inner.refuse_install.contains(&self.name) {
            return Err("the map is full".into());
        }
        let device = inner.attached.get_mut(&self.name).unwrap();
        assert!(device.pending.is_none(), "a change awaits confirmation");
        device.installed += 1;
        // As the dataplane does: a rule begins to count at zero.
        for slot in compiled.slots.new_since(&device.slots) {
            device.counters.slots.remove(&slot);
        }
        device.begin(options, compiled, terms);
        Ok(device.epoch)
    }

    fn toggle(&mut self, options: &Options, flags: u64, note: &Note) -> Result<u32, PlaneError> {
        let mut inner = self.fake.lock();
        let device = inner.attached.get_mut(&self.name).unwrap();
        assert!(device.pending.is_none(), "a change awaits confirmation");
        device.last += 1;
        device.epoch = device.last;
        device.flags = flags;
        device.enforce = options.enforce;
        device.events = Some(options.events);
        device.notes.insert(device.epoch, (note.clone(), device.slots.clone(), flags));
        Ok(device.epoch)
    }

    fn report(&mut self, events: Events) {
        self.fake.lock().attached.get_mut(&self.name).unwrap().events = Some(events);
    }

    fn seek(&mut self, sought: &[Sought]) {
        self.fake.lock().attached.get_mut(&self.name).unwrap().sought = sought.to_vec();
    }

    fn pending(&self) -> Option<Duration> {
        let (until, _) = self.fake.lock().attached[&self.name].pending?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    fn wait(&mut self, confirm: Duration) {
        let mut inner = self.fake.lock();
        if let Some((until, _)) = &mut inner.attached.get_mut(&self.name).unwrap().pending {
            *until = Instant::now() + confirm;
        }
    }

    fn confirm(&mut self) -> bool {
        let mut inner = self.fake.lock();
        let device = inner.attached.get_mut(&self.name).unwrap();
        let in_time = device.pending.is_some_and(|(until, _)| Instant::now() < until);
        if in_time {
            device.pending = None;
        }
        in_time
    }

    fn undo(&mut self) -> bool {
        let mut inner = self.fake.lock();
        let device = inner.attached.get_mut(&self.name).unwrap();
        let Some((_, before)) = device.pending.take() else { return true };
        device.epoch = before;
        let Some((_, slots, flags)) = device.notes.get(&before).cloned() else { return false };
        (device.slots, device.flags) = (slots, flags);
        true
    }

    fn epochs(&self) -> (u32, u32, Option<u32>) {
        let device = &self.fake.lock().attached[&self.name];
        (device.in_force(), device.last, device.pending.map(|(_, before)| before).filter(|before| *before != 0))
    }

    fn note(&self, epoch: u32) -> Option<(Note, Arc<SlotTable>)> {
        let (note, slots, _) = self.fake.lock().attached[&self.name].notes.get(&epoch)?.clone();
        Some((note, slots))
    }

    fn needs_loading(&self, _: &Options) -> bool {
        false
    }

    fn leave(mut self: Box<Self>) -> bool {
        self.fake.lock().left.insert(self.name.clone());
        self.stays = true;
        true
    }

    fn look(&mut self) -> bool {
        let mut inner = self.fake.lock();
        let device = inner.attached.get_mut(&self.name).unwrap();
        if let (Some(target), Some(name)) = (&mut device.target, device.renamed.take()) {
            target.name = name;
        }
        !device.gone
    }

    fn target(&self) -> Target {
        self.fake.lock().attached[&self.name].target.clone().unwrap()
    }

    fn table(&self) -> Result<Table, PlaneError> {
        let inner = self.fake.lock();
        let (flows, gate) = (inner.attached[&self.name].flows.clone(), Arc::clone(&inner.gate));
        let fake = self.fake.clone();
        Ok(Box::new(move || {
            fake.lock().tables_read += 1;
            drop(gate.read().unwrap());
            Ok(flows.into_iter().collect())
        }))
    }

    fn forget(&mut self, which: Which<'_>) -> Result<u64, PlaneError> {
        let mut inner = self.fake.lock();
        let flows = &mut inner.attached.get_mut(&self.name).unwrap().flows;
        let before = flows.len();
        flows.retain(|key, entry| !which(key, entry));
        Ok((before - flows.len()) as u64)
    }

    fn tracking_capacity(&self) -> u32 {
        CAPACITY
    }

    fn epoch(&self) -> u32 {
        self.fake.lock().attached[&self.name].epoch
    }

    fn counters(&self) -> Result<Counters, PlaneError> {
        Ok(self.fake.lock().attached[&self.name].counters.clone())
    }

    fn memory(&self) -> Result<Memory, PlaneError> {
        Ok(Memory { generations: 192 << 10, counters: 64 << 10, connections: 1 << 20, other: 300 << 10 })
    }

    fn sources(&mut self) -> io::Result<Vec<OwnedFd>> {
        Ok(vec![self.ready.try_clone()?.into()])
    }

    fn flush_trace(&mut self) {}

    fn next_event(&mut self) -> Option<Event> {
        self.fake.lock().attached.get_mut(&self.name)?.queue.pop_front()
    }

    fn detach(self: Box<Self>) -> Result<(), PlaneError> {
        Ok(())
    }
}

impl Drop for FakeAttachment {
    fn drop(&mut self) {
        if !self.stays {
            self.fake.lock().attached.remove(&self.name);
        }
    }
}

/// A daemon in this process, with its own policy file and socket.
struct Daemon {
    directory: tempfile::TempDir,
    fake: Fake,
    client: Client,
    running: JoinHandle<Result<Ended, RunError>>,
}

impl Daemon {
    fn config(directory: &tempfile::TempDir) -> Config {
        Config {
            file: directory.path().join("policy.toml"),
            socket: directory.path().join("nacld.sock"),
            socket_group: None,
            lifetime: None,
            confirm: None,
            on_exit: None,
            force: false,
            trace: false,
            watch: false,
            follow: false,
            metrics: None,
            wait: false,
        }
    }

    async fn start(policy: &str) -> Self {
        Self::start_with(policy, None).await
    }

    async fn start_with(policy: &str, lifetime: Option<Duration>) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), policy, Fake::default(), |config| config.lifetime = lifetime).await
    }

    async fn start_in(
        directory: tempfile::TempDir,
        policy: &str,
        fake: Fake,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Self::config(&directory);
        change(&mut config);
        fs::write(&config.file, policy).unwrap();
        let client = Client::new(&config.socket);
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let ready = Mutex::new(Some(ready));
        let tell = move |notice: Notice| {
            if let Notice::Ready { .. } = notice {
                ready.lock().unwrap().take().unwrap().send(()).unwrap();
            }
        };
        let running = tokio::spawn(serve::run(config, Box::new(fake.clone()), Box::new(tell)));
        is_ready.await.unwrap();
        Self { directory, fake, client, running }
    }

    fn write(&self, policy: &str) {
        fs::write(self.directory.path().join("policy.toml"), policy).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("nacld.sock")
    }

    async fn json(&self, method: Method, uri: &str) -> (u16, Value) {
        let response = self.client.send(method, uri).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn rules(&self, interface: &str) -> InterfaceRules {
        self.client.rules(Some(interface)).await.unwrap().interfaces.remove(0)
    }

    /// Waits for the daemon to end by itself, and looks at what it leaves.
    async fn ended(self) -> Ended {
        let ended = tokio::time::timeout(Duration::from_secs(10), self.running).await.expect("ends").unwrap().unwrap();
        assert_eq!(self.fake.names(), [""; 0], "still attached");
        assert!(!self.directory.path().join("nacld.sock").exists(), "the socket is still there");
        ended
    }
}

/// Runs a daemon that must not come up, and returns its error.
async fn refused(policy: &str, fake: &Fake) -> String {
    let directory = tempfile::tempdir().unwrap();
    let config = Daemon::config(&directory);
    if !policy.is_empty() {
        fs::write(&config.file, policy).unwrap();
    }
    let socket = config.socket.clone();
    let error = serve::run(config, Box::new(fake.clone()), Box::new(|_| {})).await.unwrap_err();
    assert_eq!(fake.names(), [""; 0], "something is attached");
    assert!(!socket.exists(), "a socket was left");
    nacl_daemon::service::state::chain(&error)
}

fn packets(rules: &InterfaceRules, direction: usize, number: Number) -> u64 {
    rules.lists[direction].rules.iter().find(|rule| rule.rule == number).unwrap().hits.unwrap().packets
}

#[tokio::test]
async fn answers_with_a_schema_number_and_errors_in_json() {
    let daemon = Daemon::start(WEB).await;
    let (code, status) = daemon.json(Method::GET, "/v1/status").await;
    assert_eq!((code, &status["schema"]), (200, &1.into()));
    assert_eq!(status["interfaces"][0]["interface"], "fake0");
    assert_eq!(status["policy"]["sha256"].as_str().unwrap().len(), 64);
    let (code, interfaces) = daemon.json(Method::GET, "/v1/interfaces").await;
    assert_eq!((code, &interfaces["interfaces"]), (200, &status["interfaces"]));
    for (method, uri, expected) in [
        (Method::GET, "/v1/nonsense", 404),
        (Method::GET, "/v2/status", 404),
        (Method::GET, "/v1/stop", 405),
        (Method::GET, "/v1/rules?interface=nope", 404),
        (Method::POST, "/v1/detach?interface=nope", 404),
        (Method::GET, "/v1/interfaces/nope/mode", 404),
        (Method::GET, "/v1/conntrack?interface=nope", 404),
        (Method::GET, "/v1/conntrack?state=asleep", 400),
        (Method::GET, "/v1/conntrack/flush?all=true", 405),
        (Method::POST, "/v1/conntrack/flush", 400),
        (Method::POST, "/v1/interfaces/fake0/mode", 400),
    ] {
        let (code, problem) = daemon.json(method, uri).await;
        assert_eq!((code, &problem["schema"]), (expected, &1.into()), "{uri}");
        assert!(!problem["error"].as_str().unwrap().is_empty(), "{uri}");
    }
    daemon.client.stop().await.unwrap();
    assert_eq!(daemon.ended().await, Ended::Asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_is_told_only_while_the_daemon_answers() {
    let daemon = Daemon::start(WEB).await;
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let period = Duration::from_millis(100);
    let watchdog =
        tokio::spawn(notify::watchdog(Client::new(&daemon.socket()), period, move || told.send(()).unwrap()));
    for _ in 0..3 {
        hears.recv().await.unwrap();
    }
    // A kernel that does not answer: the state is locked by whoever waits for it.
    let stuck = daemon.fake.clone();
    let (hold, let_go) = std::sync::mpsc::channel::<()>();
    let (holds, is_held) = tokio::sync::oneshot::channel();
    let holder = tokio::task::spawn_blocking(move || {
        let _lock = stuck.lock();
        holds.send(()).unwrap();
        let_go.recv().unwrap();
    });
    is_held.await.unwrap();
    while hears.try_recv().is_ok() {}
    // What was answered before the kernel hung may still be on its way: one, not more.
    let mut late = 0;
    while tokio::time::timeout(20 * period, hears.recv()).await.is_ok() {
        late += 1;
    }
    assert!(late <= 1, "told {late} times that a daemon lives which hangs");
    hold.send(()).unwrap();
    holder.await.unwrap();
    hears.recv().await.expect("it answers again");
    watchdog.abort();
    daemon.client.stop().await.unwrap();
    assert_eq!(daemon.ended().await, Ended::Asked);
}

#[tokio::test]
async fn rules_come_in_the_console_s_order_with_their_hits() {
    let daemon = Daemon::start(WEB).await;
    daemon.fake.hit("fake0", daemon.fake.slot("fake0", Direction::Inbound, 110), 3);
    daemon.fake.hit("fake0", implicit_slot(Direction::Outbound, true), 5);
    let arp = ((Reason::Arp, Direction::Inbound), Counter { packets: 2, bytes: 84 });
    daemon.fake.lock().attached.get_mut("fake0").unwrap().counters.reasons.extend([arp]);
    let rules = daemon.rules("fake0").await;
    let numbers: Vec<_> = rules.lists[0].rules.iter().map(|rule| rule.rule).collect();
    assert_eq!(numbers, [Number::Rule(100), Number::Rule(110), Number::Implied, Number::Implied]);
    assert_eq!(rules.lists[0].rules[1].hits, Some(Hits { packets: 3, bytes: 180 }));
    assert_eq!(rules.lists[0].rules[1].line, 5);
    assert_eq!(packets(&rules, 0, Number::Rule(100)), 0);
    assert_eq!(rules.lists[1].rules[2].hits.unwrap().packets, 5, "IPv6 has a * of its own");
    assert!(rules.reasons.iter().any(|reason| reason.reason == "arp"));
    let status = daemon.client.status().await.unwrap();
    assert_eq!((status.interfaces[0].packets.allowed, status.interfaces[0].packets.denied), (2, 8));
}

#[tokio::test]
async fn all_or_nothing() {
    let fake = Fake::default();
    fake.lock().refuse_attach.insert("fake1".into());
    let error = refused(&format!("{WEB}{SECOND}"), &fake).await;
    assert!(error.contains("cannot attach to fake1; nothing was changed: there is no such interface"), "{error}");
}

#[tokio::test]
async fn a_policy_that_cannot_be_used_changes_nothing() {
    let fake = Fake::default();
    let error = refused("", &fake).await;
    assert!(error.contains("cannot read the policy") && error.contains("No such file"), "{error}");
    let error = refused("version = 1\nnonsense", &fake).await;
    assert!(error.contains("has 1 error"), "{error}");
    let error = refused("version = 1\n", &fake).await;
    assert!(error.contains("names no interface"), "{error}");
    fake.lock().lacking = vec!["CAP_BPF is missing; run as root".into()];
    let error = refused(WEB, &fake).await;
    assert!(error.contains("CAP_BPF is missing"), "{error}");
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let daemon = Daemon::start(WEB).await;
    let other = Fake::default();
    let config = Daemon::config(&daemon.directory);
    let error = serve::run(config, Box::new(other.clone()), Box::new(|_| {})).await.unwrap_err();
    assert!(error.to_string().contains(&format!("another nacld (pid {})", std::process::id())), "{error}");
    assert_eq!(other.names(), [""; 0]);
    assert!(daemon.client.status().await.is_ok());
}

#[tokio::test]
async fn a_reload_keeps_the_hits_of_rules_that_stay() {
    let daemon = Daemon::start(WEB).await;
    daemon.fake.hit("fake0", daemon.fake.slot("fake0", Direction::Inbound, 100), 7);
    daemon.fake.hit("fake0", daemon.fake.slot("fake0", Direction::Inbound, 110), 3);
    // Rule 110 becomes another rule under the same number, and everything moves down a line.
    daemon.write(&WEB.replace("version = 1", "version = 1\n").replace("ports = 22", "ports = 23"));
    let answer = daemon.client.reload(false, None).await.unwrap();
    assert_eq!(answer.change.switched, ["fake0"]);
    let rules = daemon.rules("fake0").await;
    assert_eq!((packets(&rules, 0, Number::Rule(100)), packets(&rules, 0, Number::Rule(110))), (7, 0));
    assert_eq!((rules.lists[0].rules[0].line, rules.epoch), (5, Some(2)));
    // Back again: the old rule's slot may be given back to it, its old packets are not.
    daemon.write(WEB);
    daemon.client.reload(false, None).await.unwrap();
    daemon.write(&WEB.replace("ports = 22", "ports = 24"));
    daemon.client.reload(false, None).await.unwrap();
    daemon.fake.hit("fake0", daemon.fake.slot("fake0", Direction::Inbound, 110), 2);
    assert_eq!(packets(&daemon.rules("fake0").await, 0, Number::Rule(110)), 2);
    assert!(daemon.client.status().await.unwrap().last_reload.unwrap().ok);
}

#[tokio::test]
async fn an_invalid_reload_keeps_the_old_policy_and_says_why() {
    let daemon = Daemon::start(WEB).await;
    let before = daemon.client.status().await.unwrap();
    daemon.write(&WEB.replace("rule = 110", "rule = 100"));
    let Err(ClientError::Refused(problem)) = daemon.client.reload(false, None).await else { panic!("was accepted") };
    assert!(problem.error.contains("has 1 error"), "{}", problem.error);
    assert!(problem.diagnostics.contains("policy.toml:5"), "{}", problem.diagnostics);
    let after = daemon.client.status().await.unwrap();
    assert_eq!((&after.policy, after.interfaces[0].epoch), (&before.policy, 1));
    assert!(!after.last_reload.unwrap().ok);
}

#[tokio::test]
async fn a_reload_that_fails_half_way_is_taken_back() {
    let daemon = Daemon::start(&format!("{WEB}{SECOND}")).await;
    let before = daemon.fake.lock().attached["fake0"].slots.clone();
    daemon.fake.lock().refuse_install.insert("fake1".into());
    let policy = format!("{WEB}{SECOND}").replace("ports = 22", "ports = 23") + "[interface.fake2]\nnacl = \"web\"\n";
    daemon.write(&policy);
    let Err(ClientError::Refused(problem)) = daemon.client.reload(false, None).await else { panic!("was accepted") };
    assert!(problem.error.contains("cannot switch fake1") && problem.error.contains("the map is full"));
    let inner = daemon.fake.lock();
    assert_eq!(inner.attached.keys().collect::<Vec<_>>(), ["fake0", "fake1"], "fake2 was attached and taken off again");
    assert_eq!(inner.attached["fake0"].slots, before, "fake0 was switched and switched back");
    assert_eq!(inner.attached["fake0"].epoch, 3);
}

#[tokio::test]
async fn a_reload_attaches_and_detaches_interfaces() {
    let daemon = Daemon::start(WEB).await;
    daemon.write(&WEB.replace("[interface.fake0]", "[interface.fake9]"));
    let change = daemon.client.reload(false, None).await.unwrap().change;
    assert_eq!((change.attached, change.detached), (vec!["fake9".to_owned()], vec!["fake0".to_owned()]));
    assert_eq!(daemon.fake.names(), ["fake9"]);
    // What cannot be changed while attached is said, and changes nothing.
    daemon.write(&(WEB.replace("[interface.fake0]", "[interface.fake9]") + "xdp = \"tc\"\n"));
    let Err(ClientError::Refused(problem)) = daemon.client.reload(false, None).await else { panic!("was accepted") };
    assert!(problem.error.contains("`xdp` cannot be changed while attached"), "{}", problem.error);
}

#[tokio::test]
async fn detaching_the_last_interface_ends_the_daemon() {
    let daemon = Daemon::start(&format!("{WEB}{SECOND}")).await;
    let answer = daemon.client.detach("fake1", None).await.unwrap();
    assert_eq!((answer.detached, answer.stopping), (vec!["fake1".to_owned()], false));
    assert_eq!(daemon.fake.names(), ["fake0"]);
    assert!(daemon.client.detach("fake0", None).await.unwrap().stopping);
    assert_eq!(daemon.ended().await, Ended::Asked);
}

#[tokio::test]
async fn stops_with_a_listener_still_there() {
    let daemon = Daemon::start(WEB).await;
    let mut listener = daemon.client.send(Method::GET, "/v1/events").await.unwrap().into_body();
    assert_eq!(daemon.client.stop().await.unwrap().detached, ["fake0"]);
    assert_eq!(daemon.fake.names(), [""; 0], "detached before the answer");
    assert!(listener.frame().await.is_none(), "the stream ends");
    daemon.ended().await;
}

#[tokio::test]
async fn a_lifetime_ends() {
    let daemon = Daemon::start_with(WEB, Some(Duration::from_millis(300))).await;
    assert!(daemon.client.status().await.unwrap().until.is_some());
    assert_eq!(daemon.ended().await, Ended::TimeOver);
}

#[tokio::test]
async fn a_daemon_that_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let error = Client::new(&directory.path().join("nacld.sock")).status().await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning(_)) && error.hint().unwrap().contains("nacld run"), "{error}");
}

fn syn(slot: u16, action: u8) -> Event {
    Event {
        src: [0, 0xc633_6407],
        dst: [0, 0x0a00_010a],
        sport: 52345,
        dport: 22,
        slot,
        action,
        reason: Reason::NaclRule as u8,
        layer: 1,
        family: 4,
        protocol: 6,
        tcp_flags: 2,
        enforced: 1,
        ..Event::default()
    }
}

/// A stream of events, line by line.
struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    async fn open(daemon: &Daemon, uri: &str) -> Self {
        Self { body: daemon.client.send(Method::GET, uri).await.unwrap().into_body(), buffer: Vec::new() }
    }

    async fn next(&mut self) -> Value {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).unwrap();
            }
            let frame = tokio::time::timeout(Duration::from_secs(5), self.body.frame()).await.expect("an event");
            self.buffer.extend_from_slice(&frame.unwrap().unwrap().into_data().unwrap());
        }
    }
}

#[tokio::test]
async fn events_name_the_rule_and_its_line() {
    let daemon = Daemon::start(&format!("{WEB}{SECOND}")).await;
    let mut stream = Lines::open(&daemon, "/v1/events?interface=fake0").await;
    let mut other = Lines::open(&daemon, "/v1/events?interface=fake1").await;
    let slot = daemon.fake.slot("fake0", Direction::Inbound, 110);
    daemon.fake.emit("fake0", syn(slot, 1));
    daemon.fake.emit("fake0", syn(slot, 0));
    let record = stream.next().await;
    assert_eq!((&record["schema"], &record["action"]), (&1.into(), &"deny".into()), "allowed ones are filtered out");
    let record: Record = serde_json::from_value(record).unwrap();
    assert_eq!((record.rule, record.line, record.nacl.as_deref()), (Some(Number::Rule(110)), Some(5), Some("web")));
    assert_eq!((record.source(), record.tcp_flags.as_deref()), ("198.51.100.7:52345".to_owned(), Some("SYN")));
    assert!(tokio::time::timeout(Duration::from_millis(100), other.body.frame()).await.is_err(), "not its interface");
    // An event that was made under the policy before still finds its rule.
    daemon.write(&format!("{WEB}{SECOND}").replace("ports = 22", "ports = 23"));
    daemon.client.reload(false, None).await.unwrap();
    let old = Event { epoch: 1, ..syn(slot, 0) };
    {
        let mut inner = daemon.fake.lock();
        let device = inner.attached.get_mut("fake0").unwrap();
        device.queue.push_back(old);
        device.bell.as_mut().unwrap().write_all(b"!").unwrap();
    }
    assert_eq!(stream.next().await["rule"], 110);
}

/// Of what there is none in the policy nobody would ever hear.
#[tokio::test]
async fn names_that_the_policy_does_not_have_are_refused_with_their_place() {
    let daemon = Daemon::start(&format!("{GROUPS}{SECOND}")).await;
    daemon.fake.vanish("fake1");
    for (filter, says) in [
        (
            "tcp and interface fake9",
            "no interface \"fake9\"; did you mean `fake0`?\n  tcp and interface fake9\n                    ^",
        ),
        ("nacl wbe", "did you mean `web`?"),
        ("not (udp or group other)", "no security group \"other\"; it has sg-3"),
        ("rule 105", "no rule 105; it has 100\n  rule 105\n       ^"),
        ("line 1", "no rule in line 1; it has 3, 4"),
    ] {
        let refused = daemon.client.watch(None, filter).await.expect_err(filter);
        let ClientError::Senseless(problem) = &refused else { panic!("{refused}") };
        assert!(problem.error.contains(says), "{}", problem.error);
    }
    let refused = daemon.client.watch(Some("fake9"), "").await.expect_err("it has none");
    assert!(matches!(&refused, ClientError::Senseless(problem) if problem.error.contains("not attached to fake9")));
    for filter in ["interface fake0", "interface fake1", "nacl web", "group sg-3", "rule 100", "rule *", "line 3"] {
        daemon.client.watch(None, filter).await.expect(filter);
    }
    // What is not here may come.
    daemon.client.watch(Some("fake1"), "").await.expect("it is waited for");
}

#[tokio::test]
async fn a_stream_says_how_many_were_not_reported() {
    let daemon = Daemon::start(&format!("{WEB}{SECOND}")).await;
    let suppress = |name: &str, packets: u64| {
        daemon.fake.lock().attached.get_mut(name).unwrap().counters.events_suppressed += packets;
    };
    suppress("fake0", 7);
    let mut all = daemon.client.watch(None, "").await.unwrap();
    let mut one = daemon.client.watch(Some("fake1"), "").await.unwrap();
    suppress("fake0", 3);
    suppress("fake1", 2);
    for (stream, expected) in [(&mut all, 5), (&mut one, 2)] {
        let (line, told) = stream.next().await.unwrap().unwrap();
        assert!(matches!(told, Told::Suppressed { suppressed } if suppressed == expected), "{line}");
    }
}

/// In a line, when the policy is in force; all of it is `check`'s to say.
#[tokio::test]
async fn a_reload_counts_what_is_found_about_the_rules() {
    let daemon = Daemon::start(WEB).await;
    let deny = "  { rule = 110, action = \"deny\", protocol = \"tcp\", ports = 22, source = \"198.51.100.0/24\" },\n";
    let narrow = WEB.replace(deny, "").replace("0.0.0.0/0", "198.51.100.0/24");
    for (policy, quiet) in [(WEB, false), (&narrow, true)] {
        daemon.write(policy);
        let findings = daemon.client.reload(false, None).await.unwrap().findings;
        let mut checked = nacl_daemon::policy::load("policy.toml", policy, &NoHost);
        checked.add(nacl_daemon::analyze::findings(checked.resolved.as_ref().unwrap()));
        let (warnings, notes) = (checked.count(Severity::Warning), checked.count(Severity::Note));
        assert_eq!(warnings + notes == 0, quiet);
        let counts = findings.as_ref().map(|found| (found.warnings, found.notes, found.complete));
        assert_eq!(counts, (!quiet).then_some((warnings, notes, true)));
        let Some(findings) = findings else { continue };
        let text = anstream::adapter::strip_str(&report::status::findings(&findings)).to_string();
        assert!(text.ends_with(&format!(": `nacld check {}`\n", findings.file.display())), "{text}");
    }
}

/// Fragments share a verdict within one epoch only: had it moved, looking would have dropped packets.
#[tokio::test]
async fn who_listens_changes_nothing_and_need_not_wait_for_a_confirmation() {
    let daemon = Daemon::start(WEB).await;
    let seen = || {
        let inner = daemon.fake.lock();
        let device = &inner.attached["fake0"];
        (device.events, device.epoch, device.notes.len())
    };
    let stream = Lines::open(&daemon, "/v1/events?action=all").await;
    assert_eq!(seen(), (Some(Events::All), 1, 1));
    drop(stream);
    daemon.write(&WEB.replace("ports = 22", "ports = 23"));
    daemon.client.reload(false, Some(Duration::from_mins(10))).await.unwrap();
    let _stream = Lines::open(&daemon, "/v1/events?action=all").await;
    assert_eq!(seen(), (Some(Events::All), 2, 2));
    daemon.client.roll_back().await.unwrap();
    assert_eq!(seen(), (Some(Events::All), 3, 3), "what is in force again is reported too");
}

/// Loading programs takes seconds, with the state locked. All of this runs on one thread: who waits for the state on it would
/// never let it go on.
#[tokio::test]
async fn the_api_answers_while_the_kernel_is_slow() {
    let daemon = Daemon::start(WEB).await;
    let stream = Lines::open(&daemon, "/v1/events?action=all").await;
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (holds, held) = tokio::sync::oneshot::channel();
    let fake = daemon.fake.clone();
    let busy = std::thread::spawn(move || {
        let _kernel = fake.lock();
        holds.send(()).unwrap();
        // Until the sender is dropped.
        released.recv().unwrap_err();
    });
    held.await.unwrap();
    daemon.write(&WEB.replace("ports = 22", "ports = 23"));
    let (reloading, listening) = (Client::new(&daemon.socket()), Client::new(&daemon.socket()));
    let reload = tokio::spawn(async move { reloading.reload(false, None).await });
    let listen =
        tokio::spawn(async move { listening.send(Method::GET, "/v1/events?action=all&interface=fake0").await });
    drop(stream);
    // Time for all of them to run into the lock.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let answer = tokio::time::timeout(Duration::from_secs(20), daemon.json(Method::GET, "/v1")).await;
    assert_eq!(answer.expect("it answers").0, 200);
    assert!(!reload.is_finished() && !listen.is_finished());
    drop(release);
    busy.join().unwrap();
    reload.await.unwrap().unwrap();
    assert_eq!(listen.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn allowed_packets_are_reported_while_somebody_asks() {
    let daemon = Daemon::start(WEB).await;
    let events = || daemon.fake.lock().attached["fake0"].events;
    assert_eq!(events(), Some(Events::Denied));
    let mut stream = Lines::open(&daemon, "/v1/events?action=all").await;
    assert_eq!(events(), Some(Events::All));
    daemon.fake.emit("fake0", syn(daemon.fake.slot("fake0", Direction::Inbound, 100), 1));
    assert_eq!(stream.next().await["action"], "allow");
    drop(stream);
    for _ in 0..100 {
        if events() == Some(Events::Denied) {
            return;
        }
        // The daemon learns of a closed connection when it next writes to it or reads from it.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("allowed packets are reported to nobody");
}

#[tokio::test]
async fn a_newly_attached_interface_has_its_events_read_too() {
    let daemon = Daemon::start(WEB).await;
    let mut stream = Lines::open(&daemon, "/v1/events").await;
    daemon.write(&format!("{WEB}{SECOND}"));
    daemon.client.reload(false, None).await.unwrap();
    daemon.fake.emit("fake1", syn(daemon.fake.slot("fake1", Direction::Inbound, 110), 0));
    assert_eq!(stream.next().await["interface"], "fake1");
}

#[tokio::test]
async fn a_slow_listener_is_told_what_it_missed() {
    let daemon = Daemon::start(WEB).await;
    let mut stream = Lines::open(&daemon, "/v1/events").await;
    let slot = daemon.fake.slot("fake0", Direction::Inbound, 110);
    // Far more than the queue and the socket's buffers hold.
    let count = 40_000;
    {
        let mut inner = daemon.fake.lock();
        let device = inner.attached.get_mut("fake0").unwrap();
        device.queue.extend((0..count).map(|_| Event { epoch: 1, ..syn(slot, 0) }));
        device.bell.as_mut().unwrap().write_all(b"!").unwrap();
    }
    while !daemon.fake.lock().attached["fake0"].queue.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (mut told, mut missed) = (0, 0);
    while told + missed < count {
        let line = stream.next().await;
        match line["missed"].as_u64() {
            Some(more) => missed += more,
            None => told += 1,
        }
    }
    assert_eq!(told + missed, count);
    assert!(missed > 0, "the queue is not bounded");
    assert!(daemon.socket().exists());
}

/// A connection to port 443, as it is remembered.
fn flow(remote_port: u16, state: Stands, left: u64) -> (FlowKey, Entry) {
    let key = FlowKey {
        remote: [0, 0xc633_6407],
        local: [0, 0x0a00_010a],
        remote_port,
        local_port: 443,
        protocol: 6,
        family: 4,
        pad: 0,
    };
    let entry = Entry {
        expires: NOW + left * 1_000_000_000,
        started: NOW,
        epoch: 1,
        state: state as u8,
        nacl_slot: NO_SLOT,
        group_slot: NO_SLOT,
        ..Entry::default()
    };
    (key, entry)
}

const MODE: &str = "/v1/interfaces/fake0/mode";

#[tokio::test]
async fn a_mode_set_live_holds_until_the_next_reload() {
    let daemon = Daemon::start(WEB).await;
    let stateful = || daemon.fake.flags("fake0") & Control::STATEFUL != 0;
    let (code, modes) = daemon.json(Method::GET, MODE).await;
    assert_eq!((code, &modes["mode"], &modes["layers"]), (200, &"stateless".into(), &"both".into()));
    let set = SetMode { mode: Some(Mode::Stateful), ..SetMode::default() };
    let answer = daemon.client.set_mode("fake0", &set).await.unwrap();
    assert_eq!((answer.modes.in_force.mode, answer.modes.policy.mode), (Mode::Stateful, Mode::Stateless));
    assert!(stateful());
    // Somebody listens to all packets and goes again: settings switch, the mode stays.
    drop(Lines::open(&daemon, "/v1/events?action=all").await);
    assert!(stateful());
    assert_eq!(daemon.fake.lock().attached["fake0"].installed, 0, "no generation was written");
    let status = daemon.client.status().await.unwrap();
    assert_eq!(status.interfaces[0].modes, answer.modes);
    let (_, json) = daemon.json(Method::GET, "/v1/status").await;
    let one = &json["interfaces"][0];
    assert_eq!(
        (&one["mode"], &one["policy"]["mode"], &one["conntrack"]["nacl"]),
        (&"stateful".into(), &"stateless".into(), &true.into())
    );
    let text = report::status::text(&status);
    let text = anstream::adapter::strip_str(&text).to_string();
    assert!(text.contains("mode         stateful (set live; the policy says stateless)"), "{text}");
    // A reload that fails leaves it, one that does not puts the file's word in force and says so.
    daemon.write("nonsense");
    daemon.client.reload(false, None).await.unwrap_err();
    assert!(stateful());
    daemon.write(WEB);
    let change = daemon.client.reload(false, None).await.unwrap().change;
    assert!(!stateful());
    assert_eq!((change.modes.len(), change.modes[0].live), (1, true));
    let text = report::status::changed(&change, None);
    assert!(
        text.contains("mode stateless, layers both, as the policy says (mode stateful, layers both had been set live)"),
        "{text}"
    );
    // The file itself may change its word.
    daemon.write(&WEB.replace("nacl = \"web\"", "nacl = \"web\"\nmode = \"stateful\""));
    let change = daemon.client.reload(false, None).await.unwrap().change;
    assert!(stateful() && !change.modes[0].live);
    assert!(daemon.client.reload(false, None).await.unwrap().change.modes.is_empty());
}

#[tokio::test]
async fn a_reload_taken_back_keeps_what_was_set_live() {
    let daemon = Daemon::start(&format!("{WEB}{SECOND}")).await;
    let set = SetMode { mode: Some(Mode::Stateful), ..SetMode::default() };
    daemon.client.set_mode("fake0", &set).await.unwrap();
    daemon.fake.lock().refuse_install.insert("fake1".into());
    daemon.client.reload(false, None).await.unwrap_err();
    assert!(daemon.fake.flags("fake0") & Control::STATEFUL != 0, "put back as it was");
    assert_eq!(daemon.client.modes(Some("fake0")).await.unwrap().interfaces[0].modes.in_force.mode, Mode::Stateful);
}

#[tokio::test]
async fn monitor_mode_is_set_live_and_told_loudly() {
    let daemon = Daemon::start(&format!("{WEB}{SECOND}")).await;
    let plain = |text: &str| anstream::adapter::strip_str(text).to_string();
    assert!(daemon.fake.enforces("fake0"));
    let (code, modes) = daemon.json(Method::GET, MODE).await;
    assert_eq!((code, &modes["enforce"], &modes["policy"]["enforce"]), (200, &true.into(), &true.into()));
    let set = |enforce| SetMode { enforce: Some(enforce), ..SetMode::default() };
    let answer = daemon.client.set_mode("fake0", &set(false)).await.unwrap();
    assert_eq!((answer.modes.in_force.enforce, answer.modes.policy.enforce), (false, true));
    assert_eq!(answer.modes.in_force.mode, Mode::Stateless, "what is absent stays as it is");
    assert!(!daemon.fake.enforces("fake0") && daemon.fake.enforces("fake1"));
    let said = plain(&report::status::set(&answer));
    assert!(
        said.contains("fake0: mode stateless, layers both, enforcing NO, monitor only (set live; the policy says yes)"),
        "{said}"
    );
    // Other settings leave it, and it leaves them.
    daemon.client.set_mode("fake0", &SetMode { mode: Some(Mode::Stateful), ..SetMode::default() }).await.unwrap();
    drop(Lines::open(&daemon, "/v1/events?action=all").await);
    assert!(!daemon.fake.enforces("fake0"));
    // It is the first thing that is said of the interface, and what runs beside it is not said to be monitored.
    let status = daemon.client.status().await.unwrap();
    let text = plain(&report::status::text(&status));
    let of = |name: &str| text.split_once(&format!("\n{name}\n")).unwrap().1.lines().next().unwrap().to_owned();
    assert_eq!(
        of("fake0"),
        "  MONITOR ONLY: packets are judged, counted and reported, and NONE IS DROPPED; set live, the policy enforces"
    );
    assert!(of("fake1").starts_with("  network ACL"), "{text}");
    let ready = plain(&report::status::ready(&status, &daemon.socket(), None));
    let said = "ready: enforcing on 1 interface, monitoring 1 interface, where nothing is dropped, listening on";
    assert!(ready.contains(said), "{ready}");
    let rules = plain(&report::rules::text(&daemon.rules("fake0").await, None, None));
    assert!(rules.lines().nth(1).unwrap().starts_with("MONITOR ONLY"), "{rules}");
    let (_, json) = daemon.json(Method::GET, "/v1/rules?interface=fake0").await;
    assert_eq!(json["interfaces"][0]["enforce"], false);
    // What is denied goes on, and is told so.
    let mut stream = Lines::open(&daemon, "/v1/events").await;
    let denied = daemon.fake.slot("fake0", Direction::Inbound, 110);
    daemon.fake.emit("fake0", Event { enforced: 0, ..syn(denied, 0) });
    let record: Record = serde_json::from_value(stream.next().await).unwrap();
    let line = plain(&report::watch::record(&record));
    assert!(line.contains(" inbound  M would be dropped tcp "), "{line}");
    // A reload puts the file's word in force and says so, also where that is monitor mode.
    let change = daemon.client.reload(false, None).await.unwrap().change;
    assert!(daemon.fake.enforces("fake0"));
    let text = plain(&report::status::changed(&change, None));
    assert!(text.contains("(mode stateful, layers both, monitor only had been set live)"), "{text}");
    daemon.write(&WEB.replace("nacl = \"web\"", "nacl = \"web\"\nenforce = false"));
    let change = daemon.client.reload(false, None).await.unwrap().change;
    assert!(!daemon.fake.enforces("fake0") && !change.modes[0].now.enforce);
    let answer = daemon.client.set_mode("fake0", &set(true)).await.unwrap();
    assert!(daemon.fake.enforces("fake0"));
    let said = plain(&report::status::set(&answer));
    assert!(said.contains("enforcing yes (set live; the policy says monitor only)"), "{said}");
}

#[tokio::test]
async fn layers_need_somebody_who_judges() {
    let daemon = Daemon::start(WEB).await;
    let set = SetMode { layers: Some(Layers::Groups), ..SetMode::default() };
    let Err(ClientError::Refused(problem)) = daemon.client.set_mode("fake0", &set).await else {
        panic!("was accepted")
    };
    assert!(problem.error.contains("fake0 has no security groups"), "{}", problem.error);
    assert!(problem.hint.unwrap().contains("security_groups ="));
    assert!(daemon.fake.flags("fake0") & Control::NACL != 0, "nothing changed");
    let set = SetMode { layers: Some(Layers::Nacl), ..SetMode::default() };
    assert_eq!(daemon.client.set_mode("fake0", &set).await.unwrap().modes.in_force.layers, Layers::Nacl);
    let (code, problem) = daemon.json(Method::POST, MODE).await;
    assert_eq!(code, 400, "{problem}");
}

#[tokio::test]
async fn connections_are_listed_counted_and_forgotten() {
    let daemon = Daemon::start(WEB).await;
    let rule = daemon.fake.slot("fake0", Direction::Inbound, 100);
    let (key, entry) = flow(40001, Stands::Established, 300);
    daemon.fake.remember("fake0", key, Entry { nacl: 1, nacl_slot: rule, ..entry });
    for (port, state, left) in
        [(40002, Stands::Opening, 20), (40003, Stands::Closed, 5), (40004, Stands::Established, 0)]
    {
        let (key, entry) = flow(port, state, left);
        daemon.fake.remember("fake0", key, entry);
    }
    let ports = async |filter: &Filter| -> Vec<_> {
        let answer = daemon.client.connections(None, filter).await.unwrap();
        answer.connections.iter().map(|connection| connection.remote_port.unwrap()).collect()
    };
    let filter = |state: &str| Filter { state: state.parse().ok(), ..Filter::default() };
    assert_eq!(
        ports(&Filter::default()).await,
        [40001, 40002, 40003],
        "what is over is not shown, the freshest is first"
    );
    assert_eq!(ports(&filter("opening")).await, [40002]);
    assert_eq!(ports(&Filter { port: Some(40003), ..Filter::default() }).await, [40003]);
    assert_eq!(ports(&Filter { address: "192.0.2.1".parse().ok(), ..Filter::default() }).await, [0; 0]);
    let all = daemon.client.connections(Some("fake0"), &Filter::default()).await.unwrap().connections;
    let admitted = all[0].nacl_rule.clone().unwrap();
    assert_eq!((admitted.rule, admitted.line, admitted.in_force, all[0].expires_in), (Some(100), 4, true, 300));
    assert_eq!((all[0].began, all[1].nacl_rule.clone()), (Direction::Inbound, None));
    let (_, stats) = daemon.json(Method::GET, "/v1/conntrack/stats?interface=fake0").await;
    let one = &stats["interfaces"][0];
    assert_eq!((&one["conntrack_allowance_available"], &one["conntrack_allowance_exceeded"]), (&7.into(), &0.into()));
    assert_eq!((&one["entries"], &one["expired"], &one["capacity"]), (&3.into(), &1.into(), &10.into()));
    assert_eq!(one["states"][0], serde_json::json!({ "protocol": 6, "state": "opening", "entries": 1 }));
    // The rule goes, and the connection says so.
    daemon.write(&WEB.replace(
        "rule = 100, action = \"allow\", protocol = \"tcp\", ports = 443",
        "rule = 90, action = \"allow\", protocol = \"tcp\", ports = 80",
    ));
    daemon.client.reload(false, None).await.unwrap();
    let all = daemon.client.connections(None, &Filter::default()).await.unwrap().connections;
    let text = anstream::adapter::strip_str(&report::conntrack::list(&all)).to_string();
    assert!(text.contains("web inbound 100 (gone)") && text.contains("198.51.100.7:40001"), "{text}");
    // One state, then what is left.
    let forgotten = daemon.client.flush(None, &filter("opening"), false, false).await.unwrap();
    assert_eq!(forgotten.interfaces[0].connections, 1);
    assert_eq!(ports(&Filter::default()).await, [40001, 40003]);
    let Err(ClientError::Senseless(problem)) = daemon.client.flush(None, &Filter::default(), false, false).await else {
        panic!("was done")
    };
    assert!(problem.hint.unwrap().contains("say all"), "{}", problem.error);
    assert_eq!(daemon.client.flush(None, &Filter::default(), true, false).await.unwrap().interfaces[0].connections, 2);
    assert!(daemon.fake.lock().attached["fake0"].flows.is_empty(), "what was over is gone too");
}

#[tokio::test]
async fn a_table_that_is_full_is_told() {
    let daemon = Daemon::start(&WEB.replace("nacl = \"web\"", "nacl = \"web\"\nmode = \"stateful\"")).await;
    for port in 0..10 {
        let (key, entry) = flow(port, Stands::Established, 300);
        daemon.fake.remember("fake0", key, entry);
    }
    let note = async || daemon.client.status().await.unwrap().interfaces[0].notes.join("");
    assert!(note().await.contains("nearly full (10 of 10)"));
    daemon.fake.lock().attached.get_mut("fake0").unwrap().counters.reasons =
        [((Reason::ConntrackFull, Direction::Inbound), Counter { packets: 4, bytes: 240 })].into();
    assert!(note().await.contains("4 packets of new connections were dropped"));
    let status = daemon.client.status().await.unwrap();
    assert_eq!((status.interfaces[0].packets.allowed, status.interfaces[0].packets.denied), (0, 4));
    let text = anstream::adapter::strip_str(&report::status::text(&status)).to_string();
    assert!(text.contains("conntrack    10 of 10 entries, remembered by the network ACL; 4 packets dropped"), "{text}");
    let memory = "memory       1.5 MiB: 192.0 KiB tables (once for all interfaces with the same), 1.0 MiB connections";
    assert!(text.contains(memory), "{text}");
}

const GROUPS: &str = r#"version = 1
[nacl.web]
inbound = [{ rule = 100, action = "allow", protocol = "all", source = "0.0.0.0/0" }]
outbound = [{ rule = 100, action = "allow", protocol = "all", destination = "0.0.0.0/0" }]
[security_group.sg-2]
inbound = []
outbound = []
[security_group.sg-3]
inbound = [
  { protocol = "tcp", ports = 443, source = "0.0.0.0/0" },
  { protocol = "tcp", ports = 22, source = "sg-2" },
]
outbound = []
[eni.jump]
addresses = ["10.0.1.20"]
security_groups = ["sg-2"]
[interface.fake0]
nacl = "web"
security_groups = ["sg-3"]
failsafe = [{ protocol = "tcp", ports = 2222, source = "192.0.2.0/24" }]
"#;

#[tokio::test]
async fn groups_and_exemptions_are_counted_and_told() {
    let daemon = Daemon::start(GROUPS).await;
    let group = |position| {
        let inner = daemon.fake.lock();
        let slots = &inner.attached["fake0"].slots.slots;
        *slots.iter().find(|(_, slot)| slot.position == Some(position)).unwrap().0
    };
    let exempt = {
        let inner = daemon.fake.lock();
        let slots = &inner.attached["fake0"].slots.slots;
        *slots.iter().find(|(_, slot)| slot.name == "failsafe").unwrap().0
    };
    daemon.fake.hit("fake0", group(2), 5);
    daemon.fake.hit("fake0", exempt, 2);
    daemon.fake.hit("fake0", group_implicit_slot(Direction::Inbound, false), 3);
    daemon.fake.hit("fake0", tracked_slot(Direction::Outbound, false), 4);
    let rules = daemon.rules("fake0").await;
    let groups = rules.groups.as_ref().unwrap();
    let hits: Vec<_> = groups[0].inbound.iter().map(|row| (row.position, row.hits.unwrap().packets)).collect();
    assert_eq!((groups.len(), hits, groups[0].outbound.len()), (1, vec![(1, 0), (2, 5)], 0));
    assert_eq!((groups[0].inbound[1].peer.as_str(), groups[0].inbound[1].line), ("sg:sg-2", 11));
    let failsafe = rules.exemptions.iter().find(|row| row.failsafe).unwrap();
    assert_eq!((failsafe.hits.unwrap().packets, failsafe.line, failsafe.service.as_str()), (2, 20, "local"));
    let text = anstream::adapter::strip_str(&report::rules::text(&rules, None, None)).to_string();
    for part in [
        "security group sg-3",
        "sg:sg-2 (10.0.1.20/32)",
        "no inbound rule of any security group matched: 3 IPv4 packets",
        "tracked: 4 outbound IPv4 packets",
        "from 192.0.2.0/24",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    let status = daemon.client.status().await.unwrap();
    assert_eq!(status.interfaces[0].groups.as_deref(), Some(&["sg-3".to_owned()][..]));
    assert_eq!((status.interfaces[0].packets.allowed, status.interfaces[0].packets.denied), (11, 3));
    assert!(report::status::text(&status).contains("remembered by the security groups"));
    // Only the groups, then only the network ACL.
    let set = SetMode { layers: Some(Layers::Groups), ..SetMode::default() };
    daemon.client.set_mode("fake0", &set).await.unwrap();
    assert_eq!(daemon.fake.flags("fake0") & (Control::NACL | Control::GROUPS), Control::GROUPS);
    // What is dropped, and what passes by both.
    let mut stream = Lines::open(&daemon, "/v1/events?action=all").await;
    let number = daemon.fake.slot("fake0", Direction::Inbound, 100);
    daemon.fake.emit(
        "fake0",
        Event {
            slot: group_implicit_slot(Direction::Inbound, false),
            also: number,
            reason: Reason::GroupImplicit as u8,
            layer: 2,
            flow: Met::Unknown as u8,
            ..syn(0, Action::Deny as u8)
        },
    );
    let record: Record = serde_json::from_value(stream.next().await).unwrap();
    let line = anstream::adapter::strip_str(&report::watch::record(&record)).to_string();
    // Without what aligns it.
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(line.contains(" inbound D deny tcp 198.51.100.7:52345 → 10.0.1.10:22 SYN dropped by security group sg-3: no inbound rule matches"), "{line}");
    assert_eq!((record.also.unwrap().to_string().as_str(), record.flow.as_deref()), ("inbound 100", Some("unknown")));
    daemon.fake.emit("fake0", Event { also: group(2), flow: Met::New as u8, ..syn(number, 1) });
    let record: Record = serde_json::from_value(stream.next().await).unwrap();
    assert_eq!(
        (record.decided_by.to_string(), record.also.unwrap().to_string()),
        ("inbound 100".into(), "sg-3 inbound 2".into())
    );
    let event = Event { slot: group(1), layer: 2, reason: Reason::GroupRule as u8, ..syn(0, 1) };
    daemon.fake.emit("fake0", event);
    let record: Record = serde_json::from_value(stream.next().await).unwrap();
    let line = anstream::adapter::strip_str(&report::watch::record(&record)).to_string();
    assert!(line.contains("security group sg-3 inbound rule 1, line 10"), "{line}");
}

#[tokio::test]
async fn what_is_gone_stays_counted() {
    let daemon = Daemon::start(WEB).await;
    daemon.fake.hit("fake0", daemon.fake.slot("fake0", Direction::Inbound, 110), 3);
    daemon.fake.hit("fake0", daemon.fake.slot("fake0", Direction::Inbound, 100), 5);
    let totals = async || {
        let packets = daemon.client.status().await.unwrap().interfaces[0].packets;
        (packets.allowed, packets.denied)
    };
    assert_eq!(totals().await, (5, 3));
    for ports in ["ports = 23", "ports = 24", "ports = 22"] {
        daemon.write(&WEB.replace("ports = 22", ports));
        daemon.client.reload(false, None).await.unwrap();
        assert_eq!(totals().await, (5, 3), "{ports}");
    }
}

#[test]
fn interfaces_are_named_without_doubt() {
    let policy = format!(
        "{}[interface.blue]\ndevice = \"eth0\"\nnetns = \"b\"\nnacl = \"web\"\n\
         [interface.green]\ndevice = \"eth0\"\nnetns = \"g\"\nnacl = \"web\"\n\
         [interface.red]\ndevice = \"eth1\"\nnetns = \"g\"\nnacl = \"web\"\n",
        WEB.replace("[interface.fake0]\nnacl = \"web\"\n", "")
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    let fake = Fake::default();
    let mut state = State::new(Box::new(fake.clone()), Settings::default());
    let apply = |state: &mut State, policy: &str| {
        fs::write(&file, policy).unwrap();
        let reading = prepare::read(&file, &NoHost).unwrap();
        state.apply(prepare::prepare(&reading, &state.slots()).unwrap(), None)
    };
    apply(&mut state, &policy).unwrap();
    assert_eq!(fake.names(), ["b/eth0", "g/eth0", "g/eth1"]);
    assert_eq!(state.name("blue").unwrap(), "blue");
    assert_eq!(state.name("eth1").unwrap(), "red", "a device that is unique");
    let error = state.name("eth0").unwrap_err();
    assert_eq!(error.to_string(), "eth0 is the device of several interfaces: blue, green");
    assert!(error.hint().unwrap().contains("[interface.NAME]"));
    let error = state.modes(Some("eth9")).unwrap_err();
    assert!(error.hint().unwrap().contains("blue (eth0 in netns b), green (eth0 in netns g)"));
    // One of the two, and the other stays as it is.
    let setting = Setting { mode: Mode::Stateful, layers: Layers::Both, enforce: true };
    state.set("green", setting).unwrap();
    let flags = |name| fake.flags(name) & Control::STATEFUL != 0;
    assert_eq!((flags("b/eth0"), flags("g/eth0")), (false, true));
    assert_eq!(state.rules(Some("blue")).unwrap()[0].netns.as_deref(), Some("b"));
    // What needs a restart says so.
    let size = "[tracking]\nentries = 1024\n";
    let needs = |error| match error {
        StateError::NeedsRestart { what, .. } => what,
        other => panic!("{other}"),
    };
    assert_eq!(needs(apply(&mut state, &format!("{policy}{size}")).unwrap_err()), "[tracking] entries");
    assert_eq!(needs(apply(&mut state, &policy.replace("\"eth1\"", "\"eth2\"")).unwrap_err()), "device");
    assert_eq!(needs(apply(&mut state, &policy.replace("netns = \"b\"", "netns = \"c\"")).unwrap_err()), "netns");
    assert_eq!(
        needs(apply(&mut state, &policy.replace("interface.red", "interface.pink")).unwrap_err()),
        "interface.NAME"
    );
    assert_eq!(apply(&mut state, &format!("{policy}[tracking]\nudp = 40\n")).unwrap().switched.len(), 3);
    // By device and namespace, by name, and never by a device of two.
    assert!(matches!(state.detach("eth0", None), Err(StateError::Ambiguous { .. })));
    assert_eq!(state.detach("eth0", Some("b")).unwrap().interface, "blue");
    assert_eq!(state.detach("eth0", None).unwrap().interface, "green", "the only one left");
    assert_eq!(state.detach("red", None).unwrap().netns.as_deref(), Some("g"));
    assert_eq!(state.in_charge(), 0);
}

/// The policy that lets everything pass that `WEB` denies.
fn other() -> String {
    WEB.replace("action = \"deny\"", "action = \"allow\"")
        .replace("nacl = \"web\"", "nacl = \"web\"\nmode = \"stateful\"")
}

#[tokio::test]
async fn a_change_awaits_confirmation() {
    let daemon = Daemon::start(WEB).await;
    let before = daemon.fake.judges("fake0");
    daemon.write(&other());
    let (code, answer) = daemon.json(Method::POST, "/v1/reload?confirm=600").await;
    assert_eq!(code, 200, "{answer}");
    assert!(answer["pending"]["seconds_left"].as_u64().unwrap() > 500, "{answer}");
    let now = daemon.fake.judges("fake0");
    assert_ne!(now, before);
    // Nothing else is changed meanwhile.
    for uri in ["/v1/reload", "/v1/reload?confirm=5"] {
        let (code, answer) = daemon.json(Method::POST, uri).await;
        assert_eq!(code, 409, "{uri}: {answer}");
        assert!(answer["hint"].as_str().unwrap().contains("nacld confirm"), "{answer}");
    }
    let set = SetMode { mode: Some(Mode::Stateless), ..SetMode::default() };
    let Err(ClientError::Refused(problem)) = daemon.client.set_mode("fake0", &set).await else { panic!("was set") };
    assert!(problem.error.contains("awaits confirmation"), "{problem:?}");
    let (code, answer) = daemon.json(Method::POST, "/v1/confirm").await;
    assert_eq!((code, &answer["problems"]), (200, &Value::Array(Vec::new())));
    assert_eq!(daemon.fake.judges("fake0"), now);
    assert_eq!(daemon.json(Method::POST, "/v1/confirm").await.0, 409);
    assert_eq!(daemon.json(Method::POST, "/v1/rollback").await.0, 409);
    assert_eq!(daemon.json(Method::POST, "/v1/reload?confirm=0").await.0, 400);
    assert_eq!(daemon.json(Method::POST, "/v1/reload?confirm=soon").await.0, 400);
}

#[tokio::test]
async fn what_is_rolled_back_is_all_of_it() {
    let daemon = Daemon::start(&format!("{WEB}{SECOND}")).await;
    let hits = daemon.fake.slot("fake0", Direction::Inbound, 110);
    daemon.fake.hit("fake0", hits, 7);
    let before = daemon.client.status().await.unwrap();
    // One interface changes, one goes, one comes.
    daemon.write(&format!("{}[interface.fake2]\nnacl = \"web\"\n", other()));
    let change = daemon.client.reload(false, Some(Duration::from_mins(10))).await.unwrap().change;
    assert_eq!(
        (change.attached, change.switched, change.detached),
        (vec!["fake2".into()], vec!["fake0".into()], vec![])
    );
    assert_eq!(daemon.fake.names(), ["fake0", "fake1", "fake2"], "what it no longer names goes once it is confirmed");
    let done = daemon.client.roll_back().await.unwrap();
    assert!(!done.stopping);
    assert_eq!(done.policy.unwrap().sha256, before.policy.sha256);
    assert_eq!(daemon.fake.names(), ["fake0", "fake1"]);
    let after = daemon.client.status().await.unwrap();
    assert_eq!(
        after.interfaces.iter().map(|one| &one.modes).collect::<Vec<_>>(),
        before.interfaces.iter().map(|one| &one.modes).collect::<Vec<_>>()
    );
    assert!(after.problems[0].contains("not confirmed"), "{:?}", after.problems);
    assert_eq!(packets(&daemon.rules("fake0").await, 0, Number::Rule(110)), 7, "a rule that came back counts on");

    // And the other way round.
    daemon.client.reload(false, Some(Duration::from_mins(10))).await.unwrap();
    daemon.client.confirm().await.unwrap();
    assert_eq!(daemon.fake.names(), ["fake0", "fake2"]);
    assert!(daemon.client.status().await.unwrap().problems.is_empty());
}

#[tokio::test]
async fn what_nobody_confirms_is_undone() {
    let daemon = Daemon::start(WEB).await;
    let before = daemon.fake.judges("fake0");
    daemon.write(&other());
    daemon.client.reload(false, Some(Duration::from_secs(1))).await.unwrap();
    assert_ne!(daemon.fake.judges("fake0"), before);
    let start = Instant::now();
    while daemon.client.status().await.unwrap().pending.is_some() {
        assert!(start.elapsed() < Duration::from_secs(20), "it is never undone");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(daemon.fake.judges("fake0"), before);
    let directory = tempfile::tempdir().unwrap();
    let first =
        Daemon::start_in(directory, WEB, Fake::default(), |config| config.confirm = Some(Duration::from_secs(1)));
    assert_eq!(first.await.ended().await, Ended::NotConfirmed, "there was nothing before it");
}

/// A change whose time is over on one interface and not yet on another when the next daemon comes.
#[test]
fn a_change_is_undone_everywhere_or_nowhere() {
    for early in ["fake0", "fake1"] {
        let fake = Fake::default();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("policy.toml");
        let apply = |state: &mut State, policy: &str, confirm| {
            fs::write(&file, policy).unwrap();
            let reading = prepare::read(&file, &NoHost).unwrap();
            state.apply(prepare::prepare(&reading, &state.slots()).unwrap(), confirm).unwrap();
        };
        let both = |web: &str| web.to_owned() + SECOND + "[interface.fake2]\nnacl = \"web\"\n";
        let mut first = State::new(Box::new(fake.clone()), Settings::default());
        apply(&mut first, &both(WEB), None);
        let names = ["fake0", "fake1", "fake2"];
        let before = names.map(|name| fake.judges(name));
        let source = first.status().unwrap().policy.sha256;
        // One of them it changes, another it changes too, and the third it no longer names.
        let other = both(&other()).replace("[interface.fake2]\nnacl = \"web\"\n", "mode = \"stateful\"\n");
        apply(&mut first, &other, Some(Duration::from_mins(10)));
        assert_ne!((fake.judges("fake0"), fake.judges("fake1")), (before[0], before[1]));
        // As after `kill -9`: nobody takes anything off.
        std::mem::forget(first);
        let mut inner = fake.lock();
        inner.left.extend(names.map(str::to_owned));
        let (_, earlier) = inner.attached[early].pending.unwrap();
        inner.attached.get_mut(early).unwrap().pending = Some((Instant::now(), earlier));
        drop(inner);

        let mut second = State::new(Box::new(fake.clone()), Settings::default());
        assert_eq!(second.restore().unwrap(), names);
        assert_eq!(second.pending(), None, "{early} first");
        assert_eq!(fake.names(), names, "nothing was taken off");
        assert_eq!(names.map(|name| fake.judges(name)), before);
        let status = second.status().unwrap();
        assert_eq!(status.policy.sha256, source);
        assert!(status.problems.iter().any(|problem| problem.contains("not confirmed")), "{:?}", status.problems);
    }
}

#[tokio::test]
async fn a_daemon_knows_what_the_one_before_it_has_left() {
    let fake = Fake::default();
    let directory = tempfile::tempdir().unwrap();
    let file = Daemon::config(&directory).file;
    fs::write(&file, WEB).unwrap();
    let settings = Settings { on_exit: Some(OnExit::Keep), ..Settings::default() };
    let mut first = State::new(Box::new(fake.clone()), settings);
    let reading = prepare::read(&file, &NoHost).unwrap();
    first.apply(prepare::prepare(&reading, &first.slots()).unwrap(), None).unwrap();
    fake.hit("fake0", fake.slot("fake0", Direction::Inbound, 100), 3);
    let stateful = Setting { mode: Mode::Stateful, layers: Layers::Both, enforce: true };
    first.set("fake0", stateful).unwrap();
    assert_eq!(first.end().unwrap(), ["fake0"], "it stays in force");
    drop(first);

    // A file that cannot be used: everything is as it was, with what was set live.
    let daemon = Daemon::start_in(directory, "nonsense", fake.clone(), |_| ()).await;
    let status = daemon.client.status().await.unwrap();
    assert_eq!(status.interfaces[0].modes.in_force.mode, Mode::Stateful);
    assert_eq!(status.interfaces[0].modes.policy.mode, Mode::Stateless);
    assert!(status.last_reload.is_some_and(|reload| !reload.ok));
    assert_eq!(packets(&daemon.rules("fake0").await, 0, Number::Rule(100)), 3);
    // And then one that can.
    daemon.write(&format!("{WEB}{SECOND}"));
    let change = daemon.client.reload(false, None).await.unwrap().change;
    assert_eq!((change.attached, change.switched), (vec!["fake1".into()], vec!["fake0".into()]));
    assert_eq!(packets(&daemon.rules("fake0").await, 0, Number::Rule(100)), 3);
    daemon.client.stop().await.unwrap();
    assert_eq!(daemon.ended().await, Ended::Asked, "who asks for it gets everything detached");
}
