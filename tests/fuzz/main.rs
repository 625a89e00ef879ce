//! Hostile input for everything that reads files: seeds from the fixtures, damaged by a mutator that
//! the input's number determines. No input may make a reader panic, overflow its stack, take more
//! than a second of processor time, or allocate more than twice its size and 64 MiB.
//!
//! ```text
//! cargo test --release --test fuzz                                    the short form
//! PEFT_BENCH_FUZZ=1000000 cargo test --release --test fuzz            the full one
//! cargo test --release --test fuzz -- tokenizer --from 5000           a reader, from an input on
//! cargo test --release --test fuzz -- tokenizer --at 4711             an input again, with its backtrace
//! ```
//!
//! Each reader runs in a process of its own, which may die of an input; the next one goes on behind
//! it. `docs/reliability.md` has what the full form found.

#![expect(clippy::unwrap_used, reason = "a test may unwrap")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it's a program of its own"
)]

mod allocations;
mod mutate;
mod options;
mod parent;
mod readers;
mod target;
mod worker;

use std::process::ExitCode;

use options::{Options, What};

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

fn main() -> ExitCode {
    let Some(options) = Options::of_process() else {
        return ExitCode::SUCCESS;
    };
    match &options.what {
        What::Worker { reader, from, to } => worker::run(reader, *from, *to),
        What::One { reader, at } => worker::again(reader, *at),
        What::All => return parent::run(&options),
    }
    ExitCode::SUCCESS
}
