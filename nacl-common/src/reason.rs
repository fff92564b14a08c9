//! The one numbered list of reasons. Append only: kernel counters, events, JSON and the documentation use the numbers
//! and names. A reason that goes out of use keeps its number. Nothing here decides anything.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why a packet was passed or dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[doc = $doc])+ $variant = $number,)+ }

        impl Reason {
            /// Every reason, ascending by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable name used in JSON, metrics and documentation.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One sentence for a person.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The reason with this number, if there is one.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

reasons! {
    /// A numbered network ACL rule matched (N6).
    NaclRule = 1, "nacl-rule";
    /// No numbered network ACL rule matched; the implied `*` rule denies (N2, N6).
    NaclImplicit = 2, "nacl-implicit-deny";
    /// Both ends lie in one subnet, where the network ACL is never consulted (N42).
    SameSubnet = 3, "same-subnet";
    /// Every layer that could judge is switched off on this interface.
    LayerOff = 4, "layer-off";
    /// A rule of a security group matched; they only allow (S1, S2).
    GroupRule = 5, "security-group-rule";
    /// No rule of any of the interface's security groups matched (S2, S6).
    GroupImplicit = 6, "security-group-no-match";
    /// It belongs to a connection that was let through before and is remembered (S28).
    Tracked = 7, "tracked";
    /// A new connection found the connection table full (S39).
    ConntrackFull = 8, "conntrack-full";
    /// A later fragment shares the verdict of the first one of its packet (N49 is ours to choose).
    SharedFragment = 9, "shared-with-first-fragment";
    /// ARP is not IP; a VPC answers it itself and no rule can name it (N51).
    Arp = 16, "arp";
    /// IPv6 neighbour discovery: types 133 to 137, hop limit 255 (N51).
    NeighbourDiscovery = 17, "neighbour-discovery";
    /// IPv6 multicast listener discovery: types 130 to 132 and 143, hop limit 1 (N51).
    Mld = 18, "mld";
    /// Neither IP nor ARP; passed or dropped as `non_ip` says.
    NonIp = 19, "non-ip";
    /// DHCP, which neither network ACLs nor security groups filter (N43).
    Dhcp = 20, "dhcp";
    /// A service of AWS that neither network ACLs nor security groups filter (N43).
    AwsService = 21, "aws-service";
    /// A `failsafe` entry of the policy: never dropped.
    Failsafe = 22, "failsafe";
    /// The frame is too short for an Ethernet header or its VLAN tags.
    EthernetShort = 32, "ethernet-short";
    /// More than two VLAN tags.
    VlanDepth = 33, "vlan-depth";
    /// The frame ends inside the IP header.
    IpShort = 34, "ip-short";
    /// The IP header contradicts itself: version, header length or total length.
    IpMalformed = 35, "ip-malformed";
    /// More than eight IPv6 extension headers, two fragment headers, or a chain that runs past the packet.
    ExtensionHeaders = 36, "extension-headers";
    /// The packet ends inside its TCP, UDP or ICMP header.
    TransportShort = 37, "transport-short";
    /// A first fragment that is too short for its TCP, UDP or ICMP header (RFC 1858).
    FirstFragmentShort = 38, "first-fragment-short";
    /// A fragment at offset 1 (8 bytes), which could rewrite the header of the first (RFC 1858, RFC 3128).
    TinyFragmentOffset = 39, "tiny-fragment-offset";
    /// No policy is installed in the kernel for this interface.
    NoGeneration = 48, "no-generation";
}

/// Size of a table indexed by reason number.
pub const REASONS: usize = 64;

const _: () = {
    let mut i = 0;
    while i < Reason::ALL.len() {
        assert!((Reason::ALL[i] as usize) < REASONS);
        i += 1;
    }
};
