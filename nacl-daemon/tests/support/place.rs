//! A running nacld as a person starts it: the real binary, its policy file, its socket, and what it costs. No policy and no
//! namespace here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Mutex, Once, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use nacl_daemon::{
    lab::net,
    observe::{BrokenReturn, Status},
    service::{
        api::{Reloaded, Rules},
        client::{Client, ClientError},
    },
};
use nix::{
    mount::{MntFlags, umount2},
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde::Serialize;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use super::veth::run;

/// How long something may take that is to happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A place with a policy file and a socket, and what is run there.
pub struct Place {
    pub directory: tempfile::TempDir,
}

/// What is there of places, for whoever must leave at once.
static ALL: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// From now on Ctrl-C and SIGTERM leave nothing behind: no namespace, no daemon, no mount.
pub fn clean_up_on_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let last = || {
            for directory in &*ALL.lock().unwrap_or_else(PoisonError::into_inner) {
                let _ = umount2(&directory.join("state/bpf"), MntFlags::MNT_DETACH);
                let _ = fs::remove_dir_all(directory);
            }
        };
        net::sweep();
        net::clean_up_on_signals(last).unwrap();
    });
}

/// In memory, as /run is on a system: what is written down with every change waits for no disk there.
fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.unwrap()
}

impl Place {
    pub fn new(policy: &str) -> Self {
        let place = Self { directory: directory() };
        ALL.lock().unwrap_or_else(PoisonError::into_inner).insert(place.directory.path().to_owned());
        place.write(policy);
        place
    }

    /// Puts another policy into the file, as an editor does: whoever reads it sees the old one or the new one.
    pub fn write(&self, policy: &str) {
        let (new, file) = (self.directory.path().join("policy.new"), self.policy());
        fs::write(&new, policy).unwrap();
        fs::rename(new, file).unwrap();
    }

    pub fn policy(&self) -> PathBuf {
        self.directory.path().join("policy.toml")
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("run").join("nacld.sock")
    }

    /// Where it pins. A directory of its own, which must go with what is mounted there.
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nacld"));
        command.args(arguments).env("NACLD_SOCKET", self.socket()).current_dir(self.directory.path());
        command.env("NACLD_STATE", self.state());
        command.stdin(Stdio::null());
        // It does not outlive the thread that runs the test, however that ends.
        // SAFETY: a system call, which is all that may happen there.
        unsafe {
            command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?));
        }
        command
    }

    /// A daemon that sees mounts of its own, which end with it. `mounts`: a shell's commands that lay them.
    pub fn run_among(&self, mounts: &str) -> Command {
        let nacld = self.command(&["run", "--config", "policy.toml"]);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", &format!("{mounts}\nexec \"$0\" \"$@\"")]);
        command.arg(nacld.get_program()).args(nacld.get_args());
        command.envs(nacld.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    /// Runs a verb to its end.
    pub fn nacld(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a verb that must succeed, and returns what it prints.
    pub fn ask(&self, arguments: &[&str]) -> String {
        let output = self.nacld(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs a daemon that must not come up, and returns what it says. It ends by itself where it does come up.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.nacld(&[&["run", "--config", "policy.toml"], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{}{}", text(&output.stdout), text(&output.stderr));
        assert!(!self.socket().exists(), "a socket was left");
        text(&output.stderr)
    }

    /// Starts a daemon and waits until it is ready.
    pub fn start(&self, arguments: &[&str]) -> Daemon<'_> {
        self.start_by(self.command(&[&["run", "--config", "policy.toml"], arguments].concat()))
    }

    /// As [`Self::start`], by a command of one's own.
    pub fn start_by(&self, command: Command) -> Daemon<'_> {
        let mut daemon = self.spawn(command);
        daemon.ready();
        daemon
    }

    /// Starts a daemon, and waits for nothing.
    pub fn spawn(&self, mut command: Command) -> Daemon<'_> {
        let out = self.directory.path().join("out");
        let err = self.directory.path().join("err");
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        Daemon { child: command.spawn().unwrap(), place: self }
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.ask(&["status", "--json"])).unwrap()
    }

    /// Nothing is pinned, written down or mounted.
    pub fn keeps_nothing(&self) {
        assert!(!self.state().exists(), "{:?}", run("find", &[self.state().to_str().unwrap()]));
    }

    pub fn hits(&self, direction: usize, rule: &Value) -> u64 {
        let rules: Value = serde_json::from_str(&self.ask(&["rules", "--json"])).unwrap();
        assert_eq!(rules["schema"], 1);
        let rows = rules["interfaces"][0]["lists"][direction]["rules"].as_array().unwrap();
        rows.iter().find(|row| row["rule"] == *rule).unwrap()["hits"]["packets"].as_u64().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = umount2(&self.state().join("bpf"), MntFlags::MNT_DETACH);
        ALL.lock().unwrap_or_else(PoisonError::into_inner).remove(self.directory.path());
    }
}

