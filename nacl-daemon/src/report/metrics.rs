//! What a daemon tells, as OpenMetrics text: for Prometheus and all that reads its format. The families stand in one table, which
//! the page in the docs and the Grafana dashboard are checked against. No query: values in, text out.
//!
//! Labels are bounded by the policy (interfaces, rules, lists) or by nacld (reasons, directions), never by traffic: no address and
//! no port of a packet is one.

use std::{borrow::Cow, collections::BTreeMap, fmt, time::UNIX_EPOCH};

use nacl_common::{Action, Direction, Family as IpFamily, Layer};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::observe::{BrokenCount, Hits, InterfaceRules, InterfaceStatus, Reading};

/// The content type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every name begins with.
const PREFIX: &str = "nacld";

/// What a family is to those who read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, and begins at zero when an interface is attached.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Always 1: its labels are what it tells.
    Info,
}

/// Metrics of one name.
pub struct Family {
    name: &'static str,
    unit: Option<&'static str>,
    /// What it is to those who read it.
    pub kind: Kind,
    /// What it tells, in a sentence.
    pub help: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    samples: fn(&Reading) -> Vec<Sample<'_>>,
}

impl Family {
    /// The name that its samples have, and that queries use.
    pub fn sample_name(&self) -> String {
        let unit = self.unit.map(|unit| format!("_{unit}")).unwrap_or_default();
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Gauge => "",
            Kind::Info => "_info",
        };
        format!("{PREFIX}_{}{unit}{suffix}", self.name)
    }
}

/// One value, with what the labels of its family are, in their order.
struct Sample<'r> {
    labels: Vec<Cow<'r, str>>,
    value: u64,
}

fn sample<'r, const N: usize>(labels: [impl Into<Cow<'r, str>>; N], value: u64) -> Sample<'r> {
    Sample { labels: labels.into_iter().map(Into::into).collect(), value }
}

