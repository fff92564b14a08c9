//! The programs on real interfaces (veth pairs in namespaces of their own): how they attach, what they do when they
//! cannot, what they count on the wire, and that nothing of them stays behind.

mod support;

use std::{io::Write, net::TcpListener, net::TcpStream, os::fd::AsRawFd, time::Duration};

use nacl_common::{Action, Direction, Reason};
use nacl_daemon::{
    compile::Compiled,
    dataplane::{
        self, Attachment, Counters, DataplaneError, Egress, Events, Ingress, Options, Start, Target, Tc, Terms, attach,
        attach_with, detach_leftovers,
    },
    netns,
    resolve::{Side, Xdp},
};
use nix::errno::Errno;
use support::{
    policies::{open, options, policy, rule, slot, two_closed},
    veth::{Cable, FAR, HERE, NEAR, frame, ip, packet_socket, run},
};

const CLOSED_IN: u16 = 4001;
const CLOSED_OUT: u16 = 4002;
const OPEN: u16 = 4003;

/// By a filter on clsact, or as the kernel has it.
fn by(tc: Tc) -> Start<'static> {
    Start { tc, ..Start::default() }
}

fn packets(counters: &Counters, compiled: &Compiled, direction: Direction, rule: u16) -> u64 {
    counters.slots.get(&slot(compiled, direction, rule)).map_or(0, |counter| counter.packets)
}

/// Both directions, both outcomes, each with its control and its counter.
fn enforces(cable: &Cable, attachment: &Attachment, compiled: &Compiled) {
    let before = attachment.counters().expect("counters");
    assert_eq!(cable.inbound(OPEN, 3), 3);
    assert_eq!(cable.inbound(CLOSED_IN, 3), 0);
    assert_eq!(cable.inbound(CLOSED_OUT, 2), 2, "the outbound rule is not asked about inbound packets");
    assert_eq!(cable.outbound(OPEN, 4), 4);
    assert_eq!(cable.outbound(CLOSED_OUT, 5), 0);
    let after = attachment.counters().expect("counters");
    let moved =
        |direction, rule| packets(&after, compiled, direction, rule) - packets(&before, compiled, direction, rule);
    assert_eq!(moved(Direction::Inbound, 50), 3);
    assert_eq!(moved(Direction::Inbound, 100), 5);
    assert_eq!(moved(Direction::Outbound, 60), 5);
    assert_eq!(moved(Direction::Outbound, 100), 4);
    let bytes = after.slots[&slot(compiled, Direction::Inbound, 50)].bytes;
    assert_eq!(bytes % (14 + 20 + 8 + 5), 0, "whole Ethernet frames are counted");
}

fn clean(cable: &Cable) {
    assert_eq!(detach_leftovers(&cable.target(), None).expect("the interface is asked"), Vec::<String>::new());
    let link = ip(&["-n", &cable.here, "-d", "link", "show", "dev", NEAR]);
    assert!(!link.contains("xdp"), "{link}");
    let qdiscs = run("ip", &["netns", "exec", &cable.here, "tc", "qdisc", "show", "dev", NEAR]);
    assert!(!qdiscs.contains("clsact"), "{qdiscs}");
    assert_eq!(cable.inbound(CLOSED_IN, 1), 1, "the control: with nothing attached it passes");
    assert_eq!(cable.outbound(CLOSED_OUT, 1), 1, "the control: with nothing attached it passes");
}

fn every_way(xdp: Xdp, tc: Tc, ingress: Ingress, egress: Egress) {
    let cable = Cable::new();
    cable.acquaint();
    clean(&cable);
    let compiled = two_closed(CLOSED_IN, CLOSED_OUT);
    let attachment = attach_with(&cable.target(), &options(xdp), &compiled, by(tc)).expect("it attaches");
    let hooks = attachment.hooks();
    assert_eq!((hooks.ingress, hooks.egress), (ingress, egress), "{hooks}");
    assert_eq!(hooks.fallback, None);
    enforces(&cable, &attachment, &compiled);
    attachment.detach().expect("it detaches");
    clean(&cable);
    // Once more, by letting it go.
    drop(attach_with(&cable.target(), &options(xdp), &compiled, by(tc)).expect("it attaches again"));
    clean(&cable);
}

