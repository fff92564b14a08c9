//! The lock-out guard: whether a policy may be put on an interface that carries somebody's SSH connection, and what
//! else a person should hear before it is enforced. Decisions only; the facts come from `host`.

use std::{fmt::Write as _, net::IpAddr};

use nacl_common::{
    Action, Control, Direction, Family, Fragment, Packet, Reason, Verdict, border::Tier, evaluate::Hook,
};
use thiserror::Error;

use super::host::{Connection, Surroundings};
use crate::{
    analyze::number,
    compile::Compiled,
    report::place,
    resolve::{Eni, Interface, Side},
};

/// A connection, and what the policy would do to it.
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
    /// Name of the network ACL.
    pub nacl: String,
    /// Rule number; `None` for `*`.
    pub rule: Option<u16>,
    /// Its line in the policy.
    pub line: usize,
}

/// The policy may not be put in force.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{}", self.text())]
pub struct Refusal {
    interface: String,
    netns: Option<String>,
    reload: bool,
    judged: Vec<Judged>,
}

impl Refusal {
    /// What to do about it.
    pub fn hint(&self) -> String {
        let hint = if self.reload {
            "allow the connection in the policy, or reload with --force"
        } else {
            "give --for 60s, after which it detaches by itself, or --force"
        };
        hint.to_owned()
    }

    fn text(&self) -> String {
        let place = place(&self.interface, self.netns.as_deref());
        let mut text = match (self.reload, self.judged.len()) {
            (true, _) => format!("the new policy would cut an SSH connection on {place}; the old one stays in force"),
            (false, 1) => format!("{place} carries an SSH connection; nothing was attached"),
            (false, count) => format!("{place} carries {count} SSH connections; nothing was attached"),
        };
        for Judged { connection, cut } in &self.judged {
            // What a person sees when typing `who`: who is connected, and whether that goes on.
            let _ = write!(text, "\n  {} connected to {}: ", connection.remote, connection.local);
            match cut {
                None => text.push_str("this policy lets it live"),
                Some(cut) => {
                    let what = if cut.request { "its packets are" } else { "its replies are" };
                    let direction = cut.direction.name();
                    let rule = cut.rule.map_or_else(
                        || format!("no {direction} rule of network ACL {:?} allows them (`*`)", cut.nacl),
                        |rule| format!("{direction} rule {rule} of network ACL {:?}, line {}", cut.nacl, cut.line),
                    );
                    let _ = write!(text, "this policy WOULD CUT IT: {what} denied; {rule}");
                }
            }
        }
        text
    }
}

/// Whether `compiled` may be put in force on an interface that carries these connections. `attached`: the interface
/// and tables in force there, if any. To attach is refused whenever there is a connection, to switch only where the
/// new policy cuts what the old one lets live.
///
/// # Errors
/// [`Refusal`].
pub fn decide(
    interface: &Interface,
    compiled: &Compiled,
    attached: Option<(&Interface, &Compiled)>,
    ssh: &[Connection],
) -> Result<(), Refusal> {
    let judged =
        ssh.iter().map(|connection| Judged { connection: *connection, cut: cut(interface, compiled, connection) });
    let judged: Vec<_> = match attached {
        None => judged.collect(),
        Some((before, old)) => {
            judged.filter(|judged| judged.cut.is_some() && cut(before, old, &judged.connection).is_none()).collect()
        }
    };
    if judged.is_empty() {
        return Ok(());
    }
    let (interface, netns) = (interface.name.clone(), interface.netns.clone());
    Err(Refusal { interface, netns, reload: attached.is_some(), judged })
}

/// What kills a connection, if anything does: request first, then reply.
fn cut(interface: &Interface, compiled: &Compiled, connection: &Connection) -> Option<Cut> {
    if !interface.enforce {
        return None;
    }
    let Connection { local, remote } = *connection;
    // The server is this machine, so what the client sends is received here, whichever way the interface looks.
    let router = if interface.side == Side::Router { Control::ROUTER } else { 0 };
    let control = Control::new(0, Tier::Small, router, 0);
    [(true, remote, local, Hook::Ingress), (false, local, remote, Hook::Egress)].into_iter().find_map(
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
            let direction = control.direction(hook);
            let verdict = compiled.judge(direction, &packet);
            (verdict.action == Action::Deny).then(|| named(interface, compiled, request, direction, verdict))
        },
    )
}

fn named(interface: &Interface, compiled: &Compiled, request: bool, direction: Direction, verdict: Verdict) -> Cut {
    let slot = compiled.slots.slots.get(&verdict.slot);
    Cut {
        request,
        direction,
        nacl: slot.map_or_else(|| interface.nacl.name.clone(), |slot| slot.name.clone()),
        rule: slot.filter(|_| verdict.reason == Reason::NaclRule).and_then(|slot| slot.rule),
        line: slot.map_or(0, |slot| slot.line),
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
    if !interface.enforce {
        notes.push("enforce = false: packets are judged and counted, and NONE IS DROPPED".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        compile::compile,
        resolve::{Nacl, Protocol, Rule},
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

    fn refusal(interface: &Interface, before: Option<&Interface>) -> Option<String> {
        let compiled = compile(interface, None).unwrap();
        let old = before.map(|before| (before, compile(before, None).unwrap()));
        let old = old.as_ref().map(|(before, compiled)| (*before, compiled));
        decide(interface, &compiled, old, &[ssh()]).err().map(|refusal| refusal.to_string())
    }

    fn open() -> Interface {
        interface(vec![rule(100, Action::Allow, (22, 22))], vec![rule(100, Action::Allow, (1024, 65535))])
    }

    #[test]
    fn no_connection_no_objection() {
        let interface = interface(vec![], vec![]);
        assert_eq!(decide(&interface, &compile(&interface, None).unwrap(), None, &[]), Ok(()));
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
    fn says_who_the_acl_is_not_asked_about() {
        let mut interface = open();
        interface.subnet = Some("private".into());
        interface.subnet_cidrs = vec!["10.0.1.0/24".parse().unwrap()];
        let surroundings =
            Surroundings { gateways: vec!["10.0.1.1".parse().unwrap(), "fe80::1".parse().unwrap()], ssh: vec![] };
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