/// Every family, in the order in which they are told.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "build",
        unit: None,
        kind: Kind::Info,
        help: "The nacld that runs.",
        labels: &["version"],
        samples: |reading| vec![sample([&*reading.status.version], 1)],
    },
    Family {
        name: "start_timestamp",
        unit: Some("seconds"),
        kind: Kind::Gauge,
        help: "When it was started, as seconds since 1970.",
        labels: &[],
        samples: |reading| at(&reading.status.started),
    },
    Family {
        name: "policy",
        unit: None,
        kind: Kind::Info,
        help: "The policy in force: its file and the SHA-256 of its text.",
        labels: &["file", "sha256"],
        samples: |Reading { status, .. }| {
            vec![sample([status.policy.file.to_string_lossy(), (&*status.policy.sha256).into()], 1)]
        },
    },
    Family {
        name: "policy_loaded_timestamp",
        unit: Some("seconds"),
        kind: Kind::Gauge,
        help: "When the policy in force was read, as seconds since 1970.",
        labels: &[],
        samples: |reading| at(&reading.status.policy.loaded),
    },
    Family {
        name: "policy_last_reload_successful",
        unit: None,
        kind: Kind::Gauge,
        help: "0 where the last reload failed and the policy before it is still in force, else 1.",
        labels: &[],
        samples: |Reading { status, .. }| {
            let ok = status.last_reload.as_ref().is_none_or(|reload| reload.ok);
            alone(ok.into())
        },
    },
    Family {
        name: "policy_last_reload_timestamp",
        unit: Some("seconds"),
        kind: Kind::Gauge,
        help: "When a reload was tried last, as seconds since 1970. Absent where none was.",
        labels: &[],
        samples: |Reading { status, .. }| status.last_reload.iter().flat_map(|reload| at(&reload.time)).collect(),
    },
    Family {
        name: "confirmation_pending",
        unit: None,
        kind: Kind::Gauge,
        help: "1 while a change awaits confirmation, and is undone without it.",
        labels: &[],
        samples: |Reading { status, .. }| alone(status.pending.is_some().into()),
    },
    Family {
        name: "confirmation_left",
        unit: Some("seconds"),
        kind: Kind::Gauge,
        help: "How long it still awaits confirmation; 0 where nothing does.",
        labels: &[],
        samples: |Reading { status, .. }| {
            let left = status.pending.as_ref().map_or(0, |pending| pending.seconds_left);
            alone(left)
        },
    },
    Family {
        name: "problems",
        unit: None,
        kind: Kind::Gauge,
        help: "Problems that a person must do something about; `nacld status` names them.",
        labels: &[],
        samples: |Reading { status, .. }| alone(status.problems.len() as u64),
    },
    Family {
        name: "interface_attached",
        unit: None,
        kind: Kind::Gauge,
        help: "1 for an interface of the policy that is attached to, 0 for one that is waited for.",
        labels: &["interface", "netns"],
        samples: |Reading { status, .. }| {
            let here = status.interfaces.iter().map(|one| sample(place(&one.interface, one.netns.as_deref()), 1));
            let absent = status.absent.iter().map(|one| sample(place(&one.interface, one.netns.as_deref()), 0));
            here.chain(absent).collect()
        },
    },
    Family {
        name: "interface",
        unit: None,
        kind: Kind::Info,
        help: "What is in force on an interface: its lists, its mode, which layers judge, which way it looks.",
        labels: &["interface", "netns", "device", "acl", "acl_id", "subnet", "mode", "layers", "side"],
        samples: |reading| {
            let told = reading.rules.iter().map(|one| {
                let [interface, netns] = place(&one.interface, one.netns.as_deref());
                let setting = one.modes.in_force;
                let texts: [Cow<'_, str>; 9] = [
                    interface.into(),
                    netns.into(),
                    (&*one.device).into(),
                    (&*one.nacl).into(),
                    one.nacl_id.as_deref().unwrap_or_default().into(),
                    one.subnet.as_deref().unwrap_or_default().into(),
                    setting.mode.name().into(),
                    setting.layers.name().into(),
                    one.side.name().into(),
                ];
                sample(texts, 1)
            });
            told.collect()
        },
    },
    Family {
        name: "interface_enforcing",
        unit: None,
        kind: Kind::Gauge,
        help: "0 in monitor mode, where packets are judged and counted and none is dropped, else 1.",
        labels: &["interface", "netns"],
        samples: |reading| of_each(reading, |one| one.modes.in_force.enforce.into()),
    },
    Family {
        name: "interface_set_live",
        unit: None,
        kind: Kind::Gauge,
        help: "1 where mode, layers or enforcement were set live and are not what the policy says.",
        labels: &["interface", "netns"],
        samples: |reading| of_each(reading, |one| (one.modes.in_force != one.modes.policy).into()),
    },
    Family {
        name: "interface_epoch",
        unit: None,
        kind: Kind::Gauge,
        help: "Number of the policy and settings in force, counted up by every switch.",
        labels: &["interface", "netns"],
        samples: |reading| of_each(reading, |one| one.epoch.into()),
    },
    Family {
        name: "hook",
        unit: None,
        kind: Kind::Info,
        help: "How a program is attached, by hook.",
        labels: &["interface", "netns", "hook", "how"],
        samples: |Reading { status, .. }| {
            let hooks = status.interfaces.iter().flat_map(|one| {
                let [interface, netns] = place(&one.interface, one.netns.as_deref());
                [("ingress", &one.hooks.ingress), ("egress", &one.hooks.egress)]
                    .map(|(hook, how)| sample([interface, netns, hook, how], 1))
            });
            hooks.collect()
        },
    },
    Family {
        name: "memory",
        unit: Some("bytes"),
        kind: Kind::Gauge,
        help: "What an interface takes in the kernel, by part. Tables are told for each interface that shares them.",
        labels: &["interface", "netns", "part"],
        samples: |Reading { status, .. }| {
            let parts = status.interfaces.iter().flat_map(|one| {
                let [interface, netns] = place(&one.interface, one.netns.as_deref());
                let memory = one.memory;
                let parts = [
                    ("tables", memory.generations),
                    ("counters", memory.counters),
                    ("connections", memory.connections),
                    ("other", memory.other),
                ];
                parts.map(|(part, bytes)| sample([interface, netns, part], bytes))
            });
            parts.collect()
        },
    },
    Family {
        name: "verdict",
        unit: Some("packets"),
        kind: Kind::Counter,
        help: "Packets by what the policy asks for, since the interface was attached.",
        labels: &["interface", "netns", "action"],
        samples: |Reading { status, .. }| {
            let verdicts = status.interfaces.iter().flat_map(|one| {
                let [interface, netns] = place(&one.interface, one.netns.as_deref());
                [("allow", one.packets.allowed), ("deny", one.packets.denied)]
                    .map(|(action, packets)| sample([interface, netns, action], packets))
            });
            verdicts.collect()
        },
    },
    Family {
        name: "rule",
        unit: Some("packets"),
        kind: Kind::Counter,
        help: "Packets that a rule decided about, or let pass on to the next layer.",
        labels: RULE,
        samples: |reading| rules(reading, |hits| hits.packets),
    },
    Family {
        name: "rule",
        unit: Some("bytes"),
        kind: Kind::Counter,
        help: "Bytes of those packets, as whole Ethernet frames.",
        labels: RULE,
        samples: |reading| rules(reading, |hits| hits.bytes),
    },
    Family {
        name: "reason",
        unit: Some("packets"),
        kind: Kind::Counter,
        help: "Packets by the reason of their verdict, for reasons that were met.",
        labels: &["interface", "netns", "direction", "reason"],
        samples: |reading| {
            let reasons = reading.rules.iter().flat_map(|one| {
                let [interface, netns] = place(&one.interface, one.netns.as_deref());
                one.reasons
                    .iter()
                    .map(move |met| sample([interface, netns, met.direction.name(), &*met.reason], met.hits.packets))
            });
            reasons.collect()
        },
    },
    Family {
        name: "tracked",
        unit: Some("packets"),
        kind: Kind::Counter,
        help: "Packets that passed because their connection is remembered, and met no rule.",
        labels: &["interface", "netns", "direction", "family"],
        samples: |reading| {
            let ways = reading.rules.iter().flat_map(|one| {
                let [interface, netns] = place(&one.interface, one.netns.as_deref());
                one.tracked.iter().filter_map(move |way| {
                    let labels = [interface, netns, way.direction.name(), family(way.family)];
                    Some(sample(labels, way.hits?.packets))
                })
            });
            ways.collect()
        },
    },
    Family {
        name: "same_subnet",
        unit: Some("packets"),
        kind: Kind::Counter,
        help: "Packets inside the subnet, which no rule of a network ACL is asked about.",
        labels: &["interface", "netns", "direction", "family"],
        samples: |reading| {
            let lists = reading.rules.iter().flat_map(|one| one.lists.iter().map(move |list| (one, list)));
            let inside = lists.flat_map(|(one, list)| {
                let [interface, netns] = place(&one.interface, one.netns.as_deref());
                list.same_subnet.iter().filter_map(move |subnet| {
                    let labels = [interface, netns, list.direction.name(), family(subnet.family)];
                    Some(sample(labels, subnet.hits?.packets))
                })
            });
            inside.collect()
        },
    },
    Family {
        name: "exempt",
        unit: Some("packets"),
        kind: Kind::Counter,
        help: "Packets that passed unjudged, by what exempts them: a service of AWS, or a failsafe entry of the policy.",
        labels: &["interface", "netns", "exemption", "failsafe"],
        samples: |reading| {
            let exempt = reading.rules.iter().flat_map(|one| {
                let [interface, netns] = place(&one.interface, one.netns.as_deref());
                // A service has an entry for each of its addresses.
                let mut sums: BTreeMap<(&str, bool), u64> = BTreeMap::new();
                for row in &one.exemptions {
                    let packets = row.hits.map_or(0, |hits| hits.packets);
                    *sums.entry((&row.name, row.failsafe)).or_default() += packets;
                }
                sums.into_iter().map(move |((name, failsafe), packets)| {
                    sample([interface, netns, name, if failsafe { "true" } else { "false" }], packets)
                })
            });
            exempt.collect()
        },
    },
    Family {
        name: "broken_returns",
        unit: None,
        kind: Kind::Counter,
        help: "Flows that were found of which something passes and what comes back is denied; direction: which way the requests go.",
        labels: &["interface", "netns", "direction"],
        samples: |reading| broken(reading, |count| count.returns),
    },
    Family {
        name: "broken_return",
        unit: Some("packets"),
        kind: Kind::Counter,
        help: "Denied packets of broken returns, seen with the packet that passed before. Samples: the counters of rules are complete.",
        labels: &["interface", "netns", "direction"],
        samples: |reading| broken(reading, |count| count.replies),
    },
    Family {
        name: "events_suppressed",
        unit: None,
        kind: Kind::Counter,
        help: "Events that the kernel did not report because there were too many at once. Counters are complete all the same.",
        labels: &["interface", "netns"],
        samples: |reading| {
            let told = reading.rules.iter();
            told.map(|one| sample(place(&one.interface, one.netns.as_deref()), one.events_suppressed)).collect()
        },
    },
    Family {
        name: "conntrack_entries",
        unit: None,
        kind: Kind::Gauge,
        help: "Connections that are remembered.",
        labels: &["interface", "netns"],
        samples: |reading| of_each(reading, |one| one.conntrack.entries),
    },
    Family {
        name: "conntrack_expired_entries",
        unit: None,
        kind: Kind::Gauge,
        help: "Connections whose time is over and that make way when room is needed.",
        labels: &["interface", "netns"],
        samples: |reading| of_each(reading, |one| one.conntrack.expired),
    },
    Family {
        name: "conntrack_capacity",
        unit: None,
        kind: Kind::Gauge,
        help: "Connections that there is room for.",
        labels: &["interface", "netns"],
        samples: |reading| of_each(reading, |one| one.conntrack.capacity),
    },
    Family {
        name: "conntrack_allowance_exceeded",
        unit: Some("packets"),
        kind: Kind::Counter,
        help: "Packets of new connections that were dropped because the table was full.",
        labels: &["interface", "netns"],
        samples: |reading| of_each(reading, |one| one.conntrack.conntrack_allowance_exceeded),
    },
];

