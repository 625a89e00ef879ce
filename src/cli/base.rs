//! `peft-bench base`

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::benchmark::{Benchmark, Job, Outcome};
use super::interrupt;
use super::options::{BatchOptions, CommonOptions};
use super::setup;
use super::tokenizer::TokenizerOptions;
use crate::prepared::Variant;

/// What it's called.
const STEM: &str = "base";

/// `base`
#[derive(Debug, Args)]
pub struct Base {
    /// Prompts in place of `prompts/prompts.json`.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,

    #[command(flatten)]
    batch: BatchOptions,

    #[command(flatten)]
    tokenizer: TokenizerOptions,

    /// Measure again, even if nothing has changed since the last time.
    #[arg(long)]
    force: bool,
}

impl Base {
    /// Runs the command.
    pub fn run(&self, common: &CommonOptions) -> Result<Outcome> {
        let interrupt = interrupt::install()?;
        let mut config = setup::config(common, None)?;
        self.batch.apply(&mut config);
        let provider = setup::provider(common, config.dtype)?;
        let mut benchmark = Benchmark::new(
            common,
            provider,
            self.prompts.as_deref(),
            &self.tokenizer,
            &interrupt,
        );
        benchmark.base_only = true;
        benchmark.cached_base = !self.force;
        let prepared =
            setup::base_to_measure(common, &config, &self.tokenizer, None).and_then(|base| {
                let preparation = setup::preparation(common, &config, provider, &base)?;
                Ok(preparation.prepare(None, &[Variant::Base])?)
            });
        match prepared {
            Ok(variants) => benchmark.measure(
                &config,
                vec![Job {
                    stem: STEM.to_owned(),
                    target: STEM.to_owned(),
                    label: STEM.to_owned(),
                    variants,
                    absent: BTreeMap::new(),
                }],
            ),
            Err(error) => Err(benchmark.failed(&config, [STEM].into_iter(), error)),
        }
    }
}
