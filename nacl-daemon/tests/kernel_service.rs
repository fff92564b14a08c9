//! `nacld run` and the verbs that talk to it, as a person types them: the real binary, real programs on real
//! interfaces, real packets, in namespaces of their own. And that nothing of it stays behind.

mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use nacl_daemon::{dataplane::detach_leftovers, netns};
use nix::sys::signal::Signal;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use support::{
    place::{PATIENCE, Place, text},
    policies::{CLOSED, OPEN, lab, near},
    veth::{Cable, FAR, HERE, NEAR, THERE, ip, run},
};

const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(10);

/// Nothing of nacld is on either end of the cable.
fn clean(cable: &Cable) {
    for (netns, interface) in [(&cable.here, NEAR), (&cable.there, FAR)] {
        let target = nacl_daemon::dataplane::Target { name: interface.into(), netns: Some(netns.clone()) };
        assert_eq!(detach_leftovers(&target, None).unwrap(), Vec::<String>::new());
        let link = ip(&["-n", netns, "-d", "link", "show", "dev", interface]);
        assert!(!link.contains("xdp"), "{link}");
        let qdiscs = run("ip", &["netns", "exec", netns, "tc", "qdisc", "show", "dev", interface]);
        assert!(!qdiscs.contains("clsact"), "{qdiscs}");
    }
    assert_eq!(cable.inbound(CLOSED, 1), 1, "the control: with nothing attached it passes");
}

#[test]
fn enforces_counts_tells_and_leaves_nothing_behind() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let cable = Cable::new();
        cable.acquaint();
        let place = Place::new(&lab(&near(&cable)));
        let daemon = place.start(&["--watch"]);
        assert!(daemon.out().contains("ingress      XDP, native"), "{}", daemon.out());
        assert_eq!((cable.inbound(CLOSED, 3), cable.inbound(OPEN, 2), cable.outbound(CLOSED, 1)), (0, 2, 1));
        assert_eq!((place.hits(0, &50.into()), place.hits(0, &100.into())), (3, 2));
        assert_eq!((place.hits(1, &100.into()), place.hits(1, &"*".into())), (1, 0));
        let line = format!("{THERE}:");
        daemon.says(&line);
        daemon.says("lab rule 50, line 4");
        let rules = place.ask(&["rules", NEAR]);
        assert!(rules.contains("│ 50 ") && rules.contains("nacl-rule"), "{rules}");
        let status = place.ask(&["status"]);
        assert!(status.contains("2 allowed, 3 denied") || status.contains("3 allowed, 3 denied"), "{status}");
        daemon.ends_well(signal);
        clean(&cable);
    }
}

#[test]
fn all_or_nothing() {
    let cable = Cable::new();
    cable.acquaint();
    // "zz" comes last, so the first interface is attached before the second fails.
    ip(&["-n", &cable.here, "link", "add", "zz", "type", "bridge"]);
    let other = format!("[interface.zz]\nnetns = \"{}\"\nnacl = \"lab\"\nxdp = \"native\"\n", cable.here);
    let place = Place::new(&lab(&(near(&cable) + &other)));
    let error = place.refused(&[]);
    assert!(error.contains("cannot attach to zz") && error.contains("no native XDP"), "{error}");
    clean(&cable);
}

#[test]
fn two_interfaces_one_of_them_in_another_namespace() {
    let cable = Cable::new();
    cable.acquaint();
    let far = format!("[interface.{FAR}]\nnetns = \"{}\"\nnacl = \"lab\"\nxdp = \"tc\"\n", cable.there);
    let place = Place::new(&lab(&format!("[interface.{NEAR}]\nnacl = \"lab\"\n{far}")));
    let inside = place.command(&["run", "--config", "policy.toml"]);
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &cable.here]).arg(inside.get_program()).args(inside.get_args());
    command.env("NACLD_SOCKET", place.socket()).current_dir(place.directory.path());
    let daemon = place.start_by(command);
    assert!(daemon.out().contains("enforcing on 2 interfaces"), "{}", daemon.out());
    assert_eq!((cable.inbound(CLOSED, 2), cable.outbound(CLOSED, 3)), (0, 0));
    let rules: Value = serde_json::from_str(&place.ask(&["rules", "--json"])).unwrap();
    let denied = |at: usize| &rules["interfaces"][at]["lists"][0]["rules"][0]["hits"]["packets"];
    // By name: far, then near.
    assert_eq!((denied(0), denied(1)), (&3.into(), &2.into()), "each has counters of its own");
    assert_eq!(rules["interfaces"][0]["netns"], cable.there.as_str());
    assert_eq!(rules["interfaces"][1]["netns"], Value::Null);
    // One is let go by hand, the other goes on.
    let said = place.ask(&["detach", FAR, "--netns", &cable.there]);
    assert!(said.contains("detached by the nacld with pid"), "{said}");
    assert_eq!((cable.inbound(CLOSED, 1), cable.outbound(CLOSED, 1)), (0, 1));
    daemon.ends_well(Signal::SIGTERM);
    clean(&cable);
}