/// Labels of what counts rules.
const RULE: &[&str] = &["interface", "netns", "direction", "layer", "list", "rule", "family", "action"];

/// An interface in two labels. The daemon's own namespace has no name, and an empty label is none.
fn place<'r>(interface: &'r str, netns: Option<&'r str>) -> [&'r str; 2] {
    [interface, netns.unwrap_or_default()]
}

/// One value of each interface that is attached to.
fn of_each(reading: &Reading, value: fn(&InterfaceStatus) -> u64) -> Vec<Sample<'_>> {
    let interfaces = reading.status.interfaces.iter();
    interfaces.map(|one| sample(place(&one.interface, one.netns.as_deref()), value(one))).collect()
}

/// Of broken returns, from the time on when there are none: else whoever asks for an increase never sees the first.
fn broken(Reading { status, .. }: &Reading, value: fn(&BrokenCount) -> u64) -> Vec<Sample<'_>> {
    let counted = |interface: &str, direction| {
        let found = status.broken_counts.iter().find(|one| one.interface == interface && one.began == direction);
        found.map_or(0, value)
    };
    let ways = status.interfaces.iter().flat_map(|one| Direction::ALL.map(|direction| (one, direction)));
    ways.map(|(one, direction)| {
        let [interface, netns] = place(&one.interface, one.netns.as_deref());
        sample([interface, netns, direction.name()], counted(interface, direction))
    })
    .collect()
}

