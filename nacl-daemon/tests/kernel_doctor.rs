//! `nacld doctor` on real interfaces in namespaces of their own, each spoilt on purpose: it is found, and the command that is
//! printed is run as it stands and mends it.

mod support;

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use nacl_daemon::netns;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use serde_json::Value;
use support::veth::{Cable, NEAR, ip, run};

const NACLD: &str = env!("CARGO_BIN_EXE_nacld");

/// What doctor said.
struct Said {
    code: Option<i32>,
    body: Value,
}

impl Said {
    fn read(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        let body = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
        Self { code: output.status.code(), body }
    }

    /// The findings of a check.
    fn all(&self, check: &str) -> Vec<&Value> {
        self.body["findings"].as_array().unwrap().iter().filter(|finding| finding["check"] == check).collect()
    }

    /// Verdict and words of the one finding of a check.
    fn of(&self, check: &str) -> (&str, &str) {
        let all = self.all(check);
        assert_eq!(all.len(), 1, "{check}: {:#}", self.body);
        (all[0]["verdict"].as_str().unwrap(), all[0]["found"].as_str().unwrap())
    }

    /// The commands that mend what a check has found.
    fn mend(&self, check: &str) -> Vec<String> {
        let commands = self.all(check).into_iter().flat_map(|finding| finding["mend"].as_array().unwrap().clone());
        commands.map(|command| command.as_str().unwrap().to_owned()).collect()
    }
}

fn doctor(arguments: &[&str]) -> Said {
    let output = Command::new(NACLD).args(["doctor", "--json"]).args(arguments).output().unwrap();
    Said::read(&output)
}

fn near(cable: &Cable) -> Said {
    doctor(&[NEAR, "--netns", &cable.here])
}

