//! The lock-out guard: whether a policy may be put on an interface that carries somebody's SSH connection, and what
//! else a person should hear before it is enforced. Decisions only; the facts come from `host`.

use std::{fmt::Write as _, net::IpAddr};

use nacl_common::{
    Action, Control, Direction, Family, Fragment, Layer, Packet, Reason, Verdict,
    border::{Entry, FlowKey, Tier},
    evaluate::Hook,
    flow,
};
use thiserror::Error;

use super::host::{Connection, Surroundings};
use crate::{
    analyze::number,
    compile::Compiled,
    engine::Engine,
    report::named,
    resolve::{Eni, Group, Interface, Side},
};

/// A step that may cut a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A policy is put on the interface.
    Attach,
    /// A policy takes the place of another.
    Reload,
    /// Mode or layers are changed.
    Mode,
    /// Monitor mode ends.
    Enforce,
    /// Connections are forgotten.
    Flush,
}

/// A connection, and what the step would do to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The connection.
    pub connection: Connection,
    /// The leg that is cut, and by what; `None` where both pass.
    pub cut: Option<Cut>,
}

/// One leg that dies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// True for what the client sends, false for what the server answers.
    pub request: bool,
    /// Inbound or outbound list.
    pub direction: Direction,
    /// Which layer denies.
    pub layer: Layer,
    /// Name of the network ACL, or of the security groups.
    pub name: String,
    /// Number of a network ACL rule; `None` where no rule matches.
    pub rule: Option<u16>,
    /// Its line in the policy.
    pub line: usize,
    /// Why.
    pub reason: Reason,
}

/// A step that must not be taken.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{}", self.text())]
pub struct Refusal {
    interface: String,
    step: Step,
    judged: Vec<Judged>,
}

impl Refusal {
    /// What to do about it.
    pub fn hint(&self) -> String {
        let hint = match self.step {
            Step::Attach => "give --confirm 60s, which undoes it unless `nacld confirm` comes, --for 60s, or --force",
            Step::Reload => "allow the connection in the policy, reload with --confirm 60s, or with --force",
            Step::Mode | Step::Enforce | Step::Flush => "allow the connection in the policy, or give --force",
        };
        hint.to_owned()
    }

    fn text(&self) -> String {
        let place = &self.interface;
        let (mut text, what) = match (self.step, self.judged.len()) {
            (Step::Reload, _) => (
                format!("the new policy would cut an SSH connection on {place}; the old one stays in force"),
                "this policy",
            ),
            (Step::Mode, _) => (
                format!("the change would cut an SSH connection on {place}; mode and layers stay as they are"),
                "this change",
            ),
            (Step::Enforce, _) => (
                format!("to enforce the policy would cut an SSH connection on {place}; it stays in monitor mode"),
                "this change",
            ),
            (Step::Flush, _) => {
                (format!("to forget it would cut an SSH connection on {place}; nothing was forgotten"), "forgetting")
            }
            (Step::Attach, 1) => (format!("{place} carries an SSH connection; nothing was attached"), "this policy"),
            (Step::Attach, count) => {
                (format!("{place} carries {count} SSH connections; nothing was attached"), "this policy")
            }
        };
        for judged in &self.judged {
            let _ = write!(text, "\n  {}", judged.text(what));
        }
        text
    }
}

impl Judged {
    /// What a person sees when typing `who`: who is connected; and whether that goes on. `what`: what is about to be done.
    pub fn text(&self, what: &str) -> String {
        let Self { connection: Connection { local, remote }, cut } = self;
        let end = match cut {
            None => "lets it live".to_owned(),
            Some(cut) => {
                let packets = if cut.request { "its packets are" } else { "its replies are" };
                format!("WOULD CUT IT: {packets} denied; {}", cut.by())
            }
        };
        format!("{remote} connected to {local}: {what} {end}")
    }
}