#[test]
fn a_reload_switches_or_changes_nothing() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&lab(&near(&cable)));
    let daemon = place.start(&[]);
    assert_eq!((cable.inbound(CLOSED, 2), cable.inbound(OPEN, 3)), (0, 3));
    // An invalid file: said on both sides, and nothing changes.
    place.write(&lab(&near(&cable)).replace("rule = 50", "rule = 100"));
    let output = place.nacld(&["reload"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("policy.toml:5"), "{}", text(&output.stderr));
    daemon.says("not reloaded");
    let status = place.ask(&["status"]);
    assert!(status.contains("the policy before it is in force") && status.contains("policy.toml:5"), "{status}");
    assert_eq!(cable.inbound(CLOSED, 1), 0);
    // A valid one, by signal: the rule moves to another port, its number stays.
    place.write(&lab(&near(&cable)).replace(&CLOSED.to_string(), &OPEN.to_string()));
    daemon.signal(Signal::SIGHUP);
    daemon.says("reloaded: switched near");
    assert_eq!((cable.inbound(CLOSED, 1), cable.inbound(OPEN, 1)), (1, 0));
    assert_eq!(place.hits(0, &50.into()), 1, "a rule that changed starts from zero");
    assert_eq!(place.hits(0, &100.into()), 4, "a rule that stayed keeps its hits");
    daemon.ends_well(Signal::SIGTERM);
    clean(&cable);
}

#[test]
fn a_lifetime_ends_by_itself() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&lab(&near(&cable)));
    let mut daemon = place.start(&["--for", "1s"]);
    assert_eq!(cable.inbound(CLOSED, 1), 0);
    assert_eq!(daemon.wait().code(), Some(0));
    daemon.says("time is over: detached");
    clean(&cable);
}

/// An open TCP connection from `there` to a port `here`, both ends.
fn connect(cable: &Cable, port: u16) -> (TcpStream, TcpStream, TcpListener) {
    let listener = netns::within(Some(&cable.here), || TcpListener::bind((HERE, port)).unwrap()).unwrap();
    let client = netns::within(Some(&cable.there), || TcpStream::connect((HERE, port)).unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    (client, server, listener)
}

/// Whether what the server says arrives, and what the client answers.
fn lives((client, server, _): &(TcpStream, TcpStream, TcpListener), patience: Duration) -> bool {
    let mut buffer = [0; 16];
    for (mut from, mut to) in [(server, client), (client, server)] {
        to.set_read_timeout(Some(patience)).unwrap();
        from.write_all(b"!").unwrap();
        if !to.read(&mut buffer).is_ok_and(|read| read > 0) {
            return false;
        }
    }
    true
}

#[test]
fn nobody_is_locked_out() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&lab(&near(&cable)));
    let ssh = connect(&cable, 22);
    let client = ssh.0.local_addr().unwrap();
    let error = place.refused(&[]);
    assert!(error.contains("near (netns ") && error.contains("carries an SSH connection"), "{error}");
    assert!(error.contains(&format!("{client} connected to {HERE}:22: this policy lets it live")), "{error}");
    assert!(error.contains("--for 60s") && error.contains("--force"), "{error}");
    clean(&cable);
    // A policy that would cut it says by which rule.
    let closed = lab(&near(&cable)).replace("protocol = \"all\", destination", "protocol = \"udp\", destination");
    place.write(&closed);
    let error = place.refused(&[]);
    assert!(error.contains("WOULD CUT IT: its replies are denied; no outbound rule"), "{error}");
    assert!(lives(&ssh, LONG));
    // On purpose, and for a while: what is cut mends itself.
    let mut daemon = place.start(&["--for", "3s"]);
    assert!(!lives(&ssh, SHORT));
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(lives(&ssh, LONG), "the connection recovers");
    // By force.
    let daemon = place.start(&["--force"]);
    daemon.ends_well(Signal::SIGINT);
    clean(&cable);
}