/// Runs a printed command as it stands. It must say where: these tests change nothing of the machine itself.
fn obey(command: &str, place: &str) {
    assert!(command.contains(place), "{command}");
    let path = format!("{}:{}", Path::new(NACLD).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let output = Command::new("sh").args(["-ec", command]).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A policy for the near end, in a file of its own.
fn policy(cable: &Cable, more: &str) -> tempfile::NamedTempFile {
    let text = format!(
        "version = 1\n[nacl.lab]\ninbound = []\noutbound = []\n[interface.{NEAR}]\nnetns = \"{}\"\nnacl = \"lab\"\n{more}\n",
        cable.here
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    file
}

fn with_policy(file: &tempfile::NamedTempFile) -> Said {
    doctor(&["--config", file.path().to_str().unwrap()])
}

#[test]
fn a_veth_with_a_large_mtu_is_fine_and_says_what_it_costs() {
    let cable = Cable::new();
    ip(&["-n", &cable.here, "link", "set", "dev", NEAR, "mtu", "9000"]);
    let said = near(&cable);
    assert_eq!(said.code, Some(0), "{:#}", said.body);
    assert_eq!(said.body["problems"], 0);
    for check in ["object", "kernel", "capabilities", "link", "native-xdp", "programs"] {
        assert_eq!(said.of(check).0, "ok", "{check}");
    }
    assert_eq!(said.of("driver"), ("ok", "veth"));
    assert_eq!(said.of("native-xdp"), ("ok", "veth has it, by its own account"));
    assert_eq!(said.of("mtu"), ("ok", "9000: driver and kernel give XDP frames of several parts"));
    assert_eq!(said.of("addresses"), ("ok", "10.77.0.1"));
    assert_eq!(said.of("segmentation").0, "note");
    assert_eq!(said.all("segmentation")[0]["policy"], "xdp = \"tc\"");
    assert_eq!(said.body["directions"][0]["side"], Value::Null);
    // In the policy as it says, and TC takes no offload from anybody.
    let file = policy(&cable, "xdp = \"tc\"\nside = \"router\"");
    let said = with_policy(&file);
    assert_eq!((said.code, said.all("segmentation").len()), (Some(0), 0), "{:#}", said.body);
    assert_eq!(said.body["directions"][0]["side"], "router");
    // Nothing was changed by looking.
    let link = ip(&["-n", &cable.here, "-d", "link", "show", "dev", NEAR]);
    assert!(link.contains("mtu 9000") && !link.contains("xdp"), "{link}");
}

#[test]
fn every_ethernet_interface_of_a_namespace_is_looked_at() {
    let cable = Cable::new();
    ip(&["-n", &cable.here, "link", "add", "br0", "type", "bridge"]);
    ip(&["-n", &cable.here, "link", "set", "dev", NEAR, "master", "br0"]);
    ip(&["-n", &cable.here, "tuntap", "add", "dev", "tun0", "mode", "tun"]);
    let said = doctor(&["--netns", &cable.here]);
    let seen: Vec<_> =
        said.body["directions"].as_array().unwrap().iter().map(|one| one["interface"].as_str().unwrap()).collect();
    assert_eq!(seen, [NEAR, "br0"], "neither lo nor tun0");
    assert_eq!(said.of("port"), ("note", "a port of bridge br0"));
}

#[test]
fn what_is_not_ethernet_or_not_there_is_a_problem() {
    let cable = Cable::new();
    ip(&["-n", &cable.here, "tuntap", "add", "dev", "tun0", "mode", "tun"]);
    for (name, found) in [
        ("tun0", "tun0 is not Ethernet but a device without a link layer (such as tun or WireGuard)"),
        ("lo", "lo is not Ethernet but the loopback interface"),
        ("naer", "there is no interface naer; is near meant?"),
    ] {
        let said = doctor(&[name, "--netns", &cable.here]);
        assert_eq!((said.code, said.of("interface")), (Some(1), ("problem", found)));
    }
    // A namespace that is missing; the command makes it.
    let missing = format!("{}-not", cable.here);
    let said = doctor(&[NEAR, "--netns", &missing]);
    assert_eq!(said.code, Some(1));
    let [command] = &said.mend("interface")[..] else { panic!("{:#}", said.body) };
    obey(command, &missing);
    let said = doctor(&[NEAR, "--netns", &missing]);
    ip(&["netns", "del", &missing]);
    assert_eq!(said.of("interface"), ("problem", "there is no interface near"));
}

#[test]
fn a_link_that_is_down_comes_up() {
    let cable = Cable::new();
    ip(&["-n", &cable.here, "link", "set", "dev", NEAR, "down"]);
    let said = near(&cable);
    assert_eq!((said.code, said.of("link")), (Some(0), ("note", "down")));
    said.mend("link").iter().for_each(|command| obey(command, &cable.here));
    assert_eq!(near(&cable).of("link"), ("ok", "up"));
}

#[test]
fn an_offload_that_is_in_the_way_is_switched_off() {
    let cable = Cable::new();
    let file = policy(&cable, "xdp = \"generic\"");
    let ethtool = |value| run("ip", &["netns", "exec", &cable.here, "ethtool", "-K", NEAR, "gro", value]);
    ethtool("off");
    assert_eq!(with_policy(&file).all("gro").len(), 0);
    ethtool("on");
    let said = with_policy(&file);
    assert_eq!((said.code, said.of("gro")), (Some(0), ("note", "on")), "{:#}", said.body);
    said.mend("gro").iter().for_each(|command| obey(command, &cable.here));
    assert_eq!(with_policy(&file).all("gro").len(), 0);
}

/// Loads two instructions: give back this number.
fn stranger(name: &str, kind: u32, expected: u32, answer: i32) -> OwnedFd {
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        instructions: u32,
        code: u64,
        license: u64,
        log: [u32; 2],
        log_buffer: u64,
        kernel: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        expected: u32,
    }
    const BPF_PROG_LOAD: libc::c_long = 5;
    let code: [[u8; 8]; 2] = [
        {
            let [a, b, c, d] = answer.to_ne_bytes();
            [0xb7, 0, 0, 0, a, b, c, d]
        },
        [0x95, 0, 0, 0, 0, 0, 0, 0],
    ];
    let license = c"GPL";
    let mut load = Load {
        kind,
        instructions: 2,
        code: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        expected,
        ..Load::default()
    };
    load.name[..name.len()].copy_from_slice(name.as_bytes());
    bpf(BPF_PROG_LOAD, &mut load)
}

/// Puts it on a hook of the near end by a link, which goes with the answer.
fn link(cable: &Cable, program: &OwnedFd, hook: u32, flags: u32) -> OwnedFd {
    const BPF_LINK_CREATE: libc::c_long = 28;
    let ifindex = ifindex(cable);
    let mut create = [0_u32; 16];
    create[..4].copy_from_slice(&[program.as_raw_fd().cast_unsigned(), ifindex, hook, flags]);
    netns::within(Some(&cable.here), || bpf(BPF_LINK_CREATE, &mut create)).unwrap()
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> OwnedFd {
    // SAFETY: the attributes are as long as said, and what they point to outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    assert!(fd >= 0, "bpf {command}: {}", io::Error::last_os_error());
    // SAFETY: the kernel just made it for this process.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn ifindex(cable: &Cable) -> u32 {
    netns::within(Some(&cable.here), || nix::net::if_::if_nametoindex(NEAR).unwrap()).unwrap()
}

/// Puts it on the XDP hook without a link, where it stays.
fn xdp(cable: &Cable, program: &OwnedFd, flags: u32) {
    let mut message = LinkMessage::default();
    message.header.index = ifindex(cable);
    message.attributes.push(LinkAttribute::Xdp(vec![LinkXdp::Fd(program.as_raw_fd()), LinkXdp::Flags(flags)]));
    let set = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            handle.link().set(message).execute().await.unwrap();
        });
    };
    netns::within(Some(&cable.here), set).unwrap();
}

