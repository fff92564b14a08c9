//! What `nacld doctor` makes of a machine, on machines that are made up: each finding, how serious it is under each wish of
//! the policy, and every command it prints, to the letter. What the commands do is shown by `kernel_doctor.rs`.

use std::path::PathBuf;

use nacl_daemon::{
    dataplane::{Found, Offload, Place, Platform, Queues, Site, Survey, Target, XdpMode},
    doctor::{
        Diagnosis, Finding, Verdict,
        facts::{Facts, Machine, Nic, Unseen, Wanted},
        judge,
    },
    report,
    resolve::{Side, Xdp},
    service::host::Connection,
};

/// A machine with nothing to be said of.
fn machine() -> Machine {
    Machine {
        platform: Platform {
            kernel: "6.12.1".into(),
            tcx: true,
            frags: true,
            cgroup_memory: true,
            built_in: true,
            sys_admin: true,
            ..Platform::default()
        },
        btf: true,
        jit: Some(1),
        unprivileged: Some(2),
        lockdown: Some("none".into()),
        ambient: Some(0),
        uid: 0,
        site: Site { root: "/run/nacld".into(), mounted: true, writable: true, own_mounts: Some(false) },
        memlock: Some(8 << 20),
        available: Some(8 << 30),
        namespaces: Vec::new(),
    }
}

/// A card with native XDP, and everything that is in its way switched off.
fn card() -> Survey {
    let off = Offload::default();
    let names = ["rx-lro", "rx-gro-hw", "rx-gro", "rx-checksum", "rx-vlan-hw-parse"];
    Survey {
        up: true,
        mtu: 1500,
        driver: Some("ixgbe".into()),
        xdp_features: Some(1),
        offloads: Some(names.map(|name| (name.to_owned(), off)).into()),
        ..Survey::default()
    }
}

fn nic(survey: Survey, xdp: Option<Xdp>) -> Nic {
    Nic {
        target: Target { name: "eth0".into(), netns: None },
        wanted: xdp.map(|xdp| Wanted { xdp, side: Side::Host }),
        survey: Ok(survey),
        addresses: vec!["10.0.1.10".parse().unwrap()],
        ssh: Some(Vec::new()),
    }
}

fn diagnose(machine: Machine, nics: Vec<Nic>) -> Diagnosis {
    judge(&Facts { machine, policy: None, nics })
}

fn find<'d>(diagnosis: &'d Diagnosis, check: &str) -> &'d Finding {
    let mut found = diagnosis.findings.iter().filter(|finding| finding.check == check);
    let first = found.next().unwrap_or_else(|| panic!("no {check} in {:#?}", diagnosis.findings));
    assert!(found.next().is_none(), "{check} twice");
    first
}

/// The only finding that is not ok; it says why it matters.
fn one(diagnosis: &Diagnosis) -> &Finding {
    let open: Vec<_> = diagnosis.findings.iter().filter(|finding| finding.verdict != Verdict::Ok).collect();
    assert_eq!(open.len(), 1, "{open:#?}");
    assert!(open[0].why.as_ref().is_some_and(|why| !why.is_empty()), "{open:#?}");
    assert_eq!(diagnosis.problems + diagnosis.notes, 1);
    open[0]
}

#[test]
fn nothing_is_said_against_a_good_machine() {
    for xdp in [None, Some(Xdp::Auto), Some(Xdp::Native), Some(Xdp::Tc), Some(Xdp::Generic)] {
        let diagnosis = diagnose(machine(), vec![nic(card(), xdp)]);
        assert_eq!((diagnosis.problems, diagnosis.notes), (0, 0), "{xdp:?} {:#?}", diagnosis.findings);
        assert!(diagnosis.findings.iter().all(|finding| finding.mend.is_empty() && finding.policy.is_none()));
    }
}

