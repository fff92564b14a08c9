//! Directions, families, layers and actions in JSON, by the names AWS uses. nacl-common knows no serde.

macro_rules! by_name {
    ($module:ident, $type:path, $($name:literal => $variant:ident),+) => {
        pub mod $module {
            use $type as Named;
            use serde::{Deserialize, Deserializer, Serializer, de};

            pub fn serialize<S: Serializer>(value: &Named, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(match value { $(Named::$variant => $name),+ })
            }

            pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Named, D::Error> {
                let name = String::deserialize(deserializer)?;
                match name.as_str() {
                    $($name => Ok(Named::$variant),)+
                    _ => Err(de::Error::unknown_variant(&name, &[$($name),+])),
                }
            }
        }
    };
}
by_name!(direction, nacl_common::Direction, "inbound" => Inbound, "outbound" => Outbound);
by_name!(family, nacl_common::Family, "ipv4" => V4, "ipv6" => V6);
by_name!(action, nacl_common::Action, "allow" => Allow, "deny" => Deny);
by_name!(layer, nacl_common::Layer, "none" => None, "nacl" => Nacl, "security-group" => SecurityGroup);
by_name!(service, nacl_common::border::Service, "remote" => Remote, "local" => Local);
