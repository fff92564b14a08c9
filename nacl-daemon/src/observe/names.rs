//! How sides, modes, layers, protocols and ICMP matches stand in JSON.
#![expect(clippy::trivially_copy_pass_by_ref, clippy::ref_option, reason = "serde calls these functions so")]

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::resolve::{Icmp, Layers, Mode, OnExit, Protocol, Side};

/// `host` or `router`.
pub mod side {
    use super::{Deserialize, Deserializer, Serializer, Side};

    pub fn serialize<S: Serializer>(side: &Side, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(side.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Side, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "host" => Ok(Side::Host),
            "router" => Ok(Side::Router),
            other => Err(serde::de::Error::unknown_variant(other, &["host", "router"])),
        }
    }
}

/// As a policy has it: `detach` or `keep`.
pub mod on_exit {
    use super::{Deserialize, Deserializer, OnExit, Serializer};

    pub fn serialize<S: Serializer>(on_exit: &OnExit, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match on_exit {
            OnExit::Detach => "detach",
            OnExit::Keep => "keep",
        })
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OnExit, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "detach" => Ok(OnExit::Detach),
            "keep" => Ok(OnExit::Keep),
            other => Err(serde::de::Error::unknown_variant(other, &["detach", "keep"])),
        }
    }
}

/// As a policy has it: `stateless` or `stateful`.
pub mod mode {
    use super::{Deserialize, Deserializer, Mode, Serializer};

    pub fn serialize<S: Serializer>(mode: &Mode, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(mode.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mode, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = [Mode::Stateless, Mode::Stateful].into_iter().find(|mode| mode.name() == name);
        known.ok_or_else(|| serde::de::Error::unknown_variant(&name, &["stateless", "stateful"]))
    }
}

/// As a policy has it: `both`, `nacl` or `sg`.
pub mod layers {
    use super::{Deserialize, Deserializer, Layers, Serializer};

    pub fn serialize<S: Serializer>(layers: &Layers, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(layers.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Layers, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = [Layers::Both, Layers::Nacl, Layers::Groups].into_iter().find(|layers| layers.name() == name);
        known.ok_or_else(|| serde::de::Error::unknown_variant(&name, &["both", "nacl", "sg"]))
    }
}

/// The IANA number, or -1 for all, as in AWS's API.
pub mod protocol {
    use super::{Deserialize, Deserializer, Protocol, Serializer};

    pub fn serialize<S: Serializer>(protocol: &Protocol, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i16(match protocol {
            Protocol::All => -1,
            Protocol::Number(number) => i16::from(*number),
        })
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Protocol, D::Error> {
        match i16::deserialize(deserializer)? {
            -1 => Ok(Protocol::All),
            number => u8::try_from(number)
                .map(Protocol::Number)
                .map_err(|_| serde::de::Error::custom("a protocol is -1 or 0 to 255")),
        }
    }
}

/// `{"type": 8, "code": 0}`; the code is null where all are meant.
pub mod icmp {
    use super::{Deserialize, Deserializer, Icmp, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Wire {
        #[serde(rename = "type")]
        kind: u8,
        code: Option<u8>,
    }

    pub fn serialize<S: Serializer>(icmp: &Option<Icmp>, serializer: S) -> Result<S::Ok, S::Error> {
        icmp.map(|icmp| Wire { kind: icmp.kind, code: icmp.code }).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Icmp>, D::Error> {
        Ok(Option::<Wire>::deserialize(deserializer)?.map(|icmp| Icmp { kind: icmp.kind, code: icmp.code }))
    }
}

macro_rules! optional {
    ($name:ident, $type:ident, $of:literal, $doc:literal) => {
        #[doc = $doc]
        pub mod $name {
            use super::{Deserialize, Deserializer, Serialize, Serializer, $type};

            #[derive(Serialize, Deserialize)]
            struct Wire(#[serde(with = $of)] $type);

            pub fn serialize<S: Serializer>(value: &Option<$type>, serializer: S) -> Result<S::Ok, S::Error> {
                value.map(Wire).serialize(serializer)
            }

            pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<$type>, D::Error> {
                Ok(Option::<Wire>::deserialize(deserializer)?.map(|Wire(value)| value))
            }
        }
    };
}
optional!(some_mode, Mode, "super::mode", "A mode that may be absent.");
optional!(some_layers, Layers, "super::layers", "Layers that may be absent.");
optional!(some_side, Side, "super::side", "A side that may not be known.");
