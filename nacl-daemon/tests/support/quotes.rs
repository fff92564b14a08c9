//! ICMP errors as frames, and beside each what it quotes: read by the engine's parser (`broken`), and by the loaded programs (`kernel_programs`).

use nacl_common::packet::Quote;

/// Who all of them go to, as numbers and as bytes: who sent what they are about.
pub const SENDER: [u8; 4] = [10, 0, 1, 10];
/// The same.
pub const SENDER6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
/// Where that was to go.
pub const RECEIVER: [u8; 4] = [198, 51, 100, 7];
/// The same.
pub const RECEIVER6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0x0c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
/// Who says it.
pub const ROUTER: [u8; 4] = [10, 0, 1, 1];
/// The same.
pub const ROUTER6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// An Ethernet frame.
fn ethernet(kind: u16, packet: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &kind.to_be_bytes(), packet].concat()
}

/// An IPv4 packet: words of options, flags and offset, protocol, ends, what follows.
fn v4(options: usize, fragment: u16, protocol: u8, [src, dst]: [[u8; 4]; 2], payload: &[u8]) -> Vec<u8> {
    let length = (20 + 4 * options + payload.len()) as u16;
    let mut packet = vec![0x45 + options as u8, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend([src, dst].concat());
    packet.extend(vec![1; 4 * options]);
    packet.extend(payload);
    packet
}

/// An IPv6 packet: first header, ends, what follows.
fn v6(next: u8, [src, dst]: [[u8; 16]; 2], payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend([src, dst].concat());
    packet.extend(payload);
    packet
}

/// An ICMP message: type, code, the four bytes behind the checksum, what follows.
fn message(kind: u8, code: u8, word: u32, payload: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0][..], &word.to_be_bytes(), payload].concat()
}

