//! What a service manager and a log collector see of a daemon: the real binary with a real NOTIFY_SOCKET, a journal's
//! socket, and JSON, in namespaces of its own. What the unit file asks for is shown by `packaging.rs`.

mod support;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{fs::MetadataExt as _, net::UnixDatagram, process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use serde_json::Value;
use support::{
    policies::{CLOSED, lab, near},
    veth::{Cable, NEAR},
};

const PATIENCE: Duration = Duration::from_mins(1);

/// A place with a policy, and a socket of the service manager.
struct Place {
    directory: tempfile::TempDir,
    manager: UnixDatagram,
}

impl Place {
    fn new(cable: &Cable) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let manager = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let place = Self { directory, manager };
        place.write(&lab(&near(cable)));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, policy: &str) {
        fs::write(self.path("policy.toml"), policy).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nacld"));
        // Nothing is to outlive a test that fails.
        command.args(["run", "--config", "policy.toml", "--socket", "nacld.sock", "--no-pins"]).args(arguments);
        command.current_dir(self.directory.path()).env("NOTIFY_SOCKET", self.path("notify"));
        command.stdin(Stdio::null());
        command.stdout(fs::File::create(self.path("out")).unwrap());
        command.stderr(fs::File::create(self.path("err")).unwrap());
        command
    }

    /// Asks the daemon for something.
    fn ask(&self, arguments: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nacld"));
        command.args(arguments).args(["--socket", "nacld.sock"]).current_dir(self.directory.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts a daemon and waits until it has said that it is ready.
    fn start(&self, mut command: Command) -> Daemon<'_> {
        let daemon = Daemon { child: command.spawn().unwrap(), place: self };
        assert!(daemon.hears("EXTEND_TIMEOUT_USEC").is_some());
        assert_eq!(daemon.hears("READY").as_deref(), Some("1"), "{}", daemon.err());
        daemon
    }
}

struct Daemon<'p> {
    child: Child,
    place: &'p Place,
}

impl Daemon<'_> {
    fn message(&self) -> Vec<(String, String)> {
        let mut bytes = [0; 4096];
        let length = self.place.manager.recv(&mut bytes).unwrap_or_else(|error| panic!("{error}: {}", self.err()));
        let text = String::from_utf8(bytes[..length].to_vec()).unwrap();
        text.lines().map(|line| line.split_once('=').unwrap()).map(|(key, value)| (key.into(), value.into())).collect()
    }

    /// The value of a key in the next message.
    fn hears(&self, key: &str) -> Option<String> {
        self.message().into_iter().find(|(found, _)| found == key).map(|(_, value)| value)
    }

    /// The status in the next message, which must say that the daemon is ready.
    fn ready(&self) -> String {
        let message = self.message();
        assert_eq!(message[0], ("READY".into(), "1".into()), "{message:?}");
        assert_eq!((message.len(), message[1].0.as_str()), (2, "STATUS"), "{message:?}");
        message[1].1.clone()
    }

    fn reload(&self) {
        let before = micros();
        self.signal(Signal::SIGHUP);
        let message = self.message();
        assert_eq!(message[0], ("RELOADING".into(), "1".into()), "{message:?}");
        assert_eq!(message[1].0, "MONOTONIC_USEC", "{message:?}");
        let told: i64 = message[1].1.parse().unwrap();
        // systemd takes a READY=1 for the end of the reload it asked for only where this is later than its own signal.
        assert!((before..=micros()).contains(&told), "{told}");
    }

    fn out(&self) -> String {
        fs::read_to_string(self.place.path("out")).unwrap()
    }

    fn err(&self) -> String {
        fs::read_to_string(self.place.path("err")).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    fn ends(mut self) -> (String, String) {
        self.signal(Signal::SIGTERM);
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < PATIENCE, "does not end: {}", self.err());
            sleep(Duration::from_millis(20));
        }
        (self.out(), self.err())
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn micros() -> i64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000
}