#[test]
fn check_says_whom_a_policy_would_lock_out() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&lab(&near(&cable)));
    let check = |more: &[&str]| {
        let output = place.nacld(&[&["check", "policy.toml", "--here"], more].concat());
        (output.status.code(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
    };
    let (code, said) = check(&["--deny", "warnings"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("near (netns {}): nobody is connected by SSH\n", cable.here)), "{said}");
    let ssh = connect(&cable, 22);
    let client = ssh.0.local_addr().unwrap();
    let (code, said) = check(&["--deny", "warnings"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("note: near") && said.contains("this policy lets it live"), "{said}");
    // The rule and its line; a warning.
    let denied = format!("{{ rule = 90, action = \"deny\", protocol = \"tcp\", ports = {}, destination", client.port());
    let closed =
        lab(&near(&cable)).replace("outbound = [\n", &format!("outbound = [\n  {denied} = \"{THERE}/32\" }},\n"));
    place.write(&closed);
    let line = closed.lines().position(|line| line.contains("rule = 90")).unwrap() + 1;
    let (code, said) = check(&["--deny", "warnings"]);
    assert_eq!(code, Some(4), "{said}");
    let told = format!(
        "warning: near (netns {}): {client} connected to {HERE}:22: this policy WOULD CUT IT: its replies are denied; \
         outbound rule 90 of network ACL \"lab\", line {line}\n",
        cable.here
    );
    assert!(said.contains(&told), "{said}");
    assert_eq!(check(&[]).0, Some(0), "warnings are allowed");
    let (_, said) = check(&["--json"]);
    let json: Value = serde_json::from_str(&said).unwrap();
    let cut = &json["files"][0]["here"][0]["connections"][0]["cut"];
    let expected = serde_json::json!({
        "request": false, "direction": "outbound", "layer": "nacl", "name": "lab", "rule": 90, "line": line
    });
    assert_eq!(*cut, expected);
    // And it speaks true.
    assert!(lives(&ssh, LONG));
    let daemon = place.start(&["--force"]);
    assert!(!lives(&ssh, SHORT));
    daemon.ends_well(Signal::SIGTERM);
    clean(&cable);
}

/// A process that is called as OpenSSH's server and holds a socket as it does.
fn sshd(directory: &std::path::Path, listener: &TcpListener) -> Child {
    let program = directory.join("sshd");
    let sleep = ["/usr/bin/sleep", "/bin/sleep"].into_iter().find(|path| fs::exists(path).unwrap()).unwrap();
    fs::copy(sleep, &program).unwrap();
    let descriptor = listener.as_raw_fd();
    let mut command = Command::new(program);
    command.arg0("sleep").arg("120").stdin(Stdio::null());
    // SAFETY: a system call on a descriptor that is open, and nothing else.
    unsafe {
        command.pre_exec(move || match libc::fcntl(descriptor, libc::F_SETFD, 0) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    command.spawn().unwrap()
}

/// sudo takes SSH_CONNECTION away, and a service has no environment at all: what is found must be found without.
#[test]
fn the_operator_is_found_without_an_environment_and_without_privilege() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&lab(&format!("[interface.{NEAR}]\nnacl = \"lab\"\n")));
    let directory = place.directory.path();
    let ssh = connect(&cable, 2223);
    let told = format!("{} connected to {HERE}:2223", ssh.0.local_addr().unwrap());
    let bare = format!("env -i PATH={}", std::env::var("PATH").unwrap());
    let socket = place.socket();
    let run =
        format!("{} run --config policy.toml --no-pins --socket {}", env!("CARGO_BIN_EXE_nacld"), socket.display());
    // A daemon that comes up after all is ended, and is no refusal.
    let refused = |script: &str| {
        let output = Command::new("timeout").args(["20", "sh", "-ec", script]).current_dir(directory).output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{}{error}", text(&output.stdout));
        assert!(error.contains(&told), "{error}");
    };
    // Nobody of that name and no configuration: an ordinary service.
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &cable.here, "sh", "-ec", &format!("exec {bare} {run}")]).current_dir(directory);
    place.start_by(command).ends_well(Signal::SIGTERM);
    // By the name of who listens, which root may see.
    let mut server = sshd(directory, &ssh.2);
    refused(&format!("exec ip netns exec {} {bare} {run}", cable.here));
    server.kill().unwrap();
    server.wait().unwrap();
    // A service with the three capabilities may not look into other processes: the server's configuration tells.
    fs::create_dir(directory.join("ssh")).unwrap();
    fs::write(directory.join("ssh/sshd_config"), "Port 2223\n").unwrap();
    let three = "setpriv --bounding-set=-all,+bpf,+net_admin,+perfmon --inh-caps=-all,+bpf,+net_admin,+perfmon";
    let inside = format!("mount --bind ssh /etc/ssh && exec ip netns exec {} {three} {bare} {run}", cable.here);
    refused(&format!("exec unshare --mount sh -ec '{inside}'"));
    clean(&cable);
}

#[test]
fn a_reload_does_not_lock_out_either() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&lab(&near(&cable)));
    let daemon = place.start(&[]);
    let ssh = connect(&cable, 22);
    place.write(&lab(&near(&cable)).replace("protocol = \"all\", source", "protocol = \"udp\", source"));
    let output = place.nacld(&["reload"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("would cut an SSH connection"), "{}", text(&output.stderr));
    assert!(lives(&ssh, LONG));
    place.ask(&["reload", "--force"]);
    assert!(!lives(&ssh, SHORT));
    daemon.ends_well(Signal::SIGTERM);
}

#[test]
fn an_ssh_server_on_another_port_is_found_by_its_name() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&lab(&near(&cable)));
    let _connection = connect(&cable, 2222);
    // Nobody of that name: an ordinary service.
    place.start(&[]).ends_well(Signal::SIGTERM);
    let name = fs::read_to_string("/proc/self/comm").unwrap();
    fs::write("/proc/self/comm", "sshd").unwrap();
    let error = place.refused(&[]);
    fs::write("/proc/self/comm", name.trim()).unwrap();
    assert!(error.contains(&format!("connected to {HERE}:2222")), "{error}");
}

#[test]
fn bad_input_gets_one_clear_error_and_changes_nothing() {
    let cable = Cable::new();
    cable.acquaint();
    let good = lab(&near(&cable));
    let netns = &cable.here;
    for (written, expected) in [
        ("version = 1\n[nacl.lab\n".to_owned(), "policy.toml:2"),
        (good.replace("\"deny\"", "\"reject\""), "policy.toml:4"),
        (good.replace("interface.near", "interface.absent"), "is here: absent (netns"),
        (good.replace("interface.near", "interface.lo"), "\"lo\" is not Ethernet but the loopback interface"),
        (good.replace(netns.as_str(), "nacld-no-such"), "is here: near (netns nacld-no-such)"),
        ("version = 1\n".to_owned(), "names no interface"),
    ] {
        let place = Place::new(&written);
        let error = place.refused(&[]);
        assert!(error.contains(expected), "{expected:?} is not in:\n{error}");
        assert_eq!(error.matches("error: ").count(), 1, "one error:\n{error}");
    }
    let place = Place::new(&good);
    fs::remove_file(place.directory.path().join("policy.toml")).unwrap();
    let error = place.refused(&[]);
    assert!(error.contains("cannot read the policy policy.toml") && error.contains("No such file"), "{error}");
    clean(&cable);
}

