//! Counters and events → values with names, which the API hands out and `report` renders. The shapes here are the
//! JSON of the API: fields are added, never renamed. No kernel, no text for people.

pub mod broken;
mod event;
pub mod filter;
mod flowlog;
pub mod flows;
mod history;
mod hits;
pub(crate) mod names;
mod reading;
mod status;

pub use broken::{BrokenCount, BrokenReturn};
pub use event::{About, Clock, Record};
pub use flowlog::{Eni, FlowRecord, InterfaceFlows, LogStatus, made_up_id};
pub use flows::{Admitted, Filter, Naming, Remembered, StateCount, Tracking, TrackingStats};
pub use history::History;
pub use hits::{
    ExemptionRow, GroupRow, GroupRules, Hits, InterfaceRules, Number, ReasonHits, RuleList, RuleRow, SubnetHits,
    WayHits, interface_rules, minus,
};
pub use reading::Reading;
pub use status::{
    Absent, Brief, BriefInterface, Change, Happened, Hooks, InterfaceModes, InterfaceStatus, Memory, ModeChange, Modes,
    PendingStatus, Place, PolicyStatus, ReloadStatus, Setting, SettingChange, Status, Totals,
};
