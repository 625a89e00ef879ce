//! Tools that several methods share. None of them knows a method.

pub mod components;
pub mod dense;
pub mod encoder;
pub mod linalg;
pub mod options;
pub mod places;
pub mod replication;
pub mod stacked;
pub mod tuner;