#[test]
fn a_missing_capability_is_named() {
    const BPF: libc::c_ulong = 39;
    const SYS_ADMIN: libc::c_ulong = 21;
    // In the daemon's own namespace: entering another one would be refused before.
    let place = Place::new(&lab("[interface.absent0]\nnacl = \"lab\"\n"));
    let mut command = place.command(&["run", "--config", "policy.toml"]);
    // SAFETY: two system calls, which allocate nothing, between fork and exec.
    unsafe {
        command.pre_exec(|| {
            for capability in [BPF, SYS_ADMIN] {
                if libc::prctl(libc::PR_CAPBSET_DROP, capability) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let output = command.output().unwrap();
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("CAP_BPF is missing") && !error.contains("CAP_NET_ADMIN"), "{error}");
    assert!(!place.socket().exists());
}

#[test]
fn two_daemons_do_not_share_a_socket_nor_an_interface() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&lab(&near(&cable)));
    let daemon = place.start(&[]);
    let output = place.nacld(&["run", "--config", "policy.toml"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains(&format!("another nacld (pid {})", daemon.child.id())), "{error}");
    let elsewhere = place.directory.path().join("other.sock");
    let output = place.nacld(&["run", "--config", "policy.toml", "--socket", elsewhere.to_str().unwrap()]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains(&format!("held already by nacld (process {})", daemon.child.id())), "{error}");
    assert!(!elsewhere.exists());
    assert_eq!(cable.inbound(CLOSED, 1), 0, "the first goes on");
    daemon.ends_well(Signal::SIGTERM);
    clean(&cable);
}

#[test]
fn after_a_crash_the_next_one_starts() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&lab(&near(&cable)));
    let mut daemon = place.start(&[]);
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    assert!(place.socket().exists(), "a killed daemon cannot tidy up");
    let output = place.nacld(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no nacld is running"), "{}", text(&output.stderr));
    assert_eq!(cable.inbound(CLOSED, 1), 0, "the kernel goes on enforcing");
    // Needs neither the daemon nor a valid policy.
    place.write("nonsense");
    place.ask(&["detach", NEAR, "--netns", &cable.here]);
    clean(&cable);
    place.write(&lab(&near(&cable)));
    let daemon = place.start(&[]);
    assert_eq!(cable.inbound(CLOSED, 1), 0);
    daemon.signal(Signal::SIGTERM);
}

#[test]
fn a_killed_daemon_leaves_no_gap_and_the_next_one_takes_over() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&lab(&near(&cable)));
    let daemon = place.start(&[]);
    assert_eq!((cable.inbound(CLOSED, 3), cable.inbound(OPEN, 2)), (0, 2));
    let programs = place.status()["interfaces"][0]["hooks"]["programs"].clone();
    daemon.killed();
    assert_eq!((cable.inbound(CLOSED, 2), cable.inbound(OPEN, 1)), (0, 1), "with nobody there");

    let daemon = place.start(&[]);
    assert!(daemon.out().contains("taken over"), "{}", daemon.out());
    assert_eq!((place.hits(0, &50.into()), place.hits(0, &100.into())), (5, 3), "it counted on");
    let status = place.status();
    assert_eq!(status["interfaces"][0]["hooks"]["programs"], programs, "nothing was loaded anew");
    assert_eq!(status["interfaces"][0]["packets"]["denied"], 5);
    daemon.killed();

    // A file that cannot be used does not end what is in force.
    place.write("nonsense");
    let daemon = place.start(&[]);
    assert!(daemon.err().contains("not reloaded"), "{}{}", daemon.out(), daemon.err());
    assert_eq!(cable.inbound(CLOSED, 1), 0);
    assert_eq!(place.hits(0, &50.into()), 6);
    let rules = place.ask(&["rules", NEAR]);
    assert!(rules.contains("│ 50 "), "every rule is still known: {rules}");
    let status = place.status();
    assert_eq!(status["last_reload"]["ok"], false);
    place.write(&lab(&near(&cable)).replace(&CLOSED.to_string(), &OPEN.to_string()));
    place.ask(&["reload"]);
    assert_eq!((cable.inbound(CLOSED, 1), cable.inbound(OPEN, 1)), (1, 0));
    daemon.killed();

    // What the policy no longer names is taken off.
    let other = lab(&near(&cable)).replace("[interface.near]", "[interface.other]\ndevice = \"near\"");
    place.write(&other);
    let daemon = place.start(&[]);
    assert_eq!((cable.inbound(CLOSED, 1), cable.inbound(OPEN, 1)), (0, 1));
    daemon.ends(Signal::SIGTERM);
    place.keeps_nothing();
    clean(&cable);
}

#[test]
fn what_is_kept_stays_when_the_daemon_ends() {
    let cable = Cable::new();
    cable.acquaint();
    let keep = lab(&near(&cable)).replace("version = 1", "version = 1\non_exit = \"keep\"");
    let place = Place::new(&keep);
    let daemon = place.start(&[]);
    assert!(daemon.out().contains("leaves it in force"), "{}", daemon.out());
    assert_eq!(place.status()["on_exit"], "keep");
    daemon.ends(Signal::SIGTERM);
    assert_eq!(cable.inbound(CLOSED, 2), 0);
    let daemon = place.start(&["--on-exit", "detach"]);
    assert_eq!(place.hits(0, &50.into()), 2);
    daemon.ends(Signal::SIGINT);
    place.keeps_nothing();
    clean(&cable);
    // Without pins nothing can be kept, and it says so by doing what it must.
    let daemon = place.start(&["--no-pins"]);
    assert_eq!(cable.inbound(CLOSED, 1), 0);
    daemon.ends(Signal::SIGTERM);
    place.keeps_nothing();
    clean(&cable);
}

