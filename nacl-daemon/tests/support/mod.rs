//! What the differential tests share on every level: random policies and packets (`generate`), their bytes (`case`), sets of them by brute force (`brute`), the
//! naive evaluator they are judged against (`oracle`, and `memory` of connections) and the table of what was hit (`coverage`); and what the kernel tests
//! share: a cable (`veth`), a running nacld (`place`), frames at a rate and receivers that count them (`traffic`), small policies (`policies`), lines of JSON (`lines`) and captures (`capture`); what must be said of labs (`lab_broken`), ICMP errors and what they quote (`quotes`). No engine code here.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod brute;
pub mod cap;
pub mod capture;
pub mod case;
pub mod coverage;
pub mod generate;
pub mod host;
pub mod lab_broken;
pub mod lines;
pub mod memory;
pub mod oracle;
pub mod place;
pub mod policies;
pub mod quotes;
pub mod sequence;
pub mod traffic;
pub mod translate;
pub mod veth;
pub mod written;