#[test]
fn each_fault_of_a_machine_is_found_and_mended() {
    type Spoil = fn(&mut Machine);
    let cases: &[(&str, Verdict, Spoil, &[&str])] = &[
        ("object", Verdict::Problem, |machine| machine.platform.built_in = false, &["cargo xtask build"]),
        ("kernel", Verdict::Problem, |machine| machine.platform.too_old = Some("nacld needs Linux 5.15 or later"), &[]),
        ("kernel", Verdict::Note, |machine| machine.platform.tcx = false, &[]),
        ("btf", Verdict::Note, |machine| machine.btf = false, &[]),
        ("jit", Verdict::Note, |machine| machine.jit = Some(0), &["sysctl -w net.core.bpf_jit_enable=1"]),
        (
            "unprivileged-bpf",
            Verdict::Note,
            |machine| machine.unprivileged = Some(0),
            &["sysctl -w kernel.unprivileged_bpf_disabled=2"],
        ),
        (
            "capabilities",
            Verdict::Problem,
            |machine| machine.platform.lacking = vec!["CAP_BPF"],
            &["sudo nacld doctor"],
        ),
        (
            "bpffs",
            Verdict::Problem,
            |machine| {
                machine.site.writable = false;
                machine.uid = 990;
            },
            &["chown -R 990 /run/nacld"],
        ),
        (
            "bpffs",
            Verdict::Problem,
            |machine| {
                machine.site = Site { root: "/srv/my state".into(), own_mounts: Some(false), ..Site::default() };
                machine.platform.sys_admin = false;
                machine.uid = 990;
            },
            &[
                "mkdir -p '/srv/my state/bpf'",
                "mount -t bpf -o mode=0700 nacld '/srv/my state/bpf'",
                "chown -R 990 '/srv/my state'",
            ],
        ),
        (
            "mount-namespace",
            Verdict::Note,
            |machine| {
                machine.site.mounted = false;
                machine.site.own_mounts = Some(true);
            },
            &[
                "nsenter --target 1 --mount mkdir -p /run/nacld/bpf",
                "nsenter --target 1 --mount mount -t bpf -o mode=0700 nacld /run/nacld/bpf",
            ],
        ),
        ("memlock", Verdict::Note, |machine| machine.platform.cgroup_memory = false, &["ulimit -l unlimited"]),
        ("memory", Verdict::Note, |machine| machine.available = Some(20 << 20), &[]),
    ];
    for (check, verdict, spoil, mend) in cases {
        let mut spoilt = machine();
        spoil(&mut spoilt);
        let diagnosis = diagnose(spoilt, vec![nic(card(), None)]);
        let finding = one(&diagnosis);
        assert_eq!((finding.check.as_str(), finding.verdict), (*check, *verdict));
        assert_eq!(finding.mend, *mend, "{check}");
        assert_eq!(finding.interface, None);
    }
    let mut service = machine();
    service.platform.sys_admin = false;
    service.ambient = Some(1 << 12 | 1 << 38 | 1 << 39 | 1 << 13);
    assert_eq!(
        find(&diagnose(service, vec![nic(card(), None)]), "capabilities").found,
        "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, and not CAP_SYS_ADMIN; it hands on CAP_NET_ADMIN, capability 13, CAP_PERFMON, CAP_BPF"
    );
    // What is no fault: it is mounted by `run`, or was before; lockdown keeps nothing from working.
    let harmless: &[Spoil] = &[
        |machine| machine.site.mounted = false,
        |machine| machine.site.own_mounts = Some(true),
        |machine| machine.lockdown = Some("confidentiality".into()),
        |machine| machine.platform.sys_admin = false,
        |machine| {
            (machine.jit, machine.unprivileged, machine.site.own_mounts, machine.available) = (None, None, None, None);
        },
    ];
    for spoil in harmless {
        let mut other = machine();
        spoil(&mut other);
        let diagnosis = diagnose(other, vec![nic(card(), None)]);
        assert_eq!((diagnosis.problems, diagnosis.notes), (0, 0), "{:#?}", diagnosis.findings);
    }
}

