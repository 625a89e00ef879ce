//! The command line: clap's types, and what each command prints.
//!
//! Results go to stdout, prose to stderr. Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted.

mod base;
mod generate;
mod interrupt;
mod measure;
mod measure_progress;
mod methods;
mod models;
mod notes;
mod options;
mod output;
mod prepare;
mod progress;
mod report;
mod runtime;
mod terminal;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use options::CommonOptions;

/// How a command ended, if not by an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// What was asked for was done.
    Done,
    /// Ctrl-C.
    Interrupted,
}

/// What does this PEFT adapter cost at inference? Merges adapters, exports ONNX graphs, and measures
/// generation time and memory against the base model.
#[derive(Debug, Parser)]
#[command(name = "peft-bench", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    common: CommonOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Merge and export an experiment's variants into `exported_models/`.
    Prepare(prepare::Prepare),
    /// Measure experiments against their base model, write the results, print the tables.
    Measure(measure::Measure),
    /// Measure the base model by itself, and keep the result for `measure --cached-base`.
    Base(base::Base),
    /// Print the tables of results that were written before.
    Report(report::Report),
    /// Check that merged and unmerged agree, and that the adapter changes something.
    Verify(verify::Verify),
    /// Generate greedily, to look at a variant's output or to compare it.
    Generate(generate::Generate),
    /// List PEFT's methods: what is supported of each, and what is refused.
    Methods(methods::Methods),
    /// List the families of base models, what is special about each, and the synthetic shapes.
    Models(models::Models),
    /// Show which ONNX Runtime is used, or fetch one.
    Runtime(runtime::Runtime),
    /// Run one variant for a measurement, as its parent asks on stdin.
    #[command(hide = true)]
    Worker,
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    ignore_file_size_signal();
    let cli = Cli::parse();
    let done = |()| Outcome::Done;
    let result = match cli.command {
        Command::Prepare(command) => command.run(&cli.common).map(done),
        Command::Measure(command) => command.run(&cli.common),
        Command::Base(command) => command.run(&cli.common),
        Command::Report(command) => command.run(&cli.common).map(done),
        Command::Verify(command) => command.run(&cli.common).map(done),
        Command::Generate(command) => command.run(&cli.common).map(done),
        Command::Methods(command) => command.run().map(done),
        Command::Models(command) => command.run().map(done),
        Command::Runtime(command) => command.run(&cli.common).map(done),
        Command::Worker => worker().map(done),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) => ExitCode::from(interrupt::EXIT_CODE),
        Err(error) => {
            progress::message(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn worker() -> anyhow::Result<()> {
    let (input, output) = (std::io::stdin().lock(), std::io::stdout().lock());
    Ok(crate::measure::worker::serve(input, output)?)
}

/// A file that grows beyond the user's limit (`ulimit -f`) shall be an error of the write, with the
/// file's name, and not the end of the process.
#[expect(unsafe_code, reason = "signal dispositions have no safe interface")]
fn ignore_file_size_signal() {
    // SAFETY: `SIG_IGN` installs no handler; it is done before any thread exists.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}