#[test]
fn a_change_that_nobody_confirms_is_undone() {
    let cable = Cable::new();
    cable.acquaint();
    let closed = lab(&near(&cable));
    let open = closed.replace("\"deny\"", "\"allow\"");
    let place = Place::new(&closed);
    let daemon = place.start(&[]);
    let status = || place.status();

    // Confirmed.
    place.write(&open);
    let said = place.ask(&["reload", "--confirm", "10m"]);
    assert!(said.contains("nacld confirm"), "{said}");
    assert!(status()["pending"]["seconds_left"].as_u64().unwrap() > 500);
    let refused = |arguments: &[&str], why: &str| {
        let output = place.nacld(arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(why), "{}", text(&output.stderr));
    };
    refused(&["reload"], "awaits confirmation");
    refused(&["mode", NEAR, "stateful"], "nacld confirm");
    assert!(place.ask(&["confirm"]).contains("stays in force"));
    assert_eq!((cable.inbound(CLOSED, 1), &status()["pending"]), (1, &Value::Null));
    refused(&["confirm"], "no change awaits confirmation");

    // Undone by hand.
    place.write(&closed);
    place.ask(&["reload", "--confirm", "10m"]);
    assert_eq!(cable.inbound(CLOSED, 1), 0);
    assert!(place.ask(&["rollback"]).contains("in force again"));
    assert_eq!(cable.inbound(CLOSED, 1), 1);
    assert!(status()["problems"][0].as_str().unwrap().contains("not confirmed"), "{}", status());

    // Undone by time.
    place.ask(&["reload", "--confirm", "1s"]);
    daemon.says("not confirmed in time");
    assert_eq!(cable.inbound(CLOSED, 1), 1);
    refused(&["confirm"], "no change awaits confirmation");

    // The daemon is killed in between, and the next one does not try again by itself.
    place.ask(&["reload", "--confirm", "2s"]);
    assert_eq!(cable.inbound(CLOSED, 1), 0);
    daemon.killed();
    let start = Instant::now();
    while cable.inbound(CLOSED, 1) == 0 {
        assert!(start.elapsed() < PATIENCE, "it is never undone");
    }
    for _ in 0..2 {
        let daemon = place.start(&[]);
        assert!(
            daemon.err().contains("undone, not confirmed in time or rolled back"),
            "{}{}",
            daemon.out(),
            daemon.err()
        );
        assert_eq!(cable.inbound(CLOSED, 1), 1);
        daemon.killed();
    }
    let daemon = place.start(&[]);
    place.ask(&["reload"]);
    assert_eq!((cable.inbound(CLOSED, 1), &status()["problems"]), (0, &Value::Array(Vec::new())));
    daemon.ends(Signal::SIGTERM);
    place.keeps_nothing();
    clean(&cable);
}

#[test]
fn a_change_that_waits_survives_the_daemon() {
    let cable = Cable::new();
    cable.acquaint();
    let closed = lab(&near(&cable));
    let place = Place::new(&closed);
    let daemon = place.start(&[]);
    place.write(&closed.replace("\"deny\"", "\"allow\""));
    place.ask(&["reload", "--confirm", "10m"]);
    daemon.killed();
    let daemon = place.start(&[]);
    assert_eq!(cable.inbound(CLOSED, 1), 1);
    assert!(place.status()["pending"]["seconds_left"].as_u64().unwrap() > 500, "{}{}", daemon.out(), daemon.err());
    place.ask(&["rollback"]);
    assert_eq!(cable.inbound(CLOSED, 1), 0, "what was before is known to the daemon that came later");
    assert_eq!(place.status()["policy"]["sha256"], hex(&closed));
    daemon.ends(Signal::SIGTERM);
    place.keeps_nothing();
    clean(&cable);
}

fn hex(text: &str) -> String {
    format!("{:x}", Sha256::digest(text))
}

#[test]
fn a_first_policy_that_nobody_confirms_ends_the_daemon() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&lab(&near(&cable)));
    let mut daemon = place.start(&["--confirm", "2s"]);
    assert!(daemon.out().contains("nacld confirm"), "{}", daemon.out());
    assert_eq!(cable.inbound(CLOSED, 1), 0);
    assert_eq!(daemon.wait().code(), Some(1));
    assert!(daemon.out().contains("not confirmed"), "{}", daemon.out());
    place.keeps_nothing();
    clean(&cable);

    let daemon = place.start(&["--confirm", "10m"]);
    place.ask(&["confirm"]);
    assert_eq!(cable.inbound(CLOSED, 1), 0);
    daemon.ends(Signal::SIGTERM);
    clean(&cable);
}

#[test]
fn detach_all_ends_the_daemon() {
    // With a /run of its own, so that it finds no daemon and no namespace but those made here.
    let script = r#"
        set -e
        mount -t tmpfs none /run
        ip link add veth0 type veth peer name veth1
        ip link set veth0 up
        "$1" run --config policy.toml > out &
        pid=$!
        until grep -q ready: out; do kill -0 $pid; sleep 0.05; done
        test -S /run/nacld/nacld.sock
        "$1" detach --all
        wait $pid
        test ! -e /run/nacld
        ! ip -d link show veth0 | grep xdp
        "$1" detach --all
    "#;
    let place = Place::new(&lab("[interface.veth0]\nnacl = \"lab\"\n"));
    let output = Command::new("unshare")
        .args(["--mount", "--net", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_nacld")])
        .current_dir(place.directory.path())
        .env_remove("NACLD_SOCKET")
        .output()
        .unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    assert!(said.contains("ended: detached veth0") && said.contains("nothing of nacld was attached"), "{said}");
}

#[test]
fn the_programs_log_with_trace_and_only_then() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&lab(&near(&cable)));
    let daemon = place.start(&["--trace"]);
    assert_eq!(cable.inbound(CLOSED, 1), 0);
    daemon.says(&CLOSED.to_string());
    assert!(!daemon.err().contains('\x1b'), "no colour where there is no terminal");
    daemon.ends_well(Signal::SIGTERM);
    let daemon = place.start(&[]);
    assert_eq!((cable.inbound(CLOSED, 1), place.hits(0, &50.into())), (0, 1));
    let port = CLOSED.to_string();
    assert!(!daemon.err().contains(&port), "{}", daemon.err());
    daemon.ends_well(Signal::SIGTERM);
}

