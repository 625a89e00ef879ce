//! Tests of `measure`, `base` and `verify`, which run the built program.

#![expect(clippy::unwrap_used, reason = "a test may unwrap")]

#[path = "../common/mod.rs"]
mod common;

mod baseline;
mod cached_base;
mod exported;
mod interruption;
mod library;
mod names;
mod overheads;
mod parity;
mod quiet;
mod refusals;
mod restarts;
mod results;
mod serving;
mod several;
mod sweep;
mod tokens;
mod workplace;
