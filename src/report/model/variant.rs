//! `generation_info.variants`: what was measured of each variant.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, IgnoredAny, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Category, Maybe, Memory, Metrics, Ordered, OverheadPct};
use crate::engine::{NotLowered, StepGraph};
use crate::measure::executed::ExecutedGraph;
use crate::prepared::GraphFacts;

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

/// By hand: serde's untagged enums keep all of a value before they look at it, and don't say which
/// key is wrong.
impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let first: Option<String> = map.next_key()?;
        if first.as_deref() == Some("absent") {
            let absent = map.next_value()?;
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Entry::Absent { absent });
        }
        let whole = MapAccessDeserializer::new(WithFirstKey { first, map });
        Ok(Entry::Measured(Box::new(Variant::deserialize(whole)?)))
    }
}

/// A map of which the first key was read already.
struct WithFirstKey<A> {
    first: Option<String>,
    map: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for WithFirstKey<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        match self.first.take() {
            Some(first) => seed.deserialize(first.into_deserializer()).map(Some),
            None => self.map.next_key_seed(seed),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
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
    /// What differs in its graph, if another program exported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graph: Option<GraphFacts>,
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
