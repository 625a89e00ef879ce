//! `peft-bench verify`

use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::options::CommonOptions;
use super::setup;
use super::target::Target;
use crate::engine::{DecoderEngine, EngineOptions, OnnxRuntime};
use crate::prepare::{PrepareError, PreparedVariant, Variant};
use crate::verify::{Trace, follow, tolerance, trace};

/// `verify`
#[derive(Debug, Args)]
pub struct Verify {
    /// Experiment.
    experiment: PathBuf,

    /// Token ids of the prompt, such as `1,2,3` [default: 24 ids spread over the vocabulary].
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    prompt_ids: Option<Vec<u32>>,

    /// Tokens that are compared.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    max_new_tokens: u16,
}

impl Verify {
    /// Runs the command.
    pub fn run(&self, common: &CommonOptions) -> Result<()> {
        let Target::Experiment(experiment) = Target::find(&self.experiment)? else {
            bail!("`{}` is not an experiment", self.experiment.display());
        };
        let config = setup::config(common, Some(&experiment))?;
        let provider = setup::provider(common, config.dtype)?;
        let base = setup::base_model(common, &config)?;
        let preparation = setup::preparation(common, &config, provider, &base);
        let some = preparation.prepare(Some(&experiment), &[Variant::Base, Variant::Unmerged])?;
        let merged = match preparation.prepare(Some(&experiment), &[Variant::Merged]) {
            Ok(mut prepared) => Ok(prepared.remove(0)),
            Err(PrepareError::NotMergeable { reason }) => Err(reason),
            Err(error) => return Err(error.into()),
        };

        let manifest = &some[1].manifest;
        let vocab_size = manifest.vocab_size;
        let prompt_ids = self
            .prompt_ids
            .clone()
            .unwrap_or_else(|| spread(vocab_size));
        let count = usize::from(self.max_new_tokens);
        let length = manifest.num_virtual_tokens() + prompt_ids.len() + count;
        let mut options = setup::engine_options(common, provider, length);
        options.logits_on_host = true;
        let runtime = setup::onnx_runtime(common, provider)?;
        let open = |variant: &PreparedVariant| open(&runtime, variant, &options);

        let unmerged = trace(&mut open(&some[1])?, &prompt_ids, count)?;
        let base_logits = follow(&mut open(&some[0])?, &prompt_ids, &unmerged.tokens)?;
        let effect = unmerged.difference(&base_logits);
        line(&format!(
            "adapter    {} tensors used, logits differ from the base's by {effect:.2e} of the largest",
            manifest
                .adapter
                .as_ref()
                .map_or(0, |adapter| adapter.inputs.len())
        ))?;
        let fresh = manifest
            .adapter
            .as_ref()
            .is_some_and(|adapter| adapter.fresh);
        match merged {
            Err(reason) => line(&format!("merged     not available: {reason}"))?,
            Ok(merged) => {
                self.compare(&mut open(&merged)?, &prompt_ids, &unmerged, manifest.dtype)?
            }
        }
        if effect == 0.0 && fresh {
            line(
                "note       a fresh adapter of this method is the identity, so it changes nothing yet",
            )?;
        } else if effect == 0.0 {
            bail!("the adapter changes nothing: its logits are the base's");
        }
        Ok(())
    }

    fn compare(
        &self,
        engine: &mut DecoderEngine,
        prompt_ids: &[u32],
        unmerged: &Trace,
        dtype: crate::weights::Dtype,
    ) -> Result<()> {
        let merged = follow(engine, prompt_ids, &unmerged.tokens)?;
        let difference = unmerged.difference(&merged);
        let same = unmerged.agreeing_tokens(&merged);
        let (count, allowed) = (unmerged.tokens.len(), tolerance(dtype));
        line(&format!(
            "parity     merged and unmerged logits differ by {difference:.2e} of the largest \
             ({allowed:.0e} allowed in {dtype}), {same} of {count} tokens are the same"
        ))?;
        if difference > allowed {
            bail!("merged and unmerged disagree");
        }
        Ok(())
    }
}

fn open(
    runtime: &OnnxRuntime,
    variant: &PreparedVariant,
    options: &EngineOptions,
) -> Result<DecoderEngine> {
    Ok(DecoderEngine::open(runtime, variant, options)?)
}

/// Token ids far from each other.
fn spread(vocab_size: usize) -> Vec<u32> {
    const COUNT: usize = 24;
    (0..COUNT)
        .map(|i| ((i * 7919 + 13) % vocab_size) as u32)
        .collect()
}

fn line(text: &str) -> Result<()> {
    writeln!(stdout(), "{text}").context("cannot write to stdout")
}