#[test]
fn native_xdp_and_tcx() {
    every_way(Xdp::Auto, Tc::Auto, Ingress::Native, Egress::Tcx);
}

#[test]
fn native_xdp_and_clsact() {
    every_way(Xdp::Native, Tc::Clsact, Ingress::Native, Egress::Clsact);
}

#[test]
fn generic_xdp_on_request() {
    every_way(Xdp::Generic, Tc::Auto, Ingress::Generic, Egress::Tcx);
}

#[test]
fn tcx_on_both_hooks() {
    every_way(Xdp::Tc, Tc::Auto, Ingress::Tcx, Egress::Tcx);
}

#[test]
fn clsact_on_both_hooks() {
    every_way(Xdp::Tc, Tc::Clsact, Ingress::Clsact, Egress::Clsact);
}

#[test]
fn a_large_mtu_needs_no_fallback() {
    let cable = Cable::new();
    for (netns, interface) in [(&cable.here, NEAR), (&cable.there, FAR)] {
        ip(&["-n", netns, "link", "set", interface, "mtu", "9000"]);
    }
    let attachment = attach(&cable.target(), &options(Xdp::Native), &open()).expect("it attaches");
    assert_eq!(attachment.hooks().ingress, Ingress::Native);
}

#[test]
fn a_driver_without_xdp_falls_back_and_says_so() {
    let cable = Cable::new();
    ip(&["-n", &cable.here, "link", "add", "bridge0", "type", "bridge"]);
    let target = Target { name: "bridge0".into(), netns: Some(cable.here.clone()) };
    let attachment = attach(&target, &options(Xdp::Auto), &open()).expect("it attaches");
    assert_eq!(attachment.hooks().ingress, Ingress::Tcx);
    assert_eq!(attachment.hooks().fallback.as_deref(), Some("the driver has none"));
    drop(attachment);
    let error = attach(&target, &options(Xdp::Native), &open()).err().expect("native is not to be had");
    assert!(matches!(&error, DataplaneError::NoNativeXdp { name, .. } if name == "bridge0"), "{error}");
}

#[test]
fn a_taken_slot_is_named_and_gone_round() {
    let cable = Cable::new();
    let first = attach(&cable.target(), &options(Xdp::Native), &open()).expect("it attaches");
    let error = attach(&cable.target(), &options(Xdp::Native), &open()).err().expect("the slot is taken");
    let text = error.to_string();
    let id = first.hooks().ingress_program;
    assert!(matches!(error, DataplaneError::XdpTaken { .. }), "{text}");
    assert!(text.contains(&format!("id {id} \"nacl_ingress\"")), "{text}");
    assert!(text.contains(&format!("(process {})", std::process::id())), "{text}");
    let second = attach(&cable.target(), &options(Xdp::Auto), &open()).expect("it goes round");
    assert_eq!(second.hooks().ingress, Ingress::Tcx);
    assert!(second.hooks().fallback.as_deref().is_some_and(|why| why.contains("already has an XDP program: id")));
    drop(second);
    // The first one is as it was.
    let again = attach(&cable.target(), &options(Xdp::Native), &open()).err().expect("the slot is still taken");
    assert!(matches!(again, DataplaneError::XdpTaken { .. }), "{again}");
}