/// What is told of the daemon as a whole.
fn alone(value: u64) -> Vec<Sample<'static>> {
    vec![Sample { labels: Vec::new(), value }]
}

/// A time as seconds since 1970; nothing where it is none.
fn at(time: &str) -> Vec<Sample<'static>> {
    let since = humantime::parse_rfc3339(time).ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map(|since| alone(since.as_secs())).unwrap_or_default()
}

const fn family(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "ipv4",
        IpFamily::V6 => "ipv6",
    }
}

/// Every rule that counts, the implied ones too.
fn rules(reading: &Reading, value: fn(Hits) -> u64) -> Vec<Sample<'_>> {
    reading.rules.iter().flat_map(|one| rules_of(one, value)).collect()
}

fn rules_of(one: &InterfaceRules, value: fn(Hits) -> u64) -> Vec<Sample<'_>> {
    let mut samples = Vec::new();
    let [interface, netns] = place(&one.interface, one.netns.as_deref());
    let mut add =
        |direction: Direction, layer: Layer, list, rule: String, family, action: Action, hits: Option<Hits>| {
            let Some(hits) = hits else { return };
            let (direction, layer, action) = (direction.name(), layer.name(), action.name());
            let labels: [Cow<'_, str>; 8] = [
                interface.into(),
                netns.into(),
                direction.into(),
                layer.into(),
                Cow::Borrowed(list),
                rule.into(),
                Cow::Borrowed(family),
                action.into(),
            ];
            samples.push(sample(labels, value(hits)));
        };
    for list in &one.lists {
        for row in &list.rules {
            let number = row.rule.to_string();
            add(list.direction, Layer::Nacl, &one.nacl, number, family(row.family), row.action, row.hits);
        }
    }
    for group in one.groups.iter().flatten() {
        for (direction, rows) in [(Direction::Inbound, &group.inbound), (Direction::Outbound, &group.outbound)] {
            for row in rows {
                // A prefix list or a group may hold addresses of both families.
                let position = row.position.to_string();
                add(direction, Layer::SecurityGroup, &group.name, position, "any", Action::Allow, row.hits);
            }
        }
    }
    for way in &one.unmatched {
        // Of no group: none of their rules matched.
        add(way.direction, Layer::SecurityGroup, "", "*".to_owned(), family(way.family), Action::Deny, way.hits);
    }
    samples
}

