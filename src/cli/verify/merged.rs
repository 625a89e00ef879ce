//! `verify --merged`: is somebody's checkpoint this adapter, merged into this base?

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Verify, nats};
use crate::adapter::Adapter;
use crate::audit::{Audit, Finding, Ingredients, Verdict, audit};
use crate::cli::Outcome;
use crate::cli::options::CommonOptions;
use crate::cli::output::{line, print_json};
use crate::cli::progress::message;
use crate::cli::terminal::Terminal;
use crate::cli::text_comparison::{Compared, TextComparison};
use crate::config::BenchmarkConfig;
use crate::experiment::Experiment;
use crate::model::{BaseModel, ModelId};
use crate::prepared::Variant;
use crate::study::{Setup, Target};

/// Names that are listed of each kind of finding.
const LISTED: usize = 3;

/// The mean divergence, in nats, up to which predictions count as the same. Rounding weights to
/// bfloat16 gives a twenty-fifth of it with a real model, and half of an adapter's change
/// twenty-five times as much.
const LARGEST_KL: f64 = 1e-2;

impl Verify {
    /// Runs the command. What can't be compared can't be told.
    pub(super) fn run_merged(&self, common: &CommonOptions, checkpoint: &str) -> Outcome {
        match self.check_merged(common, checkpoint) {
            Ok(true) => Outcome::Done,
            Ok(false) => Outcome::Worse,
            Err(error) => {
                // As a failure it would have the exit code of a wrong checkpoint.
                message(&format!("error: {error:#}"));
                Outcome::CannotTell
            }
        }
    }

    /// Whether the checkpoint is right.
    fn check_merged(&self, common: &CommonOptions, checkpoint: &str) -> Result<bool> {
        let settings = common.settings();
        let mut terminal = Terminal::new(common.verbose);
        let setup = Setup::new(&settings, &mut terminal);
        let experiment =
            Target::find(&setup, &self.experiment)?.into_experiment(&self.experiment)?;
        setup.note_fresh(&experiment);
        let mut config = setup.parameters(Some(&experiment))?;
        config.task_id = self.task.id().or(config.task_id);
        if config.quantization()?.is_some() {
            bail!("`--merged` compares weights that aren't quantized: leave `--quantize` out");
        }
        let base = setup.base_model(&config)?;
        let id = ModelId::parse(checkpoint)?;
        let report = |label: &str, done, total| setup.bytes(label, done, total);
        let theirs = BaseModel::open(&id, config.dtype, settings.offline, &report)
            .with_context(|| format!("cannot open the merged checkpoint `{checkpoint}`"))?;
        let (folder, values) = (&experiment.folder, experiment.values);
        let (seed, task_id) = (config.seed, config.task_id);
        let adapter = Adapter::load_for_task(folder, &base, seed, values, task_id)?;
        setup.note_adapter(adapter.notes());
        let ingredients = Ingredients {
            base: adapter.base(&base),
            adapter: &adapter,
            folder,
            values,
            seed,
            task_id,
        };
        let found = audit(ingredients, &theirs)?;
        if !self.json {
            print_tensors(&found)?;
        }
        let text = match self.tensors_only {
            true => None,
            false => Some(self.compare_text(&setup, &config, &experiment, &base, &theirs)),
        };
        let (text, error) = match text {
            Some(Ok(text)) => (Some(text), None),
            // What's wrong with the tensors is reason enough.
            Some(Err(error)) if !found.is_right() => (None, Some(error)),
            Some(Err(error)) => {
                return Err(error.context("the tensors are right, but nothing can be run"));
            }
            None => (None, None),
        };
        let is_right = found.is_right()
            && text
                .as_ref()
                .is_none_or(|text| text.divergence.mean_kl <= LARGEST_KL);
        if self.json {
            let mut value = json(&found, text.as_ref(), is_right);
            value["experiment"] = json!(self.experiment);
            value["base"] = json!(base.id.to_string());
            value["checkpoint"] = json!(checkpoint);
            value["text_error"] = json!(error.map(|error| format!("{error:#}")));
            print_json(&value)?;
            return Ok(is_right);
        }
        if let Some(text) = &text {
            print_text(text)?;
        }
        if let Some(error) = error {
            line(&format!("text       not compared: {error:#}"))?;
        }
        let adapter = Path::new(&self.experiment).display();
        line(&match is_right {
            true => format!(
                "right      `{checkpoint}` is `{}` with `{adapter}` merged into it",
                base.id
            ),
            false => format!("wrong      {}", conclusion(&found, checkpoint)),
        })?;
        Ok(is_right)
    }
}