#[test]
fn what_is_not_there_or_not_ethernet_is_refused_by_name() {
    let cable = Cable::new();
    let refused = |name: &str| {
        let target = Target { name: name.into(), netns: Some(cable.here.clone()) };
        attach(&target, &options(Xdp::Auto), &open()).err().expect("it is refused").to_string()
    };
    assert_eq!(refused("absent"), format!("there is no interface \"absent\" in network namespace {:?}", cable.here));
    assert_eq!(
        refused("lo"),
        "interface \"lo\" is not Ethernet but the loopback interface; nacld judges Ethernet frames only"
    );
    ip(&["-n", &cable.here, "tuntap", "add", "dev", "tun0", "mode", "tun"]);
    assert!(refused("tun0").contains("not Ethernet but a device without a link layer"), "{}", refused("tun0"));
    let target = Target { name: NEAR.into(), netns: Some("nacld-no-such".into()) };
    let error = attach(&target, &options(Xdp::Auto), &open()).err().expect("it is refused");
    assert!(matches!(error, DataplaneError::Namespace { .. }), "{error}");
}

#[test]
fn without_privilege_the_capability_is_named() {
    let cable = Cable::new();
    let target = cable.target();
    // Capabilities belong to the thread.
    let error = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                drop_capabilities();
                attach(&target, &options(Xdp::Auto), &open()).err().expect("it is refused")
            })
            .join()
            .expect("the thread ends")
    });
    let text = error.to_string();
    assert!(matches!(error, DataplaneError::NoPrivilege { .. }), "{text}");
    for capability in ["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"] {
        assert!(text.contains(capability), "{text}");
    }
    let error = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                drop_capabilities();
                detach_leftovers(&target, None).expect_err("it cannot be known")
            })
            .join()
            .expect("the thread ends")
    });
    assert!(matches!(error, DataplaneError::NoPrivilege { .. }), "{error}");
    clean(&cable);
}

fn drop_capabilities() {
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0_u32; 6];
    // SAFETY: version 3 of the structures, of the lengths that version has.
    let done = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_crash_with_clsact_is_replaced_in_place_and_cleaned_up() {
    let cable = Cable::new();
    cable.acquaint();
    let compiled = two_closed(CLOSED_IN, CLOSED_OUT);
    let left = attach_with(&cable.target(), &options(Xdp::Tc), &compiled, by(Tc::Clsact)).expect("it attaches");
    // As a crash would: nobody detaches, and the filters stay.
    std::mem::forget(left);
    let next = attach_with(&cable.target(), &options(Xdp::Tc), &compiled, by(Tc::Clsact)).expect("it attaches over it");
    for hook in ["ingress", "egress"] {
        let filters = run("ip", &["netns", "exec", &cable.here, "tc", "filter", "show", "dev", NEAR, hook]);
        assert_eq!(filters.matches("handle 0x6e61").count(), 1, "{filters}");
    }
    enforces(&cable, &next, &compiled);
    std::mem::forget(next);
    let removed = detach_leftovers(&cable.target(), None).expect("they are removed");
    assert_eq!(removed.len(), 3, "{removed:?}");
    assert!(removed[0].contains("nacl_ingress_tc") && removed[1].contains("nacl_egress"), "{removed:?}");
    assert_eq!(removed[2], "clsact qdisc");
    clean(&cable);
}

#[test]
fn a_daemon_that_holds_links_is_named_and_loses_them() {
    let cable = Cable::new();
    cable.acquaint();
    let attachment = attach(&cable.target(), &options(Xdp::Native), &two_closed(CLOSED_IN, CLOSED_OUT));
    let removed = detach_leftovers(&cable.target(), None).expect("they are removed");
    assert_eq!(removed.len(), 2, "{removed:?}");
    assert!(removed[0].starts_with("XDP program nacl_ingress") && removed[1].starts_with("tcx program nacl_egress"));
    assert!(removed.iter().all(|line| line.contains(&format!("process {}", std::process::id()))), "{removed:?}");
    clean(&cable);
    drop(attachment);
}

