//! Rules in the words of the AWS console: its columns Type, Protocol and Port range.

use nacl_common::Family;

use crate::resolve::{Icmp, Protocol};

/// Services the console names, by protocol and destination port.
const SERVICES: &[(u8, u16, &str)] = &[
    (6, 22, "SSH"),
    (6, 23, "Telnet"),
    (6, 25, "SMTP"),
    (6, 42, "Nameserver"),
    (6, 53, "DNS (TCP)"),
    (17, 53, "DNS (UDP)"),
    (6, 80, "HTTP"),
    (6, 110, "POP3"),
    (6, 143, "IMAP"),
    (6, 389, "LDAP"),
    (6, 443, "HTTPS"),
    (6, 445, "SMB"),
    (6, 465, "SMTPS"),
    (6, 993, "IMAPS"),
    (6, 995, "POP3S"),
    (6, 1433, "MS SQL"),
    (6, 1521, "Oracle"),
    (6, 2049, "NFS"),
    (6, 3306, "MySQL/Aurora"),
    (6, 3389, "RDP"),
    (6, 5432, "PostgreSQL"),
    (6, 5439, "Redshift"),
    (6, 5985, "WinRM-HTTP"),
    (6, 5986, "WinRM-HTTPS"),
    (6, 8080, "HTTP*"),
    (6, 8443, "HTTPS*"),
];

/// ICMP types the console names.
const ICMP: &[(u8, &str)] = &[
    (0, "Echo Reply"),
    (3, "Destination Unreachable"),
    (4, "Source Quench"),
    (5, "Redirect Message"),
    (8, "Echo Request"),
    (9, "Router Advertisement"),
    (10, "Router Solicitation"),
    (11, "Time Exceeded"),
    (12, "Parameter Problem"),
    (13, "Timestamp"),
    (14, "Timestamp Reply"),
    (30, "Traceroute"),
];

/// ICMPv6 types, likewise.
const ICMPV6: &[(u8, &str)] = &[
    (1, "Destination Unreachable"),
    (2, "Packet Too Big"),
    (3, "Time Exceeded"),
    (4, "Parameter Problem"),
    (128, "Echo Request"),
    (129, "Echo Reply"),
];

/// The column Type.
pub fn kind(protocol: Protocol, ports: Option<(u16, u16)>, icmp: Option<Icmp>) -> String {
    let Protocol::Number(number) = protocol else { return "All traffic".to_owned() };
    let all = matches!(ports, None | Some((0, 65535)));
    match number {
        6 if all => "All TCP".to_owned(),
        17 if all => "All UDP".to_owned(),
        6 | 17 => match ports.filter(|(first, last)| first == last).and_then(|(port, _)| service(number, port)) {
            Some((port, name)) => format!("{name} ({port})"),
            None if number == 6 => "Custom TCP".to_owned(),
            None => "Custom UDP".to_owned(),
        },
        1 if icmp.is_none() => "All ICMP - IPv4".to_owned(),
        1 => "Custom ICMP - IPv4".to_owned(),
        58 if icmp.is_none() => "All ICMP - IPv6".to_owned(),
        58 => "Custom ICMP - IPv6".to_owned(),
        _ => "Custom Protocol".to_owned(),
    }
}

fn service(protocol: u8, port: u16) -> Option<(u16, &'static str)> {
    let found = SERVICES.iter().find(|(of, at, _)| (*of, *at) == (protocol, port));
    found.map(|(_, port, name)| (*port, *name))
}

/// The column Protocol.
pub fn protocol(protocol: Protocol) -> String {
    let Protocol::Number(number) = protocol else { return "All".to_owned() };
    let name = match number {
        1 => "ICMP",
        2 => "IGMP",
        4 => "IPv4",
        6 => "TCP",
        17 => "UDP",
        41 => "IPv6",
        47 => "GRE",
        50 => "ESP",
        51 => "AH",
        58 => "IPv6-ICMP",
        132 => "SCTP",
        136 => "UDP-Lite",
        _ => return number.to_string(),
    };
    format!("{name} ({number})")
}

/// The column Port range; for ICMP the message.
pub fn ports(family: Family, ports: Option<(u16, u16)>, icmp: Option<Icmp>) -> String {
    match (ports, icmp) {
        (Some((0, 65535)) | None, None) => "All".to_owned(),
        (Some((first, last)), _) if first == last => first.to_string(),
        (Some((first, last)), _) => format!("{first} - {last}"),
        (None, Some(Icmp { kind, code })) => {
            let names = if family == Family::V4 { ICMP } else { ICMPV6 };
            let name = names.iter().find(|(number, _)| *number == kind);
            let name = name.map_or_else(|| format!("Type {kind}"), |(_, name)| (*name).to_owned());
            // Echo and its reply have only code 0: naming it would say nothing.
            match code {
                None | Some(0) if name.starts_with("Echo") => name,
                None => format!("{name}, all codes"),
                Some(code) => format!("{name}, code {code}"),
            }
        }
    }
}

/// Packets or bytes so that they can be read: 1,234,567.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a unit: 812 B, 1.4 KiB, 23.0 MiB.
pub fn bytes(number: u64) -> String {
    let mut unit = "B";
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut scaled = number as f64;
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if scaled < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{number} B") } else { format!("{scaled:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: Protocol = Protocol::Number(6);

    #[test]
    fn types_as_the_console_names_them() {
        assert_eq!(kind(Protocol::All, None, None), "All traffic");
        assert_eq!(kind(TCP, Some((443, 443)), None), "HTTPS (443)");
        assert_eq!(kind(TCP, Some((1024, 65535)), None), "Custom TCP");
        assert_eq!(kind(TCP, Some((0, 65535)), None), "All TCP");
        assert_eq!(kind(Protocol::Number(17), Some((53, 53)), None), "DNS (UDP) (53)");
        assert_eq!(kind(Protocol::Number(17), Some((443, 443)), None), "Custom UDP");
        assert_eq!(kind(Protocol::Number(1), None, None), "All ICMP - IPv4");
        assert_eq!(kind(Protocol::Number(132), None, None), "Custom Protocol");
    }

    #[test]
    fn ports_and_messages() {
        assert_eq!(ports(Family::V4, Some((1024, 65535)), None), "1024 - 65535");
        assert_eq!(ports(Family::V4, None, None), "All");
        assert_eq!(ports(Family::V4, None, Some(Icmp { kind: 8, code: None })), "Echo Request");
        assert_eq!(ports(Family::V4, None, Some(Icmp { kind: 3, code: Some(4) })), "Destination Unreachable, code 4");
        assert_eq!(ports(Family::V6, None, Some(Icmp { kind: 3, code: None })), "Time Exceeded, all codes");
        assert_eq!(ports(Family::V4, None, Some(Icmp { kind: 200, code: None })), "Type 200, all codes");
    }

    #[test]
    fn numbers() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1023, 1024, 24_117_248].map(bytes), ["0 B", "1023 B", "1.0 KiB", "23.0 MiB"]);
    }
}
