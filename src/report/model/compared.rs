//! What comes of comparing variants: overheads, the base against itself, parity, swaps.

use serde::{Deserialize, Serialize};

use super::{Maybe, Ordered};
use crate::measure::stats::{self, MIN_SAMPLES_TO_DETECT, p_of_zero};
use crate::measure::swap;
use crate::parity;

pub use crate::parity::{ExportedParity, Norm};

/// What a variant costs over the base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OverheadPct {
    /// Over all prompts.
    pub overall: Option<Overhead>,
    /// By category of prompts.
    pub by_category: Ordered<Option<Overhead>>,
}

/// A variant's additional time, with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Overhead {
    /// In percent of the base's `inference_time`.
    pub pct: f64,
    /// The bootstrap 95 % interval of `pct`; null where a category has a single pair.
    pub interval_pct: Option<[f64; 2]>,
    /// Pairs that it's taken from; for unpaired samples, the smaller side's count.
    pub pairs: usize,
    /// Pairs in the category with the fewest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fewest_pairs: Option<usize>,
    /// Whether base and variant were measured in turn.
    pub paired: bool,
    /// How often all processes were started anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<usize>,
    /// Whether the interval comes from drawing whole starts, and so covers what differs between
    /// them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covers_starts: Option<bool>,
    /// Whether the interval excludes 0, and each category has enough pairs.
    pub detected: bool,
}

impl Overhead {
    /// Whether a difference could be detected at all; of results from before `fewest_pairs`, that
    /// isn't known, and `detected` alone says what there is to say.
    pub fn enough(&self) -> bool {
        self.fewest_pairs
            .is_none_or(|fewest| fewest >= MIN_SAMPLES_TO_DETECT)
    }

    /// The probability of such an overhead if there were none, over `categories` categories of
    /// prompts; `None` where there are too few pairs to tell. Below 5 %, the
    /// overhead was detected.
    pub fn p_of_none(&self, categories: usize) -> Option<f64> {
        let ends = self.interval_pct.filter(|_| self.enough())?;
        let log = |pct: f64| (pct / 100.0).ln_1p();
        let degrees = match (self.starts, self.covers_starts) {
            (Some(starts), Some(true)) => starts.saturating_sub(1),
            _ => self.pairs.saturating_sub(categories),
        };
        Some(p_of_zero(log(self.pct), ends.map(log), degrees.max(1)))
    }

    /// Half of the interval's width, in percentage points.
    pub fn half_width(&self) -> Option<f64> {
        let [low, high] = self.interval_pct?;
        Some((high - low) / 2.0)
    }
}

impl From<stats::Overhead> for Overhead {
    fn from(found: stats::Overhead) -> Self {
        Self {
            pct: found.pct,
            interval_pct: found.interval_pct,
            pairs: found.pairs,
            fewest_pairs: Some(found.fewest_pairs),
            paired: found.paired,
            starts: Some(found.starts),
            covers_starts: Some(found.covers_starts),
            detected: found.detected,
        }
    }
}

/// The base against itself: what the machine alone makes of no difference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaseAgainstItself {
    /// The bootstrap 95 % interval.
    pub interval_pct: Option<[f64; 2]>,
    /// Whether zero is in it, as it should be.
    pub contains_zero: bool,
    /// Half of its width: smaller overheads can't be told from none.
    pub smallest_detectable_pct: Option<f64>,
    /// Pairs that it's taken from.
    pub pairs: usize,
}

/// Whether the variants compute the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parity {
    /// How differences are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<Norm>,
    /// The difference of merged and unmerged logits; null without both, or where it isn't finite.
    pub merged_vs_unmerged: Option<f64>,
    /// The most that `merged_vs_unmerged` may be.
    pub allowed: f64,
    /// Steps in which merged picks the token that unmerged picked.
    pub same_tokens: Option<usize>,
    /// Steps that were compared.
    pub of: usize,
    /// What the adapter changes: the difference of the adapter's logits and the base's.
    pub adapter_vs_base: Option<f64>,
    /// Tensors that the unmerged variant is given.
    pub adapter_tensors: Option<usize>,
    /// Whether nothing was found wrong.
    pub passed: bool,
    /// What was found wrong.
    pub failures: Vec<String>,
    /// What is remarkable, and not wrong.
    pub note: Option<String>,
    /// The same on the longest prompt; null where there was one prompt.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub longest: Maybe<ParityOnLongest>,
    /// How a graph that another program exported differs from its reference; `allowed`,
    /// `same_tokens` and `of` are then about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exported: Option<ExportedParity>,
}

/// Whether the variants compute the same on the longest prompt. What's wrong is in the failures of
/// [`Parity`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ParityOnLongest {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// The difference of merged and unmerged logits.
    pub merged_vs_unmerged: Option<f64>,
    /// Steps in which merged picks the token that unmerged picked.
    pub same_tokens: Option<usize>,
    /// Steps that were compared.
    pub of: usize,
    /// The difference of the adapter's logits and the base's.
    pub adapter_vs_base: Option<f64>,
}

impl From<&parity::OnLongest> for ParityOnLongest {
    fn from(found: &parity::OnLongest) -> Self {
        Self {
            prompt_tokens: found.prompt_tokens,
            merged_vs_unmerged: found.merged_vs_unmerged.map(f64::from),
            same_tokens: found.same_tokens,
            of: found.of,
            adapter_vs_base: found.adapter_vs_base.map(f64::from),
        }
    }
}

impl From<&parity::Parity> for Parity {
    fn from(found: &parity::Parity) -> Self {
        Self {
            norm: Some(found.norm),
            merged_vs_unmerged: found.merged_vs_unmerged.map(f64::from),
            allowed: f64::from(found.allowed),
            same_tokens: found.same_tokens,
            of: found.of,
            adapter_vs_base: found.adapter_vs_base.map(f64::from),
            adapter_tensors: found.adapter_tensors,
            passed: found.passed,
            failures: found.failures.clone(),
            note: found.note.clone(),
            longest: found.longest.as_ref().map(ParityOnLongest::from).into(),
            exported: found.exported.clone(),
        }
    }
}

/// What came of swapping adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Swap {
    /// The method has no adapter to swap.
    Absent {
        /// Why.
        absent: String,
    },
    /// It went wrong.
    Failed {
        /// How.
        error: String,
    },
    /// It was measured.
    Measured {
        /// Medians over all swaps; null without any.
        metrics: Option<SwapMetrics>,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Reading each adapter from its file, seconds.
        loads: Vec<f64>,
        /// Every swap.
        swaps: Vec<swap::Swap>,
    },
}

/// Medians over all swaps, in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SwapMetrics {
    /// Adapters in memory that take turns.
    pub adapters: usize,
    /// Bytes of one adapter's tensors.
    pub adapter_bytes: u64,
    /// Reading an adapter from its file into memory.
    pub load_seconds: f64,
    /// Binding an adapter that is in memory.
    pub swap_seconds: f64,
    /// The first token after a swap; the swap isn't in it.
    pub first_token_after: f64,
    /// The first token without a swap before it.
    pub first_token_without: f64,
    /// What the first token after a swap takes more than without.
    pub first_token_overhead: Option<Overhead>,
}

impl From<swap::SwapMetrics> for SwapMetrics {
    fn from(found: swap::SwapMetrics) -> Self {
        Self {
            adapters: found.adapters,
            adapter_bytes: found.adapter_bytes,
            load_seconds: found.load_seconds,
            swap_seconds: found.swap_seconds,
            first_token_after: found.first_token_after,
            first_token_without: found.first_token_without,
            first_token_overhead: found.first_token_overhead.map(Overhead::from),
        }
    }
}