#[test]
fn somebody_elses_qdisc_stays() {
    let cable = Cable::new();
    run("ip", &["netns", "exec", &cable.here, "tc", "qdisc", "add", "dev", NEAR, "clsact"]);
    let attachment = attach_with(&cable.target(), &options(Xdp::Tc), &open(), by(Tc::Clsact)).expect("it attaches");
    attachment.detach().expect("it detaches");
    let qdiscs = run("ip", &["netns", "exec", &cable.here, "tc", "qdisc", "show", "dev", NEAR]);
    assert!(qdiscs.contains("clsact"), "{qdiscs}");
}

#[test]
fn an_interface_that_goes_away_is_no_error() {
    for (xdp, tc) in [(Xdp::Auto, Tc::Auto), (Xdp::Tc, Tc::Clsact)] {
        let cable = Cable::new();
        cable.acquaint();
        let attachment = attach_with(&cable.target(), &options(xdp), &open(), by(tc)).expect("it attaches");
        assert_eq!(cable.inbound(OPEN, 2), 2);
        ip(&["-n", &cable.here, "link", "del", NEAR]);
        let counters = attachment.counters().expect("the counters are still there");
        assert_eq!(packets(&counters, &open(), Direction::Inbound, 100), 2);
        // Not even its namespace need be there any more.
        drop(cable);
        attachment.detach().expect("there is nothing to detach");
    }
}

#[test]
fn an_allow_does_not_end_the_chain() {
    let cable = Cable::new();
    cable.acquaint();
    let first = attach(&cable.target(), &options(Xdp::Native), &open()).expect("XDP and tcx");
    let second = attach(&cable.target(), &options(Xdp::Tc), &open()).expect("tcx twice");
    let third = attach_with(&cable.target(), &options(Xdp::Tc), &open(), by(Tc::Clsact)).expect("clsact twice");
    assert_eq!((cable.inbound(OPEN, 5), cable.outbound(OPEN, 6)), (5, 6));
    for attachment in [&first, &second, &third] {
        let counters = attachment.counters().expect("counters");
        assert_eq!(packets(&counters, &open(), Direction::Inbound, 100), 5, "{}", attachment.hooks());
        assert_eq!(packets(&counters, &open(), Direction::Outbound, 100), 6, "{}", attachment.hooks());
    }
}

#[test]
fn two_interfaces_have_policies_and_counters_of_their_own() {
    let (one, two) = (Cable::new(), Cable::new());
    one.acquaint();
    two.acquaint();
    let (closed, open) = (two_closed(CLOSED_IN, CLOSED_OUT), open());
    let first = attach(&one.target(), &options(Xdp::Auto), &closed).expect("it attaches");
    let second = attach(&two.target(), &options(Xdp::Auto), &open).expect("it attaches");
    enforces(&one, &first, &closed);
    assert_eq!(second.counters().expect("counters"), Counters::default());
    assert_eq!(two.inbound(CLOSED_IN, 2), 2);
    drop(first);
    assert_eq!(two.inbound(CLOSED_IN, 2), 2);
    assert_eq!(packets(&second.counters().expect("counters"), &open, Direction::Inbound, 100), 4);
}

#[test]
fn the_routers_side_turns_directions_round() {
    let cable = Cable::new();
    cable.acquaint();
    let router = Options { side: Side::Router, ..options(Xdp::Auto) };
    let attachment = attach(&cable.target(), &router, &two_closed(CLOSED_IN, CLOSED_OUT)).expect("it attaches");
    // What the interface receives leaves the subnet.
    assert_eq!((cable.inbound(CLOSED_IN, 1), cable.inbound(CLOSED_OUT, 1)), (1, 0));
    assert_eq!((cable.outbound(CLOSED_IN, 1), cable.outbound(CLOSED_OUT, 1)), (0, 1));
    drop(attachment);
}

