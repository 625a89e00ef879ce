//! `peft-bench verify`

mod merged;
mod prompt;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

pub use prompt::PromptOptions;

use super::Outcome;
use super::check::measuring;
use super::options::{CommonOptions, TaskOptions};
use super::output::line;
use super::progress::message;
use super::terminal::Terminal;
use super::verify_portable::verify_portable;
use crate::engine::WeightsMode;
use crate::parity::{Divergence, Parity, at_each_position, check};
use crate::prepare::Preparation;
use crate::prepared::{PreparedVariant, Variant, task_of};
use crate::study::{Setup, Target};

/// Number of the prompt's tokens at which predictions are compared, unless another is asked for.
pub const POSITIONS: usize = 48;

/// `verify`
#[derive(Debug, Args)]
pub struct Verify {
    /// Experiment, or a portable folder, whose files and graph are checked against its manifest.
    experiment: PathBuf,

    /// A merged checkpoint of another program: a folder, or a hub id. Its tensors are compared with
    /// base and adapter, then its predictions on the text.
    #[arg(long, value_name = "ID_OR_PATH")]
    merged: Option<String>,

    /// Compare tensors alone, without running anything.
    #[arg(long, requires = "merged")]
    tensors_only: bool,

    /// Print what was found of a merged checkpoint as JSON, with every tensor.
    #[arg(long, requires = "merged")]
    json: bool,

    #[command(flatten)]
    prompt: PromptOptions,

    /// Tokens that are compared.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    max_new_tokens: u16,

    /// Tokens of the prompt, from its start, at which predictions of quantized variants are compared with those of
    /// unquantized ones: each is a decode step [default: 48].
    #[arg(long, value_name = "N", value_parser = positions, conflicts_with = "merged")]
    positions: Option<usize>,

    #[command(flatten)]
    task: TaskOptions,
}

fn positions(text: &str) -> Result<usize, String> {
    let found = text.parse().ok().filter(|count| *count > 0);
    found.ok_or_else(|| "expected a number of tokens, 1 or more".to_owned())
}

impl Verify {
    /// Runs the command.
    pub fn run(&self, common: &CommonOptions) -> Result<Outcome> {
        if let Some(checkpoint) = &self.merged {
            return Ok(self.run_merged(common, checkpoint));
        }
        let settings = common.settings();
        let mut terminal = Terminal::new(common.verbose);
        let setup = Setup::new(&settings, &mut terminal);
        let target = Target::find(&setup, &self.experiment)?;
        if let Target::Prepared(folder) = &target
            && let Some(variant) = folder.main()
            && let Some(portable) = &variant.manifest.portable
        {
            if self.prompt.is_given() {
                bail!(
                    "a portable folder is compared on the prompt of its manifest; leave out `--prompt`"
                );
            }
            return verify_portable(&setup, variant, portable).map(|()| Outcome::Done);
        }
        let experiment = target.into_experiment(&self.experiment)?;
        setup.note_fresh(&experiment);
        let mut config = setup.parameters(Some(&experiment))?;
        config.task_id = self.task.id().or(config.task_id);
        let provider = setup.provider(config.dtype)?;
        let base = setup.base_model(&config)?;
        let asked = setup.preparation(&config, provider, &base)?;
        // Merged and unmerged are compared before weights are rounded again.
        let preparation = asked.requantized(false);
        let quantized = preparation.precision.quantization;
        if self.positions.is_some() && quantized.is_none() && !asked.precision.base.requantize {
            bail!("`--positions` is about quantized variants; add `--quantize`, or leave it out");
        }
        let compared = self.positions.unwrap_or(POSITIONS);
        let (variants, reason) = preparation.prepare_all(&experiment)?;

        setup.note_task(&config, task_of(&variants));
        setup.note_adapter_of(&variants);
        setup.note_replaced(&variants);
        let count = usize::from(self.max_new_tokens);
        let prompt = self.prompt.prompt(&setup, &variants, count)?;
        line(&format!("prompt     {}", prompt.about))?;
        let prompt_ids = prompt.ids;
        let manifest = &variants[1].manifest;
        let length = manifest.num_virtual_tokens() + prompt_ids.len() + count;
        let mut options = setup.engine_options(provider, length, WeightsMode::InPlace);
        options.logits_on_host = true;
        let runtime = setup.onnx_runtime(provider)?;
        let inputs = manifest.adapter.as_ref().map_or(0, |a| a.inputs.len());
        let open = |variant: &PreparedVariant| setup.open_engine(&runtime, variant, &options);
        let compare = |variants: &[PreparedVariant]| {
            let parity = check(variants, &prompt_ids, count, open)?;
            parity.context("there is no variant to compare")
        };
        let mut failures = Vec::new();
        if let Some(quantization) = quantized {
            // The arithmetic of merge and adapter, which quantizing anew would hide.
            let (floats, _) = preparation.unquantized().prepare_all(&experiment)?;
            let parity = compare(&floats)?;
            failures.extend(self.report(&parity, inputs, reason.as_ref(), "")?);
            let positions = &prompt_ids[..prompt_ids.len().min(compared)];
            let knows = |variant: &PreparedVariant| {
                let known = variant.manifest.vocab_size;
                positions.iter().all(|id| (*id as usize) < known)
            };
            let pairs = floats.iter().zip(&variants);
            for (float, quantized) in pairs.filter(|(float, _)| knows(float)) {
                let reference = at_each_position(&mut open(float)?, positions)?;
                let rows = at_each_position(&mut open(quantized)?, positions)?;
                let found = Divergence::between(&reference, &rows);
                line(&format!(
                    "{:<10} {} against unquantized: KL divergence {:.2e} nats on average, {:.2e} at most; the same \
                     most likely token at {} of {} positions",
                    float.manifest.variant,
                    quantization.label(),
                    found.mean_kl,
                    found.max_kl,
                    found.same_top,
                    found.positions
                ))?;
            }
        }
        if asked.precision.base.requantize {
            let merged = |of: &Preparation| of.prepare(Some(&experiment), &[Variant::Merged]);
            let [plain, rounded] = [merged(&preparation)?.remove(0), merged(&asked)?.remove(0)];
            let positions = &prompt_ids[..prompt_ids.len().min(compared)];
            let rows = |variant: &PreparedVariant| at_each_position(&mut open(variant)?, positions);
            let (base_rows, plain_rows) = (rows(&variants[0])?, rows(&plain)?);
            report_requantized(&base_rows, &plain_rows, &rows(&rounded)?)?;
        }
        let label = quantized.map_or(String::new(), |found| found.label());
        let parity = compare(&variants)?;
        failures.extend(self.report(&parity, inputs, reason.as_ref(), &label)?);
        if !failures.is_empty() {
            bail!("{}", failures.join("; "));
        }
        let next = measuring(&[&self.experiment], common.model.as_deref());
        message(&format!("next: `{next}`"));
        Ok(Outcome::Done)
    }