/// What is in the way of native XDP: a note where ingress may be hooked otherwise, a problem where the policy insists, and
/// nothing where it does not want it.
#[test]
fn what_is_against_native_xdp_is_as_serious_as_the_policy_has_it() {
    type Spoil = fn(&mut Survey);
    fn on(survey: &mut Survey, offload: &str, fixed: bool) {
        survey.offloads.as_mut().unwrap().insert(offload.to_owned(), Offload { on: true, fixed });
    }
    let cases: &[(&str, Spoil, &[&str])] = &[
        ("native-xdp", |survey| survey.xdp_features = Some(0), &[]),
        ("native-xdp", |survey| (survey.driver, survey.xdp_features) = (Some("e1000e".into()), None), &[]),
        ("mtu", |survey| survey.mtu = 9000, &["ip link set dev eth0 mtu 1500"]),
        ("mtu", |survey| (survey.driver, survey.mtu) = (Some("ena".into()), 9001), &["ip link set dev eth0 mtu 3498"]),
        (
            "mtu",
            |survey| (survey.driver, survey.mtu) = (Some("virtio_net".into()), 9000),
            &["ip link set dev eth0 mtu 3506"],
        ),
        (
            "queues",
            |survey| (survey.driver, survey.queues) = (Some("ena".into()), Some(Queues { now: 5, most: 8 })),
            &["ethtool -L eth0 combined 4"],
        ),
        (
            "queues",
            |survey| (survey.driver, survey.queues) = (Some("ena".into()), Some(Queues { now: 1, most: 1 })),
            &[],
        ),
        (
            "virtio-offloads",
            // Checksums and TSO for both families, and no way to switch them off.
            |survey| (survey.driver, survey.virtio) = (Some("virtio_net".into()), Some(1 << 1 | 1 << 7 | 1 << 8)),
            &[],
        ),
        ("lro", |survey| on(survey, "rx-lro", false), &["ethtool -K eth0 lro off"]),
        ("lro", |survey| on(survey, "rx-lro", true), &[]),
        ("gro-hw", |survey| on(survey, "rx-gro-hw", false), &["ethtool -K eth0 rx-gro-hw off"]),
        (
            "programs",
            |survey| survey.programs = vec![other(Place::Xdp(XdpMode::Native), &[])],
            &["ip link set dev eth0 xdpdrv off"],
        ),
        (
            "programs",
            |survey| survey.programs = vec![other(Place::Xdp(XdpMode::Generic), &[])],
            &["ip link set dev eth0 xdpgeneric off"],
        ),
        (
            "programs",
            |survey| survey.programs = vec![other(Place::Xdp(XdpMode::Offloaded), &[])],
            &["ip link set dev eth0 xdpoffload off"],
        ),
        (
            "programs",
            |survey| survey.programs = vec![other(Place::Xdp(XdpMode::Native), &[42])],
            &["bpftool link detach id 42"],
        ),
        // One of them may be somewhere else.
        ("programs", |survey| survey.programs = vec![other(Place::Xdp(XdpMode::Native), &[42, 43])], &[]),
    ];
    for (check, spoil, mend) in cases {
        let mut survey = card();
        spoil(&mut survey);
        for (xdp, verdict) in
            [(None, Verdict::Note), (Some(Xdp::Auto), Verdict::Note), (Some(Xdp::Native), Verdict::Problem)]
        {
            let diagnosis = diagnose(machine(), vec![nic(survey.clone(), xdp)]);
            let finding = one(&diagnosis);
            assert_eq!((finding.check.as_str(), finding.verdict), (*check, verdict), "{finding:#?}");
            assert_eq!(finding.mend, *mend, "{check}");
            assert_eq!(finding.policy.as_deref(), (verdict == Verdict::Problem).then_some("xdp = \"auto\""));
            assert_eq!(finding.interface.as_deref(), Some("eth0"));
        }
        let diagnosis = diagnose(machine(), vec![nic(survey.clone(), Some(Xdp::Tc))]);
        assert_eq!((diagnosis.problems, diagnosis.notes), (0, 0), "{check} {:#?}", diagnosis.findings);
        assert!(diagnosis.findings.iter().all(|finding| finding.mend.is_empty()), "{check}");
        // Generic XDP needs the hook all the same.
        let diagnosis = diagnose(machine(), vec![nic(survey, Some(Xdp::Generic))]);
        let problems = usize::from(*check == "programs");
        assert_eq!(diagnosis.problems, problems, "{check} {:#?}", diagnosis.findings);
    }
}

fn other(place: Place, links: &[u32]) -> Found {
    Found {
        place,
        id: 7,
        name: Some("katran".into()),
        ours: false,
        holder: Some("katrand (process 99)".into()),
        links: links.to_vec(),
    }
}

