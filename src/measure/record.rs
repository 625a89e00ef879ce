//! What was measured, raw: every statistic in a result is computed from these.

use serde::{Deserialize, Serialize};

use super::memory::{MemoryRecord, StageMemory};
use super::prompt_group::PromptGroup;
use super::subject::Subject;
use super::timings::GenerationTimings;
use crate::engine::StepGraph;
use crate::prepared::{DecodeReads, PreparedVariant};

/// A prompt that's measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptPlan {
    /// What it's measured with.
    pub group: PromptGroup,
    /// Its number within the group.
    pub index: usize,
    /// Its token ids.
    pub prompt_ids: Vec<u32>,
    /// Tokens to generate.
    pub new_tokens: usize,
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Group of the prompt.
    pub group: PromptGroup,
    /// Number of the prompt within the group.
    pub prompt: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Number of the run; pairs with the same run of the base.
    pub run: usize,
    /// How long it took.
    pub timings: GenerationTimings,
    /// What it took, where the machine tells it: of the whole processor, or the whole GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_joules: Option<f64>,
    /// The rate at which memory was read just before this round, in bytes a second; absent where it can't be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_rate: Option<f64>,
}

/// Everything that was measured of one variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubjectRecord {
    /// Which variant, or what stands beside them.
    pub variant: Subject,
    /// Its experiment, where several are measured together; the base belongs to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment: Option<String>,
    /// What merging and exporting took, in seconds.
    pub prepare_seconds: f64,
    /// What laying out its own weights took after that, in seconds; absent where its sessions do without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lay_out_seconds: Option<f64>,
    /// What a decode step must read.
    pub reads: DecodeReads,
    /// Tokens in front of each prompt.
    pub virtual_tokens: usize,
    /// Sequences that are generated at once.
    pub batch_size: usize,
    /// From the loaded library to the session with its cache, in seconds.
    pub session_seconds: f64,
    /// How decode steps on a GPU are started, where a CUDA graph was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_graph: Option<StepGraph>,
    /// Generations before those that count.
    pub warmup_runs: usize,
    /// Generations in the order they were made.
    pub runs: Vec<RunRecord>,
    /// Memory of each stage.
    pub stages: Vec<StageMemory>,
    /// Why it ended early.
    pub error: Option<String>,
}

impl SubjectRecord {
    /// A record of nothing yet.
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

    /// Adds the memory of a stage. A stage of the same name goes on: its peaks are the higher ones of both.
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
        let accelerator = earlier.peak_accelerator_bytes;
        stage.peak_accelerator_bytes = stage.peak_accelerator_bytes.max(accelerator);
        *earlier = stage;
    }

    /// The peaks over all stages in which tokens were generated.
    pub fn generation_memory(&self) -> MemoryRecord {
        let during = |stage: &&StageMemory| PromptGroup::from_name(&stage.stage).is_some();
        MemoryRecord::of_stages(self.stages.iter().filter(during).cloned().collect())
    }

    /// The runs of a group.
    pub fn runs_of(&self, group: PromptGroup) -> impl Iterator<Item = &RunRecord> {
        self.runs.iter().filter(move |run| run.group == group)
    }

    /// Its name, with its experiment's where several are measured together.
    pub fn label(&self) -> String {
        label(self.experiment.as_deref(), self.variant)
    }
}

/// A subject's name, with its experiment's where several are measured together.
pub fn label(experiment: Option<&str>, subject: Subject) -> String {
    match experiment {
        Some(experiment) => format!("{experiment} {subject}"),
        None => subject.to_string(),
    }
}

/// Five runs of the short prompt, all `factor` times as long as 40 to 44 ms and three steps of 5 ms.
#[cfg(test)]
pub(crate) fn scripted(variant: Subject, factor: u32) -> SubjectRecord {
    let runs = (0..5)
        .map(|run| RunRecord {
            group: PromptGroup::Category(crate::prompts::Category::Short),
            prompt: 0,
            prompt_tokens: 10,
            run,
            timings: GenerationTimings {
                time_to_first_token: std::time::Duration::from_millis(40 + u64::from(run as u32))
                    * factor,
                decode_steps: vec![std::time::Duration::from_millis(5) * factor; 3],
            },
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
