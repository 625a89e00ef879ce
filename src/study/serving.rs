//! What serving costs: several adapters in one batch, cold adapters, shared prefixes.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::StudyError;
use super::case::PreparedCase;
use super::observer::Event;
use super::trial_run::TrialRun;
use crate::measure::client::WorkerError;
use crate::measure::serving::cold::ColdTimes;
use crate::measure::serving::mixed::{MixedForm, MixedTimes};
use crate::measure::serving::shared_prefix::{CacheOf, SharedPrefixTimes};
use crate::measure::serving::{MixedPlan, PrefixPlan, PromptsOfPrefix, Serving, ServingResult};
use crate::measure::session::MeasurePlan;
use crate::measure::sweep::synthesised;
use crate::onnxruntime::Provider;
use crate::prepare::{different_adapters, not_mixable, not_swappable};
use crate::prepared::{PreparedVariant, PromptKind};

/// What of serving is measured as well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServingChoice {
    /// Several adapters in one batch.
    pub mixed: Option<MixedChoice>,
    /// Whether an adapter is started from its file.
    pub cold: bool,
    /// Tokens of prefixes that prompts have in common; empty if they aren't measured.
    pub prefixes: Vec<usize>,
}

/// Several adapters in one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MixedChoice {
    /// The most adapters in a batch.
    pub adapters: usize,
    /// How rows with different adapters are run.
    pub forms: Vec<MixedForm>,
}

impl ServingChoice {
    /// As it's written in results; `None` if nothing was asked for.
    pub fn written(&self) -> Option<Value> {
        let mixed = self.mixed.as_ref().map(|mixed| {
            let forms: Vec<&str> = mixed.forms.iter().map(|form| form.name()).collect();
            json!({ "adapters": mixed.adapters, "forms": forms })
        });
        let mut written = Map::new();
        written.extend(mixed.map(|mixed| ("mixed".to_owned(), mixed)));
        if self.cold {
            written.insert("cold_start".to_owned(), Value::Bool(true));
        }
        if !self.prefixes.is_empty() {
            written.insert("shared_prefix".to_owned(), json!(self.prefixes));
        }
        self.any().then_some(Value::Object(written))
    }

    /// Whether anything was asked for.
    pub fn any(&self) -> bool {
        self.mixed.is_some() || self.cold || !self.prefixes.is_empty()
    }
}

const NO_UNMERGED: &str = "there is no unmerged variant";

/// The adapters of a mixed batch.
struct Mix {
    others: Vec<PreparedVariant>,
    names: Vec<String>,
}

