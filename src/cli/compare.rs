//! `peft-bench compare`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::Outcome;
use super::options::CommonOptions;
use super::output::print;
use super::progress::message;
use crate::judge::{self, Judgement, Side, pairs, text};

/// `compare`
#[derive(Debug, Args)]
pub struct Compare {
    /// The older result, a folder of results, or a folder of such folders: each of these is a start
    /// of the same measurement, and from three on an interval covers what differs between them.
    old: PathBuf,

    /// The newer one.
    new: PathBuf,

    /// By how many percent a variant's time over its base's may be more.
    #[arg(long, value_name = "PCT", value_parser = margin, default_value = "3%")]
    margin: f64,

    /// How the outcome is shown. `markdown` fits into a comment on a change.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// A way to show what came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table of text.
    #[default]
    Table,
    /// Markdown.
    Markdown,
    /// An object with every figure.
    Json,
}

/// `3%` or `3`.
pub fn margin(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').trim_end();
    match number.parse() {
        Ok(value) if (0.0..1000.0).contains(&value) => Ok(value),
        _ => Err("expected a percentage of at least zero, such as `3%`".to_owned()),
    }
}

impl Compare {
    /// Runs the command. What can't be read can't be told.
    pub fn run(&self, common: &CommonOptions) -> Result<Outcome> {
        let sides = Side::read(&self.old).and_then(|old| Ok((old, Side::read(&self.new)?)));
        let judgement = match sides {
            Ok((old, new)) => Judgement::new(pairs(old, new), self.margin),
            Err(error) => {
                // As a failure it would have the exit code of something worse.
                message(&format!("error: {:#}", anyhow::Error::from(error)));
                return Ok(Outcome::CannotTell);
            }
        };
        let outcome = outcome(&judgement);
        print(&match self.format {
            Format::Table => text::table(&judgement, common.verbose),
            Format::Markdown => text::markdown(&judgement),
            Format::Json => {
                let value = text::json(&judgement, outcome.exit_code());
                let text = serde_json::to_string_pretty(&value);
                text.context("cannot write the comparison")? + "\n"
            }
        })?;
        Ok(outcome)
    }
}

/// How the command ends.
pub fn outcome(judgement: &Judgement) -> Outcome {
    match judgement.outcome() {
        judge::Outcome::NoWorse => Outcome::Done,
        judge::Outcome::Worse => Outcome::Worse,
        judge::Outcome::CannotTell => Outcome::CannotTell,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_margin_is_a_percentage() {
        assert_eq!(margin("3%"), Ok(3.0));
        assert_eq!(margin("2.5 %"), Ok(2.5));
        assert_eq!(margin("0"), Ok(0.0));
        for wrong in ["", "-1%", "three", "NaN", "inf", "1e9"] {
            assert!(margin(wrong).is_err(), "{wrong}");
        }
    }
}
