//! A verdict → both legs of its flow, in the words of `nacld explain`: by the policy file in force, and the setting in force.

use std::convert::Infallible;

use nacl_common::Direction;

use crate::{
    analyze::{self, Flow},
    compile::compile,
    engine::Engine,
    observe::{InterfaceStatus, PolicyStatus, Record},
    report::explain::{Asked, text},
    resolve::NoHost,
    service::{prepare, state::chain},
};

/// ICMP types of an echo's reply and request, by the protocol's number.
const ECHOES: [(u8, u16, u16); 2] = [(1, 0, 8), (58, 129, 128)];

/// The request that a packet belongs to, and which way that goes. Nothing where the packet names no flow.
pub fn request(record: &Record) -> Option<(Flow, Direction)> {
    let (source, destination, protocol) = (record.src?, record.dst?, record.protocol?);
    if record.fragment {
        return None;
    }
    let icmp = record.icmp_type.map(|kind| u16::from(kind) << 8 | u16::from(record.icmp_code.unwrap_or_default()));
    let flow = Flow {
        protocol,
        source,
        destination,
        sport: record.sport.unwrap_or_default(),
        dport: record.dport.or(icmp).unwrap_or_default(),
    };
    let direction = if record.direction == "inbound" { Direction::Inbound } else { Direction::Outbound };
    if !is_reply(record) {
        return Some((flow, direction));
    }
    let (source, destination) = (flow.destination, flow.source);
    let asked = match icmp {
        Some(_) => {
            let echo = ECHOES.iter().find(|(of, reply, _)| (*of, *reply) == (protocol, flow.dport >> 8));
            Flow { source, destination, dport: echo.map_or(flow.dport, |(.., request)| request << 8), ..flow }
        }
        None => Flow { source, destination, sport: flow.dport, dport: flow.sport, ..flow },
    };
    Some((asked, direction.reverse()))
}

/// Whether a packet answers another one, as far as it shows: what the connection table knew, what TCP says, and where neither
/// does the lower port, which is the service's.
fn is_reply(record: &Record) -> bool {
    match record.flow.as_deref() {
        Some("reply") => return true,
        Some("new" | "forward") => return false,
        _ => {}
    }
    if let (Some(protocol), Some(kind)) = (record.protocol, record.icmp_type) {
        return ECHOES.iter().any(|(of, reply, _)| (*of, *reply) == (protocol, kind.into()));
    }
    let flags: Vec<&str> = record.tcp_flags.as_deref().unwrap_or_default().split(',').collect();
    if flags.contains(&"SYN") {
        return flags.contains(&"ACK");
    }
    matches!((record.sport, record.dport), (Some(from), Some(to)) if from < to)
}

/// Both legs of the flow that a packet belongs to, as styled text.
///
/// # Errors
/// Why it cannot be explained.
pub fn explain(record: &Record, policy: &PolicyStatus, status: &InterfaceStatus) -> Result<String, String> {
    let Some((flow, direction)) = request(record) else {
        return Err("this packet names no flow: a later fragment, or not IP".to_owned());
    };
    let file = policy.file.display();
    let reading = prepare::read(&policy.file, &NoHost).map_err(|error| chain(&error))?;
    if prepare::digest(reading.text.as_bytes()) != policy.sha256 {
        return Err(format!("{file} is not what is in force: it has changed since it was read (`nacld reload`)"));
    }
    let resolved = reading.resolved.ok_or_else(|| format!("{file} is no valid policy on its own"))?;
    let written = resolved.interfaces.get(&record.interface);
    let written = written.ok_or_else(|| format!("{file} has no interface {}", record.interface))?;
    let mut interface = status.modes.in_force.on(written);
    // The daemon knows them; here nobody asks the machine.
    interface.addresses.clone_from(&status.addresses);
    let compiled = compile(&interface, None).map_err(|error| error.to_string())?;
    let mut engine = Engine::new(&interface, &compiled);
    let judge = |direction, packet: &_| Ok::<_, Infallible>(engine.judge(direction, packet));
    let explained = analyze::explain(&interface, &compiled, judge, flow, Some(direction), None);
    let explained = explained.map_err(|error| error.to_string())?;
    Ok(text(&Asked { policy: &resolved, name: &record.interface, interface: &interface }, &explained))
}
