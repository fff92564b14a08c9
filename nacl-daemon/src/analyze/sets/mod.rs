//! Exact sets of packets: what policies do to all first packets of one direction and family, asked cell by cell and told in
//! regions. Cutting is done here, deciding by the engine, and telling elsewhere.

mod address;
mod region;
mod space;
mod traffic;

pub(crate) use self::space::usual;
pub use self::{
    address::Addresses,
    region::{Mark, Rectangle, Region},
    space::{Cell, Reach, Space, is_in, unjudged},
    traffic::{Circumstance, Detail, Traffic},
};
