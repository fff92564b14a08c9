//! That the unit's system-call filter leaves a daemon what it needs: the real binary, under the filter that systemd would
//! make of the unit. The other half of its confinement, user and capabilities, is the package's trial and `kernel_access.rs`.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    str::FromStr as _,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};
use support::{
    policies::{CLOSED, lab},
    veth::{Cable, HERE, NEAR, ip, run},
};
use syscalls::Sysno;

/// A machine that builds something else meanwhile is slow.
const PATIENCE: Duration = Duration::from_mins(2);

/// Where metrics are told.
const METRICS: &str = "[::1]:9464";

/// The words of a key of the unit.
fn unit(key: &str) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/nacld.service");
    let text = fs::read_to_string(file).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap();
    value.split_whitespace().map(str::to_owned).collect()
}

/// What systemd understands by a name of the filter: a system call, or a set of such names.
fn expand(name: &str, calls: &mut BTreeSet<String>) {
    if !name.starts_with('@') {
        calls.insert(name.to_owned());
        return;
    }
    // It needs systemd-analyze (Debian: systemd).
    let set = run("systemd-analyze", &["syscall-filter", name]);
    for line in set.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        expand(line, calls);
    }
}

/// The filter without these calls.
fn filter(without: &[&str]) -> BpfProgram {
    let mut names = BTreeSet::new();
    for name in unit("SystemCallFilter") {
        expand(&name, &mut names);
    }
    assert!(names.len() > 200, "{names:?}");
    // Names of other architectures are none here.
    let known =
        names.iter().filter(|name| !without.contains(&name.as_str())).filter_map(|name| Sysno::from_str(name).ok());
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = known.map(|call| (i64::from(call.id()), Vec::new())).collect();
    let families = unit("RestrictAddressFamilies").into_iter().map(|family| {
        let family = match family.as_str() {
            "AF_UNIX" => libc::AF_UNIX,
            "AF_NETLINK" => libc::AF_NETLINK,
            "AF_INET" => libc::AF_INET,
            "AF_INET6" => libc::AF_INET6,
            other => panic!("{other} is not known here"),
        };
        let is = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::try_from(family).unwrap());
        SeccompRule::new(vec![is.unwrap()]).unwrap()
    });
    rules.insert(libc::SYS_socket, families.collect());
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, denied, SeccompAction::Allow, std::env::consts::ARCH.try_into().unwrap());
    filter.unwrap().try_into().unwrap()
}

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        place.write(CLOSED);
        place
    }

    fn write(&self, port: u16) {
        let policy = lab(&format!("[interface.{NEAR}]\nnacl = \"lab\"\n"));
        let policy = policy.replace(&CLOSED.to_string(), &port.to_string());
        fs::write(self.directory.path().join("policy.toml"), policy).unwrap();
    }

    fn err(&self) -> String {
        fs::read_to_string(self.directory.path().join("err")).unwrap()
    }

    /// A daemon inside the namespace, which the filter would not let it enter by itself.
    fn start(&self, cable: &Cable, filter: BpfProgram) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nacld"));
        command.args(["run", "--config", "policy.toml", "--socket", "nacld.sock", "--no-pins", "--wait", "--follow"]);
        command
            .args(["--metrics", METRICS, "--log-format", "json"])
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command.stderr(fs::File::create(self.directory.path().join("err")).unwrap());
        // SAFETY: a system call, on bytes that were made before.
        unsafe { command.pre_exec(move || apply_filter(&filter).map_err(std::io::Error::other)) };
        nacl_daemon::netns::within(Some(&cable.here), || command.spawn().unwrap()).unwrap()
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nacld"));
        command.args(arguments).args(["--socket", "nacld.sock"]).current_dir(self.directory.path());
        command.output().unwrap()
    }

    fn until(&self, what: &str, is: impl Fn() -> bool) {
        let start = Instant::now();
        while !is() {
            assert!(start.elapsed() < PATIENCE, "never: {what}: {}", self.err());
            sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn the_unit_s_filter_leaves_a_daemon_what_it_needs() {
    let cable = Cable::new();
    cable.acquaint();
    ip(&["-n", &cable.here, "link", "set", "lo", "up"]);
    let place = Place::new();
    let mut child = place.start(&cable, filter(&[]));
    place.until("ready", || place.ask(&["status"]).status.success());
    assert_eq!((cable.inbound(CLOSED, 1), cable.inbound(CLOSED + 1, 1)), (0, 1));
    // Metrics on this machine's own address of IPv6.
    let mut metrics = nacl_daemon::netns::within(Some(&cable.here), || TcpStream::connect(METRICS)).unwrap().unwrap();
    metrics.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    metrics.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("nacld_rule_packets_total{"), "{answer}");
    for verb in [
        &["rules"][..],
        &["conntrack", "list"],
        &["mode", NEAR, "stateful"],
        &["reload", "--confirm", "60s"],
        &["rollback"],
    ] {
        let output = place.ask(verb);
        assert!(output.status.success(), "{verb:?}: {}{}", String::from_utf8_lossy(&output.stderr), place.err());
    }
    // A file that changes, and an interface that goes and comes: what is followed needs calls of its own.
    place.write(CLOSED + 1);
    place.until("the file is followed", || place.err().matches("\"message\":\"reloaded\"").count() >= 2);
    assert_eq!((cable.inbound(CLOSED, 1), cable.inbound(CLOSED + 1, 1)), (1, 0));
    ip(&["-n", &cable.here, "link", "del", NEAR]);
    place.until("it went", || place.err().contains("it went, and is waited for"));
    ip(&["-n", &cable.here, "link", "add", NEAR, "type", "veth", "peer", "name", "far2", "netns", &cable.there]);
    ip(&["-n", &cable.here, "address", "add", &format!("{HERE}/24"), "dev", NEAR]);
    ip(&["-n", &cable.here, "link", "set", NEAR, "up"]);
    place.until("it came", || place.err().contains("it came, and is enforced"));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success(), "{}", place.err());
}

#[test]
fn a_filter_that_is_too_tight_is_noticed() {
    let cable = Cable::new();
    let place = Place::new();
    let mut child = place.start(&cable, filter(&["bpf"]));
    assert!(!child.wait().unwrap().success(), "so the filter of the other test is none");
    assert!(place.err().contains("nacld failed"), "{}", place.err());
}
