//! `generation_info`: what was measured.

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::{
    BaseAgainstItself, Entry, Maybe, Metrics, Ordered, Overhead, Parity, Serving, Stage, Swap,
    Variant,
};
use crate::measure::break_even::BreakEven;
use crate::measure::drift::Drift;
use crate::measure::timed_tokens::TimedTokens;
use crate::report::peft;

/// What was measured. In the file, the keys that PEFT's suite knows come first; they repeat one of
/// the variants.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct GenerationInfo {
    /// Every variant, and those that don't exist.
    pub variants: Ordered<Entry>,
    /// Whether the variants compute the same; null where nothing was compared.
    #[serde(default)]
    pub parity: Maybe<Parity>,
    /// Whether timed runs generate what was checked.
    #[serde(default)]
    pub timed_tokens: Maybe<TimedTokens>,
    /// Whether the base's time rose or fell from round to round; null where that can't be told.
    #[serde(default)]
    pub drift: Maybe<Drift>,
    /// The base against itself, where that was asked for.
    #[serde(default)]
    pub aa: Maybe<BaseAgainstItself>,
    /// When merging has paid for itself.
    #[serde(default)]
    pub break_even: Maybe<BreakEven>,
    /// What came of swapping adapters, where that was asked for.
    #[serde(default)]
    pub swap: Option<Swap>,
    /// What serving costs, where that was asked for.
    #[serde(default)]
    pub serving: Option<Serving>,
    /// Whether the variants passed the parity check, and timed runs generate what was checked.
    #[serde(default)]
    pub timings_valid: Option<bool>,
    /// Batch sizes and prompts of given lengths, where there are several or that was asked for.
    #[serde(default)]
    pub sweep: Option<Vec<SweepEntry>>,
}

impl GenerationInfo {
    /// The variant of that name, if it was measured.
    pub fn measured(&self, name: &str) -> Option<&Variant> {
        self.variants.get(name)?.measured()
    }

    /// Names of the variants that were measured, and what was measured.
    pub fn all_measured(&self) -> impl Iterator<Item = (&str, &Variant)> {
        let all = self.variants.iter();
        all.filter_map(|(name, entry)| Some((name, entry.measured()?)))
    }
}

impl Serialize for GenerationInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(shown) = peft::shown(self) {
            map.serialize_entry("memory", &shown.memory)?;
            map.serialize_entry("by_category", &shown.by_category)?;
            map.serialize_entry("overall", &shown.overall)?;
        }
        map.serialize_entry("variants", &self.variants)?;
        if !self.parity.is_absent() {
            map.serialize_entry("parity", &self.parity)?;
        }
        if !self.timed_tokens.is_absent() {
            map.serialize_entry("timed_tokens", &self.timed_tokens)?;
        }
        if !self.drift.is_absent() {
            map.serialize_entry("drift", &self.drift)?;
        }
        if !self.aa.is_absent() {
            map.serialize_entry("aa", &self.aa)?;
        }
        if !self.break_even.is_absent() {
            map.serialize_entry("break_even", &self.break_even)?;
        }
        if let Some(swap) = &self.swap {
            map.serialize_entry("swap", swap)?;
        }
        if let Some(serving) = &self.serving {
            map.serialize_entry("serving", serving)?;
        }
        if let Some(valid) = &self.timings_valid {
            map.serialize_entry("timings_valid", valid)?;
        }
        if let Some(sweep) = &self.sweep {
            map.serialize_entry("sweep", sweep)?;
        }
        map.end()
    }
}

/// One batch size and one group of prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepEntry {
    /// Sequences that were generated at once.
    pub batch_size: usize,
    /// The prompts: a category, or `64 tokens`. Null where every variant failed before a generation
    /// ended.
    pub prompts: Option<String>,
    /// Tokens of the first prompt.
    pub prompt_tokens: Option<usize>,
    /// Every variant.
    pub variants: Ordered<SweepVariant>,
}

/// A variant with one batch size and one group of prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepVariant {
    /// Its figures; null where none was measured.
    pub metrics: Option<Metrics>,
    /// What it costs over the base; absent for the base, and without one.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub overhead_pct: Maybe<Overhead>,
    /// The memory of this stage.
    pub memory: Option<Stage>,
    /// Why it ended early.
    pub error: Option<String>,
}