/// A download from a server `here` to a client `there`, in pieces that are asked for one by one.
struct Download {
    more: mpsc::Sender<()>,
    received: Arc<AtomicUsize>,
    sender: JoinHandle<String>,
    reader: JoinHandle<(usize, String)>,
}

/// Bytes of a piece.
const PIECE: usize = 2_000_000;
/// Pieces of a download: 200 MB.
const PIECES: usize = 100;

impl Download {
    fn start(cable: &Cable, port: u16) -> Self {
        let (mut client, mut server, _) = connect(cable, port);
        for end in [&client, &server] {
            // What is cut must not be waited for without end.
            end.set_read_timeout(Some(4 * PATIENCE)).unwrap();
            end.set_write_timeout(Some(4 * PATIENCE)).unwrap();
        }
        let (more, asked) = mpsc::channel();
        let sender = thread::spawn(move || {
            let mut sum = Sha256::new();
            let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
            let mut piece = vec![0; PIECE];
            for () in asked {
                for bytes in piece.chunks_mut(8) {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    bytes.copy_from_slice(&seed.to_le_bytes()[..bytes.len()]);
                }
                sum.update(&piece);
                server.write_all(&piece).expect("the client takes it");
            }
            format!("{:x}", sum.finalize())
        });
        let received = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&received);
        let reader = thread::spawn(move || {
            let mut sum = Sha256::new();
            let mut buffer = vec![0; 1 << 16];
            loop {
                match client.read(&mut buffer).expect("the server sends") {
                    0 => return (counted.load(Ordering::Relaxed), format!("{:x}", sum.finalize())),
                    read => {
                        sum.update(&buffer[..read]);
                        counted.fetch_add(read, Ordering::Relaxed);
                    }
                }
            }
        });
        Self { more, received, sender, reader }
    }

    /// Has one more piece sent, and does not wait for it.
    fn more(&self) {
        self.more.send(()).expect("the server lives");
    }

    fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }

    fn wait_for(&self, bytes: usize) {
        let start = Instant::now();
        while self.received() < bytes {
            assert!(start.elapsed() < 4 * PATIENCE, "only {} of {bytes} bytes arrive", self.received());
            sleep(Duration::from_millis(5));
        }
    }

    /// Ends, and all of it arrived as it was sent.
    fn finish(self, bytes: usize) {
        drop(self.more);
        let sent = self.sender.join().expect("the server sends all");
        assert_eq!(self.reader.join().expect("the client reads all"), (bytes, sent));
    }
}

/// A network ACL that lets TCP in by rule 100, and out by what is given; and what else stands on the interface.
fn tcp_policy(cable: &Cable, outbound: &str, interface: &str) -> String {
    format!(
        r#"version = 1
[nacl.lab]
inbound = [{{ rule = 100, action = "allow", protocol = "tcp", source = "0.0.0.0/0" }}]
outbound = [{outbound}]
{}{interface}"#,
        near(cable)
    )
}

const RETURN: &str =
    r#"{ rule = 100, action = "allow", protocol = "tcp", ports = "1024-65535", destination = "0.0.0.0/0" }"#;

#[test]
fn a_transfer_outlives_a_hundred_toggles_and_a_hundred_reloads() {
    let cable = Cable::new();
    cable.acquaint();
    let group = format!(
        r#"security_groups = ["server"]
[security_group.server]
inbound = [{{ protocol = "tcp", ports = {OPEN}, source = "{THERE}/32" }}]
outbound = []
"#
    );
    // Both modes let it pass, and the group remembers it: nothing else lets the replies out.
    let policies = [RETURN.to_owned(), RETURN.replace("rule = 100", "rule = 90")]
        .map(|outbound| tcp_policy(&cable, &outbound, &group));
    let place = Place::new(&policies[0]);
    let daemon = place.start(&[]);
    let download = Download::start(&cable, OPEN);
    let epoch = || {
        let status: Value = serde_json::from_str(&place.ask(&["status", "--json"])).unwrap();
        status["interfaces"][0]["epoch"].as_u64().unwrap()
    };
    let before = epoch();
    for piece in 0..PIECES {
        // While this piece is on its way:
        download.more();
        let said = place.ask(&["mode", NEAR, "stateful"]);
        assert!(said.contains("mode stateful (set live; the policy says stateless)"), "{said}");
        place.write(&policies[(piece + 1) % 2]);
        let said = place.ask(&["reload"]);
        assert!(said.contains("mode stateless, layers both, as the policy says"), "{said}");
    }
    assert_eq!(epoch() - before, 2 * PIECES as u64, "every one of them was a switch");
    let list = place.ask(&["conntrack", "list", NEAR, "--port", &OPEN.to_string()]);
    assert!(list.contains("established") && list.contains("server inbound 1"), "{list}");
    download.finish(PIECES * PIECE);
    let stats = place.ask(&["conntrack", "stats"]);
    assert!(stats.contains("conntrack_allowance_exceeded   0"), "{stats}");
    daemon.ends_well(Signal::SIGTERM);
    clean(&cable);
}