fn write(kind: Kind, value: u64, metric: &mut MetricEncoder<'_>) -> fmt::Result {
    if kind == Kind::Counter {
        metric.encode_counter::<NoLabelSet, u64, u64>(&value, None)
    } else {
        metric.encode_gauge(&value)
    }
}

#[derive(Debug)]
struct Told(Reading);

impl Collector for Told {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in FAMILIES {
            let samples = (family.samples)(&self.0);
            let unit = family.unit.map(|unit| Unit::Other(unit.to_owned()));
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Info => MetricType::Info,
            };
            let mut metrics = encoder.encode_descriptor(family.name, family.help, unit.as_ref(), kind)?;
            for Sample { labels, value } in &samples {
                // What must be escaped in a value is escaped by the encoder.
                let labels: Vec<(&str, &str)> =
                    family.labels.iter().copied().zip(labels.iter().map(|value| &**value)).collect();
                match family.kind {
                    Kind::Info => metrics.encode_info(&labels)?,
                    // Without labels there are no braces either.
                    kind if labels.is_empty() => write(kind, *value, &mut metrics)?,
                    kind => write(kind, *value, &mut metrics.encode_family(&labels)?)?,
                }
            }
        }
        Ok(())
    }
}

/// The whole text, with its end mark.
///
/// # Errors
/// Never: it is written to memory.
pub fn text(reading: Reading) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Told(reading)));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}
