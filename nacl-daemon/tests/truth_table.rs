//! The truth table of stateful mode: what becomes of a flow that runs, and of a new one, under each mode, layer, kind of rule
//! and change. Each cell is a packet judged by the engine and by the naive oracle, which must agree. `docs/stateful.md` has
//! the table as it comes out here; `NACLD_WRITE_DOCS=1` writes it there.

mod support;

use std::{env, fmt::Write as _, fs, path::PathBuf};

use nacl_common::Direction;
use nacl_daemon::resolve::{Interface, Layers, Mode};
use support::{
    host::{ACK, Pair, SYN, Talk},
    written::{group, nacl},
};

const BEGIN: &str = "<!-- truth table, written by nacl-daemon/tests/truth_table.rs -->";
const END: &str = "<!-- end of the truth table -->";

/// Which kind of security group rule admits the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Groups {
    Off,
    Tracked,
    Untracked,
}

#[derive(Clone, Copy, Debug)]
struct Setup {
    title: &'static str,
    mode: Mode,
    layers: Layers,
    groups: Groups,
}

const SETUPS: [Setup; 8] = [
    Setup {
        title: "Stateless, network ACL only: AWS's network ACL",
        mode: Mode::Stateless,
        layers: Layers::Nacl,
        groups: Groups::Off,
    },
    Setup {
        title: "Stateful, network ACL only: the what-if",
        mode: Mode::Stateful,
        layers: Layers::Nacl,
        groups: Groups::Off,
    },
    Setup {
        title: "Stateless, both layers, tracked: AWS's usual case",
        mode: Mode::Stateless,
        layers: Layers::Both,
        groups: Groups::Tracked,
    },
    Setup {
        title: "Stateless, both layers, untracked",
        mode: Mode::Stateless,
        layers: Layers::Both,
        groups: Groups::Untracked,
    },
    Setup {
        title: "Stateful, both layers, tracked",
        mode: Mode::Stateful,
        layers: Layers::Both,
        groups: Groups::Tracked,
    },
    Setup {
        title: "Stateful, both layers, untracked",
        mode: Mode::Stateful,
        layers: Layers::Both,
        groups: Groups::Untracked,
    },
    Setup {
        title: "Security groups only, tracked (in either mode)",
        mode: Mode::Stateless,
        layers: Layers::Groups,
        groups: Groups::Tracked,
    },
    Setup {
        title: "Security groups only, untracked (in either mode)",
        mode: Mode::Stateless,
        layers: Layers::Groups,
        groups: Groups::Untracked,
    },
];

impl Setup {
    /// Rules for a flow of this direction.
    fn interface(self, origin: Direction) -> Interface {
        let (asks, answers) = (["100 allow tcp 443 192.0.2.0/24"], ["100 allow tcp 1024-65535 192.0.2.0/24"]);
        let (there, back): (&[&str], &[&str]) = match self.groups {
            Groups::Off => (&[], &[]),
            Groups::Tracked => (&["tcp 443 192.0.2.0/24"], &[]),
            Groups::Untracked => (&["tcp 443 0.0.0.0/0"], &["all 0.0.0.0/0"]),
        };
        let (nacl, web) = match origin {
            Direction::Inbound => (nacl(&asks, &answers), group("web", there, back)),
            Direction::Outbound => (nacl(&answers, &asks), group("web", back, there)),
        };
        let groups = (self.groups != Groups::Off).then(|| vec![web]);
        Interface { groups, mode: self.mode, layers: self.layers, ..Interface::new("eth0", nacl) }
    }
}

struct Change {
    name: &'static str,
    /// Whether it means anything there.
    applies: fn(Setup) -> bool,
    /// Does it.
    make: fn(&mut Pair, &Talk),
}

fn always(_: Setup) -> bool {
    true
}

fn by_nacl(setup: Setup) -> bool {
    setup.layers != Layers::Groups
}

fn by_groups(setup: Setup) -> bool {
    setup.groups != Groups::Off
}

fn other_mode(pair: &mut Pair) {
    let mode = match pair.interface().mode {
        Mode::Stateless => Mode::Stateful,
        Mode::Stateful => Mode::Stateless,
    };
    let layers = pair.interface().layers;
    pair.mode(mode, layers);
}

fn packets_both_ways(pair: &mut Pair, flow: &Talk) {
    pair.meet(&flow.request(ACK));
    pair.meet(&flow.reply(ACK));
}

