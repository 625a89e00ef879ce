//! Quantized and 16-bit weights: compared with Transformers and PEFT on the same weights, with
//! unmerged and merged adapters, and the files made of them.

#![expect(clippy::unwrap_used, reason = "a test may unwrap")]

#[path = "../common/mod.rs"]
mod common;

mod embedding;
mod families;
mod files;
mod full_precision;
mod gpu_graphs;
mod half;
mod merged;
mod quantized_trial;
mod reference;
mod refusals;
mod reports;
mod stored;
mod unmerged;
