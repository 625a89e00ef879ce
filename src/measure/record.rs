//! What was measured, raw: every statistic in a result is computed from these.

use serde::{Deserialize, Serialize};

use super::memory::{MemoryRecord, StageMemory};
use super::subject::Subject;
use super::timings::GenerationTimings;
use crate::prompts::Category;

/// A prompt that's measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptPlan {
    /// Its category.
    pub category: Category,
    /// Its number within the category.
    pub index: usize,
    /// Its token ids.
    pub prompt_ids: Vec<u32>,
    /// Tokens to generate.
    pub new_tokens: usize,
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Category of the prompt.
    pub category: Category,
    /// Number of the prompt within the category.
    pub prompt: usize,
    /// Number of the run; pairs with the same run of the base.
    pub run: usize,
    /// How long it took.
    pub timings: GenerationTimings,
    /// What it took, where the machine tells it: of the whole processor, or the whole GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_joules: Option<f64>,
}

/// Everything that was measured of one variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VariantRecord {
    /// Which variant, or what stands beside them.
    pub variant: Subject,
    /// From the loaded library to the session with its cache, in seconds.
    pub session_seconds: f64,
    /// Generations before those that count.
    pub warmup_runs: usize,
    /// Generations in the order they were made.
    pub runs: Vec<RunRecord>,
    /// Memory of each stage.
    pub stages: Vec<StageMemory>,
    /// Why it ended early.
    pub error: Option<String>,
}

impl VariantRecord {
    /// A record of nothing yet.
    pub fn new(variant: Subject) -> Self {
        Self {
            variant,
            session_seconds: 0.0,
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
        let during = |stage: &&StageMemory| Category::from_name(&stage.stage).is_some();
        MemoryRecord::of_stages(self.stages.iter().filter(during).cloned().collect())
    }

    /// The runs of a category.
    pub fn runs_of(&self, category: Category) -> impl Iterator<Item = &RunRecord> {
        self.runs.iter().filter(move |run| run.category == category)
    }
}

/// Five runs of the short prompt, all `factor` times as long as 40 to 44 ms and three steps of 5 ms.
#[cfg(test)]
pub(crate) fn scripted(variant: Subject, factor: u32) -> VariantRecord {
    let runs = (0..5)
        .map(|run| RunRecord {
            category: Category::Short,
            prompt: 0,
            run,
            timings: GenerationTimings {
                time_to_first_token: std::time::Duration::from_millis(40 + u64::from(run as u32))
                    * factor,
                decode_steps: vec![std::time::Duration::from_millis(5) * factor; 3],
            },
            energy_joules: None,
        })
        .collect();
    VariantRecord {
        warmup_runs: 1,
        runs,
        ..VariantRecord::new(variant)
    }
}