#[test]
fn the_service_manager_is_told_of_start_reload_and_end_in_order() {
    let cable = Cable::new();
    let place = Place::new(&cable);
    let daemon = Daemon { child: place.command(&[]).spawn().unwrap(), place: &place };
    // One interface: what is apart from any, and what each may take.
    assert_eq!(daemon.message(), [("EXTEND_TIMEOUT_USEC".into(), "40000000".into())]);
    let first = daemon.ready();
    assert!(first.starts_with("policy.toml (sha256 ") && first.ends_with(&format!(" on near (netns {})", cable.here)));

    place.write(&lab(&near(&cable)).replace("rule = 50", "rule = 60"));
    daemon.reload();
    assert!(daemon.hears("EXTEND_TIMEOUT_USEC").is_some());
    let second = daemon.ready();
    assert_ne!(first, second, "another policy, another hash");

    // What is set live is in force too.
    place.ask(&["mode", "near", "--monitor"]);
    assert_eq!(daemon.hears("STATUS"), Some(format!("{second} (MONITOR ONLY)")));
    place.ask(&["mode", "near", "--enforce"]);
    assert_eq!(daemon.hears("STATUS").as_ref(), Some(&second));

    // A file that cannot be used: the reload ends too, and the status says what is wrong and what is in force.
    place.write(&lab(&near(&cable)).replace("rule = 50", "rule = 100"));
    daemon.reload();
    let status = daemon.ready();
    assert!(status.starts_with("NOT RELOADED: the policy policy.toml has 1 error"), "{status}");
    assert!(status.ends_with(&format!("in force is {second}")), "{status}");

    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.hears("STOPPING").as_deref(), Some("1"));
    let (out, err) = daemon.ends();
    // Standard output is no terminal: all of it is logged, none of it twice.
    assert_eq!(out, "");
    assert!(err.contains("not reloaded: the policy before it stays in force") && err.contains(" ended "), "{err}");
}

#[test]
fn the_watchdog_hears_of_a_daemon_that_lives() {
    let cable = Cable::new();
    let place = Place::new(&cable);
    let mut command = place.command(&[]);
    command.env("WATCHDOG_USEC", "500000");
    let daemon = Daemon { child: command.spawn().unwrap(), place: &place };
    let mut heard = 0;
    while heard < 3 {
        heard += usize::from(daemon.hears("WATCHDOG").is_some_and(|value| value == "1"));
    }
    // Meant for another process: this one is silent.
    drop(daemon);
    let place = Place::new(&cable);
    let mut command = place.command(&[]);
    command.env("WATCHDOG_USEC", "500000").env("WATCHDOG_PID", "1");
    let daemon = place.start(command);
    place.manager.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut bytes = [0; 4096];
    assert!(place.manager.recv(&mut bytes).is_err(), "{}", String::from_utf8_lossy(&bytes));
    drop(daemon);
}