    /// Says what was found of variants that are quantized as `label` says; returns what's wrong.
    fn report(
        &self,
        parity: &Parity,
        inputs: usize,
        reason: Option<&String>,
        label: &str,
    ) -> Result<Vec<String>> {
        let of = match label {
            "" => String::new(),
            label => format!("{label}: "),
        };
        let difference = |found: Option<f32>| found.unwrap_or(f32::INFINITY);
        let effect = match parity.adapter_vs_base {
            Some(found) => format!(
                "logits differ from the base's by {found:.2e} {}",
                parity.norm.of_what()
            ),
            None => "not compared with the base".to_owned(),
        };
        let predictions = parity.effect.map(|found| {
            format!(
                "; KL divergence {} nats on average, the same most likely token in {} of {} steps",
                nats(found.mean_kl),
                found.same_top,
                found.positions
            )
        });
        line(&format!(
            "adapter    {of}{inputs} tensors used, {effect}{}",
            predictions.unwrap_or_default()
        ))?;
        match reason {
            Some(reason) => line(&format!("merged     not available: {reason}"))?,
            None => line(&format!(
                "parity     {of}merged and unmerged logits differ by {:.2e} {} ({:.0e} allowed), {} of {} tokens are \
                 the same",
                difference(parity.merged_vs_unmerged),
                parity.norm.of_what(),
                parity.allowed,
                parity.same_tokens.unwrap_or(0),
                parity.of
            ))?,
        }
        if let Some(note) = &parity.note {
            line(&format!("note       {note}"))?;
        }
        Ok(parity.failures.clone())
    }
}

/// Says by how much rounding a merge to its base's scheme moves the logits at each position, and
/// whether what the adapter changed survives it.
fn report_requantized(base: &[Vec<f32>], merged: &[Vec<f32>], rounded: &[Vec<f32>]) -> Result<()> {
    let lost = Divergence::between(merged, rounded);
    let effect = Divergence::between(base, merged);
    let kept = Divergence::between(base, rounded);
    line(&format!(
        "requantized merged again in the checkpoint's scheme against merged: KL divergence {} nats on average, {} at most; \
         the same most likely token at {} of {} positions",
        nats(lost.mean_kl),
        nats(lost.max_kl),
        lost.same_top,
        lost.positions
    ))?;
    let verdict = if lost.mean_kl < effect.mean_kl / 4.0 {
        "it survives"
    } else if lost.mean_kl < effect.mean_kl {
        "a part of it survives"
    } else {
        "it's lost in the rounding: keep the adapter unmerged, or merge without `--requantize`"
    };
    line(&format!(
        "fine-tune  moves the base by {} nats on average, and by {} once it's requantized: {verdict}",
        nats(effect.mean_kl),
        nats(kept.mean_kl)
    ))
}

/// A divergence with as many digits as matter.
pub fn nats(found: f64) -> String {
    match found >= 0.01 {
        true => format!("{found:.2}"),
        false => format!("{found:.1e}"),
    }
}