/// A TCP header of data from port 443.
fn tcp() -> Vec<u8> {
    let mut header = [443_u16.to_be_bytes(), 52344_u16.to_be_bytes()].concat();
    header.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

/// A UDP header.
fn udp() -> Vec<u8> {
    [443_u16, 52344, 1400, 0].map(u16::to_be_bytes).concat()
}

/// A router's message to [`SENDER`] about a packet.
pub fn error4(kind: u8, code: u8, word: u32, about: &[u8]) -> Vec<u8> {
    ethernet(0x0800, &v4(0, 0, 1, [ROUTER, SENDER], &message(kind, code, word, about)))
}

/// The same to [`SENDER6`].
pub fn error6(kind: u8, code: u8, word: u32, about: &[u8]) -> Vec<u8> {
    ethernet(0x86dd, &v6(58, [ROUTER6, SENDER6], &message(kind, code, word, about)))
}

fn number4(address: [u8; 4]) -> [u64; 2] {
    [0, u32::from_be_bytes(address).into()]
}

fn number6(address: [u8; 16]) -> [u64; 2] {
    let number = u128::from_be_bytes(address);
    [(number >> 64) as u64, number as u64]
}

/// What each is, its bytes, and what it quotes of a packet of [`SENDER`].
pub fn frames() -> Vec<(&'static str, Vec<u8>, Option<Quote>)> {
    let sent =
        |options, fragment, protocol, payload: &[u8]| v4(options, fragment, protocol, [SENDER, RECEIVER], payload);
    let sent6 = |next, payload: &[u8]| v6(next, [SENDER6, RECEIVER6], payload);
    let (data, data6) = (sent(0, 0x4000, 6, &tcp()), sent6(6, &tcp()));
    let quote =
        |mtu, protocol, sport, dport| Some(Quote { dst: number4(RECEIVER), sport, dport, mtu, protocol, quoted: 1 });
    let quote6 =
        |mtu, protocol, sport, dport| Some(Quote { dst: number6(RECEIVER6), sport, dport, mtu, protocol, quoted: 1 });
    let (web, web6) = (quote(1400, 6, 443, 52344), quote6(1400, 6, 443, 52344));
    // An echo that is asked for, with an identifier of 7.
    let echo = |kind| message(kind, 0, 7 << 16 | 1, &[0; 8]);
    let patched = |mut bytes: Vec<u8>, at: usize, value: u8| {
        bytes[at] = value;
        bytes
    };
    let tagged = |frame: &[u8]| [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
    let big = |about: &[u8]| error4(3, 4, 1400, about);
    let big6 = |about: &[u8]| error6(2, 0, 1400, about);
    let optional = message(3, 4, 1400, &data);
    // Behind destination options that say nothing.
    let behind = [&[58, 0, 1, 4, 0, 0, 0, 0][..], &message(2, 0, 1400, &data6)].concat();
    // The frame has all of it; the packet ends before the ports do, and what follows is padding.
    let padded = |length: u16| {
        let [high, low] = length.to_be_bytes();
        patched(patched(big(&data), 16, high), 17, low)
    };
    vec![
        ("fragmentation needed", big(&data), web),
        ("with eight bytes behind the header", big(&data[..28]), web),
        ("with seven", big(&data[..27]), None),
        ("with half of the header", big(&data[..12]), None),
        ("with nothing", big(&[]), None),
        ("whose packet ends behind the ports", padded(20 + 8 + 28), web),
        ("whose packet ends in the ports", padded(20 + 8 + 27), None),
        ("of an old router, which tells no MTU", error4(3, 4, 0, &data), quote(0, 6, 443, 52344)),
        ("about a packet with options", big(&sent(10, 0x4000, 6, &tcp())), web),
        ("with options", ethernet(0x0800, &v4(3, 0, 1, [ROUTER, SENDER], &optional)), web),
        ("with a tag", tagged(&big(&data)), web),
        ("about UDP", big(&sent(0, 0x4000, 17, &udp())), quote(1400, 17, 443, 52344)),
        ("about an echo reply", big(&sent(0, 0x4000, 1, &echo(0))), quote(1400, 1, 7, 0)),
        ("about ESP", big(&sent(0, 0x4000, 50, &[9; 8])), quote(1400, 50, 0, 0)),
        ("about a first fragment", big(&sent(0, 0x2000, 17, &udp())), quote(1400, 17, 443, 52344)),
        ("about a later fragment", big(&sent(0, 185, 17, &udp())), None),
        ("about what another one sent", big(&v4(0, 0, 6, [RECEIVER, SENDER], &tcp())), None),
        ("about a header of 16 bytes", big(&patched(data.clone(), 0, 0x44)), None),
        ("about IPv6, in IPv4", big(&data6), None),
        ("about zeroes", big(&[0; 64]), None),
        ("host unreachable", error4(3, 1, 1400, &data), quote(0, 6, 443, 52344)),
        ("time exceeded", error4(11, 0, 0, &sent(0, 0, 1, &echo(8))), quote(0, 1, 7, 8 << 8)),
        ("a parameter problem", error4(12, 0, 0, &data), quote(0, 6, 443, 52344)),
        ("an echo reply, which is no error", error4(0, 0, 0, &data), None),
        ("a redirect, likewise", error4(5, 1, 0, &data), None),
        ("packet too big", big6(&data6), web6),
        ("with eight bytes behind the header, IPv6", big6(&data6[..48]), web6),
        ("with seven, IPv6", big6(&data6[..47]), None),
        ("with half of the header, IPv6", big6(&data6[..20]), None),
        ("with an extension header", ethernet(0x86dd, &v6(60, [ROUTER6, SENDER6], &behind)), web6),
        ("with a tag, IPv6", tagged(&big6(&data6)), web6),
        ("of a link that takes more than a packet has", error6(2, 0, 1 << 17, &data6), quote6(0xffff, 6, 443, 52344)),
        ("about UDP, IPv6", big6(&sent6(17, &udp())), quote6(1400, 17, 443, 52344)),
        ("about an echo request, IPv6", big6(&sent6(58, &echo(128))), quote6(1400, 58, 7, 128 << 8)),
        ("about a fragment, IPv6", big6(&sent6(44, &[&[6, 0, 0, 1, 0, 0, 0, 1][..], &tcp()].concat())), None),
        ("about options, IPv6", big6(&sent6(0, &[&[6, 0, 1, 4, 0, 0, 0, 0][..], &tcp()].concat())), None),
        ("about what another one sent, IPv6", big6(&v6(6, [RECEIVER6, SENDER6], &tcp())), None),
        ("about IPv4, in IPv6", big6(&data), None),
        ("unreachable, IPv6", error6(1, 4, 1400, &data6), quote6(0, 6, 443, 52344)),
        ("time exceeded, IPv6", error6(3, 0, 0, &data6), quote6(0, 6, 443, 52344)),
        ("a parameter problem, IPv6", error6(4, 1, 0, &data6), quote6(0, 6, 443, 52344)),
        ("an echo request, which is no error, IPv6", error6(128, 0, 0, &data6), None),
    ]
}
