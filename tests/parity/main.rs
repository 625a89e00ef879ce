//! The built program against `transformers` and `peft`: logits, tokens and parameter counts of
//! every case in `tests/fixtures/cases`; and changes that must not affect logits.

#![expect(clippy::unwrap_used, reason = "a test may unwrap")]

#[path = "../common/mod.rs"]
mod common;

mod cases;
mod compressed;
mod fresh;
mod fresh_routers;
mod native;
mod profiles;
mod renamed;
mod stored_forms;
mod text;
mod tokenizers;
mod unmatched_names;
mod vocabulary;
mod weights;