impl TrialRun<'_> {
    /// Measures what serving asks of each case.
    pub(super) fn serving(
        &self,
        plan: &MeasurePlan,
    ) -> Result<Result<Vec<Serving>, WorkerError>, StudyError> {
        let choice = &self.files.study.serving;
        let mut all = vec![Serving::default(); self.cases.len()];
        if let Some(mixed) = &choice.mixed {
            for (index, serving) in all.iter_mut().enumerate() {
                match self.mixed(plan, mixed, index)? {
                    Ok(found) => serving.mixed = Some(found),
                    Err(interrupted) => return Ok(Err(interrupted)),
                }
            }
        }
        for (case, serving) in self.cases.iter().zip(&mut all) {
            if choice.cold {
                match self.cold(plan, case)? {
                    Ok(found) => serving.cold = Some(found),
                    Err(interrupted) => return Ok(Err(interrupted)),
                }
            }
            if !choice.prefixes.is_empty() {
                match self.shared_prefix(plan, &choice.prefixes, case) {
                    Ok(found) => serving.shared_prefix = Some(found),
                    Err(interrupted) => return Ok(Err(interrupted)),
                }
            }
        }
        Ok(Ok(all))
    }

    fn mixed(
        &self,
        plan: &MeasurePlan,
        choice: &MixedChoice,
        index: usize,
    ) -> Result<Result<ServingResult<MixedTimes>, WorkerError>, StudyError> {
        let absent = |reason: String| Ok(Ok(ServingResult::Absent(reason)));
        let case = &self.cases[index];
        let Some(unmerged) = case.unmerged() else {
            return absent(NO_UNMERGED.to_owned());
        };
        if let Some(reason) = not_mixable(unmerged) {
            return absent(reason.to_owned());
        }
        if let Some(first) = self.cases[..index].iter().find(|other| fit(other, case)) {
            return absent(format!(
                "its adapter is in the batches of `{}`, whose result has the figures",
                first.label
            ));
        }
        self.files.setup.tell(Event::Mixing {
            adapters: choice.adapters,
        });
        let folder = tempfile::tempdir().map_err(StudyError::TemporaryFolder)?;
        let mix = self.mix(plan, choice.adapters, index, unmerged, folder.path())?;
        let mixed = MixedPlan {
            others: mix.others,
            names: mix.names,
            rows: plan.options.batch_size.max(choice.adapters),
            forms: choice.forms.clone(),
        };
        Ok(plan.mixed(unmerged, mixed, &self.files.study.interrupt))
    }

    /// The adapters of the case with this index and of those after it that fit it, then copies with
    /// other values, `count` in all.
    fn mix(
        &self,
        plan: &MeasurePlan,
        count: usize,
        index: usize,
        unmerged: &PreparedVariant,
        folder: &Path,
    ) -> Result<Mix, StudyError> {
        let case = &self.cases[index];
        let others = self.cases[index + 1..]
            .iter()
            .filter(|other| fit(case, other));
        let given: Vec<&PreparedCase> = others.take(count - 1).collect();
        let drawn = count - 1 - given.len();
        let mut mix = Mix {
            others: given
                .iter()
                .filter_map(|one| one.unmerged().cloned())
                .collect(),
            names: std::iter::once(case)
                .chain(given.iter().copied())
                .map(|one| one.stem.clone())
                .collect(),
        };
        mix.others
            .extend(different_adapters(unmerged, drawn, plan.seed, folder)?);
        for number in 1..=drawn {
            mix.names
                .push(format!("{}, other values {number}", case.stem));
        }
        Ok(mix)
    }
}

/// Prompts that have a prefix in common.
const PROMPTS: usize = 4;

impl TrialRun<'_> {
    /// Starts the adapter of `case` from its file.
    fn cold(
        &self,
        plan: &MeasurePlan,
        case: &PreparedCase,
    ) -> Result<Result<ServingResult<ColdTimes>, WorkerError>, StudyError> {
        let absent = |reason: &str| Ok(Ok(ServingResult::Absent(reason.to_owned())));
        let Some(unmerged) = case.unmerged() else {
            return absent(NO_UNMERGED);
        };
        if let Some(reason) = not_swappable(unmerged).or_else(|| not_mixable(unmerged)) {
            return absent(reason);
        }
        self.files.setup.tell(Event::ColdStarts);
        let folder = tempfile::tempdir().map_err(StudyError::TemporaryFolder)?;
        let mut other = different_adapters(unmerged, 1, plan.seed, folder.path())?;
        Ok(plan.cold(unmerged, other.remove(0), &self.files.study.interrupt))
    }

    /// Lets prompts of `case` start that have prefixes of `lengths` tokens in common.
    fn shared_prefix(
        &self,
        plan: &MeasurePlan,
        lengths: &[usize],
        case: &PreparedCase,
    ) -> Result<ServingResult<SharedPrefixTimes>, WorkerError> {
        let Some(unmerged) = case.unmerged() else {
            return Ok(ServingResult::Absent(NO_UNMERGED.to_owned()));
        };
        match prefix_plan(plan, unmerged, lengths) {
            Err(reason) => Ok(ServingResult::Absent(reason)),
            Ok(prefixes) => {
                self.files.setup.tell(Event::SharedPrefixes);
                plan.shared_prefix(unmerged, prefixes, &self.files.study.interrupt)
            }
        }
    }
}