impl Verify {
    /// Compares the merge of `experiment` into `base` with the checkpoint `theirs` on text.
    fn compare_text(
        &self,
        setup: &Setup,
        config: &BenchmarkConfig,
        experiment: &Experiment,
        base: &BaseModel,
        theirs: &BaseModel,
    ) -> Result<TextComparison> {
        let provider = setup.provider(config.dtype)?;
        let preparation = setup.preparation(config, provider, base)?;
        let own = [Variant::Merged, Variant::Base];
        let mut variants = preparation.prepare(Some(experiment), &own)?;
        let preparation = setup.preparation(config, provider, theirs)?;
        variants.extend(preparation.prepare(None, &[Variant::Base])?);
        let compared = Compared {
            variants: &variants,
            prompt: &self.prompt,
            new_tokens: usize::from(self.max_new_tokens),
        };
        TextComparison::of(setup, provider, &compared)
    }
}

/// What a verdict says of a tensor.
fn in_words(verdict: Verdict) -> String {
    match verdict {
        Verdict::Equal => "bit for bit".to_owned(),
        Verdict::Rounding => "but for rounding".to_owned(),
        Verdict::AdapterRounded => "merged from the adapter in 16 bits".to_owned(),
        Verdict::NotApplied => "the adapter isn't applied".to_owned(),
        Verdict::Twice => "the adapter is applied twice".to_owned(),
        Verdict::Subtracted => "the adapter is subtracted".to_owned(),
        Verdict::Scaled { factor } => format!("the adapter's change is scaled by {factor:.3}"),
        Verdict::WithoutMagnitudes => {
            "DoRA's magnitudes are left out: it's merged as plain LoRA".to_owned()
        }
        Verdict::OtherChange => {
            "changed, but not by this adapter: by another one, or by another module's part of it"
                .to_owned()
        }
        Verdict::QuantizedBase { bits } => {
            format!("the weights under the change lie on {bits}-bit levels: a dequantized base")
        }
        Verdict::OtherBase => "the weights under the change aren't the base's".to_owned(),
        Verdict::SomeElements { count } => format!("right, but for {count} elements"),
        Verdict::Different => "neither the base's nor a merge of this adapter".to_owned(),
        Verdict::Changed => "the adapter doesn't change it, but it isn't the base's".to_owned(),
        Verdict::Missing => "missing".to_owned(),
        Verdict::Extra => "neither base nor adapter have such a tensor".to_owned(),
        Verdict::Shape => "it has another shape".to_owned(),
        Verdict::NotFinite => "it holds a NaN or an infinity".to_owned(),
    }
}

/// The name of a kind of verdict in JSON.
fn key(verdict: Verdict) -> String {
    let value = serde_json::to_value(verdict).unwrap_or_default();
    value["verdict"].as_str().unwrap_or_default().to_owned()
}

/// Findings by kind, in the order in which the kinds come first. Scales and bits are kinds as well.
fn by_kind<'a>(findings: impl Iterator<Item = &'a Finding>) -> Vec<(String, Vec<&'a Finding>)> {
    let mut kinds: Vec<(String, Vec<&Finding>)> = Vec::new();
    for finding in findings {
        let words = match finding.verdict {
            // Factors that rounding makes differ are one kind.
            Verdict::Scaled { .. } | Verdict::SomeElements { .. } => key(finding.verdict),
            verdict => in_words(verdict),
        };
        match kinds.iter_mut().find(|(kind, _)| *kind == words) {
            Some((_, all)) => all.push(finding),
            None => kinds.push((words, vec![finding])),
        }
    }
    kinds
}

