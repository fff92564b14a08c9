//! Who may do what, with real users: whoever may open the socket may look and only root may change, whichever way it is
//! asked; and a daemon that is not root enforces with three capabilities and nothing more. Everything runs in namespaces of
//! its own.

mod support;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::PathBuf,
    process::{Command, Output},
    thread,
};

use hyper::{Method, StatusCode};
use nacl_daemon::service::{
    api::ENDPOINTS,
    client::{Client, ClientError},
};
use nix::{
    mount::{MsFlags, mount},
    sys::signal::Signal,
};
use serde_json::Value;
use support::{
    place::{Daemon, Place, text},
    policies::{CLOSED, OPEN, lab},
    veth::{Cable, HERE, NEAR, ip},
};

/// A user without privileges, and two groups: nobody's numbers on any machine.
const USER: u32 = 61_003;
const MEMBERS: u32 = 61_004;
const OTHERS: u32 = 61_005;
/// The capabilities a daemon needs, as setpriv writes them and as bits.
const THREE: &str = "-all,+net_admin,+perfmon,+bpf";
const BITS: u64 = 1 << 12 | 1 << 38 | 1 << 39;

/// By its device alone: the daemon runs where it is.
fn policy() -> String {
    lab(&format!("[interface.{NEAR}]\nnacl = \"lab\"\n"))
}

/// A place whose files others can reach too, on one end of a cable.
struct Site {
    place: Place,
    cable: Cable,
}

impl Site {
    fn new() -> Self {
        let (place, cable) = (Place::new(&policy()), Cable::new());
        cable.acquaint();
        let site = Self { place, cable };
        fs::set_permissions(site.place.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // Where the build stands need not be open to others.
        fs::copy(env!("CARGO_BIN_EXE_nacld"), site.binary()).unwrap();
        site
    }

    fn binary(&self) -> PathBuf {
        self.place.directory.path().join("nacld")
    }

    /// nacld in the namespace, by way of setpriv with these options.
    fn command(&self, privileges: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.cable.here, "setpriv"]).args(privileges).arg("--").arg(self.binary());
        command.args(arguments).env("NACLD_SOCKET", self.place.socket()).env("NACLD_STATE", self.place.state());
        command.current_dir(self.place.directory.path());
        command
    }

    /// A verb as a user without privileges, in one group.
    fn verb(&self, group: u32, arguments: &[&str]) -> Output {
        let (user, group) = (format!("--reuid={USER}"), format!("--regid={group}"));
        self.command(&[&user, &group, "--clear-groups"], arguments).output().unwrap()
    }

    fn start(&self, privileges: &[&str], arguments: &[&str]) -> Daemon<'_> {
        let run = [&["run", "--config", "policy.toml"], arguments].concat();
        self.place.start_by(self.command(privileges, &run))
    }
}

/// Sends a request as that user, and returns what came of it.
fn asked(site: &Site, group: u32, method: &Method, uri: &str) -> Result<(StatusCode, Option<Value>), ClientError> {
    let (socket, method, uri) = (site.place.socket(), method.clone(), uri.to_owned());
    let ask = move || {
        // Of this thread alone, which ends with it: libc's own calls would change the whole process.
        // SAFETY: system calls that take numbers only.
        unsafe {
            assert_eq!(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()), 0);
            assert_eq!(libc::syscall(libc::SYS_setresgid, group, group, group), 0);
            assert_eq!(libc::syscall(libc::SYS_setresuid, USER, USER, USER), 0);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let response = Client::new(&socket).send(method, &uri).await?;
            let status = response.status();
            if status.is_success() {
                // A stream would not end.
                return Ok((status, None));
            }
            let body = http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes();
            Ok((status, Some(serde_json::from_slice(&body).unwrap())))
        })
    };
    thread::spawn(ask).join().unwrap()
}