/// Prompts with prefixes of these `lengths`; else why there are none.
fn prefix_plan(
    plan: &MeasurePlan,
    unmerged: &PreparedVariant,
    lengths: &[usize],
) -> Result<PrefixPlan, String> {
    let manifest = &unmerged.manifest;
    let Some(adapter) = &manifest.adapter else {
        return Err("there is no adapter".to_owned());
    };
    if plan.options.provider != Provider::Cpu {
        return Err(
            "a kept cache is copied in the processor's memory; `--ep cpu` measures it".to_owned(),
        );
    }
    if manifest.whole_prompts {
        return Err("a prompt's first tokens attend to its last ones, so a prefix by itself has another cache".to_owned());
    }
    if adapter.whole_calls {
        return Err(format!(
            "{} computes with all tokens of a call together, so a prefix by itself has another cache",
            adapter.peft_type
        ));
    }
    let texts: Vec<Vec<u32>> = plan
        .prompts
        .iter()
        .map(|one| one.prompt_ids.clone())
        .collect();
    let shortest = plan.prompts.iter().min_by_key(|one| one.prompt_ids.len());
    let Some(shortest) = shortest.filter(|shortest| !shortest.prompt_ids.is_empty()) else {
        return Err("there is no prompt with tokens".to_owned());
    };
    let invocation = adapter.invocation.clone().unwrap_or_default();
    let own = shortest.prompt_ids.len();
    let used = manifest.num_virtual_tokens() + own + invocation.len() + shortest.new_tokens;
    let room = manifest.max_position_embeddings.saturating_sub(used);
    // Beyond this length, all keys are computed differently, those of the prefix too.
    let same_keys = manifest
        .frequencies_change_beyond
        .map_or(usize::MAX, |last| last.saturating_sub(used));
    let mut lengths = lengths.to_vec();
    lengths.sort_unstable();
    let (fitting, left_out): (Vec<usize>, Vec<usize>) = lengths
        .into_iter()
        .partition(|length| *length <= room.min(same_keys));
    if fitting.is_empty() {
        return Err(format!(
            "no prefix fits: behind one, {used} positions are needed of the model's {}",
            manifest.max_position_embeddings
        ));
    }
    let of = |&length: &usize| {
        let ids = |count, samples| {
            let made = synthesised(&texts, count, samples, shortest.new_tokens);
            made.into_iter()
                .map(|one| one.prompt_ids)
                .collect::<Vec<_>>()
        };
        let prefix = ids(length, 1).concat();
        let base = ids(own, PROMPTS)
            .into_iter()
            .map(|own| [prefix.as_slice(), &own].concat());
        let base: Vec<Vec<u32>> = base.collect();
        PromptsOfPrefix {
            unmerged: base
                .iter()
                .map(|ids| [ids.as_slice(), &invocation].concat())
                .collect(),
            prefix,
            base,
        }
    };
    Ok(PrefixPlan {
        cache_of: match (&adapter.invocation, plan.has_base()) {
            (Some(_), true) => CacheOf::Base,
            _ => CacheOf::Adapter,
        },
        lengths: fitting.iter().map(of).collect(),
        left_out,
    })
}

/// Whether the adapters of both can be bound to one graph: they have the same inputs.
fn fit(one: &PreparedCase, other: &PreparedCase) -> bool {
    let parts = |case: &PreparedCase| {
        let manifest = &case.unmerged()?.manifest;
        let adapter = manifest.adapter.as_ref()?;
        let mut inputs = adapter.inputs.clone();
        inputs.sort_unstable();
        let is_virtual = matches!(adapter.prompt, Some(PromptKind::VirtualTokens(_)));
        Some((
            inputs,
            adapter.adapter_form,
            is_virtual,
            adapter.invocation.is_some(),
            manifest.compute,
        ))
    };
    parts(one).is_some_and(|parts_of_one| parts(other) == Some(parts_of_one))
}