impl Cut {
    /// What denies, in words.
    fn by(&self) -> String {
        let Self { direction, layer, name, rule, line, reason, .. } = self;
        let direction = direction.name();
        match (layer, rule) {
            (Layer::SecurityGroup, _) if name.is_empty() => {
                "the interface has an empty list of security groups, which lets nothing pass".to_owned()
            }
            (Layer::SecurityGroup, _) => format!("no {direction} rule of security group {name} allows them"),
            (Layer::Nacl, Some(rule)) => format!("{direction} rule {rule} of network ACL {name:?}, line {line}"),
            (Layer::Nacl, None) => format!("no {direction} rule of network ACL {name:?} allows them (`*`)"),
            (Layer::None, _) => reason.sentence().to_owned(),
        }
    }
}

/// What is in force on an interface, and which connections are remembered there.
#[derive(Clone, Copy)]
pub struct InForce<'a> {
    /// The interface, with the setting in force.
    pub interface: &'a Interface,
    /// Its tables.
    pub compiled: &'a Compiled,
    /// What is remembered.
    pub remembered: &'a [(FlowKey, Entry)],
}

/// Whether a policy may be put on an interface where there was none: not while it carries any SSH connection. `name`: the
/// interface's, in the policy.
///
/// # Errors
/// [`Refusal`].
pub fn attach(name: &str, interface: &Interface, compiled: &Compiled, ssh: &[Connection]) -> Result<(), Refusal> {
    refuse(name, interface, Step::Attach, judge(interface, compiled, ssh))
}

/// What would become of connections if a policy were put on an interface where there is none.
pub fn judge(interface: &Interface, compiled: &Compiled, ssh: &[Connection]) -> Vec<Judged> {
    let judge = |connection: &Connection| Judged {
        connection: *connection,
        // Nothing is remembered yet, and what is met in its middle is taken up.
        cut: cut(&Engine::new(interface, compiled), interface, connection),
    };
    ssh.iter().map(judge).collect()
}

/// Whether what is in force may give way: not where it lets an SSH connection live and what comes cuts it.
///
/// # Errors
/// [`Refusal`].
pub fn change(name: &str, before: &InForce<'_>, next: &Next<'_>, ssh: &[Connection]) -> Result<(), Refusal> {
    let mut judged = Vec::new();
    for connection in ssh {
        // Connections met in their middle are taken up here, whether that time is over or not: to call alive what is dead
        // costs a refusal too many at worst.
        let mut now = Engine::new(before.interface, before.compiled);
        let key = key(before.interface, connection);
        for (key, entry) in before.remembered.iter().filter(|(remembered, _)| Some(*remembered) == key) {
            // The engine's clock stands at its beginning, where nothing has expired.
            now.remember(*key, *entry);
        }
        if cut(&now, before.interface, connection).is_some() {
            continue;
        }
        let mut then = now;
        let interface = match next {
            Next::Policy(interface, compiled) => {
                then.install(interface, compiled);
                interface
            }
            Next::Setting(interface) => {
                then.toggle(interface);
                interface
            }
            Next::Forgetting => {
                then.forget();
                // As after a change of rules: nothing is taken up any more.
                then.install(before.interface, before.compiled);
                before.interface
            }
        };
        if let Some(cut) = cut(&then, interface, connection) {
            judged.push(Judged { connection: *connection, cut: Some(cut) });
        }
    }
    let (interface, step) = match next {
        Next::Policy(interface, _) => (*interface, Step::Reload),
        Next::Setting(interface) if interface.enforce && !before.interface.enforce => (*interface, Step::Enforce),
        Next::Setting(interface) => (*interface, Step::Mode),
        Next::Forgetting => (before.interface, Step::Flush),
    };
    refuse(name, interface, step, judged)
}

/// What is to come.
#[derive(Clone, Copy)]
pub enum Next<'a> {
    /// Another policy.
    Policy(&'a Interface, &'a Compiled),
    /// Another mode, other layers, or the end of monitor mode.
    Setting(&'a Interface),
    /// The same, with these connections forgotten.
    Forgetting,
}

