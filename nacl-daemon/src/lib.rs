//! The user-space half of nacld. Data moves one way through the rooms:
//! `policy` (what was written) → `resolve` (what it means here) → `compile` (tables) → `dataplane` (maps and programs)
//! → `observe` → `report`. ARCHITECTURE.md has the picture and the invariants.

pub mod analyze;
pub mod capture;
pub mod clients;
pub mod compile;
pub mod dataplane;
pub mod doctor;
pub mod engine;
pub mod export;
pub mod files;
pub mod frame;
pub mod harness;
pub mod import;
pub mod inventory;
pub mod lab;
pub mod logs;
pub mod netns;
pub mod observe;
pub mod policy;
pub mod report;
pub mod resolve;
pub mod service;
pub mod testing;
pub mod top;
