//! Which source ports clients pick: the one table of ephemeral ranges, used by port names in policies, by labs to play an
//! operating system, and to say who a client is by its port. Facts only, no decisions.

use serde::{Deserialize, Serialize};

/// A kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Client {
    /// Linux 4.2 and later (kernel commit 07f4c900), Amazon Linux: 32768-60999.
    Linux,
    /// Linux 2.4 to 4.1; the range AWS's network ACL page still names: 32768-61000.
    LinuxOld,
    /// Windows Vista, Server 2008 and later (Microsoft KB 929851): 49152-65535.
    Windows,
    /// Windows XP and Server 2003 (Microsoft KB 929851): 1025-5000.
    WindowsXp,
    /// macOS (`net.inet.ip.portrange`): 49152-65535.
    Macos,
    /// FreeBSD (`IPPORT_EPHEMERALFIRST`): 10000-65535.
    Freebsd,
    /// AWS NAT gateway: 1024-65535 (Reachability Analyzer, REMAP_EPHEMERAL_PORT).
    NatGateway,
    /// AWS Elastic Load Balancing: 1024-65535.
    Elb,
    /// AWS Lambda: 1024-65535.
    Lambda,
    /// Anybody on the internet: 1024-65535, what AWS advises.
    Any,
}

impl Client {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Linux,
        Self::LinuxOld,
        Self::Windows,
        Self::WindowsXp,
        Self::Macos,
        Self::Freebsd,
        Self::NatGateway,
        Self::Elb,
        Self::Lambda,
        Self::Any,
    ];

    /// First and last source port.
    pub const fn ports(self) -> (u16, u16) {
        match self {
            Self::Linux => (32768, 60999),
            Self::LinuxOld => (32768, 61000),
            Self::Windows | Self::Macos => (49152, 65535),
            Self::WindowsXp => (1025, 5000),
            Self::Freebsd => (10000, 65535),
            Self::NatGateway | Self::Elb | Self::Lambda | Self::Any => (1024, 65535),
        }
    }

    /// The name used in policies, labs and options.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::LinuxOld => "linux-old",
            Self::Windows => "windows",
            Self::WindowsXp => "windows-xp",
            Self::Macos => "macos",
            Self::Freebsd => "freebsd",
            Self::NatGateway => "nat-gateway",
            Self::Elb => "elb",
            Self::Lambda => "lambda",
            Self::Any => "any",
        }
    }

    /// What a person calls it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Linux => "Linux",
            Self::LinuxOld => "Linux before 4.2",
            Self::Windows => "Windows",
            Self::WindowsXp => "Windows XP",
            Self::Macos => "macOS",
            Self::Freebsd => "FreeBSD",
            Self::NatGateway => "a NAT gateway",
            Self::Elb => "a load balancer",
            Self::Lambda => "Lambda",
            Self::Any => "any client",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|client| client.name() == name)
    }

    /// The kinds that pick this source port.
    pub fn with_port(port: u16) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |client| {
            let (first, last) = client.ports();
            (first..=last).contains(&port)
        })
    }
}