#[test]
fn what_only_looks_like_an_obstacle_is_none() {
    type Spoil = fn(&mut Survey);
    let cases: &[Spoil] = &[
        // Frames of several parts need not fit a page.
        |survey| (survey.mtu, survey.xdp_features) = (9000, Some(1 | 32)),
        |survey| (survey.driver, survey.mtu) = (Some("ena".into()), 3498),
        // By the table, where the kernel does not say.
        |survey| survey.xdp_features = None,
        // The driver switches off itself what the host does.
        |survey| (survey.driver, survey.virtio) = (Some("virtio_net".into()), Some(1 << 1 | 1 << 2 | 1 << 7)),
        |survey| (survey.driver, survey.virtio) = (Some("virtio_net".into()), Some(1 << 5)),
        |survey| (survey.driver, survey.queues) = (Some("virtio_net".into()), Some(Queues { now: 1, most: 1 })),
        |survey| (survey.driver, survey.queues) = (Some("ena".into()), Some(Queues { now: 4, most: 8 })),
        |survey| survey.queues = Some(Queues { now: 8, most: 8 }),
        |survey| {
            for name in ["rx-gro", "rx-checksum", "rx-vlan-hw-parse"] {
                survey.offloads.as_mut().unwrap().insert(name.into(), Offload { on: true, fixed: false });
            }
        },
        |survey| survey.offloads = None,
    ];
    for spoil in cases {
        let mut survey = card();
        spoil(&mut survey);
        let diagnosis = diagnose(machine(), vec![nic(survey, Some(Xdp::Native))]);
        assert_eq!((diagnosis.problems, diagnosis.notes), (0, 0), "{:#?}", diagnosis.findings);
    }
    // Without frames of several parts in the kernel, those of the driver help nobody.
    let mut old = machine();
    old.platform.frags = false;
    let survey = Survey { mtu: 9000, xdp_features: Some(1 | 32), ..card() };
    assert_eq!(one(&diagnose(old.clone(), vec![nic(survey.clone(), None)])).check, "mtu");
    // On a veth it is the other end that counts, which is not here to be changed.
    let veth = Survey { driver: Some("veth".into()), kind: Some("veth".into()), ..survey };
    let diagnosis = diagnose(old, vec![nic(veth, None)]);
    let mtu = find(&diagnosis, "mtu");
    assert_eq!((mtu.verdict, mtu.mend.len()), (Verdict::Note, 0));
    assert!(mtu.why.as_ref().unwrap().contains("3506 or less of its other end"));
}

#[test]
fn what_a_veth_loses_is_told_where_it_would_lose_it() {
    let veth = Survey { driver: Some("veth".into()), kind: Some("veth".into()), ..card() };
    for (xdp, told) in [(None, true), (Some(Xdp::Native), true), (Some(Xdp::Tc), false), (Some(Xdp::Generic), false)] {
        let diagnosis = diagnose(machine(), vec![nic(veth.clone(), xdp)]);
        assert_eq!(diagnosis.notes, usize::from(told), "{xdp:?}");
        if told {
            let finding = one(&diagnosis);
            assert_eq!((finding.check.as_str(), finding.policy.as_deref()), ("segmentation", Some("xdp = \"tc\"")));
        }
    }
}

#[test]
fn generic_xdp_after_gro_is_told() {
    let mut survey = card();
    survey.offloads.as_mut().unwrap().insert("rx-gro".into(), Offload { on: true, fixed: false });
    let diagnosis = diagnose(machine(), vec![nic(survey, Some(Xdp::Generic))]);
    let finding = one(&diagnosis);
    assert_eq!((finding.check.as_str(), &finding.mend[..]), ("gro", &["ethtool -K eth0 gro off".to_owned()][..]));
}

#[test]
fn the_link_its_bridge_and_other_programs() {
    let check = |survey: Survey| {
        let diagnosis = diagnose(machine(), vec![nic(survey, Some(Xdp::Native))]);
        let finding = one(&diagnosis);
        assert_eq!(finding.verdict, Verdict::Note);
        (finding.check.clone(), finding.found.clone(), finding.mend.clone())
    };
    let (name, _, mend) = check(Survey { up: false, ..card() });
    assert_eq!((name.as_str(), &mend[..]), ("link", &["ip link set dev eth0 up".to_owned()][..]));
    for kind in ["bridge", "bond", "team", "vrf"] {
        let (name, found, mend) = check(Survey { master: Some(("m0".into(), kind.into())), ..card() });
        assert_eq!((name.as_str(), found, mend.len()), ("port", format!("a port of {kind} m0"), 0));
    }
    let (_, found, mend) = check(Survey { programs: vec![other(Place::Tcx { egress: true }, &[5])], ..card() });
    assert_eq!(found, "tcx egress: \"katran\" (id 7), held by katrand (process 99)");
    assert_eq!(mend, ["bpftool link detach id 5"]);
    let clsact = other(Place::Clsact { egress: false, priority: 49152 }, &[]);
    let (_, found, mend) = check(Survey { programs: vec![clsact], ..card() });
    assert!(found.starts_with("clsact ingress: "), "{found}");
    assert_eq!(mend, ["tc filter del dev eth0 ingress pref 49152"]);
    let nameless = Found { id: 0, name: None, holder: None, ..other(Place::Clsact { egress: true, priority: 1 }, &[]) };
    let (_, found, mend) = check(Survey { programs: vec![nameless], ..card() });
    assert_eq!(found, "clsact egress: a filter without a BPF program");
    assert_eq!(mend, ["tc filter del dev eth0 egress pref 1"]);
    // What was not seen is not called absent.
    let (name, found, mend) =
        check(Survey { unseen: vec!["offloads: no".into(), "tcx programs: no".into()], ..card() });
    assert_eq!((name.as_str(), found.as_str()), ("unseen", "offloads: no; tcx programs: no"));
    assert_eq!(mend, ["sudo nacld doctor"]);
}

