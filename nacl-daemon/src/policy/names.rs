//! Names of protocols and services, and which name is close to a mistyped one. Facts only.

/// IANA protocol numbers by name. Of several names for one number the first is the usual one. Left out are `rdp` (27),
/// because whoever writes it means remote desktop, and `ipv4` (4) and `ipv6` (41), which are tunnels and never what is
/// meant.
const PROTOCOLS: &[(&str, u8)] = &[
    ("tcp", 6),
    ("udp", 17),
    ("icmp", 1),
    ("icmpv6", 58),
    ("ipv6-icmp", 58),
    ("sctp", 132),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("hopopt", 0),
    ("igmp", 2),
    ("ggp", 3),
    ("ipencap", 4),
    ("st", 5),
    ("cbt", 7),
    ("egp", 8),
    ("igp", 9),
    ("bbn-rcc-mon", 10),
    ("nvp-ii", 11),
    ("pup", 12),
    ("argus", 13),
    ("emcon", 14),
    ("xnet", 15),
    ("chaos", 16),
    ("mux", 18),
    ("dcn-meas", 19),
    ("hmp", 20),
    ("prm", 21),
    ("xns-idp", 22),
    ("trunk-1", 23),
    ("trunk-2", 24),
    ("leaf-1", 25),
    ("leaf-2", 26),
    ("irtp", 28),
    ("iso-tp4", 29),
    ("netblt", 30),
    ("mfe-nsp", 31),
    ("merit-inp", 32),
    ("dccp", 33),
    ("3pc", 34),
    ("idpr", 35),
    ("xtp", 36),
    ("ddp", 37),
    ("idpr-cmtp", 38),
    ("tp++", 39),
    ("il", 40),
    ("sdrp", 42),
    ("ipv6-route", 43),
    ("ipv6-frag", 44),
    ("idrp", 45),
    ("rsvp", 46),
    ("dsr", 48),
    ("bna", 49),
    ("i-nlsp", 52),
    ("swipe", 53),
    ("narp", 54),
    ("mobile", 55),
    ("min-ipv4", 55),
    ("tlsp", 56),
    ("skip", 57),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("cftp", 62),
    ("sat-expak", 64),
    ("kryptolan", 65),
    ("rvd", 66),
    ("ippc", 67),
    ("sat-mon", 69),
    ("visa", 70),
    ("ipcv", 71),
    ("cpnx", 72),
    ("cphb", 73),
    ("wsn", 74),
    ("pvp", 75),
    ("br-sat-mon", 76),
    ("sun-nd", 77),
    ("wb-mon", 78),
    ("wb-expak", 79),
    ("iso-ip", 80),
    ("vmtp", 81),
    ("secure-vmtp", 82),
    ("vines", 83),
    ("ttp", 84),
    ("iptm", 84),
    ("nsfnet-igp", 85),
    ("dgp", 86),
    ("tcf", 87),
    ("eigrp", 88),
    ("ospf", 89),
    ("ospfigp", 89),
    ("sprite-rpc", 90),
    ("larp", 91),
    ("mtp", 92),
    ("ax.25", 93),
    ("ipip", 94),
    ("micp", 95),
    ("scc-sp", 96),
    ("etherip", 97),
    ("encap", 98),
    ("gmtp", 100),
    ("ifmp", 101),
    ("pnni", 102),
    ("pim", 103),
    ("aris", 104),
    ("scps", 105),
    ("qnx", 106),
    ("a/n", 107),
    ("ipcomp", 108),
    ("snp", 109),
    ("compaq-peer", 110),
    ("ipx-in-ip", 111),
    ("vrrp", 112),
    ("pgm", 113),
    ("l2tp", 115),
    ("ddx", 116),
    ("iatp", 117),
    ("stp", 118),
    ("srp", 119),
    ("uti", 120),
    ("smp", 121),
    ("sm", 122),
    ("ptp", 123),
    ("isis", 124),
    ("fire", 125),
    ("crtp", 126),
    ("crudp", 127),
    ("sscopmce", 128),
    ("iplt", 129),
    ("sps", 130),
    ("pipe", 131),
    ("fc", 133),
    ("rsvp-e2e-ignore", 134),
    ("mobility-header", 135),
    ("udplite", 136),
    ("udp-lite", 136),
    ("mpls-in-ip", 137),
    ("manet", 138),
    ("shim6", 139),
    ("wesp", 140),
    ("rohc", 141),
    ("ethernet", 142),
    ("aggfrag", 143),
    ("nsh", 144),
];

