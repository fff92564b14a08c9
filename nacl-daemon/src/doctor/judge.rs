//! Facts → findings. Pure: the same facts are judged the same on every machine, and every command that is ever printed is
//! made here.

use std::path::Path;

use super::{
    Diagnosis, Direction, Finding, Verdict,
    facts::{Facts, Machine, Nic, Unseen},
};
use crate::{
    dataplane::{Found, Place, Survey, XdpMode},
    report::count_of,
    resolve::Xdp,
    service::host::Connection,
};

/// Memory an interface may need: the tables in force and those before them, counters, a full connection table, the rings.
const MEMORY_OF_AN_INTERFACE: u64 = 64 << 20;
/// The usual one, which every driver takes.
const USUAL_MTU: u32 = 1500;

/// Drivers with native XDP in Linux 5.15 to 6.2, by the name they give ethtool. Later kernels say it themselves
/// (NETDEV_XDP_ACT_BASIC).
const NATIVE: &[&str] = &[
    "bnxt_en",
    "bonding",
    "ena",
    "fsl_dpa",
    "fsl_dpaa2_eth",
    "fsl_enetc",
    "hv_netvsc",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "mlx4_en",
    "mlx5_core",
    "mvneta",
    "mvpp2",
    "netsec",
    "nfp",
    "nicvf",
    "qede",
    "sfc",
    "st_gmac",
    "tun",
    "veth",
    "virtio_net",
    "xen_netfront",
];

/// The largest MTU at which a driver takes a program where frames have to fit one page of 4 KiB.
const LARGEST_MTU: &[(&str, u32)] = &[("ena", 3498), ("mlx5_core", 3498), ("virtio_net", 3506)];

const XDP_BASIC: u64 = 1;
/// The driver gives frames of several buffers to XDP.
const XDP_RX_SG: u64 = 32;

/// What a virtio host may have agreed to do to frames: checksums, TSO4, TSO6, ECN, UFO, USO4, USO6.
const VIRTIO_GUEST_OFFLOADS: &[u32] = &[1, 7, 8, 9, 10, 54, 55];
/// The guest may switch them off, and its driver does where a program comes.
const VIRTIO_CTRL_GUEST_OFFLOADS: u32 = 2;

/// Says what follows from the facts.
pub fn judge(facts: &Facts) -> Diagnosis {
    let mut findings = machine(&facts.machine, facts.nics.len() as u64);
    if let Some((file, errors)) = &facts.policy {
        findings.push(policy(file, *errors));
    }
    if facts.nics.is_empty() {
        findings.push(
            Finding::new("interface", Verdict::Problem, "there is no Ethernet interface here")
                .why("nacld judges frames on Ethernet interfaces; name one, or another namespace with --netns"),
        );
    }
    let file = facts.policy.as_ref().map_or_else(|| Path::new("policy.toml"), |(file, _)| file);
    for nic in &facts.nics {
        let place = |finding: Finding| Finding {
            interface: Some(nic.target.name.clone()),
            netns: nic.target.netns.clone(),
            ..finding
        };
        findings.extend(interface(nic, &facts.machine, file).into_iter().map(place));
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let ethernet = |nic: &&Nic| nic.survey.as_ref().is_ok_and(|survey| survey.not_ethernet.is_none());
    Diagnosis {
        problems: count(Verdict::Problem),
        notes: count(Verdict::Note),
        directions: facts
            .nics
            .iter()
            .filter(ethernet)
            .map(|nic| Direction {
                interface: nic.target.name.clone(),
                netns: nic.target.netns.clone(),
                side: nic.wanted.map(|wanted| wanted.side),
            })
            .collect(),
        findings,
    }
}

impl Finding {
    fn new(check: &str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self {
            check: check.to_owned(),
            interface: None,
            netns: None,
            verdict,
            found: found.into(),
            why: None,
            mend: Vec::new(),
            policy: None,
        }
    }

    fn ok(check: &str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, found)
    }

    fn note(check: &str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Note, found)
    }

    fn problem(check: &str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Problem, found)
    }

    fn why(self, why: impl Into<String>) -> Self {
        Self { why: Some(why.into()), ..self }
    }

    /// What is as it should be needs no mending.
    fn mend(mut self, command: impl Into<String>) -> Self {
        if self.verdict != Verdict::Ok {
            self.mend.push(command.into());
        }
        self
    }

    fn policy(self, line: &str) -> Self {
        Self { policy: Some(line.to_owned()), ..self }
    }
}