/// What a kind says of all its findings.
fn words_of(all: &[&Finding]) -> String {
    let factors = all.iter().filter_map(|finding| match finding.verdict {
        Verdict::Scaled { factor } => Some(factor),
        _ => None,
    });
    let (low, high) = factors.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), factor| {
        (low.min(factor), high.max(factor))
    });
    match all[0].verdict {
        Verdict::Scaled { .. } if high - low > 0.01 => {
            format!("the adapter's change is scaled by {low:.3} to {high:.3}")
        }
        Verdict::SomeElements { .. } if all.len() > 1 => "right, but for some elements".to_owned(),
        verdict => in_words(verdict),
    }
}

fn print_tensors(found: &Audit) -> Result<()> {
    let dtypes: BTreeSet<&str> = found
        .tensors
        .iter()
        .filter_map(|finding| finding.dtype.map(|dtype| dtype.name()))
        .collect();
    let adapted = found
        .tensors
        .iter()
        .filter(|finding| finding.adapted)
        .count();
    line(&format!(
        "checkpoint {} tensors in {}; the adapter changes {adapted} of them",
        found.tensors.len(),
        dtypes.into_iter().collect::<Vec<_>>().join(" and ")
    ))?;
    for (label, adapted) in [("changed", true), ("others", false)] {
        let right = found
            .tensors
            .iter()
            .filter(|finding| finding.adapted == adapted && finding.verdict.is_right());
        let kinds: Vec<String> = by_kind(right)
            .iter()
            .map(|(_, all)| format!("{} {}", all.len(), words_of(all)))
            .collect();
        if !kinds.is_empty() {
            line(&format!("{label:<10} right: {}", kinds.join(", ")))?;
        }
    }
    if found.lost_in_rounding > 0 {
        line(&format!(
            "note       of {} tensors the change is lost in rounding: they're right, merged or not",
            found.lost_in_rounding
        ))?;
    }
    for (_, all) in by_kind(found.wrong()) {
        let names: Vec<&str> = all
            .iter()
            .take(LISTED)
            .map(|one| one.tensor.as_str())
            .collect();
        let more = match all.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let what = words_of(&all);
        line(&format!(
            "wrong      {} tensors: {what}: {}{more}",
            all.len(),
            names.join(", ")
        ))?;
    }
    Ok(())
}

fn print_text(text: &TextComparison) -> Result<()> {
    line(&format!("prompt     {}", text.prompt))?;
    line(&format!("text       {}", text.in_words()))?;
    line(&format!(
        "           {} on average are allowed; without the adapter it would be {}",
        nats(LARGEST_KL),
        nats(text.without_adapter.mean_kl)
    ))
}

/// In a sentence, what's wrong.
fn conclusion(found: &Audit, checkpoint: &str) -> String {
    let kinds = by_kind(found.wrong());
    let adapted: Vec<&Finding> = found
        .tensors
        .iter()
        .filter(|finding| finding.adapted)
        .collect();
    match kinds.as_slice() {
        [] => format!(
            "all tensors of `{checkpoint}` are right, and its predictions aren't: compare its `config.json` with the base's"
        ),
        [(_, all)] if all.len() == adapted.len() && all.iter().all(|one| one.adapted) => {
            format!("in all tensors that it changes, {}", words_of(all))
        }
        _ => {
            let wrong = found.wrong().count();
            format!(
                "{wrong} of {} tensors of `{checkpoint}`",
                found.tensors.len()
            )
        }
    }
}

fn json(found: &Audit, text: Option<&TextComparison>, is_right: bool) -> Value {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for finding in &found.tensors {
        *counts.entry(key(finding.verdict)).or_default() += 1;
    }
    json!({
        "right": is_right,
        "counts": counts,
        "lost_in_rounding": found.lost_in_rounding,
        "tensors": found.tensors,
        "text": text,
        "largest_mean_kl": LARGEST_KL,
    })
}
