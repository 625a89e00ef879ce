//! Compares somebody's merged checkpoint with base and adapter, tensor by tensor, without running
//! it.
//!
//! The adapter is merged here, in float32, and rounded once to the dtype of the checkpoint. A
//! tensor that's equal is right. Others are compared with what known mistakes would have made of it
//! ([`Verdict`]). Each tensor is judged by itself: one module that was left out of a merge doesn't
//! show in a mean over all.

mod changed;
mod fit;
mod grid;
mod levels;
mod merges;
mod pairing;
#[cfg(test)]
mod tests;
mod unchanged;
mod verdict;

use std::collections::BTreeSet;

use rayon::prelude::*;
use serde::Serialize;
use thiserror::Error;

pub use merges::Ingredients;
pub use verdict::Verdict;

use crate::adapter::AdapterError;
use crate::arch::Module;
use crate::model::BaseModel;
use crate::prepare::{Change, PrepareError, changes, head_follows};
use crate::weights::{Dtype, WeightsError};
use merges::Alternatives;
use pairing::Pairing;

/// Why a checkpoint can't be compared.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum AuditError {
    #[error(transparent)]
    Prepare(Box<PrepareError>),
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

impl From<PrepareError> for AuditError {
    fn from(error: PrepareError) -> Self {
        Self::Prepare(Box::new(error))
    }
}

/// What was found of one tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// Its name in the checkpoint; the base's where it's missing.
    pub tensor: String,
    /// Its dtype.
    pub dtype: Option<Dtype>,
    /// Whether the adapter changes it.
    pub adapted: bool,
    /// What it is.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// How it compares with the merge; `None` where it's equal, or can't be compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
}

/// How a tensor compares with what's expected.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figures {
    /// How much of the adapter's change is in it; 1 is right. `None` where it changes nothing.
    pub scale: Option<f64>,
    /// The difference, in units of the change's norm, or of the tensor's where nothing changes it.
    pub error: f64,
    /// The share of elements that are equal.
    pub equal_elements: f64,
    /// The largest difference, in units in the last place.
    pub worst_ulps: f64,
}

/// What was found of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Audit {
    /// Of each tensor, in the order of the model's modules.
    pub tensors: Vec<Finding>,
    /// Number of tensors whose change is lost in rounding, so that they're right, merged or not.
    pub lost_in_rounding: usize,
}

impl Audit {
    /// Findings of what's wrong.
    pub fn wrong(&self) -> impl Iterator<Item = &Finding> {
        self.tensors
            .iter()
            .filter(|finding| !finding.verdict.is_right())
    }

    /// Whether nothing is wrong.
    pub fn is_right(&self) -> bool {
        self.wrong().next().is_none()
    }
}

/// Compares the checkpoint `theirs` with the merge of `ingredients`.
///
/// # Errors
/// If the adapter can't be merged, or a tensor can't be read.
pub fn audit(ingredients: Ingredients, theirs: &BaseModel) -> Result<Audit, AuditError> {
    let Ingredients { base, adapter, .. } = ingredients;
    let spec = &adapter.spec;
    let modules = spec.modules();
    let changes = changes(adapter, &modules)?;
    let auditor = Auditor {
        ingredients,
        modules: &modules,
        pairing: Pairing::of(theirs),
        alternatives: Alternatives::of(ingredients),
        head_follows: head_follows(adapter),
    };
    let changed: BTreeSet<String> = changes
        .iter()
        .flat_map(Change::parameters)
        .map(|(name, _)| name)
        .collect();
    let of_changes = changes.par_iter().map(|change| auditor.changed(change));
    let mut found: Vec<Found> = of_changes
        .collect::<Result<Vec<Vec<Found>>, AuditError>>()?
        .concat();

    let mut expected = changed.clone();
    let mut unchanged = Vec::new();
    for module in &modules {
        for (name, shape) in module.parameters() {
            let place = format!("{}.{name}", module.path);
            let is_tied_head = spec.tied() && name == "weight" && module.path == spec.lm_head.path;
            let is_judged = !is_tied_head || auditor.head_is_apart(&changed);
            if !changed.contains(&place) && is_judged {
                unchanged.push((module, name, shape));
            }
            expected.insert(place);
        }
    }
    let of_unchanged = unchanged
        .par_iter()
        .map(|(module, name, shape)| auditor.unchanged(module, name, shape));
    found.extend(of_unchanged.collect::<Result<Vec<Found>, AuditError>>()?);

    let (others, lacking) = auditor.pairing.others(base, &expected);
    for (tensor, own) in others {
        found.push(match own {
            Some(own) => auditor.copied(&tensor, &own),
            None => Found::without_figures(tensor.name, tensor.dtype().ok(), false, Verdict::Extra),
        });
    }
    let missing = |name: &String| Found::without_figures(name, None, false, Verdict::Missing);
    found.extend(lacking.iter().map(missing));
    found.sort_by_key(|found| natural(&found.finding.tensor));
    Ok(Audit {
        lost_in_rounding: found.iter().filter(|found| found.lost).count(),
        tensors: found.into_iter().map(|found| found.finding).collect(),
    })
}

/// A name as words and numbers, so that layer 2 comes before layer 10.
fn natural(name: &str) -> Vec<(usize, String)> {
    let part = |part: &str| match part.parse() {
        Ok(number) => (number, String::new()),
        Err(_) => (usize::MAX, part.to_owned()),
    };
    name.split('.').map(part).collect()
}

/// A finding, and whether the expected change is lost in rounding.
#[derive(Debug, Clone)]
struct Found {
    finding: Finding,
    lost: bool,
}

impl Found {
    fn without_figures(name: &str, dtype: Option<Dtype>, adapted: bool, verdict: Verdict) -> Self {
        Self {
            finding: Finding {
                tensor: name.to_owned(),
                dtype,
                adapted,
                verdict,
                figures: None,
            },
            lost: false,
        }
    }
}

struct Auditor<'a> {
    ingredients: Ingredients<'a>,
    modules: &'a [Module],
    pairing: Pairing<'a>,
    alternatives: Alternatives<'a>,
    /// Whether a tied head shares the merged embedding.
    head_follows: bool,
}

impl Auditor<'_> {
    /// Whether a tied head needs a look of its own, where the adapter doesn't change it.
    fn head_is_apart(&self, changed: &BTreeSet<String>) -> bool {
        let embedding = format!("{}.weight", self.ingredients.adapter.spec.embed_tokens.path);
        match changed.contains(&embedding) {
            // Judged with the embedding, or it shall still be the base's.
            true => !self.head_follows,
            false => !self.pairing.is_tied(),
        }
    }
}
