//! The raw records of a measurement. Every statistic in a result is computed from them.

use serde::{Deserialize, Serialize};

use super::memory::{MemoryRecord, StageMemory};
use super::prompt_group::PromptGroup;
use super::subject::Subject;
use super::timings::GenerationTimings;
use crate::engine::StepGraph;
use crate::prepared::{DecodeReads, GraphFacts, PreparedVariant};

/// A prompt to measure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptPlan {
    /// The group that it belongs to.
    pub group: PromptGroup,
    /// The prompt's number within its group, from 0.
    pub index: usize,
    /// The prompt's token ids.
    pub prompt_ids: Vec<u32>,
    /// Tokens to generate.
    pub new_tokens: usize,
}

/// One measured generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The prompt's group.
    pub group: PromptGroup,
    /// The prompt's number within its group.
    pub prompt: usize,
    /// Number of the prompt's tokens.
    pub prompt_tokens: usize,
    /// Number of the run, from 0. It's paired with the base's run of the same number and prompt.
    pub run: usize,
    /// Number of the start of the processes that it ran in, from 0.
    #[serde(default)]
    pub start: usize,
    /// The times of its tokens.
    pub timings: GenerationTimings,
    /// The tokens that it generated; of a batch, those of its first sequence.
    #[serde(default)]
    pub token_ids: Vec<u32>,
    /// Energy of the whole processor or the whole GPU during the run, in joules; `None` if the
    /// machine has no readable counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_joules: Option<f64>,
    /// Memory bandwidth just before this round, in bytes per second; `None` if it can't be
    /// measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_rate: Option<f64>,
}

/// Everything that was measured of one subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubjectRecord {
    /// The subject.
    pub variant: Subject,
    /// The experiment's name, if several are measured together; `None` for the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment: Option<String>,
    /// Seconds that merging and exporting took.
    pub prepare_seconds: f64,
    /// Seconds that laying out its own weights for this processor took; `None` if its sessions
    /// don't need that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lay_out_seconds: Option<f64>,
    /// What differs in its graph, if another program exported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graph: Option<GraphFacts>,
    /// The bytes that a decode step must read.
    pub reads: DecodeReads,
    /// Virtual tokens in front of each prompt.
    pub virtual_tokens: usize,
    /// Sequences generated at once.
    pub batch_size: usize,
    /// Seconds to open the session and allocate its cache, once the library is loaded; of several
    /// starts, their median.
    pub session_seconds: f64,
    /// How decode steps on a GPU are started; `None` unless a CUDA graph was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_graph: Option<StepGraph>,
    /// Number of warm-up generations; they aren't in `runs`.
    pub warmup_runs: usize,
    /// Measured generations, in the order they ran.
    pub runs: Vec<RunRecord>,
    /// Memory of each stage.
    pub stages: Vec<StageMemory>,
    /// The error that ended it early, if any.
    pub error: Option<String>,
}

impl SubjectRecord {
    /// A record without runs.
    pub fn new(
        variant: Subject,
        experiment: Option<String>,
        prepared: &PreparedVariant,
        batch_size: usize,
    ) -> Self {
        let manifest = &prepared.manifest;
        Self {
            variant,
            experiment,
            prepare_seconds: manifest.prepare_seconds,
            lay_out_seconds: manifest.lay_out_seconds,
            graph: manifest.foreign.as_ref().map(|graphs| graphs.facts.clone()),
            reads: manifest.reads,
            virtual_tokens: manifest.num_virtual_tokens(),
            batch_size,
            session_seconds: 0.0,
            step_graph: None,
            warmup_runs: 0,
            runs: Vec::new(),
            stages: Vec::new(),
            error: None,
        }
    }

    /// Adds the memory of a stage. If there's a stage of this name, the two become one with the
    /// higher of both peaks.
    pub fn add_stage(&mut self, mut stage: StageMemory) {
        let Some(earlier) = self.stages.iter_mut().find(|s| s.stage == stage.stage) else {
            self.stages.push(stage);
            return;
        };
        if stage.peak_rss_bytes < earlier.peak_rss_bytes {
            stage.peak_rss_bytes = earlier.peak_rss_bytes;
            stage.peak_rss_method = earlier.peak_rss_method;
        }
        stage.peak_anonymous_bytes = stage.peak_anonymous_bytes.max(earlier.peak_anonymous_bytes);
        let waits = stage.disk_waits.zip(earlier.disk_waits);
        stage.disk_waits = waits.map(|(later, earlier)| later + earlier);
        let accelerator = earlier.peak_accelerator_bytes;
        stage.peak_accelerator_bytes = stage.peak_accelerator_bytes.max(accelerator);
        *earlier = stage;
    }

    /// Memory peaks over the stages that are prompt groups: loading and warm-up are left out.
    pub fn generation_memory(&self) -> MemoryRecord {
        let during = |stage: &&StageMemory| PromptGroup::from_name(&stage.stage).is_some();
        MemoryRecord::of_stages(self.stages.iter().filter(during).cloned().collect())
    }

    /// The runs of a group.
    pub fn runs_of(&self, group: PromptGroup) -> impl Iterator<Item = &RunRecord> {
        self.runs.iter().filter(move |run| run.group == group)
    }

    /// The subject's name, after the experiment's if several are measured together.
    pub fn label(&self) -> String {
        label(self.experiment.as_deref(), self.variant)
    }
}

/// The name of `subject`, after the experiment's if there is one.
pub fn label(experiment: Option<&str>, subject: Subject) -> String {
    match experiment {
        // There's nothing else of such a folder.
        Some(experiment) if subject == Subject::Exported => experiment.to_owned(),
        Some(experiment) => format!("{experiment} {subject}"),
        None => subject.to_string(),
    }
}

/// A record of five runs of one short prompt. Each takes `factor` times (40 to 44 ms for the first
/// token, then three steps of 5 ms).
#[cfg(test)]
pub(crate) fn scripted(variant: Subject, factor: u32) -> SubjectRecord {
    let runs = (0..5)
        .map(|run| RunRecord {
            group: PromptGroup::Category(crate::prompts::Category::Short),
            prompt: 0,
            prompt_tokens: 10,
            run,
            start: 0,
            timings: GenerationTimings {
                time_to_first_token: std::time::Duration::from_millis(40 + u64::from(run as u32))
                    * factor,
                decode_steps: vec![std::time::Duration::from_millis(5) * factor; 3],
            },
            token_ids: vec![7, 8, 9, 6],
            energy_joules: None,
            memory_rate: None,
        })
        .collect();
    let prepared = crate::prepared::stand_in(crate::prepared::Variant::Base);
    SubjectRecord {
        warmup_runs: 1,
        runs,
        ..SubjectRecord::new(variant, None, &prepared, 1)
    }
}