/// A daemon that was started. It is killed when dropped.
pub struct Daemon<'p> {
    pub child: Child,
    place: &'p Place,
}

impl Daemon<'_> {
    /// Waits until it is ready.
    pub fn ready(&mut self) {
        let start = Instant::now();
        while !self.out().contains("ready: ") {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{status}: {}", self.err());
            }
            // A machine that has other things to do takes its time for a start: this is for one that hangs.
            assert!(start.elapsed() < 6 * PATIENCE, "not ready: {}{}{}", self.out(), self.err(), self.waits());
            sleep(Duration::from_millis(5));
        }
    }

    /// What each of its threads waits for.
    fn waits(&self) -> String {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten();
        let stacks = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stack")).ok());
        let stacks: Vec<_> = stacks.map(|stack| format!("\na thread:\n{stack}")).collect();
        stacks.concat()
    }

    pub fn out(&self) -> String {
        fs::read_to_string(self.place.directory.path().join("out")).unwrap()
    }

    pub fn err(&self) -> String {
        fs::read_to_string(self.place.directory.path().join("err")).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "does not end: {}{}", self.out(), self.err());
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the daemon has printed something.
    pub fn says(&self, what: &str) {
        let start = Instant::now();
        while !(self.out().contains(what) || self.err().contains(what)) {
            assert!(start.elapsed() < PATIENCE, "never says {what:?}: {}{}", self.out(), self.err());
            sleep(Duration::from_millis(20));
        }
    }

    /// After a daemon that was killed, whose directory for the socket is not this one's to remove.
    pub fn ends(mut self, signal: Signal) {
        self.signal(signal);
        assert_eq!(self.wait().code(), Some(0), "{}", self.err());
        assert!(!self.place.socket().exists(), "the socket is still there");
    }

    pub fn killed(mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }

    pub fn ends_well(mut self, signal: Signal) {
        self.signal(signal);
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{status}: {}", self.err());
        assert!(!self.place.socket().exists(), "the socket is still there");
        assert!(!self.place.directory.path().join("run").exists(), "its directory is still there");
    }
}

/// What a process holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Holds {
    /// KiB of its memory that are in the machine's.
    pub resident: u64,
    /// KiB of that which are no file's: its heap and stacks.
    pub anonymous: u64,
    /// File descriptors.
    pub descriptors: usize,
    /// Kernel ids of the maps it has descriptors of.
    pub maps: BTreeSet<u32>,
    /// Likewise, of programs.
    pub programs: BTreeSet<u32>,
    /// Likewise, of links.
    pub links: BTreeSet<u32>,
}

impl Holds {
    /// Of a process.
    pub fn of(pid: u32) -> Self {
        let mut holds = Self::default();
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("its memory");
        let kib = |key: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(key)).expect("a line of its memory");
            line.trim_end_matches("kB").trim().parse().expect("KiB")
        };
        holds.resident = kib("Rss:");
        holds.anonymous = kib("Anonymous:");
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("its descriptors") {
            // It may be closed meanwhile.
            let Ok(text) = fs::read_to_string(entry.expect("an entry").path()) else { continue };
            holds.descriptors += 1;
            let id = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
            // A link tells of its program too.
            if let Some(link) = id("link_id:") {
                holds.links.insert(link);
            } else if let Some(program) = id("prog_id:") {
                holds.programs.insert(program);
            } else if let Some(map) = id("map_id:") {
                holds.maps.insert(map);
            }
        }
        holds
    }
}

/// A running daemon's API, asked without a process for each question.
pub struct Api {
    client: Client,
    runtime: Runtime,
}

impl Api {
    pub fn new(place: &Place) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { client: Client::new(&place.socket()), runtime }
    }

    pub fn status(&self) -> Result<Status, ClientError> {
        self.runtime.block_on(self.client.status())
    }

    pub fn rules(&self) -> Result<Rules, ClientError> {
        self.runtime.block_on(self.client.rules(None))
    }

    pub fn reload(&self) -> Result<Reloaded, ClientError> {
        self.runtime.block_on(self.client.reload(false, None))
    }

    pub fn broken(&self) -> Result<Vec<BrokenReturn>, ClientError> {
        Ok(self.runtime.block_on(self.client.broken(None))?.broken)
    }

    /// The epoch in force on each interface.
    pub fn epochs(&self) -> Result<BTreeMap<String, u32>, ClientError> {
        let modes = self.runtime.block_on(self.client.modes(None))?;
        Ok(modes.interfaces.into_iter().map(|one| (one.interface, one.epoch)).collect())
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