fn nacl_denies(pair: &mut Pair) {
    let all = ["10 deny all 192.0.2.0/24"];
    pair.reload(|interface| interface.nacl = nacl(&all, &all));
}

const CHANGES: &[Change] = &[
    Change { name: "nothing", applies: always, make: |_, _| {} },
    Change { name: "an hour of silence", applies: always, make: |pair, _| pair.wait(3600) },
    Change {
        name: "five days of silence: the time-out of a TCP connection (S35)",
        applies: always,
        make: |pair, _| pair.wait(432_000),
    },
    Change {
        name: "the network ACL's rule that admitted it is removed",
        applies: by_nacl,
        make: |pair, flow| {
            pair.reload(|interface| {
                let mut nacl = (*interface.nacl).clone();
                match flow.origin {
                    Direction::Inbound => nacl.inbound.clear(),
                    Direction::Outbound => nacl.outbound.clear(),
                }
                interface.nacl = nacl.into();
            });
        },
    },
    Change {
        name: "the network ACL's rule for its replies is removed",
        applies: by_nacl,
        make: |pair, flow| {
            pair.reload(|interface| {
                let mut nacl = (*interface.nacl).clone();
                match flow.origin {
                    Direction::Inbound => nacl.outbound.clear(),
                    Direction::Outbound => nacl.inbound.clear(),
                }
                interface.nacl = nacl.into();
            });
        },
    },
    Change {
        name: "the network ACL denies the other end, both ways",
        applies: always,
        make: |pair, _| nacl_denies(pair),
    },
    Change {
        name: "the group's rule that admitted it is removed (S32)",
        applies: by_groups,
        make: |pair, flow| {
            pair.reload(|interface| {
                for group in interface.groups.iter_mut().flatten() {
                    let mut less = (**group).clone();
                    match flow.origin {
                        Direction::Inbound => less.inbound.clear(),
                        Direction::Outbound => less.outbound.clear(),
                    }
                    *group = less.into();
                }
            });
        },
    },
    Change {
        name: "the group's rule that is open the other way is removed (S31)",
        applies: |setup| setup.groups == Groups::Untracked,
        make: |pair, flow| {
            pair.reload(|interface| {
                for group in interface.groups.iter_mut().flatten() {
                    let mut less = (**group).clone();
                    match flow.origin {
                        Direction::Inbound => less.outbound.clear(),
                        Direction::Outbound => less.inbound.clear(),
                    }
                    *group = less.into();
                }
            });
        },
    },
    Change {
        name: "the group is detached, and one without rules attached (S42)",
        applies: by_groups,
        make: |pair, _| pair.reload(|interface| interface.groups = Some(vec![group("none", &[], &[])])),
    },
    Change {
        name: "the security groups are taken off the interface",
        applies: by_groups,
        make: |pair, _| pair.reload(|interface| interface.groups = None),
    },
    Change {
        name: "the group opens everything to everybody, both ways (S33)",
        applies: |setup| setup.groups == Groups::Tracked,
        make: |pair, _| {
            let all = ["all 0.0.0.0/0"];
            pair.reload(|interface| interface.groups = Some(vec![group("web", &all, &all)]));
        },
    },
    Change {
        name: "… and later this group too is replaced by one without rules",
        applies: |setup| setup.groups == Groups::Tracked,
        make: |pair, flow| {
            let all = ["all 0.0.0.0/0"];
            pair.reload(|interface| interface.groups = Some(vec![group("web", &all, &all)]));
            packets_both_ways(pair, flow);
            pair.reload(|interface| interface.groups = Some(vec![group("none", &[], &[])]));
        },
    },
    Change { name: "the other mode is switched on", applies: always, make: |pair, _| other_mode(pair) },
    Change {
        name: "… a packet passes each way, and the network ACL denies the other end",
        applies: by_nacl,
        make: |pair, flow| {
            other_mode(pair);
            packets_both_ways(pair, flow);
            nacl_denies(pair);
        },
    },
    Change {
        name: "the other mode is switched on, a packet passes each way 61 s later, and the network ACL denies the other end",
        applies: by_nacl,
        make: |pair, flow| {
            other_mode(pair);
            pair.wait(61);
            packets_both_ways(pair, flow);
            nacl_denies(pair);
        },
    },
    Change {
        name: "the other mode is switched on, and back",
        applies: always,
        make: |pair, _| {
            other_mode(pair);
            other_mode(pair);
        },
    },
    Change {
        name: "`layers = \"both\"`",
        applies: |setup| setup.layers != Layers::Both,
        make: |pair, _| pair.mode(pair.interface().mode, Layers::Both),
    },
    Change {
        name: "`layers = \"nacl\"`",
        applies: |setup| setup.layers != Layers::Nacl,
        make: |pair, _| pair.mode(pair.interface().mode, Layers::Nacl),
    },
    Change {
        name: "`layers = \"sg\"`",
        applies: |setup| setup.layers == Layers::Both,
        make: |pair, _| pair.mode(pair.interface().mode, Layers::Groups),
    },
    Change { name: "`nacld conntrack flush`", applies: always, make: |pair, _| pair.flush() },
    Change {
        name: "… and the network ACL denies the other end",
        applies: by_nacl,
        make: |pair, _| {
            pair.flush();
            nacl_denies(pair);
        },
    },
    Change { name: "a reload of the same policy", applies: always, make: |pair, _| pair.reload(|_| {}) },
];