#[test]
fn a_switch_is_at_once_and_a_failed_one_changes_nothing() {
    let cable = Cable::new();
    cable.acquaint();
    let enforcing = options(Xdp::Auto);
    let closed = two_closed(CLOSED_IN, CLOSED_OUT);
    let mut attachment = attach(&cable.target(), &enforcing, &open()).expect("it attaches");
    assert_eq!(attachment.epoch(), 1);
    // Past the number of slots an interface has, several times.
    for epoch in 2..12 {
        let (next, arrives) = if epoch % 2 == 0 { (&closed, 0) } else { (&open(), 1) };
        assert_eq!(attachment.install(&enforcing, next, Terms::default()).expect("it switches"), epoch);
        assert_eq!(cable.inbound(CLOSED_IN, 1), arrives);
    }
    attachment.install(&enforcing, &closed, Terms::default()).expect("it switches");
    let many = |numbers: std::ops::Range<u16>| {
        numbers.map(|number| rule(number, Action::Allow, Some(number), "10.0.0.0/8")).collect::<Vec<_>>()
    };
    let error = attachment
        .install(&enforcing, &policy(many(1..1200), Vec::new()), Terms::default())
        .expect_err("more than it can count");
    assert!(matches!(error, DataplaneError::TooManySlots { .. }), "{error}");
    assert_eq!(attachment.epoch(), 12);
    assert_eq!(cable.inbound(CLOSED_IN, 1), 0);
    let monitor = Options { enforce: false, ..enforcing };
    attachment.install(&monitor, &closed, Terms::default()).expect("it switches");
    assert_eq!(cable.inbound(CLOSED_IN, 1), 1, "judged and counted, not dropped");
}

#[test]
fn a_larger_policy_moves_to_another_tier() {
    let cable = Cable::new();
    cable.acquaint();
    let enforcing = options(Xdp::Auto);
    let mut attachment = attach(&cable.target(), &enforcing, &two_closed(CLOSED_IN, CLOSED_OUT)).expect("it attaches");
    let mut rules: Vec<_> = (1..500_u16)
        .map(|number| rule(number, Action::Deny, Some(number), &format!("172.{}.{}.0/24", number / 256, number % 256)))
        .collect();
    rules.push(rule(1000, Action::Allow, None, "0.0.0.0/0"));
    let large = policy(rules, vec![rule(100, Action::Allow, None, "0.0.0.0/0")]);
    assert!(large.generation.tier() > nacl_common::border::Tier::Small);
    attachment.install(&enforcing, &large, Terms::default()).expect("it switches");
    assert_eq!(cable.inbound(CLOSED_IN, 2), 2);
    attachment.install(&enforcing, &two_closed(CLOSED_IN, CLOSED_OUT), Terms::default()).expect("it switches back");
    assert_eq!(cable.inbound(CLOSED_IN, 2), 0);
}

#[test]
fn events_name_what_was_dropped_and_come_when_polled() {
    let cable = Cable::new();
    cable.acquaint();
    let denied = Options { events: Events::Denied, ..options(Xdp::Auto) };
    let closed = two_closed(CLOSED_IN, CLOSED_OUT);
    let mut attachment = attach(&cable.target(), &denied, &closed).expect("it attaches");
    assert_eq!(attachment.events().next(), None);
    assert_eq!((cable.inbound(CLOSED_IN, 1), cable.inbound(OPEN, 1)), (0, 1));
    let mut poll = libc::pollfd { fd: attachment.events().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure, as said.
    assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 2000) }, 1);
    let event = attachment.events().next().expect("an event");
    assert_eq!(event.slot, slot(&closed, Direction::Inbound, 50));
    assert_eq!((event.dport, event.protocol, event.family), (CLOSED_IN, 17, 4));
    assert_eq!(event.dst, [0, u64::from(u32::from(HERE))]);
    assert_eq!((event.action, event.enforced, event.epoch, event.length), (0, 1, 1, 47));
    assert_eq!(attachment.events().next(), None, "only what was denied");
    let all = Options { events: Events::All, ..denied };
    attachment.install(&all, &closed, Terms::default()).expect("it switches");
    assert_eq!(cable.outbound(OPEN, 1), 1);
    assert_eq!(attachment.events().next().expect("an event").action, 1);
}

