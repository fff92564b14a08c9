//! What a team has at AWS, into a policy and back: nothing changes its meaning and nothing is lost on the way, whatever it is
//! called and however much of it is only named.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use ipnet::IpNet;
use nacl_common::{Action, Direction, Family};
use nacl_daemon::{
    analyze,
    inventory::{
        Association, Because, Entry, GroupRule, Identity, Inventory, NetworkAcl, NetworkInterface, Peer, Place,
        PrefixEntry, PrefixList, SecurityGroup, Subnet, Traffic, Vpc, read,
        write::{self, Here},
    },
    policy::{self, Severity},
    report::diagnostics,
    resolve::{Interface, NoHost, Protocol, Resolved},
};
use proptest::{collection::vec, option, prelude::*, sample::select};
use snapbox::{Assert, Data, IntoData};

fn load(text: &str) -> Resolved {
    let outcome = policy::load("policy.toml", text, &NoHost);
    let shown = || diagnostics::render("policy.toml", text, &outcome.diagnostics, false);
    assert_eq!(outcome.count(Severity::Error), 0, "\n{text}\n{}", shown());
    outcome.resolved.unwrap()
}

fn written(inventory: &Inventory) -> String {
    write::write(inventory.clone(), &[]).unwrap().policy
}

#[test]
fn every_example_comes_back_as_it_was() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let mut seen = 0;
    for entry in fs::read_dir(config).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let policy = load(&fs::read_to_string(&path).unwrap());
        let inventory = read::read(&policy);
        let again = load(&written(&inventory));
        // Interfaces of this machine are interfaces elsewhere to whoever reads it next.
        assert_eq!(read::read(&again).canonical(), inventory.clone().canonical(), "{}", path.display());
        // On the same device the same packets pass.
        for (name, interface) in &policy.interfaces {
            let of = match &interface.subnet {
                Some(_) => interface.id.clone().unwrap_or_else(|| format!("interface.{name}")),
                None if interface.groups.is_some() => continue, // AWS has no network ACL beside a subnet.
                None => interface.nacl.id.clone().unwrap_or_else(|| interface.nacl.name.clone()),
            };
            let here = [Here { device: name.clone(), of }];
            let mut new = load(&write::write(inventory.clone(), &here).unwrap().policy);
            // What AWS has no word for is left out; what judges is compared.
            let judges = new.interfaces.get_mut(name).unwrap();
            let same = Interface {
                nacl: judges.nacl.clone(),
                groups: judges.groups.clone(),
                subnet_cidrs: judges.subnet_cidrs.clone(),
                addresses: judges.addresses.clone(),
                ..interface.clone()
            };
            *judges = same;
            let difference = analyze::diff(&policy, &new, Some(name), false).unwrap();
            let changes: Vec<_> = difference.interfaces.iter().flat_map(|one| &one.changes).collect();
            assert!(changes.is_empty(), "{}: {name}: {changes:#?}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 5, "only {seen} interfaces were compared");
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn place(path: &str) -> Place {
    Place { file: Arc::from("acls.json"), path: path.to_owned(), line: None }
}

fn identity(key: &str, names: &[&str]) -> Identity {
    Identity {
        key: key.to_owned(),
        id: key.contains('-').then(|| key.to_owned()),
        names: names.iter().map(|&name| name.to_owned()).collect(),
        description: None,
        tags: names.first().map(|name| ("Name".to_owned(), (*name).to_owned())).into_iter().collect(),
        owner: Some("111122223333".to_owned()),
        place: place(key),
    }
}

const ALL: Traffic = Traffic { protocol: Protocol::All, ports: None, icmp: None };

const fn tcp(first: u16, last: u16) -> Traffic {
    Traffic { protocol: Protocol::Number(6), ports: Some((first, last)), icmp: None }
}

fn entry(direction: Direction, number: u16, traffic: Traffic, cidr: &str) -> Entry {
    Entry { direction, number, action: Action::Allow, traffic, cidr: net(cidr), place: place("entry") }
}

fn rule(direction: Direction, traffic: Traffic, peer: Peer) -> GroupRule {
    let (id, description, tags) = (None, None, BTreeMap::new());
    GroupRule { direction, traffic, peer, id, description, tags, place: place("rule") }
}

fn group_of(group: &str, owner: Option<&str>, vpc: Option<&str>) -> Peer {
    Peer::Group {
        group: group.to_owned(),
        owner: owner.map(str::to_owned),
        vpc: vpc.map(str::to_owned),
        peering: vpc.map(|_| "pcx-0a1b2c3d4e5f60718".to_owned()),
    }
}

/// Everything an inventory can hold, in the order a document may have.
fn everything() -> Inventory {
    use Direction::{Inbound, Outbound};
    let vpc = Some("vpc-0b2".to_owned());
    let icmp = Traffic { protocol: Protocol::Number(1), ports: None, icmp: Some((Some(8), None)) };
    let packet_too_big = Traffic { protocol: Protocol::Number(58), ports: None, icmp: Some((Some(2), Some(0))) };
    let described = GroupRule {
        id: Some("sgr-0a1".to_owned()),
        description: Some("from \"home\"".to_owned()),
        tags: BTreeMap::from([("cost centre".to_owned(), "7".to_owned())]),
        ..rule(Inbound, tcp(22, 22), Peer::PrefixList("pl-0c3".to_owned()))
    };
    let mut foreign = identity("sg-0ff", &[]);
    foreign.owner = Some("444455556666".to_owned());
    Inventory {
        account: None,
        region: Some("eu-central-1".to_owned()),
        vpcs: vec![Vpc {
            identity: identity("vpc-0b2", &["main"]),
            cidrs: vec![net("10.0.0.0/16"), net("2001:db8::/56")],
        }],
        subnets: vec![
            Subnet { identity: identity("subnet-0d4", &["public"]), vpc: vpc.clone(), cidrs: vec![net("10.0.1.0/24")] },
            Subnet { identity: identity("subnet-0d5", &["public"]), vpc: None, cidrs: vec![net("10.0.2.0/24")] },
        ],
        nacls: vec![
            NetworkAcl {
                identity: identity("acl-0a1", &["The web & more"]),
                vpc: vpc.clone(),
                default: false,
                subnets: vec![Association { subnet: "subnet-0d4".to_owned(), id: Some("aclassoc-0c3".to_owned()) }],
                entries: vec![
                    entry(Inbound, 200, tcp(80, 80), "0.0.0.0/0"),
                    entry(Inbound, 101, packet_too_big, "::/0"),
                    entry(Inbound, 100, icmp, "0.0.0.0/0"),
                    entry(Outbound, 100, tcp(1024, 65535), "0.0.0.0/0"),
                    entry(Inbound, 90, tcp(0, 65535), "198.51.100.0/24"),
                ],
            },
            NetworkAcl {
                identity: identity("acl-0a2", &[]),
                vpc: vpc.clone(),
                default: true,
                subnets: Vec::new(),
                entries: vec![entry(Inbound, 100, ALL, "0.0.0.0/0"), entry(Outbound, 100, ALL, "0.0.0.0/0")],
            },
        ],
        groups: vec![
            SecurityGroup {
                identity: Identity { description: Some("the web".to_owned()), ..identity("sg-0e5", &[]) },
                name: Some("web".to_owned()),
                vpc: vpc.clone(),
                rules: Some(vec![
                    described,
                    rule(Inbound, ALL, group_of("sg-0e5", Some("111122223333"), None)),
                    rule(Inbound, tcp(80, 80), group_of("sg-0ff", Some("444455556666"), Some("vpc-0b2"))),
                    rule(Inbound, tcp(443, 443), group_of("sg-0aa", None, None)),
                    rule(Outbound, ALL, Peer::PrefixList("pl-0c4".to_owned())),
                ]),
            },
            SecurityGroup { identity: foreign, name: None, vpc: vpc.clone(), rules: None },
        ],
        prefix_lists: vec![PrefixList {
            identity: identity("pl-0c3", &[]),
            name: Some("office".to_owned()),
            family: Some(Family::V4),
            max_entries: Some(10),
            entries: Some(vec![
                PrefixEntry { cidr: net("203.0.113.0/24"), description: Some("the other one".to_owned()) },
                PrefixEntry { cidr: net("192.0.2.0/24"), description: None },
            ]),
        }],
        interfaces: vec![NetworkInterface {
            identity: Identity { description: Some("an instance".to_owned()), ..identity("eni-0e5", &["web-1"]) },
            subnet: Some("subnet-0d4".to_owned()),
            vpc: None,
            addresses: vec!["10.0.1.10".parse().unwrap(), "10.0.1.11".parse().unwrap()],
            groups: vec!["sg-0e5".to_owned()],
        }],
        notes: Vec::new(),
    }
}

#[test]
fn everything_is_written_as_a_person_would() {
    let written = write::write(everything(), &[]).unwrap();
    let expected =
        Data::read_from(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inventory/everything.toml"), None);
    Assert::new()
        .action_env(snapbox::assert::DEFAULT_ACTION_ENV)
        .eq(written.policy.clone().into_data().raw(), expected.raw());
    load(&written.policy);
    let notes: Vec<_> = written.notes.iter().map(|note| (note.because, note.message.as_str())).collect();
    assert_eq!(
        notes,
        [
            (
                Because::NotHere,
                "prefix list pl-0c4 is only named: its entries are not known, and a rule with it matches nothing"
            ),
            (Because::NotHere, "security group sg-0aa is only named: its rules are not known"),
        ]
    );
}

/// What is told of a group that a rule names makes it no other rule (S16): of two alike one is written, with what both tell.
#[test]
fn rules_that_differ_in_what_they_tell_of_a_group_are_one() {
    let mut inventory = everything();
    let group = inventory.groups.iter_mut().find(|group| group.rules.as_ref().is_some_and(|rules| !rules.is_empty()));
    let rules = group.and_then(|group| group.rules.as_mut()).unwrap();
    let plain = |peering: Option<&str>, description: Option<&str>| {
        let peering = peering.map(str::to_owned);
        let peer = Peer::Group { group: "sg-0abc".to_owned(), owner: None, vpc: None, peering };
        GroupRule { peer, description: description.map(str::to_owned), id: None, ..rules[0].clone() }
    };
    let (one, other) = (plain(None, Some("by name")), plain(Some("pcx-0a1"), None));
    rules.extend([one, other]);
    let written = write::write(inventory, &[]).unwrap();
    load(&written.policy);
    let lines: Vec<_> = written.policy.lines().filter(|line| line.contains("source = \"sg-0abc\"")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("peering = \"pcx-0a1\"") && lines[0].contains("by name"), "{lines:?}");
    assert_eq!(written.notes.iter().filter(|note| note.message.contains("AWS takes it once")).count(), 1);
}

#[test]
fn everything_comes_back() {
    let text = written(&everything());
    let again = read::read(&load(&text));
    assert_eq!(again.clone().canonical(), everything().canonical(), "{text}");
    assert_eq!(
        written(&again),
        text.split_once('\n').map(|(_, rest)| format!("# Imported from policy.toml.\n{rest}")).unwrap()
    );
}

#[test]
fn an_interface_is_put_on_a_device() {
    let on = |device: &str, of: &str| {
        let here = [Here { device: device.to_owned(), of: of.to_owned() }];
        write::write(everything(), &here).map(|written| load(&written.policy))
    };
    for of in ["eni-0e5", "web-1"] {
        let policy = on("eth0", of).unwrap();
        let interface = &policy.interfaces["eth0"];
        assert_eq!((interface.id.as_deref(), interface.nacl.id.as_deref()), (Some("eni-0e5"), Some("acl-0a1")));
        assert_eq!(interface.groups.as_ref().unwrap()[0].name, "web");
        assert!(policy.enis.is_empty());
    }
    assert_eq!(on("eth0", "subnet-0d5").unwrap().interfaces["eth0"].nacl.id.as_deref(), Some("acl-0a2"));
    assert_eq!(on("eth0", "The web & more").unwrap().interfaces["eth0"].subnet, None);
    let shown = |of: &str| {
        let errors = on("eth0", of).unwrap_err();
        errors.into_iter().map(|error| format!("{error} ({})", error.hint().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(
        shown("eni-0"),
        ["eth0: the documents tell of no interface, subnet or network ACL \"eni-0\" (interfaces there are: web-1)"]
    );
    assert_eq!(shown("public"), ["eth0: \"public\" is the name of 2 things (name it by its id)"]);
    let mut unknown = everything();
    unknown.interfaces[0].groups.push("sg-0aa".to_owned());
    let here = [Here { device: "eth0".to_owned(), of: "web-1".to_owned() }];
    let errors = write::write(unknown, &here).unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "eth0: security group sg-0aa is only named in the documents, and web-1 would be judged by it"
    );
}

#[test]
fn a_group_named_twice_is_one_rule_also_where_once_it_is_told_how_to_get_there() {
    let mut inventory = everything();
    let rules = inventory.groups[0].rules.as_mut().unwrap();
    rules.push(rule(Direction::Inbound, tcp(443, 443), group_of("sg-0aa", None, Some("vpc-0b2"))));
    load(&written(&inventory));
}

/// Names as people give them, and worse.
fn name() -> impl Strategy<Value = String> {
    let usual = select(vec![
        "web",
        "db",
        "default",
        "tags",
        "sg-1",
        "pl-1",
        "a b",
        "a/ipv4",
        "self",
        "web-2",
        "Ünïcode",
        "vpc",
    ]);
    prop_oneof![4 => usual.prop_map(str::to_owned), 1 => any::<String>()]
}

fn tagged(prefix: &'static str) -> impl Strategy<Value = Identity> {
    let tags = proptest::collection::btree_map(name(), any::<String>(), 0..3);
    let owner = option::of(select(vec!["111122223333", "444455556666"]));
    (any::<u32>(), any::<bool>(), vec(name(), 0..3), tags, owner).prop_map(move |(key, known, names, tags, owner)| {
        let key = format!("{prefix}{key:017x}");
        Identity {
            id: known.then(|| key.clone()),
            key,
            names,
            description: None,
            tags,
            owner: owner.map(str::to_owned),
            place: place(prefix),
        }
    })
}

fn traffic() -> impl Strategy<Value = Traffic> {
    let protocol =
        prop_oneof![Just(Protocol::All), select(vec![1_u8, 6, 17, 58, 0, 47, 132]).prop_map(Protocol::Number)];
    let ports = option::of((any::<u16>(), any::<u16>()).prop_map(|(one, other)| (one.min(other), one.max(other))));
    (protocol, ports, option::of((any::<Option<u8>>(), any::<Option<u8>>())))
        .prop_map(|(protocol, ports, icmp)| Traffic { protocol, ports, icmp })
}

fn cidr() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<u32>(), 0..=32_u8)
            .prop_map(|(bits, len)| IpNet::new(std::net::Ipv4Addr::from(bits).into(), len).unwrap().trunc()),
        (any::<u128>(), 0..=128_u8)
            .prop_map(|(bits, len)| IpNet::new(std::net::Ipv6Addr::from(bits).into(), len).unwrap().trunc()),
    ]
}

fn direction() -> impl Strategy<Value = Direction> {
    select(vec![Direction::Inbound, Direction::Outbound])
}

/// An inventory as AWS could have it: links between its things and beyond, some of which are only named.
fn inventory() -> impl Strategy<Value = Inventory> {
    let vpcs = vec((tagged("vpc-"), any::<bool>()), 0..3);
    let subnets = vec((tagged("subnet-"), any::<usize>(), any::<usize>(), any::<bool>()), 0..5);
    let entry = (direction(), 1..32767_u16, traffic(), cidr(), any::<bool>());
    let nacls = vec((tagged("acl-"), any::<usize>(), vec(entry, 0..6)), 0..4);
    let any_rule = (direction(), traffic(), 0..4_usize, any::<usize>(), cidr(), option::of(name()), option::of(name()));
    let groups = vec((tagged("sg-"), option::of(name()), any::<usize>(), option::of(vec(any_rule, 0..6))), 0..5);
    let entries = vec((any::<u32>(), option::of(any::<String>())), 0..5);
    let lists = vec((tagged("pl-"), option::of(name()), option::of(entries)), 0..3);
    let enis = vec((tagged("eni-"), any::<usize>(), vec(any::<usize>(), 0..3)), 0..4);
    let all = (vpcs, subnets, nacls, groups, lists, enis);
    all.prop_map(|(mut vpcs, mut subnets, mut nacls, mut groups, mut lists, mut enis)| {
        // A key is one thing's.
        let mut count = 0;
        let mut fresh = |identity: &mut Identity| {
            count += 1;
            identity.key = format!("{}{count:02x}", identity.key);
            identity.id = identity.id.take().map(|_| identity.key.clone());
        };
        for (identity, ..) in &mut vpcs {
            fresh(identity);
        }
        for (identity, ..) in &mut subnets {
            fresh(identity);
        }
        for (identity, ..) in &mut nacls {
            fresh(identity);
        }
        for (identity, ..) in &mut groups {
            fresh(identity);
        }
        for (identity, ..) in &mut lists {
            fresh(identity);
        }
        for (identity, ..) in &mut enis {
            fresh(identity);
        }
        // One of those there are, one that nobody tells of, or none.
        let pick = |keys: &[String], at: usize, prefix: &str| match at % 7 {
            0 => None,
            1 => Some(format!("{prefix}{:017x}", at % 5)),
            _ => (!keys.is_empty()).then(|| keys[at % keys.len()].clone()),
        };
        let keys = |identities: Vec<&Identity>| identities.into_iter().map(|one| one.key.clone()).collect::<Vec<_>>();
        let vpc_keys = keys(vpcs.iter().map(|(identity, _)| identity).collect());
        let subnet_keys = keys(subnets.iter().map(|(identity, ..)| identity).collect());
        let group_keys = keys(groups.iter().map(|(identity, ..)| identity).collect());
        let list_keys = keys(lists.iter().map(|(identity, ..)| identity).collect());
        let mut free: Vec<String> = subnet_keys.clone();
        let mut with_default = Vec::new();
        let nacls = nacls.into_iter().map(|(identity, at, entries)| {
            let vpc = pick(&vpc_keys, at, "vpc-");
            let default = at % 3 == 0 && vpc.is_some() && !with_default.contains(&vpc);
            if default {
                with_default.push(vpc.clone());
            }
            let association = (at % 5 > 1).then(|| free.pop()).flatten();
            let subnets = association.map(|subnet| Association { subnet, id: None }).into_iter().collect();
            let mut numbers = std::collections::BTreeSet::new();
            let entries = entries.into_iter().filter_map(|(direction, number, traffic, cidr, allow)| {
                let action = if allow { Action::Allow } else { Action::Deny };
                let new = numbers.insert((direction, number));
                new.then(|| Entry { direction, number, action, traffic, cidr, place: place("entry") })
            });
            NetworkAcl { identity, vpc, default, subnets, entries: entries.collect() }
        });
        let nacls: Vec<_> = nacls.collect();
        let groups = groups.into_iter().map(|(identity, name, at, rules)| {
            let rules = rules.map(|rules| {
                let rules = rules.into_iter().map(|(direction, traffic, kind, at, cidr, id, description)| {
                    let named = pick(&group_keys, at, "sg-").zip(pick(&list_keys, at, "pl-"));
                    let peer = match (kind, named) {
                        (0, Some((group, _))) => group_of(&group, None, pick(&vpc_keys, at / 7, "vpc-").as_deref()),
                        (1, Some((_, list))) => Peer::PrefixList(list),
                        _ => Peer::Cidr(cidr),
                    };
                    GroupRule { id, description, ..rule(direction, traffic, peer) }
                });
                rules.collect()
            });
            SecurityGroup { identity, name, vpc: pick(&vpc_keys, at, "vpc-"), rules }
        });
        let groups = groups.collect();
        let lists = lists.into_iter().map(|(identity, name, entries)| {
            let entries = entries.map(|entries| {
                let entries = entries.into_iter().map(|(bits, description)| PrefixEntry {
                    cidr: IpNet::new(std::net::Ipv4Addr::from(bits).into(), 24).unwrap().trunc(),
                    description,
                });
                entries.collect::<Vec<_>>()
            });
            PrefixList { identity, name, family: Some(Family::V4), max_entries: Some(20), entries }
        });
        let interfaces = enis.into_iter().map(|(identity, at, groups)| NetworkInterface {
            identity: Identity { description: Some("an interface".to_owned()), ..identity },
            subnet: None,
            vpc: pick(&vpc_keys, at, "vpc-"),
            addresses: vec![std::net::Ipv4Addr::from(at as u32).into()],
            groups: groups.into_iter().filter_map(|at| pick(&group_keys, at, "sg-")).collect(),
        });
        let cidrs = |at: usize, known: bool| if known { vec![net(&format!("10.{at}.0.0/16"))] } else { Vec::new() };
        Inventory {
            prefix_lists: lists.collect(),
            interfaces: interfaces.collect(),
            vpcs: vpcs
                .into_iter()
                .map(|(identity, known)| Vpc {
                    identity,
                    cidrs: if known { vec![net("10.0.0.0/8")] } else { Vec::new() },
                })
                .collect(),
            subnets: subnets
                .into_iter()
                .enumerate()
                .map(|(at, (identity, vpc, _, known))| Subnet {
                    identity,
                    vpc: pick(&vpc_keys, vpc, "vpc-"),
                    cidrs: cidrs(at, known),
                })
                .collect(),
            nacls,
            groups,
            ..Inventory::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_inventory_becomes_a_policy_and_comes_back(inventory in inventory()) {
        let text = written(&inventory);
        let outcome = policy::load("policy.toml", &text, &NoHost);
        let shown = || diagnostics::render("policy.toml", &text, &outcome.diagnostics, false);
        prop_assert_eq!(outcome.count(Severity::Error), 0, "\n{}\n{}", &text, shown());
        let again = read::read(&outcome.resolved.unwrap());
        prop_assert_eq!(again.canonical(), inventory.canonical(), "{}", text);
    }
}