#[test]
fn without_a_return_rule_stateless_stops_a_transfer_and_stateful_lets_it_go_on() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&tcp_policy(&cable, "", "mode = \"stateful\"\n"));
    let daemon = place.start(&[]);
    let download = Download::start(&cable, OPEN);
    download.more();
    download.wait_for(PIECE);
    place.ask(&["mode", NEAR, "stateless"]);
    let denied = place.hits(1, &"*".into());
    // What is asked for now never comes: not one byte more than had left before.
    let received = download.received();
    for _ in 1..PIECES {
        download.more();
    }
    let start = Instant::now();
    while place.hits(1, &"*".into()) == denied {
        assert!(start.elapsed() < PATIENCE, "nothing is dropped");
        sleep(Duration::from_millis(20));
    }
    sleep(SHORT);
    assert_eq!((received, download.received()), (PIECE, PIECE));
    // It is remembered still, so the next retransmission passes.
    place.ask(&["mode", NEAR, "stateful"]);
    download.finish(PIECES * PIECE);
    daemon.ends_well(Signal::SIGTERM);
    clean(&cable);
}

#[test]
fn a_client_that_hangs_gets_through_when_the_mode_changes() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&tcp_policy(&cable, "", ""));
    let daemon = place.start(&[]);
    let listener = netns::within(Some(&cable.here), || TcpListener::bind((HERE, OPEN)).unwrap()).unwrap();
    let there = cable.there.clone();
    let client = thread::spawn(move || {
        let address = (std::net::IpAddr::V4(HERE), OPEN).into();
        netns::within(Some(&there), || TcpStream::connect_timeout(&address, 2 * PATIENCE)).unwrap()
    });
    // The request comes in, the answer does not go out: L02.
    let start = Instant::now();
    while place.hits(1, &"*".into()) == 0 {
        assert!(start.elapsed() < PATIENCE, "no answer is dropped");
        sleep(Duration::from_millis(20));
    }
    assert!(!client.is_finished(), "it hangs");
    assert!(place.hits(0, &100.into()) > 0);
    assert_eq!(place.ask(&["mode"]).trim(), format!("near (netns {}): mode stateless, layers both", cable.here));
    assert!(place.ask(&["conntrack", "list"]).contains("no connection is remembered"));
    let said = place.ask(&["mode", NEAR, "stateful"]);
    assert!(said.contains("this holds until the next reload"), "{said}");
    let stream = client.join().unwrap().expect("its next SYN gets through");
    let (server, client) = (listener.accept().unwrap().0, stream.local_addr().unwrap());
    // What is remembered, as text and as JSON.
    let list = place.ask(&["conntrack", "list", NEAR]);
    assert!(list.contains(&client.to_string()) && list.contains("lab inbound 100"), "{list}");
    let filter = ["--protocol", "tcp", "--state", "established", "--address", &THERE.to_string()];
    let json: Value =
        serde_json::from_str(&place.ask(&[&["conntrack", "list", "--json"], &filter[..]].concat())).unwrap();
    let one = &json["connections"][0];
    assert_eq!((&json["schema"], json["connections"].as_array().unwrap().len()), (&1.into(), 1));
    assert_eq!((&one["began"], &one["nacl"], &one["group"]), (&"inbound".into(), &true.into(), &false.into()));
    assert_eq!((&one["remote_port"], &one["nacl_rule"]["rule"]), (&client.port().into(), &100.into()));
    let stats: Value = serde_json::from_str(&place.ask(&["conntrack", "stats", "--json"])).unwrap();
    let stats = &stats["interfaces"][0];
    assert_eq!((&stats["entries"], &stats["conntrack_allowance_exceeded"]), (&1.into(), &0.into()));
    assert_eq!(stats["conntrack_allowance_available"].as_u64().unwrap() + 1, stats["capacity"].as_u64().unwrap());
    let shown = place.ask(&["status"]);
    assert!(shown.contains("mode         stateful (set live; the policy says stateless)"), "{shown}");
    assert!(shown.contains("conntrack    1 of "), "{shown}");
    // Forgotten, its packets are judged one by one again; another filter forgets nothing.
    assert!(place.ask(&["conntrack", "flush", "--port", "1"]).contains(": 0 connections forgotten"));
    let ends = (stream, server, listener);
    assert!(lives(&ends, LONG));
    assert!(place.ask(&["conntrack", "flush", NEAR]).contains(": 1 connection forgotten"));
    assert!(!lives(&ends, SHORT));
    daemon.ends_well(Signal::SIGTERM);
    clean(&cable);
}

#[test]
fn nobody_is_locked_out_by_a_verb() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&tcp_policy(&cable, "", "mode = \"stateful\"\n"));
    let daemon = place.start(&[]);
    let ssh = connect(&cable, 22);
    assert!(lives(&ssh, LONG));
    for (verb, expected) in [
        (["mode", NEAR, "stateless"], "mode and layers stay as they are"),
        (["conntrack", "flush", "--all"], "nothing was forgotten"),
    ] {
        let output = place.nacld(&verb);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("would cut an SSH connection") && error.contains(expected), "{error}");
        assert!(error.contains("its replies are denied; no outbound rule of network ACL"), "{error}");
        assert!(lives(&ssh, LONG));
    }
    // What does not touch it may be done; by force, everything.
    place.ask(&["conntrack", "flush", "--protocol", "udp"]);
    place.ask(&["mode", NEAR, "stateless", "--force"]);
    assert!(!lives(&ssh, SHORT));
    place.ask(&["mode", NEAR, "stateful"]);
    assert!(lives(&ssh, LONG), "the connection recovers");
    daemon.ends_well(Signal::SIGTERM);
    clean(&cable);
}

