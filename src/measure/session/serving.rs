//! Measures what serving asks, each in a worker process of its own.

use super::MeasurePlan;
use crate::measure::client::{Interrupt, WorkerClient, WorkerError, WorkerProcess};
use crate::measure::record::PromptPlan;
use crate::measure::serving::cold::ColdTimes;
use crate::measure::serving::mixed::MixedTimes;
use crate::measure::serving::shared_prefix::SharedPrefixTimes;
use crate::measure::serving::{
    Asked, MixedPlan, PrefixPlan, Served, ServingRequest, ServingResult,
};
use crate::measure::subject::Subject;
use crate::prepared::{Manifest, PreparedVariant};

impl MeasurePlan {
    /// Lets batches with several adapters generate after the shortest prompt, in turn.
    ///
    /// # Errors
    /// If it's interrupted. Any other error is a [`ServingResult::Failed`].
    pub fn mixed(
        &self,
        unmerged: &PreparedVariant,
        mixed: MixedPlan,
        interrupt: &Interrupt,
    ) -> Result<ServingResult<MixedTimes>, WorkerError> {
        let start = |name: &str| WorkerClient::start(self.program.clone(), name, interrupt);
        let asked = Asked::Mixed(mixed);
        let take = |served| match served {
            Served::Mixed(times) => Some(times),
            _ => None,
        };
        self.served(unmerged, asked, &start, take, MixedTimes::add)
    }

    /// Starts the adapter of `unmerged` from its file, from the page cache and from memory, in turn.
    ///
    /// # Errors
    /// As [`mixed`](Self::mixed).
    pub fn cold(
        &self,
        unmerged: &PreparedVariant,
        other: PreparedVariant,
        interrupt: &Interrupt,
    ) -> Result<ServingResult<ColdTimes>, WorkerError> {
        let start = |name: &str| WorkerClient::start(self.program.clone(), name, interrupt);
        let take = |served| match served {
            Served::Cold(times) => Some(times),
            _ => None,
        };
        self.served(
            unmerged,
            Asked::Cold(Box::new(other)),
            &start,
            take,
            ColdTimes::add,
        )
    }

    /// Lets prompts with a common prefix start, computed as a whole and from the prefix's cache, in
    /// turn.
    ///
    /// # Errors
    /// As [`mixed`](Self::mixed).
    pub fn shared_prefix(
        &self,
        unmerged: &PreparedVariant,
        prefix: PrefixPlan,
        interrupt: &Interrupt,
    ) -> Result<ServingResult<SharedPrefixTimes>, WorkerError> {
        let start = |name: &str| WorkerClient::start(self.program.clone(), name, interrupt);
        let take = |served| match served {
            Served::SharedPrefix(times) => Some(times),
            _ => None,
        };
        let asked = Asked::SharedPrefix(prefix);
        self.served(unmerged, asked, &start, take, SharedPrefixTimes::add)
    }

    /// What comes of `asked`, from as many starts as are planned.
    pub(super) fn served<P: WorkerProcess, T>(
        &self,
        unmerged: &PreparedVariant,
        asked: Asked,
        start: &dyn Fn(&str) -> Result<P, WorkerError>,
        take: impl Fn(Served) -> Option<T>,
        add: impl Fn(&mut T, T, usize),
    ) -> Result<ServingResult<T>, WorkerError> {
        let request = match self.serving_request(unmerged, asked) {
            Ok(request) => request,
            Err(reason) => return Ok(ServingResult::Absent(reason)),
        };
        let mut all: Option<T> = None;
        for number in 0..self.starts.max(1) {
            let served = start("serving").and_then(|mut worker| worker.serve(request.clone()));
            let times = match served {
                Err(WorkerError::Interrupted) => return Err(WorkerError::Interrupted),
                Err(error) => return Ok(ServingResult::Failed(error.to_string())),
                Ok(served) => take(served),
            };
            let Some(times) = times else { break };
            match all.as_mut() {
                Some(all) => add(all, times, number),
                None => all = Some(times),
            }
        }
        Ok(match all {
            Some(times) => ServingResult::Measured(times),
            None => ServingResult::Failed("the worker measured something else".to_owned()),
        })
    }

    /// Whether the base is measured.
    pub fn has_base(&self) -> bool {
        self.subjects.iter().any(|one| one.subject == Subject::Base)
    }

    /// A request with the shortest prompt, followed by the adapter's invocation tokens if it has any
    /// and the prompt lacks them; else why there's none.
    fn serving_request(
        &self,
        unmerged: &PreparedVariant,
        asked: Asked,
    ) -> Result<ServingRequest, String> {
        let Some(prompt) = self.shortest_prompt() else {
            return Err("there is no prompt".to_owned());
        };
        let prompt_ids = unmerged.manifest.invoking(&prompt.prompt_ids);
        let new_tokens = new_tokens(&unmerged.manifest, &prompt_ids, prompt);
        let new_tokens = new_tokens.ok_or_else(|| {
            format!(
                "the shortest prompt and the invocation tokens leave no room for new tokens in {} positions",
                unmerged.manifest.max_position_embeddings
            )
        })?;
        let base = self
            .subjects
            .iter()
            .find(|one| one.subject == Subject::Base);
        Ok(ServingRequest {
            library: self.library.clone(),
            options: self.options.clone(),
            base: base.map(|one| one.prepared.clone()),
            unmerged: unmerged.clone(),
            prompt_ids,
            new_tokens,
            rounds: self.runs,
            seed: self.seed,
            asked,
        })
    }
}

/// How many tokens of `prompt` have room behind `ids`; `None` for none.
fn new_tokens(manifest: &Manifest, ids: &[u32], prompt: &PromptPlan) -> Option<usize> {
    let used = manifest.num_virtual_tokens() + ids.len();
    let room = manifest.max_position_embeddings.checked_sub(used)?;
    Some(prompt.new_tokens.min(room)).filter(|count| *count > 0)
}