/// The verb that asks an endpoint; none where no verb does.
fn verb_of(method: &Method, path: &str) -> Option<&'static [&'static str]> {
    Some(match (method.as_str(), path) {
        ("GET", "/v1/status") => &["status"],
        ("GET", "/v1/rules") => &["rules", NEAR],
        ("GET", "/v1/modes") => &["mode"],
        ("GET", "/v1/interfaces/{name}/mode") => &["mode", NEAR],
        ("POST", "/v1/interfaces/{name}/mode") => &["mode", NEAR, "stateful"],
        ("GET", "/v1/conntrack") => &["conntrack", "list"],
        ("GET", "/v1/conntrack/stats") => &["conntrack", "stats"],
        ("POST", "/v1/conntrack/flush") => &["conntrack", "flush", "--all"],
        ("POST", "/v1/reload") => &["reload"],
        ("POST", "/v1/confirm") => &["confirm"],
        ("POST", "/v1/rollback") => &["rollback"],
        ("POST", "/v1/detach") => &["detach", NEAR],
        ("POST", "/v1/stop") => &["detach", "--all"],
        ("GET", "/v1/flows") => &["flows", "--json"],
        // `status` shows the second too.
        ("GET", "/v1" | "/v1/broken" | "/v1/events" | "/v1/interfaces" | "/v1/metrics") => return None,
        other => panic!("no verb is known for {other:?}: say here which asks it, or that none does"),
    })
}