/// Under traffic, with everything a daemon can write about it: fields, and no byte of what packets carry. The cable's
/// datagrams carry the word the environment has here too.
#[test]
fn a_log_has_fields_and_neither_payloads_nor_secrets() {
    const PAYLOAD: &str = "dont-log-me-7f3a";
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&cable);
    let mut command = place.command(&["--log-format", "json", "--watch", "--trace"]);
    command.env("NACLD_LOG", "trace").env("SOME_TOKEN", PAYLOAD);
    let daemon = place.start(command);
    let sent = nacl_daemon::netns::within(Some(&cable.there), || {
        let socket = std::net::UdpSocket::bind((support::veth::THERE, 0)).unwrap();
        for port in [CLOSED, CLOSED, CLOSED + 1] {
            socket.send_to(PAYLOAD.as_bytes(), (support::veth::HERE, port)).unwrap();
        }
    });
    sent.unwrap();
    let start = Instant::now();
    while !daemon.err().contains("\"message\":\"packet\"") {
        assert!(start.elapsed() < PATIENCE, "{}", daemon.err());
        sleep(Duration::from_millis(20));
    }
    place.write(&lab(&near(&cable)).replace("rule = 50", "rule = 100"));
    daemon.reload();
    daemon.ready();
    let (out, err) = daemon.ends();
    assert_eq!(out, "");
    let hex: Vec<_> = PAYLOAD.bytes().map(|byte| format!("{byte:02x}")).collect();
    for secret in [PAYLOAD, &hex.concat(), &format!("{:?}", PAYLOAD.as_bytes())] {
        assert!(!err.to_lowercase().contains(secret), "{secret}");
    }
    let lines: Vec<Value> = err.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let said = |message: &str| lines.iter().find(|line| line["message"] == message).unwrap_or_else(|| panic!("{err}"));
    let packet = said("packet");
    assert_eq!(
        (&packet["interface"], &packet["netns"], &packet["rule"]),
        (&NEAR.into(), &cable.here.as_str().into(), &"50".into())
    );
    assert_eq!((&packet["reason"], &packet["line"], &packet["epoch"]), (&"nacl-rule".into(), &4.into(), &1.into()));
    assert_eq!((&packet["target"], &packet["level"]), (&"nacld".into(), &"INFO".into()));
    assert_eq!(said("ready")["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(said("attached")["epoch"], 1);
    // Each mistake of a policy with its place.
    let mistake = lines.iter().find(|line| line["code"] == "E011").unwrap_or_else(|| panic!("{err}"));
    assert_eq!((&mistake["line"], &mistake["policy"]), (&5.into(), &"policy.toml".into()));
    assert_eq!(said("ended")["reason"], "terminated");
    // What the programs log comes through as well, or nothing was proved about it.
    assert!(lines.iter().any(|line| line.to_string().contains("nacl_ebpf")), "{err}");
}

#[test]
fn a_daemon_that_cannot_start_says_so_in_its_log() {
    let cable = Cable::new();
    let place = Place::new(&cable);
    place.write(&lab(&near(&cable)).replace(NEAR, "nowhere"));
    let mut daemon = Daemon { child: place.command(&["--log-format", "json"]).spawn().unwrap(), place: &place };
    assert_eq!(daemon.child.wait().unwrap().code(), Some(1));
    let err = daemon.err();
    let last: Value = serde_json::from_str(err.lines().last().unwrap()).unwrap();
    assert_eq!((&last["level"], &last["message"]), (&"ERROR".into(), &"nacld failed".into()));
    assert!(last["reason"].as_str().unwrap().contains("nowhere"), "{last}");
}

/// The journal's socket has one place, so the daemon gets a /run/systemd of its own.
#[test]
fn under_the_journal_fields_go_to_it_unasked() {
    let cable = Cable::new();
    let place = Place::new(&cable);
    fs::create_dir(place.path("journal")).unwrap();
    let journal = UnixDatagram::bind(place.path("journal/socket")).unwrap();
    journal.set_read_timeout(Some(PATIENCE)).unwrap();
    let err = fs::File::create(place.path("err")).unwrap();
    let stat = err.metadata().unwrap();
    let mut command = place.command(&[]);
    command.stderr(err).env("JOURNAL_STREAM", format!("{}:{}", stat.dev(), stat.ino()));
    let ours = place.directory.path().to_owned();
    // SAFETY: system calls, and nothing that the other threads of the parent could hold a lock of but the allocator's,
    // which is not asked for anything.
    unsafe {
        command.pre_exec(move || {
            const NONE: Option<&str> = None;
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
            mount(Some(&ours), "/run/systemd", NONE, MsFlags::MS_BIND, NONE)?;
            Ok(())
        });
    }
    let needs = "this test needs the directory /run/systemd, as systemd makes it: mkdir /run/systemd";
    assert!(std::path::Path::new("/run/systemd").is_dir(), "{needs}");
    let daemon = place.start(command);
    let mut entries = Vec::new();
    while !entries.iter().any(|entry: &BTreeMap<String, String>| entry["MESSAGE"] == "ready") {
        let mut bytes = vec![0; 1 << 16];
        let length = journal.recv(&mut bytes).unwrap_or_else(|error| panic!("{error}: {entries:?} {}", daemon.err()));
        // An empty one asks whether there is a journal.
        if length > 0 {
            entries.push(entry(&bytes[..length]));
        }
    }
    let attached = entries.iter().find(|entry| entry["MESSAGE"] == "attached").unwrap();
    for (field, value) in [
        ("SYSLOG_IDENTIFIER", "nacld"),
        ("PRIORITY", "5"),
        ("NACLD_INTERFACE", NEAR),
        ("NACLD_NETNS", &cable.here),
        ("NACLD_EPOCH", "1"),
    ] {
        assert_eq!(attached.get(field).map(String::as_str), Some(value), "{field}: {attached:?}");
    }
    let (out, err) = daemon.ends();
    assert_eq!((out.as_str(), err.as_str()), ("", ""), "said to the journal, and nowhere twice");
}

/// The fields of an entry, in the journal's native protocol: `NAME=value`, or the name, the length and the value.
fn entry(mut bytes: &[u8]) -> BTreeMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut fields = BTreeMap::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        if let Some(at) = line.iter().position(|byte| *byte == b'=') {
            fields.insert(text(&line[..at]), text(&line[at + 1..]));
            bytes = rest;
        } else {
            let (length, rest) = rest.split_first_chunk().unwrap();
            let (value, rest) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
            fields.insert(text(line), text(value));
            bytes = &rest[1..];
        }
    }
    fields
}