const XDP: (u32, u32, i32) = (6, 37, 2);
const XDP_GENERIC: u32 = 2;
const XDP_NATIVE: u32 = 4;

#[test]
fn somebody_elses_xdp_program_is_named_and_taken_off() {
    let cable = Cable::new();
    let file = policy(&cable, "xdp = \"native\"");
    let said = with_policy(&file);
    assert_eq!((said.code, said.of("programs").0), (Some(0), "ok"), "{:#}", said.body);
    let program = stranger("katran", XDP.0, XDP.1, XDP.2);
    for mode in [XDP_NATIVE, XDP_GENERIC] {
        xdp(&cable, &program, mode);
        let said = with_policy(&file);
        let (verdict, found) = said.of("programs");
        assert_eq!((said.code, verdict), (Some(1), "problem"), "{:#}", said.body);
        assert!(found.starts_with("XDP: \"katran\" (id ") && found.contains(", held by "), "{found}");
        // Where ingress may be hooked otherwise it prevents nothing.
        let said = near(&cable);
        assert_eq!((said.code, said.of("programs").0), (Some(0), "note"));
        said.mend("programs").iter().for_each(|command| obey(command, &cable.here));
        assert_eq!(with_policy(&file).of("programs").0, "ok");
    }
    // By a link it cannot be taken off that way.
    let link = link(&cable, &program, XDP.1, XDP_NATIVE);
    let said = with_policy(&file);
    let id = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd())).unwrap();
    let id = id.lines().find_map(|line| line.strip_prefix("link_id:")).unwrap().trim().to_owned();
    assert_eq!(said.mend("programs"), [format!("bpftool link detach id {id}")]);
    by_bpftool(&said.mend("programs")[0]);
    if bpftool() {
        assert_eq!(with_policy(&file).of("programs").0, "ok");
    }
}

