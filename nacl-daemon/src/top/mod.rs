//! The screen of `nacld top`: a model, messages that change it, and a view of it, each without the others' means; and the one place
//! that has a terminal and a daemon. What the values mean in words is said by `report`.

pub mod explain;
pub mod model;
mod terminal;
pub mod update;
pub mod view;

pub use terminal::{Options, once, run};