#[test]
fn too_many_events_are_suppressed_and_counted() {
    let cable = Cable::new();
    cable.acquaint();
    let all = Options { events: Events::All, ..options(Xdp::Auto) };
    let mut attachment = attach(&cable.target(), &all, &open()).expect("it attaches");
    let sent = 20_000;
    netns::within(Some(&cable.there), || {
        let socket = std::net::UdpSocket::bind("10.77.0.2:0").expect("a port");
        for _ in 0..sent {
            socket.send_to(b"nacld", (HERE, OPEN)).expect("a datagram leaves");
        }
    })
    .expect("the namespace is entered");
    let mut taken = 0;
    while attachment.events().next().is_some() {
        taken += 1;
    }
    let counters = attachment.counters().expect("counters");
    let counted: u64 = counters.slots.values().map(|counter| counter.packets).sum();
    assert!(counted >= sent, "{counted}");
    assert!(counters.events_suppressed > 0);
    assert_eq!(taken + counters.events_suppressed, counted);
}

#[test]
fn tags_on_the_wire_count_as_one_to_three() {
    let cable = Cable::new();
    for (tc, xdp) in [(Tc::Auto, Xdp::Tc), (Tc::Clsact, Xdp::Tc), (Tc::Auto, Xdp::Native)] {
        let compiled = open();
        let attachment = attach_with(&cable.target(), &options(xdp), &compiled, by(tc)).expect("it attaches");
        for tags in 0..4_u8 {
            let before = attachment.counters().expect("counters");
            let bytes = tagged(tags);
            frame(&cable.there, FAR, &bytes);
            std::thread::sleep(Duration::from_millis(20));
            let after = attachment.counters().expect("counters");
            // Before TC the kernel takes the outermost tag off and keeps it in metadata; XDP sees it in the frame.
            let reason = if tags > 2 { Reason::VlanDepth } else { Reason::NaclRule };
            let key = (reason, Direction::Inbound);
            let counter = |counters: &Counters| counters.reasons.get(&key).copied().unwrap_or_default();
            assert_eq!(counter(&after).packets - counter(&before).packets, 1, "{tags} tags, {xdp:?} {tc:?}");
            assert_eq!(
                counter(&after).bytes - counter(&before).bytes,
                bytes.len() as u64,
                "{tags} tags, {xdp:?} {tc:?}"
            );
        }
    }
}

fn tagged(tags: u8) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 2]);
    for tag in 0..tags {
        frame.extend([0x81, 0, 0, tag + 1]);
    }
    frame.extend([8, 0, 0x45, 0, 0, 33, 0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 0, 2, 10, 77, 0, 1]);
    frame.extend([0x10, 0, 0x0f, 0xa3, 0, 13, 0, 0]);
    frame.extend(b"nacld");
    frame.extend([0; 20]);
    frame
}

/// What BPF_PROG_TEST_RUN would not take at TC.
#[test]
fn an_ip_header_that_is_cut_short_is_dropped_on_the_wire_too() {
    let cable = Cable::new();
    for xdp in [Xdp::Tc, Xdp::Native] {
        let attachment = attach(&cable.target(), &options(xdp), &open()).expect("it attaches");
        for (bytes, number) in [(14, 1), (20, 2), (33, 3)] {
            // On egress the sender is told, on ingress nobody is.
            frame(&cable.there, FAR, &tagged(0)[..bytes]);
            netns::within(Some(&cable.here), || {
                let sent = nix::unistd::write(packet_socket(NEAR), &tagged(0)[..bytes]);
                assert_eq!(sent, Err(Errno::ENOBUFS));
            })
            .expect("the namespace is entered");
            std::thread::sleep(Duration::from_millis(20));
            let counters = attachment.counters().expect("counters");
            for direction in Direction::ALL {
                let counter = counters.reasons.get(&(Reason::IpShort, direction)).copied().unwrap_or_default();
                assert_eq!(counter.packets, number, "{bytes} bytes, {direction:?}, {xdp:?}: {counters:?}");
            }
        }
    }
}