#[test]
fn only_root_changes_and_only_members_look() {
    let site = Site::new();
    let members = MEMBERS.to_string();
    let daemon = site.start(&[], &["--socket-group", &members]);
    let status = || -> Value { serde_json::from_str(&site.place.ask(&["status", "--json"])).unwrap() };
    let before = status();
    assert_eq!(site.cable.inbound(CLOSED, 1), 0);
    let mut changing = 0;
    for endpoint in ENDPOINTS {
        let (method, path) = (&endpoint.method, endpoint.path.replace("{name}", NEAR));
        let verb = verb_of(method, endpoint.path);
        // Who is not in the group cannot even open it.
        let error = asked(&site, OTHERS, method, &path).unwrap_err();
        assert!(matches!(error, ClientError::NotAllowed(_)), "{path}: {error}");
        assert!(error.hint().unwrap().contains("member of the socket file's group"));
        if let Some(verb) = verb {
            let said = site.verb(OTHERS, verb);
            assert_eq!(said.status.code(), Some(1), "{verb:?}: {}", text(&said.stdout));
        }
        let (code, problem) = asked(&site, MEMBERS, method, &path).unwrap();
        if *method == Method::GET {
            assert_eq!((code, problem), (StatusCode::OK, None), "{path}");
            if let Some(verb) = verb {
                let said = site.verb(MEMBERS, verb);
                assert!(said.status.success() && !said.stdout.is_empty(), "{verb:?}: {}", text(&said.stderr));
            }
            continue;
        }
        changing += 1;
        let problem = problem.unwrap_or_default();
        assert_eq!(code, StatusCode::FORBIDDEN, "{path}: {problem}");
        let error = problem["error"].as_str().unwrap();
        assert_eq!(error, format!("{path} changes what is enforced: that is for root, and you are user {USER}"));
        assert!(problem["hint"].as_str().unwrap().contains("sudo"), "{problem}");
        let verb = verb.unwrap_or_else(|| panic!("{path} changes something, and no verb does it"));
        let said = site.verb(MEMBERS, verb);
        assert_eq!(said.status.code(), Some(1), "{verb:?}: {}", text(&said.stdout));
        let said = text(&said.stderr);
        assert!(said.contains("changes what is enforced") && said.matches("hint").count() == 1, "{verb:?}: {said}");
    }
    assert!(changing >= 5, "{changing}");
    let after = status();
    for field in ["pid", "policy", "last_reload"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    assert_eq!(before["interfaces"][0]["mode"], after["interfaces"][0]["mode"]);
    assert_eq!((site.cable.inbound(CLOSED, 1), site.cable.inbound(OPEN, 1)), (0, 1), "it goes on as before");
    // The control: root may.
    site.place.ask(&["mode", NEAR, "stateful"]);
    site.place.ask(&["reload"]);
    drop(daemon);
}

#[test]
fn three_capabilities_are_enough() {
    let site = Site::new();
    chown(site.place.directory.path(), Some(USER), Some(MEMBERS)).unwrap();
    let (user, group) = (format!("--reuid={USER}"), format!("--regid={MEMBERS}"));
    let caps = [format!("--inh-caps={THREE}"), format!("--ambient-caps={THREE}"), format!("--bounding-set={THREE}")];
    let privileges = [&user, &group, "--clear-groups", "--no-new-privs", &caps[0], &caps[1], &caps[2]];
    // Mounting needs more: that is said, and done for it beforehand, as the unit does.
    let run = ["run", "--config", "policy.toml"];
    let refused = site.command(&privileges, &run).output().unwrap();
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("CAP_SYS_ADMIN") && said.contains("mount -t bpf"), "{said}");
    let bpf = site.place.state().join("bpf");
    fs::create_dir_all(&bpf).unwrap();
    chown(site.place.state(), Some(USER), Some(MEMBERS)).unwrap();
    mount(Some("nacld"), &bpf, Some("bpf"), MsFlags::MS_NOSUID, Some("mode=0700")).unwrap();
    chown(&bpf, Some(USER), Some(MEMBERS)).unwrap();
    let mut daemon = site.start(&privileges, &[]);
    let of = fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap();
    let field = |name: &str| of.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(u64::from_str_radix(field(set), 16), Ok(BITS), "{set}");
    }
    assert!(field("Uid:").starts_with(&USER.to_string()), "{of}");
    assert_eq!((site.cable.inbound(CLOSED, 2), site.cable.inbound(OPEN, 2), site.cable.outbound(OPEN, 1)), (0, 2, 1));
    // Whom it runs as may look and change, without a capability of its own.
    let ask = |arguments: &[&str]| {
        let said = site.verb(MEMBERS, arguments);
        assert!(said.status.success(), "{arguments:?}: {}", text(&said.stderr));
        text(&said.stdout)
    };
    assert!(ask(&["status"]).contains("XDP, native"), "{}", daemon.out());
    let rules: Value = serde_json::from_str(&ask(&["rules", "--json"])).unwrap();
    assert_eq!(rules["interfaces"][0]["lists"][0]["rules"][0]["hits"]["packets"], 2);
    ask(&["mode", NEAR, "stateful"]);
    assert_eq!(site.cable.inbound(OPEN, 1), 1);
    assert!(ask(&["conntrack", "list"]).contains(&HERE.to_string()));
    assert!(ask(&["conntrack", "stats"]).contains("entries"));
    ask(&["conntrack", "flush", "--all"]);
    site.place.write(&policy().replace("4001", "4003"));
    ask(&["reload"]);
    assert_eq!((site.cable.inbound(CLOSED, 1), site.cable.inbound(OPEN, 1)), (1, 0));
    ask(&["reload", "--confirm", "600s"]);
    ask(&["rollback"]);
    // A second one on the same interface is told of the first.
    let mut second = site.command(&privileges, &run);
    second.env("NACLD_SOCKET", site.place.directory.path().join("run2").join("nacld.sock"));
    let second = second.output().unwrap();
    let said = text(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("process {}", daemon.child.id())), "{said}");
    // Killed, what it enforces stays, and the next one takes it over.
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    assert_eq!(site.cable.inbound(OPEN, 1), 0);
    let mut daemon = site.start(&privileges, &[]);
    assert!(daemon.out().contains("taken over"), "{}", daemon.out());
    // Root may change too.
    site.place.ask(&["reload"]);
    ask(&["detach", NEAR]);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.err());
    assert_eq!(site.cable.inbound(OPEN, 1), 1, "nothing is left");
    let link = ip(&["-n", &site.cable.here, "-d", "link", "show", "dev", NEAR]);
    assert!(!link.contains("xdp"), "{link}");
    // Another namespace is what three are not enough for.
    site.place.write(&format!("{}netns = \"{}\"\n", policy(), site.cable.here));
    let refused = site.command(&privileges, &run).output().unwrap();
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("CAP_SYS_ADMIN") && said.contains("enter"), "{said}");
    // And two are not enough for anything.
    site.place.write(&policy());
    for (name, missing) in [("bpf", "CAP_BPF"), ("net_admin", "CAP_NET_ADMIN"), ("perfmon", "CAP_PERFMON")] {
        let two = THREE.replace(&format!(",+{name}"), "");
        let caps = [format!("--inh-caps={two}"), format!("--ambient-caps={two}"), format!("--bounding-set={two}")];
        let refused = site.command(&[&user, &group, "--clear-groups", &caps[0], &caps[1], &caps[2]], &run);
        let refused = { refused }.output().unwrap();
        let said = text(&refused.stderr);
        assert!(refused.status.code() == Some(1) && said.contains(missing), "{said}");
        assert!(said.matches("CAP_").count() == said.matches(missing).count(), "{said}");
    }
}
