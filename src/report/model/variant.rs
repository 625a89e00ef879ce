//! `generation_info.variants`: what was measured of each variant.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::Value;

use super::{Category, Maybe, Memory, Metrics, Ordered, OverheadPct};
use crate::engine::{NotLowered, StepGraph};
use crate::measure::executed::ExecutedGraph;

/// A variant that was measured, or that doesn't exist.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Entry {
    /// It doesn't exist.
    Absent {
        /// Why.
        absent: String,
    },
    /// It was measured.
    Measured(Box<Variant>),
}

impl Entry {
    /// What was measured, if anything was.
    pub fn measured(&self) -> Option<&Variant> {
        match self {
            Self::Measured(variant) => Some(variant),
            Self::Absent { .. } => None,
        }
    }

    /// Why it doesn't exist, if it doesn't.
    pub fn absent(&self) -> Option<&str> {
        match self {
            Self::Absent { absent } => Some(absent),
            Self::Measured(_) => None,
        }
    }
}

/// By hand, since serde's untagged enums don't tell which key is wrong.
impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if let Some(absent) = value.get("absent").and_then(Value::as_str) {
            let absent = absent.to_owned();
            return Ok(Self::Absent { absent });
        }
        match serde_path_to_error::deserialize(value) {
            Ok(variant) => Ok(Self::Measured(Box::new(variant))),
            Err(error) => Err(D::Error::custom(format!(
                "at `{}`: {}",
                error.path(),
                error.inner()
            ))),
        }
    }
}

/// What was measured of a variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Memory of its process.
    pub memory: Memory,
    /// Figures by category of prompts.
    pub by_category: Ordered<Category>,
    /// Figures over all prompts; null where none was measured.
    pub overall: Option<Metrics>,
    /// What it costs over the base; absent for the base, and without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overhead_pct: Option<OverheadPct>,
    /// `cpu`, or `cuda:` and the device's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Nodes that ran, by session (`prompt`, `step`).
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub executed: Maybe<BTreeMap<String, ExecutedGraph>>,
    /// Parts that run as prepared although a faster form exists; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_lowered: Option<Vec<NotLowered>>,
    /// Merging and exporting, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepare_seconds: Option<f64>,
    /// Laying out its own weights after that, seconds; null where its sessions do without.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub lay_out_seconds: Maybe<f64>,
    /// From the loaded library to the session with its cache, seconds.
    pub session_seconds: f64,
    /// How decode steps on a GPU are started, where a CUDA graph was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda_graph: Option<StepGraph>,
    /// Generations before those that count.
    pub warmup_runs: usize,
    /// Why it ended early.
    pub error: Option<String>,
}

impl Variant {
    /// Every prompt that was measured.
    pub fn samples(&self) -> impl Iterator<Item = &super::Sample> {
        let categories = self.by_category.values();
        categories.flat_map(|category| &category.samples)
    }

    /// The overhead over all prompts.
    pub fn overall_overhead(&self) -> Option<&super::Overhead> {
        self.overhead_pct.as_ref()?.overall.as_ref()
    }
}