#[test]
fn monitor_mode_counts_what_it_would_drop_until_it_is_enforced() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&lab(&near(&cable)));
    let daemon = place.start(&["--watch"]);
    assert_eq!(cable.inbound(CLOSED, 2), 0);
    let said = place.ask(&["mode", NEAR, "--monitor"]);
    assert!(said.contains("enforcing NO, monitor only (set live; the policy says yes)"), "{said}");
    // What the policy denies passes, counted as what it is.
    assert_eq!((cable.inbound(CLOSED, 3), cable.inbound(OPEN, 2)), (3, 2));
    assert_eq!((place.hits(0, &50.into()), place.hits(0, &100.into())), (5, 2));
    daemon.says("inbound  D deny  udp");
    daemon.says("inbound  M would be dropped udp");
    let status = place.ask(&["status"]);
    let first = status.lines().skip_while(|line| !line.starts_with(NEAR)).nth(1).unwrap();
    assert!(first.starts_with("  MONITOR ONLY: "), "{status}");
    assert!(status.contains(", 5 denied"), "{status}");
    assert!(place.ask(&["rules", NEAR]).contains("MONITOR ONLY"));
    let json: Value = serde_json::from_str(&place.ask(&["mode", NEAR, "--json"])).unwrap();
    assert_eq!((&json["interfaces"][0]["enforce"], &json["schema"]), (&false.into(), &1.into()));
    // Switched on it dies, with the counters where they were.
    place.ask(&["mode", NEAR, "--enforce"]);
    assert_eq!((cable.inbound(CLOSED, 3), cable.inbound(OPEN, 1)), (0, 1));
    assert_eq!((place.hits(0, &50.into()), place.hits(0, &100.into())), (8, 3));
    daemon.ends_well(Signal::SIGTERM);
    // A policy that says so begins so, and its end may lock out.
    let closed = lab(&format!("{}enforce = false\n", near(&cable)));
    place.write(&closed.replace("protocol = \"all\", destination", "protocol = \"udp\", destination"));
    let daemon = place.start(&[]);
    assert!(daemon.out().contains("ready: monitoring 1 interface, where nothing is dropped"), "{}", daemon.out());
    assert_eq!(cable.inbound(CLOSED, 1), 1);
    let ssh = connect(&cable, 22);
    assert!(lives(&ssh, LONG));
    let output = place.nacld(&["mode", NEAR, "--enforce"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("it stays in monitor mode") && error.contains("its replies are denied"), "{error}");
    assert!(lives(&ssh, LONG));
    place.ask(&["mode", NEAR, "--enforce", "--force"]);
    assert!(!lives(&ssh, SHORT));
    daemon.ends_well(Signal::SIGTERM);
    clean(&cable);
}

#[test]
fn one_device_name_in_two_namespaces() {
    let (red, blue) = (Cable::new(), Cable::new());
    red.acquaint();
    blue.acquaint();
    let interface = |name: &str, cable: &Cable| {
        format!("[interface.{name}]\ndevice = \"{NEAR}\"\nnetns = \"{}\"\nnacl = \"lab\"\n", cable.here)
    };
    let written = lab(&(interface("red", &red) + &interface("blue", &blue)));
    let place = Place::new(&written);
    let daemon = place.start(&["--watch"]);
    assert!(daemon.out().contains("enforcing on 2 interfaces"), "{}", daemon.out());
    assert_eq!((red.inbound(CLOSED, 2), blue.inbound(CLOSED, 3), blue.inbound(OPEN, 1)), (0, 0, 1));
    let denied = |name: &str| {
        let rules: Value = serde_json::from_str(&place.ask(&["rules", name, "--json"])).unwrap();
        assert_eq!(rules["interfaces"][0]["device"], NEAR);
        rules["interfaces"][0]["lists"][0]["rules"][0]["hits"]["packets"].as_u64().unwrap()
    };
    assert_eq!((denied("red"), denied("blue")), (2, 3));
    daemon.says(" blue     inbound  D deny  udp ");
    let output = place.nacld(&["rules", NEAR]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("near is the device of several interfaces: blue, red"), "{error}");
    // One of them is changed, and one reload is for all.
    place.ask(&["mode", "red", "stateful"]);
    let modes = place.ask(&["mode"]);
    assert!(modes.contains(&format!("blue (near in netns {}): mode stateless", blue.here)), "{modes}");
    assert!(modes.contains(&format!("red (near in netns {}): mode stateful (set live", red.here)), "{modes}");
    place.write(&written.replace(&CLOSED.to_string(), &OPEN.to_string()));
    let said = place.ask(&["reload"]);
    assert!(said.contains("reloaded: switched blue, red") && said.contains("red: mode stateless"), "{said}");
    assert_eq!(
        (red.inbound(CLOSED, 1), red.inbound(OPEN, 1), blue.inbound(CLOSED, 1), blue.inbound(OPEN, 1)),
        (1, 0, 1, 0)
    );
    let said = place.ask(&["detach", "blue"]);
    assert!(said.contains(&format!("blue (near in netns {})", blue.here)), "{said}");
    assert_eq!((red.inbound(OPEN, 1), blue.inbound(OPEN, 1)), (0, 1));
    daemon.ends_well(Signal::SIGTERM);
    clean(&red);
    clean(&blue);
}