fn machine(machine: &Machine, interfaces: u64) -> Vec<Finding> {
    vec![
        object(machine),
        kernel(machine),
        btf(machine),
        jit(machine),
        unprivileged(machine),
        lockdown(machine),
        capabilities(machine),
        bpffs(machine),
        mounts(machine),
        memlock(machine),
        memory(machine, interfaces),
        namespaces(machine),
    ]
}

fn policy(file: &Path, errors: usize) -> Finding {
    let named = file.display();
    if errors == 0 {
        return Finding::ok("policy", format!("{named} can be used"));
    }
    Finding::problem("policy", format!("{named} has {}", count_of(errors, "error")))
        .why("a policy with errors is not enforced; its interfaces are not looked at")
        .mend(format!("nacld check {}", word(&named.to_string())))
}

fn object(machine: &Machine) -> Finding {
    if machine.platform.built_in {
        return Finding::ok("object", "the kernel programs are in this binary");
    }
    Finding::problem("object", "this nacld was built without its kernel programs")
        .why("it can check and explain, and attach nothing; this builds one with them, in a checkout")
        .mend("cargo xtask build")
}

fn kernel(machine: &Machine) -> Finding {
    let platform = &machine.platform;
    let found = format!("Linux {}", platform.kernel);
    match (platform.too_old, platform.tcx) {
        (Some(why), _) => Finding::problem("kernel", found).why(format!("{why}; 6.6 has all that nacld uses")),
        (None, false) => {
            let frags = if platform.frags { "" } else { ", and native XDP takes no frames larger than a page (5.18)" };
            Finding::note("kernel", found).why(format!(
                "TC programs stand on the clsact qdisc, and not on links (6.6){frags}; no test runs on a kernel that old"
            ))
        }
        (None, true) => Finding::ok("kernel", format!("{found}: all of nacld works")),
    }
}

fn btf(machine: &Machine) -> Finding {
    if machine.btf {
        return Finding::ok("btf", "the kernel describes its types");
    }
    Finding::note("btf", "no /sys/kernel/btf/vmlinux").why(
        "nacld brings the types it needs; tools that look at its programs and maps, such as bpftool, want a kernel built with CONFIG_DEBUG_INFO_BTF",
    )
}

fn jit(machine: &Machine) -> Finding {
    match machine.jit {
        Some(0) => Finding::note("jit", "off: programs are interpreted")
            .why("each packet costs several times as much")
            .mend("sysctl -w net.core.bpf_jit_enable=1"),
        Some(_) => Finding::ok("jit", "on: programs run as machine code"),
        None => Finding::ok("jit", "cannot be seen: root may read it, outside other network namespaces"),
    }
}

fn unprivileged(machine: &Machine) -> Finding {
    match machine.unprivileged {
        Some(0) => Finding::note("unprivileged-bpf", "every user may load BPF programs")
            .why("nacld does not need that, and a machine is safer without it (Spectre)")
            .mend("sysctl -w kernel.unprivileged_bpf_disabled=2"),
        Some(_) => Finding::ok("unprivileged-bpf", "only privileged users may load BPF programs"),
        None => Finding::ok("unprivileged-bpf", "cannot be seen"),
    }
}

fn lockdown(machine: &Machine) -> Finding {
    match machine.lockdown.as_deref() {
        None | Some("none") => Finding::ok("lockdown", "none"),
        Some(level) => Finding::ok(
            "lockdown",
            format!("{level}: it keeps programs from reading the kernel's memory, which nacld's do not"),
        ),
    }
}

