//! Figures of prompts. Everything is a median over runs, in seconds; overheads come from pairs.

use serde::{Deserialize, Serialize};

use super::Maybe;
use crate::measure::roofline::Roofline;
use crate::measure::stats::Outliers;

/// The prompts of a category.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Category {
    /// Figures over all of them.
    pub metrics: Metrics,
    /// Each of them.
    pub samples: Vec<Sample>,
}

impl Category {
    /// The runs of `base` with those of this variant: of the same prompt, in the same round. What
    /// ended early has none of the later rounds.
    pub fn paired_runs<'a>(&'a self, base: &'a Self) -> impl Iterator<Item = (&'a Run, &'a Run)> {
        self.samples.iter().flat_map(|own| {
            let partner = base.samples.iter().find(|of| of.prompt == own.prompt);
            let runs = partner.into_iter().flat_map(|of| &of.individual_runs);
            runs.zip(&own.individual_runs)
        })
    }
}

/// Figures of one variant in one category, or over all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Median of a generation's whole time, seconds.
    pub inference_time: f64,
    /// Median of the time from the prompt to the first new token, seconds.
    pub time_to_first_token: f64,
    /// Equal to `time_to_first_token`: prefill gives the first token.
    pub prefill_time: f64,
    /// Median of all decode steps, seconds; null where one token is generated. A step makes one
    /// token of **every** sequence of the batch.
    pub decode_time_per_token: Option<f64>,
    /// `decode_time_per_token` over the batch's size: what each of the batch's tokens takes.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub decode_time_per_batch_token: Maybe<f64>,
    /// Sequences that are generated at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Median of `inference_time / generated_tokens`, seconds.
    pub time_per_token: f64,
    /// Tokens of one sequence; of several prompts, their mean.
    pub generated_tokens: f64,
    /// Energy of all generations over the tokens of all their sequences, joules; absent where the
    /// machine doesn't tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_per_token_joules: Option<f64>,
    /// Generations that the medians are over.
    pub runs: usize,
    /// Decode steps against the rate of memory; absent where that can't be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roofline: Option<Roofline>,
    /// The base's `inference_time`; absent where there's no base, and in sweeps.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub base_inference_time: Maybe<f64>,
    /// The overhead over the base, without its interval; absent for the base, and in sweeps.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub inference_overhead_pct: Maybe<f64>,
}

impl Metrics {
    /// What each of the batch's tokens takes. Results from before batches don't have the key.
    pub fn seconds_per_batch_token(&self) -> Option<f64> {
        match &self.decode_time_per_batch_token {
            Maybe::Absent => self.decode_time_per_token,
            stored => stored.value().copied(),
        }
    }
}

/// One prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Its number within the category.
    pub prompt: usize,
    /// Its tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<usize>,
    /// Median of a generation's whole time, seconds.
    pub inference_time: f64,
    /// Tokens of one sequence.
    pub generated_tokens: f64,
    /// Median of `inference_time / generated_tokens`, seconds.
    pub time_per_token: f64,
    /// Runs that are far from the others.
    pub outliers: Outliers,
    /// Every run.
    pub individual_runs: Vec<Run>,
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The start of all processes that it ran in, from 0; absent in files from before there were
    /// several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<usize>,
    /// Its whole time, seconds.
    pub inference_time: f64,
    /// Tokens of one sequence.
    pub generated_tokens: usize,
    /// `inference_time / generated_tokens`
    pub time_per_token: f64,
    /// From the prompt's token ids to the first new token's id, seconds.
    pub time_to_first_token: f64,
    /// The rate at which memory was read just before it, bytes a second.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub memory_bytes_per_second: Maybe<f64>,
    /// Each decode step, seconds.
    pub decode_steps: Vec<f64>,
}

impl Run {
    /// The start that it ran in. Before there were several, there was one.
    pub fn start(&self) -> usize {
        self.start.unwrap_or_default()
    }
}
