//! Tests of `sweep`, which run the built program.

#![expect(clippy::unwrap_used, reason = "a test may unwrap")]

#[path = "../common/mod.rs"]
mod common;

mod ending;
mod launching;
mod place;
mod planning;
mod running;