#[test]
fn our_own_programs_are_known_for_ours() {
    let ours = |holder: Option<&str>| Found {
        name: Some("nacl_ingress".into()),
        ours: true,
        holder: holder.map(str::to_owned),
        ..other(Place::Xdp(XdpMode::Native), &[3])
    };
    let survey = |holder| Survey { programs: vec![ours(holder)], ..card() };
    let diagnosis = diagnose(machine(), vec![nic(survey(Some("nacld (process 12)")), Some(Xdp::Native))]);
    assert_eq!((diagnosis.problems, diagnosis.notes), (0, 0), "{:#?}", diagnosis.findings);
    assert!(find(&diagnosis, "nacld").found.contains("nacld (process 12)"));
    let mut gone = nic(survey(None), Some(Xdp::Native));
    let diagnosis = diagnose(machine(), vec![gone.clone()]);
    let finding = one(&diagnosis);
    assert_eq!((finding.check.as_str(), &finding.mend[..]), ("nacld", &["nacld detach eth0".to_owned()][..]));
    gone.target.netns = Some("blue".into());
    assert_eq!(one(&diagnose(machine(), vec![gone])).mend, ["nacld detach eth0 --netns blue"]);
}

#[test]
fn who_is_connected_is_told_with_the_way_back() {
    let ssh = Connection { local: "10.0.1.10:22".parse().unwrap(), remote: "198.51.100.7:52345".parse().unwrap() };
    let mut carrying = nic(card(), None);
    carrying.ssh = Some(vec![ssh]);
    let facts = Facts {
        machine: machine(),
        policy: Some((PathBuf::from("/etc/nacld/my policy.toml"), 0)),
        nics: vec![carrying],
    };
    let diagnosis = judge(&facts);
    let finding = one(&diagnosis);
    assert_eq!(finding.found, "198.51.100.7:52345 connected to 10.0.1.10:22");
    assert_eq!(finding.mend, ["nacld run --config '/etc/nacld/my policy.toml' --confirm 60s"]);
    // A policy with errors is a problem of its own.
    let diagnosis = judge(&Facts { policy: Some(("p.toml".into(), 2)), ..facts });
    let finding = find(&diagnosis, "policy");
    assert_eq!((finding.verdict, finding.found.as_str()), (Verdict::Problem, "p.toml has 2 errors"));
    assert_eq!(finding.mend, ["nacld check p.toml"]);
}

#[test]
fn interfaces_that_cannot_be_judged_at_all() {
    let unseen = |unseen| {
        let nic = Nic {
            target: Target { name: "eht0".into(), netns: Some("blue".into()) },
            survey: Err(unseen),
            ..nic(card(), None)
        };
        let diagnosis = diagnose(machine(), vec![nic]);
        let finding = one(&diagnosis).clone();
        assert_eq!((finding.check.as_str(), finding.verdict), ("interface", Verdict::Problem));
        assert!(diagnosis.directions.is_empty());
        (finding.found, finding.mend)
    };
    let (found, mend) = unseen(Unseen::Missing(vec!["lo".into(), "eth0".into()]));
    assert_eq!((found.as_str(), mend.len()), ("there is no interface eht0; is eth0 meant?", 0));
    assert_eq!(unseen(Unseen::Missing(vec!["lo".into()])).0, "there is no interface eht0");
    assert_eq!(unseen(Unseen::NoNamespace).1, ["ip netns add blue"]);
    assert_eq!(unseen(Unseen::Forbidden).1, ["sudo nacld doctor"]);
    assert_eq!(unseen(Unseen::Other("the kernel would not say".into())).0, "the kernel would not say");
    let tun = Survey { not_ethernet: Some("a tunnel".into()), ..card() };
    let diagnosis = diagnose(machine(), vec![nic(tun, None)]);
    assert_eq!(one(&diagnosis).found, "eth0 is not Ethernet but a tunnel");
    assert!(diagnosis.directions.is_empty());
    assert_eq!(one(&diagnose(machine(), Vec::new())).found, "there is no Ethernet interface here");
}