fn refuse(name: &str, interface: &Interface, step: Step, judged: Vec<Judged>) -> Result<(), Refusal> {
    if judged.is_empty() {
        return Ok(());
    }
    let interface = named(name, &interface.name, interface.netns.as_deref());
    Err(Refusal { interface, step, judged })
}

/// The two legs of a connection whose server is this machine: what the client sends is received here, whichever way the
/// interface looks.
fn legs(interface: &Interface, connection: &Connection) -> [(bool, Direction, Packet); 2] {
    let Connection { local, remote } = *connection;
    let router = if interface.side == Side::Router { Control::ROUTER } else { 0 };
    let control = Control::new(0, Tier::Small, router, 0);
    [(true, remote, local, Hook::Ingress), (false, local, remote, Hook::Egress)].map(
        |(request, source, destination, hook)| {
            let packet = Packet {
                family: if source.is_ipv4() { Family::V4 } else { Family::V6 },
                protocol: 6,
                fragment: Fragment::None,
                hop_limit: 64,
                tcp_flags: 0x10,
                src: number(source.ip()),
                dst: number(destination.ip()),
                sport: source.port(),
                dport: destination.port(),
                ident: 0,
            };
            (request, control.direction(hook), packet)
        },
    )
}

/// The key a connection is remembered under, where it is.
pub fn key(interface: &Interface, connection: &Connection) -> Option<FlowKey> {
    let [(_, direction, request), _] = legs(interface, connection);
    flow::key(Control(Control::GROUPS), direction, &request)
}

/// What kills a connection, if anything does. Whoever speaks first may decide what is remembered, so both are tried; what
/// is denied once comes again, but who gets no answer does not go on.
fn cut(engine: &Engine, interface: &Interface, connection: &Connection) -> Option<Cut> {
    if !interface.enforce {
        return None;
    }
    let [request, reply] = legs(interface, connection);
    let judge = |engine: &mut Engine, (request, direction, packet): &(bool, Direction, Packet)| {
        let verdict = engine.judge(*direction, packet);
        (verdict.action == Action::Deny).then(|| by(interface, engine.compiled(), *request, *direction, verdict))
    };
    let mut client_first = engine.clone();
    let mut server_first = engine.clone();
    let cut = judge(&mut client_first, &request).or_else(|| judge(&mut client_first, &reply));
    cut.or_else(|| {
        judge(&mut server_first, &reply);
        judge(&mut server_first, &request).or_else(|| judge(&mut server_first, &reply))
    })
}

fn by(interface: &Interface, compiled: &Compiled, request: bool, direction: Direction, verdict: Verdict) -> Cut {
    let slot = compiled.slots.slots.get(&verdict.slot);
    let groups = || interface.groups.iter().flatten().map(|group: &std::sync::Arc<Group>| group.name.as_str());
    Cut {
        request,
        direction,
        layer: verdict.layer,
        name: match verdict.layer {
            Layer::SecurityGroup => groups().collect::<Vec<_>>().join(" or "),
            _ => slot.map_or_else(|| interface.nacl.name.clone(), |slot| slot.name.clone()),
        },
        rule: slot.filter(|_| verdict.reason == Reason::NaclRule).and_then(|slot| slot.rule),
        line: slot.map_or(0, |slot| slot.line),
        reason: verdict.reason,
    }
}