#[test]
fn headers_outside_an_skbs_linear_part_are_read_all_the_same() {
    const VNET_HEADER: usize = 10;
    let cable = Cable::new();
    for (netns, interface) in [(&cable.here, NEAR), (&cable.there, FAR)] {
        ip(&["-n", netns, "link", "set", interface, "mtu", "9000"]);
    }
    let compiled = two_closed(CLOSED_IN, CLOSED_OUT);
    let attachment = attach(&cable.target(), &options(Xdp::Native), &compiled).expect("it attaches");
    netns::within(Some(&cable.here), || {
        let socket = packet_socket(NEAR);
        let one: libc::c_int = 1;
        // SAFETY: an option of one integer.
        let set = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, (&raw const one).cast(), 4)
        };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        // The sender of a packet socket is told when its frame is dropped.
        for (port, sent) in [(CLOSED_OUT, Err(Errno::ENOBUFS)), (OPEN, Ok(VNET_HEADER + 14 + 8000))] {
            // Only the Ethernet header is asked to be linear; a frame of more than a page obeys.
            let mut bytes = vec![0_u8; VNET_HEADER];
            bytes[2..4].copy_from_slice(&14_u16.to_ne_bytes());
            bytes.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 8, 0]);
            bytes.extend([0x45, 0, 0x1f, 0x40, 0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2]);
            bytes.extend([0x10, 0]);
            bytes.extend(port.to_be_bytes());
            bytes.extend([0x1f, 0x2c, 0, 0]);
            bytes.resize(VNET_HEADER + 14 + 8000, 0);
            assert_eq!(nix::unistd::write(&socket, &bytes), sent);
        }
    })
    .expect("the namespace is entered");
    let counters = attachment.counters().expect("counters");
    assert_eq!(packets(&counters, &compiled, Direction::Outbound, 60), 1, "{counters:?}");
    assert_eq!(packets(&counters, &compiled, Direction::Outbound, 100), 1, "{counters:?}");
}

#[test]
fn segments_are_counted_and_not_the_skb_that_holds_them() {
    let cable = Cable::new();
    cable.acquaint();
    let compiled = open();
    let attachment = attach(&cable.target(), &options(Xdp::Tc), &compiled).expect("it attaches");
    let bytes = 4 << 20;
    let listener = netns::within(Some(&cable.there), || TcpListener::bind(("10.77.0.2", 4100)).expect("a port"))
        .expect("the namespace is entered");
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        std::io::copy(&mut stream, &mut std::io::sink()).expect("all of it")
    });
    netns::within(Some(&cable.here), || {
        let mut stream = TcpStream::connect(("10.77.0.2", 4100)).expect("a connection");
        stream.write_all(&vec![7; bytes]).expect("all of it");
    })
    .expect("the namespace is entered");
    assert_eq!(reader.join().expect("the reader ends"), bytes as u64);
    let counter = attachment.counters().expect("counters").slots[&slot(&compiled, Direction::Outbound, 100)];
    // Segments of 1448 bytes with 66 of headers each; a few may be shorter or sent twice.
    let segments = bytes as u64 / 1448;
    assert!((segments..segments * 11 / 10).contains(&counter.packets), "{counter:?}, at least {segments}");
    let wire = bytes as u64 + segments * 66;
    assert!((wire..wire * 11 / 10).contains(&counter.bytes), "{counter:?}, at least {wire}");
}

#[test]
fn nothing_is_missing_where_these_tests_run() {
    assert_eq!(dataplane::missing(), Vec::<String>::new());
}