/// Commands go where the interface is, and names are words whatever stands in them.
#[test]
fn commands_enter_the_namespace_and_quote() {
    let mut survey = card();
    survey.up = false;
    survey.mtu = 9000;
    survey.offloads.as_mut().unwrap().insert("rx-lro".into(), Offload { on: true, fixed: false });
    survey.programs = vec![other(Place::Clsact { egress: false, priority: 1 }, &[])];
    let mut nic = nic(survey, None);
    nic.target = Target { name: "$(reboot)'".into(), netns: Some("a b".into()) };
    let diagnosis = diagnose(machine(), vec![nic]);
    let commands: Vec<_> = diagnosis.findings.iter().flat_map(|finding| &finding.mend).map(String::as_str).collect();
    let name = r"'$(reboot)'\'''";
    assert_eq!(
        commands,
        [
            format!("ip -n 'a b' link set dev {name} up"),
            format!("ip -n 'a b' link set dev {name} mtu 1500"),
            format!("ip netns exec 'a b' ethtool -K {name} lro off"),
            format!("tc -n 'a b' filter del dev {name} ingress pref 1"),
        ]
    );
}

#[test]
fn the_text_for_people() {
    let mut survey = card();
    survey.offloads.as_mut().unwrap().insert("rx-lro".into(), Offload { on: true, fixed: false });
    let mut spoilt = machine();
    spoilt.jit = Some(0);
    let facts = Facts { machine: spoilt, policy: None, nics: vec![nic(survey, Some(Xdp::Native))] };
    let diagnosis = judge(&facts);
    let text = anstream::adapter::strip_str(&report::doctor::text(&diagnosis, 100)).to_string();
    let shown = |from: &str, lines: usize| {
        let at = text.lines().position(|line| line.contains(from)).unwrap_or_else(|| panic!("no {from}:\n{text}"));
        text.lines().skip(at).take(lines).collect::<Vec<_>>()
    };
    assert_eq!(
        shown("  jit ", 3),
        [
            "  note     jit                off: programs are interpreted",
            "                              each packet costs several times as much",
            "                              # sysctl -w net.core.bpf_jit_enable=1",
        ]
    );
    assert_eq!(
        shown("  lro ", 6),
        [
            "  problem  lro                on",
            "                              the card merges frames before anybody sees them (LRO), with which many",
            r#"                              drivers refuse native XDP; `xdp = "native"` fails on it"#,
            "                              # ethtool -K eth0 lro off",
            r#"                              in the policy: xdp = "auto""#,
            "  ok       gro-hw             off",
        ]
    );
    assert_eq!(
        shown("side = ", 11),
        [
            r#"side = "host": eth0"#,
            "",
            "  the wire              the interface",
            "               ┌──────────────────────────────┐",
            "    received ─▶│ ingress hook: XDP or TC      │─▶ this machine: the instance",
            "               │   judged by inbound  lists   │",
            "               ├──────────────────────────────┤",
            "        sent ◀─│ egress hook: TC              │◀─ from there",
            "               │   judged by outbound lists   │",
            "               └──────────────────────────────┘",
            "  Egress cannot be XDP: the kernel shows XDP only what an interface receives.",
        ]
    );
    assert!(text.ends_with("\n1 problem in the way of enforcement, 1 note\n"), "{text}");
    assert!(!text.contains("side = \"router\""), "{text}");
    // Where no policy says which way an interface looks, both are shown; on the other side the lists change places.
    let text = report::doctor::text(&diagnose(machine(), vec![nic(card(), None)]), 100);
    let text = anstream::adapter::strip_str(&text).to_string();
    assert!(text.contains("side = \"host\": eth0") && text.contains("side = \"router\": eth0"), "{text}");
    let router = text.split_once("side = \"router\"").unwrap().1;
    let order: Vec<_> = ["ingress hook", "judged by outbound", "egress hook", "judged by inbound"]
        .iter()
        .map(|part| router.find(part).unwrap_or_else(|| panic!("no {part}: {router}")))
        .collect();
    assert!(order.is_sorted(), "{router}");
    assert!(text.ends_with("\nnothing prevents enforcement\n"), "{text}");
}