/// What becomes of the running flow's next packet, of the answer to it, and of a new flow.
fn cells(setup: Setup, origin: Direction, change: &Change) -> [String; 3] {
    let flow = match origin {
        Direction::Inbound => Talk::inbound(6, "192.0.2.7", "10.0.2.10", 443),
        Direction::Outbound => Talk::outbound(6, "192.0.2.7", "10.0.2.10", 443),
    };
    let mut pair = Pair::new(setup.interface(origin));
    // What was running when the policy came is another matter: connections are taken up for a minute.
    pair.wait(100);
    assert!(flow.open(&mut pair), "{setup:?}: the flow begins");
    let remembers = setup.mode == Mode::Stateful && setup.layers != Layers::Groups || setup.groups == Groups::Tracked;
    assert_eq!(pair.live(), usize::from(remembers), "{setup:?}");
    assert_eq!(pair.tracked(), usize::from(setup.groups == Groups::Tracked), "{setup:?}");
    (change.make)(&mut pair, &flow);
    let new = flow.from(52346);
    [flow.request(ACK), flow.reply(ACK), new.request(SYN)].map(|packet| pair.clone().says(&packet))
}

fn render() -> String {
    let mut text = String::new();
    for setup in SETUPS {
        let _ = writeln!(text, "\n### {}\n", setup.title);
        let _ = writeln!(
            text,
            "| what happens | the flow's next packet | the answer to it | a new flow |\n|---|---|---|---|"
        );
        for change in CHANGES.iter().filter(|change| (change.applies)(setup)) {
            let [request, reply, new] = cells(setup, Direction::Inbound, change);
            let _ = writeln!(text, "| {} | {request} | {reply} | {new} |", change.name);
        }
    }
    text
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/stateful.md")
}

#[test]
fn the_documented_table_is_what_happens() {
    let path = path();
    let document = fs::read_to_string(&path).expect("docs/stateful.md is there");
    let (before, rest) = document.split_once(BEGIN).expect("it has the table's beginning");
    let (_, after) = rest.split_once(END).expect("and its end");
    let new = format!("{before}{BEGIN}\n{}\n{END}{after}", render());
    if env::var_os("NACLD_WRITE_DOCS").is_some() {
        fs::write(&path, &new).expect("docs/stateful.md can be written");
    }
    snapbox::assert_data_eq!(fs::read_to_string(&path).expect("it is still there"), snapbox::Data::text(new).raw());
}

/// The table shows flows from outside; those that begin here fare alike, cell by cell.
#[test]
fn both_directions_fare_alike() {
    for setup in SETUPS {
        for change in CHANGES.iter().filter(|change| (change.applies)(setup)) {
            let fate = |origin| cells(setup, origin, change).map(|cell| cell.starts_with("passes"));
            assert_eq!(fate(Direction::Inbound), fate(Direction::Outbound), "{}: {}", setup.title, change.name);
        }
    }
}

/// Without the network ACL there is nothing to remember in stateful mode.
#[test]
fn mode_means_nothing_to_security_groups_alone() {
    for setup in SETUPS.into_iter().filter(|setup| setup.layers == Layers::Groups) {
        let stateful = Setup { mode: Mode::Stateful, ..setup };
        // What switches to the other mode and to the other layers ends up in another place.
        let changes = CHANGES.iter().filter(|change| (change.applies)(setup));
        for change in changes.filter(|change| !change.name.starts_with("`layers")) {
            for origin in Direction::ALL {
                assert_eq!(cells(setup, origin, change), cells(stateful, origin, change), "{}", change.name);
            }
        }
    }
}
