//! The daemon's life and its API, over a real socket and with a kernel that is made up: no root needed. What the real
//! kernel does is shown by `kernel_service.rs`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use http_body_util::BodyExt;
use hyper::{Method, body::Incoming};
use nacl_common::{Counter, Direction, Event, Reason, border::implicit_slot};
use nacl_daemon::{
    compile::{Compiled, SlotTable},
    dataplane::{Counters, Events, Options, Target},
    observe::{Hits, Hooks, InterfaceRules, Number, Record},
    service::{
        client::{Client, ClientError},
        plane::{Attached, Plane, PlaneError},
        serve::{self, Config, Ended, Notice, RunError},
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
    slots: SlotTable,
    events: Option<Events>,
    counters: Counters,
    queue: VecDeque<Event>,
    bell: Option<io::PipeWriter>,
}

/// What it is to refuse.
#[derive(Default)]
struct Inner {
    attached: BTreeMap<String, Device>,
    refuse_attach: BTreeSet<String>,
    refuse_install: BTreeSet<String>,
    lacking: Vec<String>,
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
        let counter = inner.attached.get_mut(name).unwrap().counters.slots.entry(slot).or_default();
        counter.packets += packets;
        counter.bytes += 60 * packets;
    }

    fn emit(&self, name: &str, event: Event) {
        let mut inner = self.lock();
        let device = inner.attached.get_mut(name).unwrap();
        device.queue.push_back(Event { epoch: device.epoch, ..event });
        device.bell.as_mut().unwrap().write_all(b"!").unwrap();
    }
}

struct FakeAttachment {
    fake: Fake,
    name: String,
    ready: io::PipeReader,
}

impl Plane for Fake {
    fn lacking(&self) -> Vec<String> {
        self.lock().lacking.clone()
    }

    fn attach(&self, target: &Target, options: &Options, compiled: &Compiled) -> Result<Box<dyn Attached>, PlaneError> {
        let mut inner = self.lock();
        if inner.refuse_attach.contains(&target.name) {
            return Err("there is no such interface".into());
        }
        let (ready, bell) = io::pipe()?;
        let device = Device {
            epoch: 1,
            slots: compiled.slots.clone(),
            events: Some(options.events),
            bell: Some(bell),
            ..Device::default()
        };
        assert!(inner.attached.insert(target.name.clone(), device).is_none(), "attached twice");
        Ok(Box::new(FakeAttachment { fake: self.clone(), name: target.name.clone(), ready }))
    }
}

impl Attached for FakeAttachment {
    fn hooks(&self) -> Hooks {
        Hooks { ifindex: 7, ingress: "XDP, native".into(), egress: "TC (tcx)".into(), ..Hooks::default() }
    }

    fn install(&mut self, options: &Options, compiled: &Compiled) -> Result<u32, PlaneError> {
        let mut inner = self.fake.lock();
        if inner.refuse_install.contains(&self.name) {
            return Err("the map is full".into());
        }
        let device = inner.attached.get_mut(&self.name).unwrap();
        device.epoch += 1;
        device.slots = compiled.slots.clone();
        device.events = Some(options.events);
        Ok(device.epoch)
    }

    fn epoch(&self) -> u32 {
        self.fake.lock().attached[&self.name].epoch
    }

    fn counters(&self) -> Result<Counters, PlaneError> {
        Ok(self.fake.lock().attached[&self.name].counters.clone())
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
        self.fake.lock().attached.remove(&self.name);
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
            lifetime: None,
            force: false,
            trace: false,
            watch: false,
        }
    }

    async fn start(policy: &str) -> Self {
        Self::start_with(policy, None).await
    }

    async fn start_with(policy: &str, lifetime: Option<Duration>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = Config { lifetime, ..Self::config(&directory) };
        fs::write(&config.file, policy).unwrap();
        let client = Client::new(&config.socket);
        let fake = Fake::default();
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
    ] {
        let (code, problem) = daemon.json(method, uri).await;
        assert_eq!((code, &problem["schema"]), (expected, &1.into()), "{uri}");
        assert!(!problem["error"].as_str().unwrap().is_empty(), "{uri}");
    }
    daemon.client.stop().await.unwrap();
    assert_eq!(daemon.ended().await, Ended::Asked);
}

