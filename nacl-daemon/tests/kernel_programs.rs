//! Debug
use nacl_common::evaluate::Hook;
use nacl_daemon::{compile::compile, dataplane::*, resolve::*};
use std::sync::Arc;

#[test]
fn debug() {
    for (n, tier) in [(1u16, "s"), (400, "m"), (3000, "l")] {
        let rules: Vec<Rule> = (1..=n)
            .map(|number| Rule {
                number,
                action: nacl_common::Action::Allow,
                protocol: Protocol::Number(6),
                ports: Some((number, number)),
                icmp: None,
                cidr: format!("10.{}.{}.0/24", number / 256, number % 256).parse().unwrap(),
                reference: None,
                description: None,
                line: 1,
                span: 0..0,
            })
            .collect();
        let nacl = Arc::new(Nacl { name: "n".into(), id: None, inbound: rules.clone(), outbound: rules });
        let interface = Interface {
            name: "x".into(),
            netns: None,
            addresses: vec![],
            subnet: None,
            subnet_cidrs: vec![],
            nacl,
            side: Side::Host,
            enforce: true,
            xdp: Xdp::Auto,
            drop_non_ip: false,
        };
        let compiled = compile(&interface, None).unwrap();
        println!("{tier}: {:?} {:?}", compiled.generation.tier(), interface.nacl.inbound.len());
        let options = Options {
            xdp: Xdp::Auto,
            side: Side::Host,
            enforce: true,
            drop_non_ip: false,
            events: Events::None,
            trace: false,
        };
        let mut bed = TestBed::load(&options, &compiled).unwrap();
        println!("{:?}", bed.verified());
        let mut frame = vec![0u8; 60];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[17] = 40;
        frame[23] = 6;
        frame[26..30].copy_from_slice(&[10, 0, 1, 1]);
        frame[30..34].copy_from_slice(&[10, 0, 1, 1]);
        frame[37] = 1;
        for i in 0..6 {
            for hook in [Hook::Ingress, Hook::Egress] {
                println!("{:?}", bed.run(hook, &frame).unwrap());
            }
            println!("{:?}", bed.install(&options, &compiled));
            let _ = i;
        }
        println!("{:?}", bed.counters());
        let start = std::time::Instant::now();
        for _ in 0..1000 {
            bed.run(Hook::Ingress, &frame).unwrap();
        }
        println!("xdp {:?}", start.elapsed() / 1000);
        let start = std::time::Instant::now();
        for _ in 0..1000 {
            bed.run(Hook::Egress, &frame).unwrap();
        }
        println!("tc {:?}", start.elapsed() / 1000);
        let start = std::time::Instant::now();
        bed.install(&options, &compiled).unwrap();
        println!("install {:?}", start.elapsed());
        let start = std::time::Instant::now();
        let _ = TestBed::load(&options, &compiled).unwrap();
        println!("load {:?}", start.elapsed());
    }
}