/// Ports by service name: the AWS console's rule types, and what else people filter.
const SERVICES: &[(&str, u16)] = &[
    ("http", 80),
    ("https", 443),
    ("ssh", 22),
    ("dns", 53),
    ("domain", 53),
    ("rdp", 3389),
    ("mysql", 3306),
    ("postgresql", 5432),
    ("postgres", 5432),
    ("smtp", 25),
    ("ntp", 123),
    ("ftp", 21),
    ("ftp-data", 20),
    ("telnet", 23),
    ("nameserver", 42),
    ("dhcp-server", 67),
    ("dhcp-client", 68),
    ("tftp", 69),
    ("kerberos", 88),
    ("pop3", 110),
    ("imap", 143),
    ("snmp", 161),
    ("snmp-trap", 162),
    ("bgp", 179),
    ("ldap", 389),
    ("smb", 445),
    ("smtps", 465),
    ("ike", 500),
    ("syslog", 514),
    ("dhcpv6-client", 546),
    ("dhcpv6-server", 547),
    ("submission", 587),
    ("ldaps", 636),
    ("dns-over-tls", 853),
    ("imaps", 993),
    ("pop3s", 995),
    ("openvpn", 1194),
    ("mssql", 1433),
    ("oracle", 1521),
    ("mqtt", 1883),
    ("nfs", 2049),
    ("iscsi", 3260),
    ("ipsec-nat-t", 4500),
    ("redshift", 5439),
    ("amqps", 5671),
    ("amqp", 5672),
    ("winrm-http", 5985),
    ("winrm-https", 5986),
    ("redis", 6379),
    ("kubernetes", 6443),
    ("http-alt", 8080),
    ("https-alt", 8443),
    ("mqtts", 8883),
    ("cassandra", 9042),
    ("kafka", 9092),
    ("elasticsearch", 9200),
    ("memcached", 11211),
    ("mongodb", 27017),
    ("wireguard", 51820),
];

/// The number of a protocol name, in any case.
pub fn protocol(name: &str) -> Option<u8> {
    PROTOCOLS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|&(_, number)| number)
}

/// All protocol names.
pub(super) fn protocols() -> impl Iterator<Item = &'static str> {
    PROTOCOLS.iter().map(|&(name, _)| name)
}

/// The usual name of a protocol number.
pub fn protocol_name(number: u8) -> Option<&'static str> {
    PROTOCOLS.iter().find(|&&(_, known)| known == number).map(|&(name, _)| name)
}

/// The port of a service name, in any case.
pub(crate) fn service(name: &str) -> Option<u16> {
    SERVICES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|&(_, port)| port)
}

/// All service names.
pub(super) fn services() -> impl Iterator<Item = &'static str> {
    SERVICES.iter().map(|&(name, _)| name)
}

/// A text as a TOML string.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// The candidate that was probably meant.
pub(crate) fn closest<'c>(written: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // The measure is quadratic, and nothing this long is a slip of the finger.
    if written.len() > 64 {
        return None;
    }
    let written = written.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            let lower = candidate.to_ascii_lowercase();
            let mut distance = strsim::damerau_levenshtein(&written, &lower);
            // A plural, or a word begun: `port`, `desc`.
            if written.len() >= 2 && (lower.starts_with(&written) || written.starts_with(&lower)) {
                distance = distance.min(1);
            }
            (distance, candidate)
        })
        .filter(|&(distance, candidate)| distance <= written.len().max(candidate.len()).div_ceil(4).min(3))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}