/// Not every machine has it, and packages call it by other names; where it is, the command is run.
fn bpftool() -> bool {
    Command::new("bpftool").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn by_bpftool(command: &str) {
    if bpftool() {
        obey(command, "bpftool link detach id ");
    } else {
        eprintln!("NOT RUN, there is no bpftool here: {command}");
    }
}

#[test]
fn programs_beside_ours_are_notes() {
    const SCHED_CLS: u32 = 3;
    const TCX_EGRESS: u32 = 47;
    let cable = Cable::new();
    let program = stranger("cil_to_netdev", SCHED_CLS, TCX_EGRESS, -1);
    let tcx = link(&cable, &program, TCX_EGRESS, 0);
    run("ip", &["netns", "exec", &cable.here, "tc", "qdisc", "add", "dev", NEAR, "clsact"]);
    let filter = ["filter", "add", "dev", NEAR, "ingress", "pref", "77", "bpf", "bytecode", "1,6 0 0 4294967295,"];
    run("ip", &[&["netns", "exec", &cable.here, "tc"], &filter[..]].concat());
    let said = near(&cable);
    assert_eq!(said.code, Some(0), "{:#}", said.body);
    let all: Vec<_> =
        said.all("programs").iter().map(|finding| finding["found"].as_str().unwrap().to_owned()).collect();
    assert!(all[0].starts_with("tcx egress: \"cil_to_netdev\" (id ") && all[0].contains(", held by "), "{all:?}");
    assert!(all[1].starts_with("clsact ingress: "), "{all:?}");
    let commands = said.mend("programs");
    assert!(commands[0].starts_with("bpftool link detach id "), "{commands:?}");
    obey(&commands[1], &cable.here);
    assert_eq!(near(&cable).all("programs").len(), 1, "only the link is left");
    drop(tcx);
    assert_eq!(near(&cable).of("programs").0, "ok");
}

#[test]
fn what_a_nacld_left_is_told_from_what_one_holds() {
    let cable = Cable::new();
    let program = stranger("nacl_ingress", XDP.0, XDP.1, XDP.2);
    xdp(&cable, &program, XDP_NATIVE);
    let said = near(&cable);
    assert_eq!((said.code, said.of("nacld").0), (Some(0), "ok"), "{:#}", said.body);
    assert!(said.of("nacld").1.contains(&format!("(process {})", std::process::id())), "{:#}", said.body);
    drop(program);
    let said = near(&cable);
    assert_eq!(said.of("nacld"), ("note", "1 program of a nacld that is gone"));
    said.mend("nacld").iter().for_each(|command| obey(command, &cable.here));
    assert_eq!(near(&cable).all("nacld").len(), 0);
}

#[test]
fn without_privilege_it_says_what_it_cannot_see() {
    let cable = Cable::new();
    // Where the binary stands need not be for everybody to read.
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = directory.path().join("nacld");
    fs::copy(NACLD, &copy).unwrap();
    let doctor = |cable: &Cable| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &cable.here, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(&copy).args(["doctor", NEAR, "--json"]);
        Said::read(&command.output().unwrap())
    };
    let said = doctor(&cable);
    assert_eq!(said.code, Some(1));
    let (verdict, found) = said.of("capabilities");
    assert_eq!(verdict, "problem");
    for capability in ["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"] {
        assert!(found.contains(capability), "{found}");
    }
    assert_eq!(said.mend("capabilities"), ["sudo nacld doctor"]);
    // What everybody may see is seen.
    assert_eq!((said.of("driver"), said.of("link")), (("ok", "veth"), ("ok", "up")));
    assert_eq!(said.of("native-xdp").0, "ok");
    let (verdict, found) = said.of("unseen");
    assert!(verdict == "note" && found.contains("tcx programs"), "{found}");
    let program = stranger("katran", XDP.0, XDP.1, XDP.2);
    xdp(&cable, &program, XDP_NATIVE);
    let said = doctor(&cable);
    assert!(said.all("programs")[0]["found"].as_str().unwrap().starts_with("XDP: a program (id "), "{:#}", said.body);
    assert!(said.of("unseen").1.contains("names of programs"), "{:#}", said.body);
}