fn capabilities(machine: &Machine) -> Finding {
    let lacking = &machine.platform.lacking;
    let ambient = match machine.ambient {
        None | Some(0) => String::new(),
        Some(set) => format!("; it hands on {}", names_of(set)),
    };
    if lacking.is_empty() {
        let all = if machine.platform.sys_admin { "CAP_SYS_ADMIN too" } else { "and not CAP_SYS_ADMIN" };
        return Finding::ok("capabilities", format!("CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, {all}{ambient}"));
    }
    Finding::problem("capabilities", format!("this process has no {}{ambient}", lacking.join(", ")))
        .why("attaching needs them; root has them, and a systemd unit hands them on as AmbientCapabilities")
        .mend("sudo nacld doctor")
}

/// Capabilities by name, those that matter here; the rest by number.
fn names_of(set: u64) -> String {
    const KNOWN: &[(u32, &str)] = &[(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
    let name = |bit: u32| {
        let known = KNOWN.iter().find(|(number, _)| *number == bit);
        known.map_or_else(|| format!("capability {bit}"), |(_, name)| (*name).to_owned())
    };
    (0..64).filter(|bit| set >> bit & 1 == 1).map(name).collect::<Vec<_>>().join(", ")
}

fn bpffs(machine: &Machine) -> Finding {
    let site = &machine.site;
    let (root, place) = (site.root.display().to_string(), site.bpf().display().to_string());
    let own = format!("chown -R {} {}", machine.uid, word(&root));
    match (site.mounted, site.writable) {
        (true, true) => Finding::ok("bpffs", format!("mounted on {place}, and this process may write there")),
        (true, false) => Finding::problem("bpffs", format!("mounted on {place}, and this process may not write to {root}"))
            .why("what is enforced is pinned there, so that it outlives the daemon; `nacld run --no-pins` does without")
            .mend(own),
        (false, _) if machine.platform.sys_admin => {
            Finding::ok("bpffs", format!("not mounted on {place}: `nacld run` does it"))
        }
        (false, _) => Finding::problem("bpffs", format!("not mounted on {place}, and this process may not mount it"))
            .why("what is enforced is pinned there, so that it outlives the daemon, and mounting needs CAP_SYS_ADMIN; `nacld run --no-pins` does without")
            .mend(format!("mkdir -p {}", word(&place)))
            .mend(format!("mount -t bpf -o mode=0700 nacld {}", word(&place)))
            .mend(own),
    }
}

fn mounts(machine: &Machine) -> Finding {
    let place = word(&machine.site.bpf().display().to_string());
    match (machine.site.own_mounts, machine.site.mounted) {
        (None, _) => Finding::ok("mount-namespace", "cannot be seen by this process"),
        (Some(false), _) => Finding::ok("mount-namespace", "the machine's own: what is pinned outlives the daemon"),
        (Some(true), true) => {
            Finding::ok("mount-namespace", "one of its own, but the bpffs was mounted before: what is pinned stays")
        }
        (Some(true), false) => Finding::note("mount-namespace", "one of its own, as `ip netns exec` makes it")
            .why("what is mounted and pinned here goes with it, so nothing goes on enforcing when the daemon is killed; run nacld outside and name the namespace with `netns =`, or mount the bpffs beforehand")
            .mend(format!("nsenter --target 1 --mount mkdir -p {place}"))
            .mend(format!("nsenter --target 1 --mount mount -t bpf -o mode=0700 nacld {place}")),
    }
}

fn memlock(machine: &Machine) -> Finding {
    match machine.memlock {
        _ if machine.platform.cgroup_memory => {
            Finding::ok("memlock", "no limit of locked memory counts here: maps are charged to the memory cgroup")
        }
        None => Finding::ok("memlock", "unlimited"),
        Some(limit) => Finding::note("memlock", format!("{limit} bytes of locked memory"))
            .why("before Linux 5.11 maps count as locked memory, and this is too little for them; in the shell that runs nacld")
            .mend("ulimit -l unlimited"),
    }
}

fn memory(machine: &Machine, interfaces: u64) -> Finding {
    let Some(available) = machine.available else { return Finding::ok("memory", "cannot be seen") };
    let wanted = interfaces.max(1) * MEMORY_OF_AN_INTERFACE;
    let found = format!("{} MiB can be had", available >> 20);
    if available >= wanted {
        return Finding::ok("memory", found);
    }
    Finding::note("memory", found).why(format!(
        "the largest policies and full connection tables take {} MiB here; smaller lists and `[tracking] entries` need less",
        wanted >> 20
    ))
}

fn namespaces(machine: &Machine) -> Finding {
    let names = match &machine.namespaces[..] {
        [] => "none has a name".to_owned(),
        names => names.join(", "),
    };
    if machine.platform.sys_admin {
        return Finding::ok("namespaces", format!("{names}; this process may enter them (`netns =`)"));
    }
    Finding::ok("namespaces", format!("{names}; entering them (`netns =`) needs CAP_SYS_ADMIN, which is missing"))
}

/// What is asked of one interface.
struct Look<'f> {
    nic: &'f Nic,
    survey: &'f Survey,
    machine: &'f Machine,
    xdp: Xdp,
}

fn interface(nic: &Nic, machine: &Machine, file: &Path) -> Vec<Finding> {
    let name = &nic.target.name;
    let survey = match &nic.survey {
        Ok(survey) => survey,
        Err(unseen) => return vec![not_seen(nic, unseen)],
    };
    if let Some(kind) = &survey.not_ethernet {
        return vec![Finding::problem("interface", format!("{name} is not Ethernet but {kind}")).why(
            "nacld judges Ethernet frames: put the policy on the Ethernet interface whose frames these travel in, or on a veth in front of it",
        )];
    }
    let xdp = nic.wanted.map_or(Xdp::Auto, |wanted| wanted.xdp);
    let look = Look { nic, survey, machine, xdp };
    let mut findings = vec![look.state()];
    findings.extend(look.native());
    findings.push(look.mtu());
    findings.extend(look.queues());
    findings.extend(look.virtio());
    findings.extend(look.offloads());
    findings.extend(look.segmentation());
    findings.extend(look.programs());
    findings.extend(look.port());
    findings.push(look.addresses());
    findings.extend(look.ssh(file));
    if !survey.unseen.is_empty() {
        findings.push(
            Finding::note("unseen", survey.unseen.join("; "))
                .why("what could not be asked was not judged; root may see it all")
                .mend("sudo nacld doctor"),
        );
    }
    findings
}

fn not_seen(nic: &Nic, unseen: &Unseen) -> Finding {
    let name = &nic.target.name;
    let netns = nic.target.netns.as_deref().unwrap_or_default();
    match unseen {
        Unseen::Missing(there) => {
            let near = there.iter().map(|other| (strsim::damerau_levenshtein(name, other), other)).min();
            let near = near.filter(|(distance, _)| *distance <= 2);
            let near = near.map(|(_, other)| format!("; is {other} meant?")).unwrap_or_default();
            Finding::problem("interface", format!("there is no interface {name}{near}")).why(format!(
                "`nacld run` waits for it, and nothing is enforced there till it comes; there are: {}",
                there.join(", ")
            ))
        }
        Unseen::NoNamespace => Finding::problem("interface", format!("there is no network namespace {netns}"))
            .why("a name stands for a file under /run/netns")
            .mend(format!("ip netns add {}", word(netns))),
        Unseen::Forbidden => {
            Finding::problem("interface", format!("this process must not enter the network namespace {netns}"))
                .why("that needs CAP_SYS_ADMIN")
                .mend("sudo nacld doctor")
        }
        Unseen::Other(text) => {
            Finding::problem("interface", text.clone()).why("what cannot be asked cannot be attached to")
        }
    }
}

impl Look<'_> {
    /// `ip`, `tc` in the interface's namespace.
    fn iproute2(&self, program: &str, command: &str) -> String {
        match &self.nic.target.netns {
            Some(netns) => format!("{program} -n {} {command}", word(netns)),
            None => format!("{program} {command}"),
        }
    }

    fn set(&self, what: &str) -> String {
        self.iproute2("ip", &format!("link set dev {} {what}", word(&self.nic.target.name)))
    }

    /// Any other program in the interface's namespace.
    fn ethtool(&self, option: &str, what: &str) -> String {
        let command = format!("ethtool {option} {} {what}", word(&self.nic.target.name));
        match &self.nic.target.netns {
            Some(netns) => format!("ip netns exec {} {command}", word(netns)),
            None => command,
        }
    }

    /// A finding about what native XDP cannot be had with: fatal where the policy insists on it, nothing where it does
    /// not want it.
    fn against_native(&self, check: &str, found: impl Into<String>, why: &str) -> Finding {
        match self.xdp {
            Xdp::Native => Finding::problem(check, found)
                .why(format!("{why}; `xdp = \"native\"` fails on it"))
                .policy("xdp = \"auto\""),
            Xdp::Auto => Finding::note(check, found)
                .why(format!("{why}; ingress is hooked by TC then, which judges the same and costs more")),
            Xdp::Tc | Xdp::Generic => {
                Finding::ok(check, format!("{}: the policy does not use native XDP", found.into()))
            }
        }
    }

    fn state(&self) -> Finding {
        if self.survey.up {
            return Finding::ok("link", "up");
        }
        Finding::note("link", "down").why("a policy is attached all the same, and meets no packet").mend(self.set("up"))
    }

    fn has_native(&self) -> bool {
        match (self.survey.xdp_features, self.survey.driver.as_deref()) {
            (Some(features), _) => features & XDP_BASIC != 0,
            (None, Some(driver)) => NATIVE.contains(&driver),
            (None, None) => false,
        }
    }

    fn native(&self) -> Vec<Finding> {
        let driver = self.survey.driver.as_deref().or(self.survey.kind.as_deref()).unwrap_or("unknown");
        let source = if self.survey.xdp_features.is_some() {
            "by its own account"
        } else {
            "by a table in nacld: this kernel does not say (6.3)"
        };
        let mut findings = vec![Finding::ok("driver", driver)];
        findings.push(if self.has_native() {
            Finding::ok("native-xdp", format!("{driver} has it, {source}"))
        } else {
            self.against_native("native-xdp", format!("{driver} has none, {source}"), "only the driver can give it")
        });
        findings
    }

    fn mtu(&self) -> Finding {
        let mtu = self.survey.mtu;
        let parts = self.survey.xdp_features.is_some_and(|features| features & XDP_RX_SG != 0);
        let driver = self.survey.driver.as_deref().unwrap_or_default();
        if mtu <= USUAL_MTU || !self.has_native() {
            return Finding::ok("mtu", mtu.to_string());
        }
        if parts && self.machine.platform.frags {
            return Finding::ok("mtu", format!("{mtu}: driver and kernel give XDP frames of several parts"));
        }
        if driver == "veth" {
            // The kernel asks the other end, which may be anywhere.
            return self.against_native(
                "mtu",
                mtu.to_string(),
                "native XDP on a veth wants an MTU of 3506 or less of its other end",
            );
        }
        let (limit, known) = match LARGEST_MTU.iter().find(|(of, _)| *of == driver) {
            Some((_, limit)) => (*limit, format!("with native XDP {driver} takes {limit} at most")),
            None => (USUAL_MTU, "with native XDP a frame has to fit a page in many drivers".to_owned()),
        };
        if mtu <= limit {
            return Finding::ok("mtu", format!("{mtu}: {known}"));
        }
        self.against_native("mtu", mtu.to_string(), &known).mend(self.set(&format!("mtu {limit}")))
    }

    fn queues(&self) -> Option<Finding> {
        let queues = self.survey.queues?;
        let found = format!("{} of {}", queues.now, queues.most);
        Some(match self.survey.driver.as_deref() {
            // ena_xdp_legal_queue_count: as many again must be free to send by.
            Some("ena") if 2 * queues.now > queues.most => {
                let why = "with native XDP ena uses half of its queues at most";
                let finding = self.against_native("queues", found, why);
                match queues.most / 2 {
                    0 => finding,
                    half => finding.mend(self.ethtool("-L", &format!("combined {half}"))),
                }
            }
            Some("virtio_net") => {
                Finding::ok("queues", format!("{found}: spare ones serve XDP that sends, and nacld's only judges"))
            }
            _ => Finding::ok("queues", found),
        })
    }

    /// "Can't set XDP while host is implementing GRO_HW/CSUM".
    fn virtio(&self) -> Option<Finding> {
        let bits = self.survey.virtio.filter(|_| self.survey.driver.as_deref() == Some("virtio_net"))?;
        let has = |bit: u32| bits >> bit & 1 == 1;
        Some(if !VIRTIO_GUEST_OFFLOADS.iter().any(|bit| has(*bit)) {
            Finding::ok("virtio-offloads", "the host leaves frames as they are")
        } else if has(VIRTIO_CTRL_GUEST_OFFLOADS) {
            Finding::ok(
                "virtio-offloads",
                "the host merges frames or leaves checksums out, and the driver can switch that off",
            )
        } else {
            self.against_native(
                "virtio-offloads",
                "the host merges frames or leaves checksums out, and this guest cannot switch that off",
                "the driver refuses native XDP (\"Can't set XDP while host is implementing GRO_HW/CSUM\"); only the host can change it: with QEMU, -device virtio-net-pci,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off",
            )
        })
    }

    fn offloads(&self) -> Vec<Finding> {
        let Some(offloads) = &self.survey.offloads else { return Vec::new() };
        let on = |name: &str| offloads.get(name).is_some_and(|offload| offload.on);
        let fixed = |name: &str| offloads.get(name).is_some_and(|offload| offload.fixed);
        let virtio = self.survey.driver.as_deref() == Some("virtio_net");
        let mut findings = Vec::new();
        for (check, feature, option, what) in
            [("lro", "rx-lro", "lro", "LRO"), ("gro-hw", "rx-gro-hw", "rx-gro-hw", "GRO in hardware")]
        {
            if !on(feature) || virtio {
                findings.push(Finding::ok(check, if on(feature) { "on: see virtio-offloads" } else { "off" }));
                continue;
            }
            let why = format!(
                "the card merges frames before anybody sees them ({what}), with which many drivers refuse native XDP"
            );
            let finding = self.against_native(check, "on", &why);
            findings.push(if fixed(feature) {
                finding
            } else {
                finding.mend(self.ethtool("-K", &format!("{option} off")))
            });
        }
        if self.xdp == Xdp::Generic && on("rx-gro") {
            findings.push(
                Finding::note("gro", "on")
                    .why(
                        "generic XDP comes after GRO: packets of one flow are merged, judged as one and counted as one",
                    )
                    .mend(self.ethtool("-K", "gro off")),
            );
        }
        let checksum = if on("rx-checksum") { "on: harmless, nacld changes no packet" } else { "off" };
        findings.push(Finding::ok("checksum", checksum));
        let vlan =
            if on("rx-vlan-hw-parse") { "on: harmless, a tag that the card took out is looked up" } else { "off" };
        findings.push(Finding::ok("vlan", vlan));
        findings
    }

    /// veth_fix_features: while one end has a native program, the other loses its segmentation offloads.
    fn segmentation(&self) -> Option<Finding> {
        let native = matches!(self.xdp, Xdp::Auto | Xdp::Native) && self.has_native();
        (native && self.survey.driver.as_deref() == Some("veth")).then(|| {
            Finding::note("segmentation", "native XDP on a veth takes segmentation offload (TSO, GSO) from its other end")
                .why("whoever sends from there sends single frames: one TCP stream went from 11.8 to 3.1 Gbit/s (docs/performance.md); where that matters, hook ingress by TC")
                .policy("xdp = \"tc\"")
        })
    }

    fn programs(&self) -> Vec<Finding> {
        let programs = &self.survey.programs;
        let mut findings = Vec::new();
        let (ours, others): (Vec<&Found>, Vec<&Found>) = programs.iter().partition(|program| program.ours);
        let held: Vec<_> = ours.iter().filter_map(|program| program.holder.as_deref()).collect();
        match (ours.is_empty(), held.first()) {
            (true, _) => {}
            (false, Some(holder)) => {
                findings.push(Finding::ok("nacld", format!("a policy is enforced here already, by {holder}")));
            }
            (false, None) => {
                let netns = self.nic.target.netns.as_ref().map(|netns| format!(" --netns {}", word(netns)));
                let detach = format!("nacld detach {}{}", word(&self.nic.target.name), netns.unwrap_or_default());
                findings.push(
                    Finding::note("nacld", format!("{} of a nacld that is gone", count_of(ours.len(), "program")))
                        .why("they go on judging by the policy they were given; `nacld run` takes their place, and this takes them off")
                        .mend(detach),
                );
            }
        }
        findings.extend(others.iter().map(|other| self.other(other)));
        if others.is_empty() {
            findings.push(Finding::ok("programs", "nobody else's program is on its hooks"));
        }
        findings
    }

    /// Somebody else's program.
    fn other(&self, program: &Found) -> Finding {
        let what = match (&program.name, program.id) {
            (Some(name), id) => format!("{name:?} (id {id})"),
            (None, 0) => "a filter without a BPF program".to_owned(),
            (None, id) => format!("a program (id {id})"),
        };
        let holder = program.holder.as_ref().map(|holder| format!(", held by {holder}")).unwrap_or_default();
        let found = |hook: &str| format!("{hook}: {what}{holder}");
        let chain = "nacld stands beside it; a program ahead of nacld's that ends the chain ends it for nacld too; this takes it off";
        let way = |egress: bool| if egress { "egress" } else { "ingress" };
        let finding = match program.place {
            Place::Xdp(mode) => {
                let found = found("XDP");
                let taken = "the XDP hook has room for one program; this takes it off, and what it did with it";
                let finding = match self.xdp {
                    Xdp::Generic => Finding::problem("programs", found).why(taken).policy("xdp = \"tc\""),
                    _ => self.against_native("programs", found, taken),
                };
                let mode = match mode {
                    XdpMode::Native => "xdpdrv",
                    XdpMode::Generic => "xdpgeneric",
                    XdpMode::Offloaded => "xdpoffload",
                };
                if program.links.is_empty() && self.machine.platform.sys_admin {
                    return finding.mend(self.set(&format!("{mode} off")));
                }
                finding
            }
            Place::Tcx { egress } => Finding::note("programs", found(&format!("tcx {}", way(egress)))).why(chain),
            Place::Clsact { egress, priority } => {
                let command = format!("filter del dev {} {} pref {priority}", word(&self.nic.target.name), way(egress));
                Finding::note("programs", found(&format!("clsact {}", way(egress))))
                    .why(chain)
                    .mend(self.iproute2("tc", &command))
            }
        };
        match program.links[..] {
            // One of several may be on another interface.
            [link] => finding.mend(format!("bpftool link detach id {link}")),
            _ => finding,
        }
    }

    fn port(&self) -> Option<Finding> {
        let (master, kind) = self.survey.master.as_ref()?;
        let why = match kind.as_str() {
            "bridge" => {
                "frames that the bridge forwards are judged at each port that has a policy; what is for this machine itself has the bridge's addresses, which the policy has to name"
            }
            "bond" | "team" => "only what passes this port is judged: put the policy on the bond to judge all of it",
            _ => "only what passes this port is judged",
        };
        Some(Finding::note("port", format!("a port of {kind} {master}")).why(why))
    }

    fn addresses(&self) -> Finding {
        let addresses: Vec<_> = self.nic.addresses.iter().map(ToString::to_string).collect();
        Finding::ok("addresses", if addresses.is_empty() { "none".to_owned() } else { addresses.join(", ") })
    }

    fn ssh(&self, file: &Path) -> Option<Finding> {
        let connections = self.nic.ssh.as_ref()?;
        let text = |Connection { local, remote }: &Connection| format!("{remote} connected to {local}");
        let found: Vec<_> = connections.iter().map(text).collect();
        Some(if found.is_empty() {
            Finding::ok("ssh", "nobody is connected over it")
        } else {
            Finding::note("ssh", found.join("; "))
                .why("a policy may lock them out, so `nacld run` wants to be told what then; with this it is undone unless `nacld confirm` follows")
                .mend(format!("nacld run --config {} --confirm 60s", word(&file.display().to_string())))
        })
    }
}

/// A word of a shell's command line.
fn word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@%+,=".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}
