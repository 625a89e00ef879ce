//! The built program against `transformers` and `peft`: every case of `tests/fixtures/cases`, its logits, tokens and
//! parameter counts; and what must leave logits as they are.

#[path = "../common/mod.rs"]
mod common;

mod cases;
mod fresh;
mod fresh_routers;
mod native;
mod profiles;
mod renamed;
mod stored_forms;
mod surplus;
mod text;
mod tokenizers;
mod vocabulary;
mod weights;