/// What a person should know about an interface before relying on it.
pub fn notes<'e>(
    interface: &Interface,
    surroundings: &Surroundings,
    enis: impl Iterator<Item = &'e Eni>,
) -> Vec<String> {
    let mut notes = Vec::new();
    let inside = |address: &IpAddr| interface.subnet_cidrs.iter().any(|cidr| cidr.contains(address));
    let subnet = interface.subnet.as_deref().unwrap_or_default();
    let within: Vec<String> = surroundings
        .gateways
        .iter()
        .filter(|gateway| inside(gateway))
        .map(|gateway| format!("gateway {gateway}"))
        .chain(enis.flat_map(|eni| {
            let addresses =
                eni.addresses.iter().filter(|address| inside(address) && !interface.addresses.contains(address));
            addresses.map(|address| format!("{} {address}", eni.name)).collect::<Vec<_>>()
        }))
        .collect();
    if !within.is_empty() {
        notes.push(format!(
            "the network ACL is not consulted for {}: inside subnet {subnet:?}, as in AWS",
            within.join(", ")
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nacl_common::border::Service;

    use super::*;
    use crate::{
        compile::compile,
        resolve::{Exemption, GroupRule, Layers, Mode, Nacl, Peer, Protocol, Rule},
    };

    fn rule(number: u16, action: Action, ports: (u16, u16)) -> Rule {
        Rule {
            number,
            action,
            protocol: Protocol::Number(6),
            ports: Some(ports),
            icmp: None,
            cidr: "0.0.0.0/0".parse().unwrap(),
            reference: None,
            description: None,
            line: usize::from(number) / 10,
            span: 0..0,
        }
    }

    fn interface(inbound: Vec<Rule>, outbound: Vec<Rule>) -> Interface {
        let nacl = Arc::new(Nacl { name: "web".into(), id: None, inbound, outbound });
        Interface { addresses: vec!["10.0.1.10".parse().unwrap()], ..Interface::new("eth0", nacl) }
    }

    fn ssh() -> Connection {
        Connection { local: "10.0.1.10:22".parse().unwrap(), remote: "198.51.100.7:52345".parse().unwrap() }
    }

    /// What the guard says of attaching, or of a reload that finds the connection remembered or not.
    fn refusal(interface: &Interface, before: Option<&Interface>) -> Option<String> {
        let compiled = compile(interface, None).unwrap();
        let refused = match before {
            None => attach("eth0", interface, &compiled, &[ssh()]),
            Some(before) => changed(before, &[], &Next::Policy(interface, &compiled)),
        };
        refused.err().map(|refusal| refusal.to_string())
    }

    fn changed(before: &Interface, remembered: &[(FlowKey, Entry)], next: &Next<'_>) -> Result<(), Refusal> {
        let compiled = compile(before, None).unwrap();
        change("eth0", &InForce { interface: before, compiled: &compiled, remembered }, next, &[ssh()])
    }

    /// The connection as it is remembered where both layers have admitted it.
    fn entry(interface: &Interface) -> (FlowKey, Entry) {
        let entry = Entry { expires: u64::MAX, state: 2, nacl: 1, group: 1, ..Entry::default() };
        (key(interface, &ssh()).unwrap(), entry)
    }

    fn open() -> Interface {
        interface(vec![rule(100, Action::Allow, (22, 22))], vec![rule(100, Action::Allow, (1024, 65535))])
    }

    #[test]
    fn no_connection_no_objection() {
        let interface = interface(vec![], vec![]);
        assert_eq!(attach("eth0", &interface, &compile(&interface, None).unwrap(), &[]), Ok(()));
    }

    #[test]
    fn attaching_is_refused_even_where_it_would_live() {
        let text = refusal(&open(), None).unwrap();
        assert!(text.contains("198.51.100.7:52345 connected to 10.0.1.10:22: this policy lets it live"), "{text}");
    }

    #[test]
    fn the_leg_and_the_rule_that_cut_are_named() {
        let text = refusal(&interface(vec![], open().nacl.outbound.clone()), None).unwrap();
        assert!(
            text.contains("its packets are denied; no inbound rule of network ACL \"web\" allows them (`*`)"),
            "{text}"
        );
        let outbound = vec![rule(90, Action::Deny, (50000, 60000)), rule(100, Action::Allow, (1024, 65535))];
        let text = refusal(&interface(open().nacl.inbound.clone(), outbound), None).unwrap();
        assert!(text.contains("its replies are denied; outbound rule 90 of network ACL \"web\", line 9"), "{text}");
    }

    #[test]
    fn on_the_router_side_what_is_received_is_outbound() {
        let mut turned = interface(open().nacl.outbound.clone(), open().nacl.inbound.clone());
        turned.side = Side::Router;
        assert!(refusal(&turned, None).unwrap().contains("lets it live"));
        turned.side = Side::Host;
        assert!(refusal(&turned, None).unwrap().contains("WOULD CUT IT"));
    }

    #[test]
    fn monitor_mode_cuts_nothing() {
        let mut monitor = interface(vec![], vec![]);
        monitor.enforce = false;
        assert!(refusal(&monitor, None).unwrap().contains("lets it live"));
    }

    #[test]
    fn a_reload_is_refused_only_where_it_cuts_what_lived() {
        let closed = interface(vec![], vec![]);
        assert_eq!(refusal(&open(), Some(&open())), None);
        assert_eq!(refusal(&closed, Some(&closed)), None, "it was cut before");
        let text = refusal(&closed, Some(&open())).unwrap();
        assert!(text.contains("the old one stays in force"), "{text}");
        let mut monitor = closed.clone();
        monitor.enforce = false;
        assert!(refusal(&closed, Some(&monitor)).is_some(), "monitor mode let it live");
    }

    #[test]
    fn the_end_of_monitor_mode_is_refused_where_it_cuts() {
        let enforced = interface(vec![], vec![]);
        let monitor = Interface { enforce: false, ..enforced.clone() };
        let text = changed(&monitor, &[], &Next::Setting(&enforced)).unwrap_err().to_string();
        assert!(text.contains("it stays in monitor mode") && text.contains("no inbound rule"), "{text}");
        assert_eq!(changed(&enforced, &[], &Next::Setting(&monitor)), Ok(()), "to drop nothing cuts nobody");
        let open = Interface { enforce: false, ..open() };
        assert_eq!(changed(&open, &[], &Next::Setting(&Interface { enforce: true, ..open.clone() })), Ok(()));
    }

    fn with_group(inbound: Vec<GroupRule>, outbound: Vec<GroupRule>) -> Interface {
        let group = Group { name: "sg-3".into(), id: None, inbound, outbound };
        Interface { groups: Some(vec![Arc::new(group)]), ..open() }
    }

    fn group_rule(ports: (u16, u16), cidr: &str) -> GroupRule {
        let cidr = cidr.parse().unwrap();
        let rule = GroupRule::new(Protocol::Number(6), Some(ports), Peer::Cidr(cidr), vec![cidr]);
        GroupRule { line: 20, ..rule }
    }

    #[test]
    fn a_group_takes_up_what_it_finds_and_lets_the_replies_out() {
        // Inbound only: the replies pass because the request is remembered, also when the server speaks first.
        let server = with_group(vec![group_rule((22, 22), "198.51.100.0/24")], vec![]);
        assert!(refusal(&server, None).unwrap().contains("lets it live"));
        let closed = with_group(vec![group_rule((443, 443), "0.0.0.0/0")], vec![]);
        let text = refusal(&closed, None).unwrap();
        assert!(
            text.contains("WOULD CUT IT: its packets are denied; no inbound rule of security group sg-3 allows them"),
            "{text}"
        );
        // An outbound rule would take it up if the server spoke first. Nobody may rely on that.
        let outbound = with_group(vec![], vec![group_rule((1024, 65535), "198.51.100.0/24")]);
        assert!(refusal(&outbound, None).unwrap().contains("no inbound rule of security group sg-3"));
        let empty = Interface { groups: Some(vec![]), ..open() };
        assert!(refusal(&empty, None).unwrap().contains("an empty list of security groups"));
        // The network ACL comes first inbound, and is named first.
        let both = Interface { groups: closed.groups.clone(), ..interface(vec![], vec![]) };
        assert!(refusal(&both, None).unwrap().contains("no inbound rule of network ACL"));
    }

    #[test]
    fn a_pickup_window_of_nothing_takes_nothing_up() {
        let mut server = with_group(vec![group_rule((22, 22), "198.51.100.0/24")], vec![]);
        server.tracking.pickup = 0;
        let text = refusal(&server, None).unwrap();
        assert!(text.contains("its replies are denied; no outbound rule of security group sg-3"), "{text}");
    }

    #[test]
    fn what_is_remembered_outlives_its_rule() {
        let server = with_group(vec![group_rule((22, 22), "198.51.100.0/24")], vec![]);
        let without = with_group(vec![], vec![]);
        let compiled = compile(&without, None).unwrap();
        let next = Next::Policy(&without, &compiled);
        assert_eq!(changed(&server, &[entry(&server)], &next), Ok(()), "S32");
        // Not remembered, as when it was idle all the time in which connections are taken up: it is not taken up now.
        let idle = Interface { mode: Mode::Stateful, ..interface(open().nacl.inbound.clone(), vec![]) };
        let stateless = Interface { mode: Mode::Stateless, ..idle.clone() };
        assert_eq!(changed(&idle, &[entry(&idle)], &Next::Setting(&idle)), Ok(()));
        let text = changed(&idle, &[entry(&idle)], &Next::Setting(&stateless)).unwrap_err().to_string();
        assert!(text.contains("mode and layers stay as they are") && text.contains("its replies are denied"), "{text}");
        assert_eq!(changed(&stateless, &[], &Next::Setting(&idle)), Ok(()), "it was cut before");
        // To begin to remember takes up what is there.
        assert_eq!(changed(&open(), &[], &Next::Setting(&Interface { mode: Mode::Stateful, ..open() })), Ok(()));
    }

    #[test]
    fn what_lives_on_memory_alone_must_not_be_forgotten() {
        let server = with_group(vec![group_rule((22, 22), "198.51.100.0/24")], vec![]);
        let text = changed(&server, &[entry(&server)], &Next::Forgetting).unwrap_err().to_string();
        assert!(text.contains("nothing was forgotten") && text.contains("its replies are denied"), "{text}");
        let open = vec![group_rule((0, 65535), "0.0.0.0/0")];
        let server = with_group(open.clone(), open);
        assert_eq!(changed(&server, &[entry(&server)], &Next::Forgetting), Ok(()), "its rules let it live");
    }

    #[test]
    fn failsafe_and_layers_are_believed() {
        let failsafe = Exemption {
            failsafe: true,
            name: "failsafe".into(),
            service: Service::Local,
            protocol: Protocol::Number(6),
            ports: Some((22, 22)),
            cidr: "198.51.100.0/24".parse().unwrap(),
            line: 30,
        };
        let closed = Interface { groups: Some(vec![]), ..interface(vec![], vec![]) };
        let safe = Interface { exemptions: vec![failsafe], ..closed.clone() };
        assert!(refusal(&safe, None).unwrap().contains("lets it live"));
        let compiled = compile(&safe, None).unwrap();
        assert_eq!(changed(&open(), &[], &Next::Policy(&safe, &compiled)), Ok(()));
        let nacl = Interface { groups: closed.groups.clone(), layers: Layers::Nacl, ..open() };
        assert!(refusal(&nacl, None).unwrap().contains("lets it live"), "groups do not judge");
        let groups = Interface { layers: Layers::Groups, ..nacl.clone() };
        let text = changed(&nacl, &[], &Next::Setting(&groups)).unwrap_err().to_string();
        assert!(text.contains("an empty list of security groups"), "{text}");
    }

    #[test]
    fn says_who_the_acl_is_not_asked_about() {
        let mut interface = open();
        interface.subnet = Some("private".into());
        interface.subnet_cidrs = vec!["10.0.1.0/24".parse().unwrap()];
        let surroundings = Surroundings {
            gateways: vec!["10.0.1.1".parse().unwrap(), "fe80::1".parse().unwrap()],
            ..Surroundings::default()
        };
        let eni = Eni {
            name: "db".into(),
            addresses: vec!["10.0.1.20".parse().unwrap(), "10.0.2.1".parse().unwrap()],
            subnet: None,
            groups: Vec::new(),
        };
        let notes = notes(&interface, &surroundings, [eni].iter());
        assert_eq!(
            notes,
            [
                "the network ACL is not consulted for gateway 10.0.1.1, db 10.0.1.20: inside subnet \"private\", as in AWS"
            ]
        );
    }
}
