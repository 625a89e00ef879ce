//! `peft-bench prepare`

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use super::options::CommonOptions;
use super::progress::message;
use super::setup;
use super::target::Target;
use crate::prepare::{Preparation, PrepareError, PreparedVariant, Variant};

/// `prepare`
#[derive(Debug, Args)]
pub struct Prepare {
    /// Experiment: a folder with an `adapter_config.json`, or `<method>/<name>` below `experiments/`.
    experiment: PathBuf,

    /// Variants to prepare [default: all that the method has].
    #[arg(long = "variant", value_name = "VARIANT")]
    variants: Vec<VariantChoice>,
}

/// `--variant`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VariantChoice {
    /// The plain decoder.
    Base,
    /// The adapter folded into the weights.
    Merged,
    /// The adapter beside the weights.
    Unmerged,
}

impl From<VariantChoice> for Variant {
    fn from(choice: VariantChoice) -> Self {
        match choice {
            VariantChoice::Base => Self::Base,
            VariantChoice::Merged => Self::Merged,
            VariantChoice::Unmerged => Self::Unmerged,
        }
    }
}

impl Prepare {
    /// Runs the command.
    pub fn run(&self, common: &CommonOptions) -> Result<()> {
        let Target::Experiment(experiment) = Target::find(&self.experiment)? else {
            bail!(
                "`{}` is not an experiment: it has no `adapter_config.json`",
                self.experiment.display()
            );
        };
        let config = setup::config(common, Some(&experiment))?;
        let provider = setup::provider(common)?;
        let base = setup::base_model(common, &config)?;
        let preparation = Preparation {
            base: &base,
            precision: setup::precision(&config, provider),
            export_dir: &common.export_dir,
            seed: config.seed,
        };
        if self.variants.is_empty() {
            let all = [Variant::Base, Variant::Unmerged];
            report(&preparation.prepare(Some(&experiment), &all)?);
            return match preparation.prepare(Some(&experiment), &[Variant::Merged]) {
                Ok(prepared) => {
                    report(&prepared);
                    Ok(())
                }
                Err(PrepareError::NotMergeable { reason }) => {
                    message(&format!("merged    not available: {reason}"));
                    Ok(())
                }
                Err(error) => Err(error.into()),
            };
        }
        let variants: Vec<Variant> = self.variants.iter().map(|&choice| choice.into()).collect();
        report(&preparation.prepare(Some(&experiment), &variants)?);
        Ok(())
    }
}

fn report(prepared: &[PreparedVariant]) {
    for variant in prepared {
        let state = if variant.up_to_date {
            " (up to date)"
        } else {
            ""
        };
        let (name, folder) = (variant.manifest.variant, variant.folder.display());
        message(&format!("{name:<9} {folder}{state}"));
    }
}