#[tokio::test]
async fn rules_come_in_the_console_s_order_with_their_hits() {
    let daemon = Daemon::start(WEB).await;
    daemon.fake.hit("fake0", daemon.fake.slot("fake0", Direction::Inbound, 110), 3);
    daemon.fake.hit("fake0", implicit_slot(Direction::Outbound, true), 5);
    daemon.fake.lock().attached.get_mut("fake0").unwrap().counters.reasons =
        [((Reason::Arp, Direction::Inbound), Counter { packets: 2, bytes: 84 })].into();
    let rules = daemon.rules("fake0").await;
    let numbers: Vec<_> = rules.lists[0].rules.iter().map(|rule| rule.rule).collect();
    assert_eq!(numbers, [Number::Rule(100), Number::Rule(110), Number::Implied, Number::Implied]);
    assert_eq!(rules.lists[0].rules[1].hits, Some(Hits { packets: 3, bytes: 180 }));
    assert_eq!(rules.lists[0].rules[1].line, 5);
    assert_eq!(packets(&rules, 0, Number::Rule(100)), 0);
    assert_eq!(rules.lists[1].rules[2].hits.unwrap().packets, 5, "IPv6 has a * of its own");
    assert_eq!(rules.reasons[0].reason, "arp");
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
    let answer = daemon.client.reload(false).await.unwrap();
    assert_eq!(answer.change.switched, ["fake0"]);
    let rules = daemon.rules("fake0").await;
    assert_eq!((packets(&rules, 0, Number::Rule(100)), packets(&rules, 0, Number::Rule(110))), (7, 0));
    assert_eq!((rules.lists[0].rules[0].line, rules.epoch), (5, Some(2)));
    // Back again: the old rule's slot may be given back to it, its old packets are not.
    daemon.write(WEB);
    daemon.client.reload(false).await.unwrap();
    daemon.write(&WEB.replace("ports = 22", "ports = 24"));
    daemon.client.reload(false).await.unwrap();
    daemon.fake.hit("fake0", daemon.fake.slot("fake0", Direction::Inbound, 110), 2);
    assert_eq!(packets(&daemon.rules("fake0").await, 0, Number::Rule(110)), 2);
    assert!(daemon.client.status().await.unwrap().last_reload.unwrap().ok);
}

#[tokio::test]
async fn an_invalid_reload_keeps_the_old_policy_and_says_why() {
    let daemon = Daemon::start(WEB).await;
    let before = daemon.client.status().await.unwrap();
    daemon.write(&WEB.replace("rule = 110", "rule = 100"));
    let Err(ClientError::Refused(problem)) = daemon.client.reload(false).await else { panic!("was accepted") };
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
    let Err(ClientError::Refused(problem)) = daemon.client.reload(false).await else { panic!("was accepted") };
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
    let change = daemon.client.reload(false).await.unwrap().change;
    assert_eq!((change.attached, change.detached), (vec!["fake9".to_owned()], vec!["fake0".to_owned()]));
    assert_eq!(daemon.fake.names(), ["fake9"]);
    // What cannot be changed while attached is said, and changes nothing.
    daemon.write(&(WEB.replace("[interface.fake0]", "[interface.fake9]") + "xdp = \"tc\"\n"));
    let Err(ClientError::Refused(problem)) = daemon.client.reload(false).await else { panic!("was accepted") };
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
    let daemon = Daemon::start(WEB).await;
    let mut stream = Lines::open(&daemon, "/v1/events?interface=fake0").await;
    let mut other = Lines::open(&daemon, "/v1/events?interface=else").await;
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
    daemon.write(&WEB.replace("ports = 22", "ports = 23"));
    daemon.client.reload(false).await.unwrap();
    let old = Event { epoch: 1, ..syn(slot, 0) };
    {
        let mut inner = daemon.fake.lock();
        let device = inner.attached.get_mut("fake0").unwrap();
        device.queue.push_back(old);
        device.bell.as_mut().unwrap().write_all(b"!").unwrap();
    }
    assert_eq!(stream.next().await["rule"], 110);
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
    daemon.client.reload(false).await.unwrap();
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
