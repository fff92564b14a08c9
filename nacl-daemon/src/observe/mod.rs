//! Counters and events → values with names, which the API hands out and `report` renders. The shapes here are the
//! JSON of the API: fields are added, never renamed. No kernel, no text for people.

mod event;
mod hits;
mod names;
mod status;

pub use event::{Clock, Record};
pub use hits::{Hits, InterfaceRules, Number, ReasonHits, RuleList, RuleRow, SubnetHits, interface_rules, minus};
pub use status::{Change, Hooks, InterfaceStatus, PolicyStatus, ReloadStatus, Status, Totals};
