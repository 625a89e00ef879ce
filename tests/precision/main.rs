//! Quantized weights and those of 16 bits: against transformers and PEFT over the same weights, adapters beside them, and
//! the files that are made of them.

#[path = "../common/mod.rs"]
mod common;

mod embedding;
mod files;
mod full_precision;
mod gpu_graphs;
mod half;
mod merged;
mod quantized_trial;
mod reference;
mod refusals;
mod reports;
mod unmerged;
