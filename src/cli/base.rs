//! `peft-bench base`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::Outcome;
use super::measure::run_study;
use super::options::{BatchOptions, CommonOptions, RestartOptions, TokenizerOptions};
use super::quiet::QuietOptions;
use crate::study::Study;

/// `base`
#[derive(Debug, Args)]
pub struct Base {
    /// Prompts in place of `prompts/prompts.json`.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,

    #[command(flatten)]
    restarts: RestartOptions,

    #[command(flatten)]
    batch: BatchOptions,

    #[command(flatten)]
    tokenizer: TokenizerOptions,

    /// Measure again, even if nothing has changed since the last time.
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    quiet: QuietOptions,
}

impl Base {
    /// Runs the command.
    pub fn run(&self, common: &CommonOptions) -> Result<Outcome> {
        let study = Study {
            settings: common.settings(),
            prompts: self.prompts.clone(),
            tokenizer: self.tokenizer.choice(),
            batch_sizes: self.batch.sizes(),
            cached_base: !self.force,
            restarts: self.restarts.count(),
            quiet_gate: self.quiet.gate(),
            output: common.output.clone(),
            ..Study::default()
        };
        run_study(study, common)
    }
}
