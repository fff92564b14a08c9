//! Network ACLs around the cap of decision tables: the longest list whose decisions still stand in a table, the one before
//! it, and the first whose decisions are found in rows of bits.

use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use nacl_common::{
    Action,
    border::{Header, List, list_index},
};
use nacl_daemon::{
    compile::{Compiled, Generation, compile},
    resolve::{Interface, Layers, Protocol, Rule},
};

use super::{
    case::Case,
    generate::{self, Random},
};

/// Rules that share next to nothing: each has a prefix and a range of ports of its own, and both overlap with many others'.
fn sharing_little(random: &mut Random, count: u16) -> Vec<Rule> {
    (1..=count)
        .map(|number| {
            let address = 0x0a00_0000 | u32::from(number) << 8;
            // Every sixteenth spans its neighbours, with another address inside it each time.
            let length = if number.is_multiple_of(16) { 20 } else { 24 + random.below(5) as u8 };
            let cidr = Ipv4Net::new(address.into(), length).expect("a prefix").trunc();
            let first = 1 + number * 7;
            Rule {
                number,
                action: if random.once_in(2) { Action::Allow } else { Action::Deny },
                protocol: Protocol::Number(*random.pick(&[6, 17])),
                ports: Some((first, first + random.below(20_000) as u16)),
                icmp: None,
                cidr: IpNet::V4(cidr),
                reference: None,
                description: None,
                line: number.into(),
                span: 0..0,
            }
        })
        .collect()
}

/// What the list that decides a packet is laid out as.
pub fn form(compiled: &Compiled, case: &Case) -> &'static str {
    if header(compiled).lists[list_index(case.direction, case.v6())].form == List::ROWS { "rows" } else { "table" }
}

pub fn header(compiled: &Compiled) -> &Header {
    match &compiled.generation {
        Generation::Small(image) => &image.header,
        Generation::Medium(image) => &image.header,
        Generation::Large(image) => &image.header,
    }
}

/// One rule below the cap, at the cap, and one rule above it.
pub fn around_the_cap(random: &mut Random) -> [(Interface, Compiled); 3] {
    let nacl = generate::interface(random, 0, 20);
    let interface = Interface { layers: Layers::Both, ..generate::layered(random, nacl) };
    let rules = sharing_little(random, 3000);
    let of = |count: usize| {
        let mut interface = interface.clone();
        Arc::make_mut(&mut interface.nacl).inbound = rules[..count].to_vec();
        let compiled = compile(&interface, None).expect("it fits, in the one form or the other");
        (interface, compiled)
    };
    let in_rows = |count: usize| header(&of(count).1).lists.iter().any(|list| list.form == List::ROWS);
    let (mut table, mut rows) = (1000, rules.len());
    assert!(!in_rows(table) && in_rows(rows), "the cap lies between");
    while rows - table > 1 {
        let middle = usize::midpoint(table, rows);
        if in_rows(middle) { rows = middle } else { table = middle }
    }
    println!("{table} rules are the last in a table");
    [of(table - 1), of(table), of(rows)]
}
