//! Tools that several methods share. None of them knows a method.

pub mod components;
pub mod dense;
pub mod encoder;
pub mod options;
pub mod read_past;
pub mod replication;
pub mod seeded_indices;
pub mod skew;
pub mod stacked;
pub mod tuner;
