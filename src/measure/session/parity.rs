//! The parity check before the measurement: do an experiment's variants compute the same?

use super::MeasurePlan;
use crate::measure::client::{Interrupt, WorkerClient, WorkerError, WorkerProcess};
use crate::measure::protocol::{ParityCheck, ParityPrompt, ParityRequest};
use crate::measure::record::PromptPlan;
use crate::measure::subject::Subject;
use crate::parity::Parity;
use crate::prepared::PreparedVariant;

/// Number of generated tokens to compare.
const PARITY_TOKENS: usize = 8;

/// Number of generated tokens to compare of graphs that other programs exported.
const EXPORTED_TOKENS: usize = 32;

impl MeasurePlan {
    /// Compares an experiment's variants on the shortest and on the longest prompt, each followed
    /// by the invocation tokens if the adapter needs them. It runs in its own process, so that it
    /// leaves nothing in the memory of the measured ones.
    ///
    /// # Errors
    /// If it's interrupted. Any other error is a failed check in the result.
    pub fn parity(
        &self,
        experiment: Option<&str>,
        interrupt: &Interrupt,
    ) -> Result<ParityCheck, WorkerError> {
        let start = |name: &str| WorkerClient::start(self.program.clone(), name, interrupt);
        self.parity_in(experiment, &start)
    }

    pub(super) fn parity_in<P: WorkerProcess>(
        &self,
        experiment: Option<&str>,
        start: &dyn Fn(&str) -> Result<P, WorkerError>,
    ) -> Result<ParityCheck, WorkerError> {
        let prompts = self.extreme_prompts();
        if prompts.is_empty() {
            return Ok(ParityCheck::default());
        }
        let plain = self
            .subjects
            .iter()
            .filter(|one| one.experiment.is_none() || one.experiment.as_deref() == experiment)
            .filter(|one| !matches!(one.subject, Subject::BaseAgain | Subject::UnmergedEmpty));
        let variants: Vec<PreparedVariant> = plain.map(|one| one.prepared.clone()).collect();
        let to_check = |prompt: &PromptPlan| {
            let all = variants.iter().map(|prepared| &prepared.manifest);
            let ids = all.fold(prompt.prompt_ids.clone(), |ids, one| one.invoking(&ids));
            let room = |prepared: &PreparedVariant| {
                let manifest = &prepared.manifest;
                let used = manifest.num_virtual_tokens() + ids.len();
                manifest.max_position_embeddings.saturating_sub(used)
            };
            let room = variants.iter().map(room).min().unwrap_or(0);
            let prompt = ParityPrompt {
                group: prompt.group,
                index: prompt.index,
                is_timed: ids == prompt.prompt_ids,
                ids,
                new_tokens: PARITY_TOKENS.min(room).max(1),
            };
            (prompt, room)
        };
        let mut prompts: Vec<(ParityPrompt, usize)> = prompts.into_iter().map(to_check).collect();
        // Invocation tokens may leave no room behind the longest prompt.
        let has_no_room = prompts.last().is_some_and(|(_, room)| *room == 0);
        if prompts.len() > 1 && has_no_room {
            prompts.pop();
        }
        let prompts = prompts.into_iter().map(|(prompt, _)| prompt).collect();
        self.compared(variants, prompts, None, start)
    }

    /// Compares a graph that's measured as it was exported with `reference`, which is called `name`,
    /// on the shortest prompt.
    ///
    /// # Errors
    /// As [`parity`](Self::parity).
    pub fn exported_parity(
        &self,
        name: &str,
        reference: &PreparedVariant,
        exported: &PreparedVariant,
        interrupt: &Interrupt,
    ) -> Result<ParityCheck, WorkerError> {
        let Some(prompt) = self.shortest_prompt() else {
            return Ok(ParityCheck::default());
        };
        let ids = reference.manifest.invoking(&prompt.prompt_ids);
        let room = [reference, exported].map(|side| {
            let used = side.manifest.num_virtual_tokens() + ids.len();
            side.manifest.max_position_embeddings.saturating_sub(used)
        });
        let prompt = ParityPrompt {
            group: prompt.group,
            index: prompt.index,
            is_timed: ids == prompt.prompt_ids,
            ids,
            new_tokens: EXPORTED_TOKENS.min(room[0]).min(room[1]).max(1),
        };
        let start = |name: &str| WorkerClient::start(self.program.clone(), name, interrupt);
        let variants = vec![reference.clone(), exported.clone()];
        self.compared(variants, vec![prompt], Some(name.to_owned()), &start)
    }

    /// Compares `variants` on `prompts`; with the name of a `reference`, the second variant with the
    /// first.
    fn compared<P: WorkerProcess>(
        &self,
        variants: Vec<PreparedVariant>,
        prompts: Vec<ParityPrompt>,
        reference: Option<String>,
        start: &dyn Fn(&str) -> Result<P, WorkerError>,
    ) -> Result<ParityCheck, WorkerError> {
        let checked = start("parity check").and_then(|mut worker| {
            worker.parity(ParityRequest {
                library: self.library.clone(),
                variants,
                options: self.options.clone(),
                prompts,
                reference,
            })
        });
        match checked {
            Err(WorkerError::Interrupted) => Err(WorkerError::Interrupted),
            Err(error) => Ok(ParityCheck {
                parity: Some(Parity::impossible(error.to_string())),
                ..ParityCheck::default()
            }),
            Ok(comparison) => Ok(comparison),
        }
    }
}
