//! Whom a policy would lock out of this machine if it were put in force now: what the guard says before anybody asks
//! for it (`nacld check --here`). Asks the kernel, and changes nothing.

use std::net::SocketAddr;

use nix::net::if_::if_nametoindex;
use serde::Serialize;

use super::{
    guard::{self, Judged},
    host::{HostError, Surroundings},
    state::chain,
};
use crate::{
    compile::Compiler,
    netns,
    resolve::{Interface, Resolved},
};

/// What would become of the SSH connections over one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// Name of the interface in the policy.
    pub interface: String,
    /// Its device.
    pub device: String,
    /// Its network namespace; null for this process's own.
    pub netns: Option<String>,
    /// Why it cannot be told who is connected over it; null where it can.
    pub unknown: Option<String>,
    /// True where an SSH server on an unusual port may have been missed: other people's processes may not be looked into.
    pub partly: bool,
    /// Who is connected.
    pub connections: Vec<Told>,
}

/// One connection, and what would become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// The server's end.
    pub local: SocketAddr,
    /// The client's end.
    pub remote: SocketAddr,
    /// What would cut it; null where it lives.
    pub cut: Option<By>,
    /// All of it in words.
    pub text: String,
}

/// What cuts a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct By {
    /// True where the client's packets die, false where the answers do.
    pub request: bool,
    /// `inbound` or `outbound`.
    pub direction: &'static str,
    /// Which layer denies.
    pub layer: &'static str,
    /// Name of the network ACL, or of the groups.
    pub name: String,
    /// Number of a network ACL rule; null where no rule matches.
    pub rule: Option<u16>,
    /// Its line in the policy; null where no rule matches.
    pub line: Option<usize>,
}

impl Outlook {
    /// How many connections would be cut.
    pub fn cut(&self) -> usize {
        self.connections.iter().filter(|connection| connection.cut.is_some()).count()
    }
}

/// Looks at every interface of a policy. One whose lists do not fit is left out: `compile::refusals` says why.
pub fn outlook(policy: &Resolved) -> Vec<Outlook> {
    let mut once = Compiler::default();
    let mut all = Vec::new();
    for (key, interface) in &policy.interfaces {
        let Ok(compiled) = once.compile(interface, None) else { continue };
        let mut outlook = Outlook {
            interface: key.clone(),
            device: interface.name.clone(),
            netns: interface.netns.clone(),
            unknown: None,
            partly: false,
            connections: Vec::new(),
        };
        match surroundings(interface) {
            Ok(Some(around)) => {
                outlook.partly = !around.all_seen;
                outlook.connections = guard::judge(interface, &compiled, &around.ssh).iter().map(told).collect();
            }
            Ok(None) => {
                outlook.unknown = Some(match &interface.netns {
                    Some(name) if !netns::path(name).exists() => format!("there is no network namespace {name:?}"),
                    _ => "there is no such interface on this machine".to_owned(),
                });
            }
            Err(error) => outlook.unknown = Some(chain(&error)),
        }
        all.push(outlook);
    }
    all
}

/// `None` where there is no such interface.
fn surroundings(interface: &Interface) -> Result<Option<Surroundings>, HostError> {
    let netns = interface.netns.as_deref();
    let around = Surroundings::of(netns, &interface.name)?;
    // An interface that is missing has no surroundings, which is not to say that nobody is connected.
    let there = netns::within(netns, || if_nametoindex(interface.name.as_str()).is_ok()).unwrap_or(false);
    Ok(there.then_some(around))
}

fn told(judged: &Judged) -> Told {
    let by = |cut: &guard::Cut| By {
        request: cut.request,
        direction: cut.direction.name(),
        layer: cut.layer.name(),
        name: cut.name.clone(),
        rule: cut.rule,
        line: cut.rule.map(|_| cut.line),
    };
    Told {
        local: judged.connection.local,
        remote: judged.connection.remote,
        cut: judged.cut.as_ref().map(by),
        text: judged.text("this policy"),
    }
}