/// A process in mount and process namespaces of its own, of which it is the first.
struct Elsewhere {
    unshare: Child,
    first: String,
}

impl Elsewhere {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "120"]);
        // From here on it is ended with this value, also where it never becomes what it will be.
        let mut made = Self { unshare: command.spawn().expect("unshare of util-linux"), first: String::new() };
        let children = format!("/proc/{0}/task/{0}/children", made.unshare.id());
        let start = Instant::now();
        while made.first.is_empty() {
            // The child is there before it is what it will be.
            if let Some(first) = fs::read_to_string(&children).unwrap_or_default().split_whitespace().next()
                && fs::read_to_string(format!("/proc/{first}/comm")).is_ok_and(|name| name.trim() == "sleep")
            {
                first.clone_into(&mut made.first);
            }
            assert!(start.elapsed() < Duration::from_secs(20), "no child");
            std::thread::sleep(Duration::from_millis(10));
        }
        made
    }

    /// A command in there.
    fn sh(&self, command: &str) -> Output {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--target", &self.first, "--mount", "--pid", "sh", "-ec", command]).output().unwrap()
    }

    fn obey(&self, commands: &[String]) {
        assert!(!commands.is_empty());
        for command in commands {
            let output = self.sh(command);
            assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.unshare.kill().ok();
        self.unshare.wait().ok();
    }
}

#[test]
fn a_place_for_pins_is_made() {
    let cable = Cable::new();
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = directory.path().join("nacld");
    fs::copy(NACLD, &copy).unwrap();
    let state: PathBuf = directory.path().join("state");
    let elsewhere = Elsewhere::new();
    let (here, nacld) = (&cable.here, copy.display());
    let asked = format!("doctor {NEAR} --state {} --json", state.display());
    let ask = |before: &str| Said::read(&elsewhere.sh(&format!("{before} {nacld} {asked} --netns {here}")));
    let inside = |before: &str| Said::read(&elsewhere.sh(&format!("ip netns exec {here} {before} {nacld} {asked}")));
    // The machine's own mounts, as far as anybody in there can tell: whoever may mount needs nothing.
    let said = ask("");
    assert_eq!((said.of("bpffs").0, said.of("mount-namespace").0), ("ok", "ok"), "{:#}", said.body);
    // As `ip netns exec` does it: what is mounted in there goes with it, and the commands mount it outside.
    let said = inside("");
    assert_eq!((said.of("bpffs").0, said.of("mount-namespace").0), ("ok", "note"), "{:#}", said.body);
    elsewhere.obey(&said.mend("mount-namespace"));
    assert!(inside("").of("mount-namespace").1.contains("was mounted before"));
    elsewhere.obey(&[format!("umount {0}/bpf && rmdir {0}/bpf {0}", state.display())]);
    // Without CAP_SYS_ADMIN somebody else must do it.
    let limited = "setpriv --bounding-set=-sys_admin --inh-caps=-all";
    let said = inside(limited);
    assert_eq!((said.code, said.of("bpffs").0), (Some(1), "problem"), "{:#}", said.body);
    let commands = said.mend("bpffs");
    assert_eq!(commands.len(), 3, "{commands:?}");
    elsewhere.obey(&commands);
    let said = inside(limited);
    assert_eq!((said.code, said.of("bpffs").0), (Some(0), "ok"), "{:#}", said.body);
    // And it must be this process's to write to.
    let other = "setpriv --reuid=4711 --clear-groups --bounding-set=-all --inh-caps=-all";
    let said = inside(other);
    assert_eq!(said.of("bpffs").0, "problem", "{:#}", said.body);
    assert_eq!(said.mend("bpffs"), [format!("chown -R 4711 {}", state.display())]);
    elsewhere.obey(&said.mend("bpffs"));
    assert_eq!(inside(other).of("bpffs").0, "ok");
}
