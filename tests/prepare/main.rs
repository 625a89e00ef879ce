//! The folders that `prepare` writes: when they are written again, and what they can be used for.

#![expect(clippy::unwrap_used, reason = "a test may unwrap")]

#[path = "../common/mod.rs"]
mod common;

mod checkpoints;
mod experts;
mod folders;
mod merged_checkpoints;
mod own_base;
mod portable;
mod tasks;
mod up_to_date;
mod wrappers;
