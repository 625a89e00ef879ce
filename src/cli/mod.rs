//! The command line: clap's types, and what each command prints.
//!
//! Results go to stdout, prose to stderr. Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted;
//! of a comparison, or a check of a merged checkpoint, 1 worse or wrong, 3 can't be told; of
//! `--quiet-gate` 3 too, if the machine isn't quiet, and of a sweep, if something was busy.

mod base;
mod check;
mod compare;
mod convert;
mod examples;
mod generate;
mod init;
mod interrupt;
mod measure;
mod measure_progress;
mod methods;
mod models;
mod notes;
mod options;
mod output;
mod portable;
mod prepare;
mod progress;
mod quiet;
mod report;
mod runtime;
mod serving;
mod shell;
mod sweep;
mod terminal;
mod text_comparison;
mod verify;
mod verify_portable;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use options::CommonOptions;

/// How a command ended, if not by an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// What was asked for was done.
    Done,
    /// Ctrl-C.
    Interrupted,
    /// Something is worse than it was, or wrong.
    Worse,
    /// A comparison doesn't tell.
    CannotTell,
    /// The machine isn't quiet, so nothing was measured.
    Busy,
}

/// What does this PEFT adapter cost at inference? Merges adapters, exports ONNX graphs, and
/// measures generation time and memory against the base model.
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
    #[command(after_help = examples::PREPARE)]
    Prepare(prepare::Prepare),
    /// Measure experiments against their base model, write the results, print the tables.
    #[command(after_help = examples::MEASURE)]
    Measure(measure::Measure),
    /// Measure the base model by itself, and keep the result for `measure --cached-base`.
    #[command(after_help = examples::BASE)]
    Base(base::Base),
    /// Print the tables of results that were written before.
    #[command(after_help = examples::REPORT)]
    Report(report::Report),
    /// Compare a newer result with an older one: no worse, worse, or can't be told.
    #[command(after_help = examples::COMPARE)]
    Compare(compare::Compare),
    /// Run fleets of experiments: on this machine's cores and GPUs, or as tasks of a cluster's engine.
    #[command(after_help = examples::SWEEP)]
    Sweep(sweep::Sweep),
    /// Check that merged and unmerged agree, and that the adapter changes something; check a
    /// checkpoint that another program merged; or check that a portable folder is intact.
    #[command(after_help = examples::VERIFY)]
    Verify(verify::Verify),
    /// Make a plain LoRA adapter of another one, and say what's lost.
    #[command(after_help = examples::CONVERT)]
    Convert(convert::Convert),
    /// Generate greedily, to look at a variant's output or to compare it.
    #[command(after_help = examples::GENERATE)]
    Generate(generate::Generate),
    /// Begin an experiment: a folder with the configuration of a fresh adapter.
    #[command(after_help = examples::INIT)]
    Init(init::Init),
    /// Check configurations and adapters without loading weights.
    #[command(after_help = examples::CHECK)]
    Check(check::Check),
    /// List PEFT's methods: what is supported of each, and what is refused.
    #[command(after_help = examples::METHODS)]
    Methods(methods::Methods),
    /// List the families of base models, what is special about each, and the synthetic shapes.
    #[command(after_help = examples::MODELS)]
    Models(models::Models),
    /// Show which ONNX Runtime is used, or fetch one.
    #[command(after_help = examples::RUNTIME)]
    Runtime(runtime::Runtime),
    /// Write a script with which a shell completes commands and options.
    #[command(after_help = examples::COMPLETIONS)]
    Completions(shell::Completions),
    /// Write man pages.
    #[command(after_help = examples::MAN)]
    Man(shell::ManPages),
    /// Run one variant for a measurement, as its parent asks on stdin.
    #[command(hide = true)]
    Worker,
}

impl Outcome {
    fn exit_code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Worse => 1,
            Self::CannotTell | Self::Busy => 3,
            Self::Interrupted => interrupt::EXIT_CODE,
        }
    }
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
        Command::Compare(command) => command.run(&cli.common),
        Command::Sweep(command) => command.run(&cli.common),
        Command::Verify(command) => command.run(&cli.common),
        Command::Convert(command) => command.run(&cli.common).map(done),
        Command::Generate(command) => command.run(&cli.common).map(done),
        Command::Init(command) => command.run(&cli.common).map(done),
        Command::Check(command) => command.run(&cli.common).map(done),
        Command::Methods(command) => command.run().map(done),
        Command::Models(command) => command.run().map(done),
        Command::Runtime(command) => command.run(&cli.common).map(done),
        Command::Completions(command) => command.run(Cli::command()).map(done),
        Command::Man(command) => command.run(Cli::command()).map(done),
        Command::Worker => worker().map(done),
    };
    match result {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of examples, as words, without redirections and comments.
    fn examples(help: &str) -> Vec<Vec<String>> {
        let lines = help.lines().map(str::trim);
        let commands = lines.filter(|line| line.starts_with("peft-bench "));
        let words = |line: &str| {
            let line = line.split(['#', '>']).next().unwrap_or_default();
            let quoted = line.split('\'').enumerate();
            let mut words = Vec::new();
            for (index, part) in quoted {
                match index % 2 {
                    1 => words.push(part.to_owned()),
                    _ => words.extend(part.split_whitespace().map(str::to_owned)),
                }
            }
            words
        };
        commands.map(words).collect()
    }

    #[test]
    fn every_command_has_examples_that_parse() {
        let program = Cli::command();
        program.clone().debug_assert();
        for command in program.get_subcommands().filter(|one| !one.is_hide_set()) {
            let help = command.get_after_help();
            let help = help.unwrap_or_else(|| panic!("{} has none", command.get_name()));
            let found = examples(&help.to_string());
            assert!((2..=4).contains(&found.len()), "{}", command.get_name());
            for words in found {
                assert_eq!(words[1], command.get_name());
                Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
            }
        }
    }
}
