//! Folds an adapter into the weights that it touches: `overlay.safetensors`, those tensors and no others.
//!
//! Weights are widened to float32, merged, and rounded once to the dtype asked for. Each thread holds
//! one module at a time, so memory is bounded by threads × the largest touched tensor.

use std::path::Path;

use rayon::prelude::*;

use super::PrepareError;
use crate::adapter::{Adapter, AdapterError, ModuleAdapter, Replacement};
use crate::arch::{Module, ModuleKind};
use crate::graph::{Parameter, Parameters};
use crate::model::BaseModel;
use crate::weights::{
    Dtype, SafetensorsFile, SafetensorsWriter, TensorPlan, WeightsError, WriteTensorError,
};

/// Something that merging changes.
#[derive(Debug)]
pub enum Change<'a> {
    /// A module with its adapter.
    Module {
        /// The module.
        module: &'a Module,
        /// Its adapter.
        adapter: &'a dyn ModuleAdapter,
    },
    /// One replaced parameter.
    Parameter {
        /// Its name.
        name: &'a str,
        /// What it's replaced by.
        replacement: &'a Replacement,
    },
}

/// Takes a merged parameter's name and its values, in row-major order.
pub type Take<'a> = &'a dyn Fn(&str, &[f32]) -> Result<(), WriteTensorError>;

impl Change<'_> {
    /// Names and shapes of the parameters that change.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        match self {
            Self::Module { module, adapter } => {
                let shape = module.parameters().swap_remove(0).1;
                let rows = match module.kind {
                    ModuleKind::Linear { out_features, .. } => out_features,
                    _ => shape[0],
                };
                let mut all = vec![(format!("{}.weight", module.path), shape)];
                if merges_bias(module, *adapter) {
                    all.push((format!("{}.bias", module.path), vec![rows]));
                }
                all
            }
            Self::Parameter { name, replacement } => {
                vec![((*name).to_owned(), replacement.shape.clone())]
            }
        }
    }

    /// Works out the parameters that change, and hands each to `take`.
    ///
    /// # Errors
    /// If tensors can't be read or used, or `take` fails.
    pub fn apply(&self, base: &BaseModel, all: &Adapter, take: Take) -> Result<(), AdapterError> {
        match self {
            Self::Module { module, adapter } => {
                let mut merged = all.read_module(base, module)?;
                adapter.merge_into(&mut merged)?;
                if module.is_stored_in_out() {
                    merged.weight.swap_axes(0, 1);
                }
                let weight = merged.weight.as_standard_layout();
                let values = weight.as_slice().expect("standard layout is contiguous");
                take(&format!("{}.weight", module.path), values)?;
                if let (true, Some(bias)) = (merges_bias(module, *adapter), &merged.bias) {
                    take(&format!("{}.bias", module.path), &bias.to_vec())?;
                }
                Ok(())
            }
            Self::Parameter { name, replacement } => {
                Ok(take(name, &all.replacement_values(base, replacement)?)?)
            }
        }
    }
}

fn merges_bias(module: &Module, adapter: &dyn ModuleAdapter) -> bool {
    let has_bias = matches!(module.kind, ModuleKind::Linear { bias: true, .. });
    adapter.form().merges_bias(has_bias)
}

/// Whether the head of a tied model shares the merged embedding.
pub fn head_follows(adapter: &Adapter) -> bool {
    adapter.spec.tied() && adapter.keeps_tie()
}

/// Everything that merging `adapter` changes in `modules`, its architecture's. The largest come first,
/// so that no thread is left with one at the end.
///
/// # Errors
/// If the adapter can't be merged.
pub fn changes<'a>(
    adapter: &'a Adapter,
    modules: &'a [Module],
) -> Result<Vec<Change<'a>>, PrepareError> {
    if let Some(reason) = adapter.merge_refusal() {
        return Err(PrepareError::NotMergeable { reason });
    }
    let head_follows = head_follows(adapter);
    let skipped = |path: &str| head_follows && path == adapter.spec.lm_head.path;

    let adapted = modules.iter().filter(|module| !skipped(&module.path));
    let mut all: Vec<Change> = adapted
        .filter_map(|module| {
            let adapter = adapter.module(&module.path)?;
            Some(Change::Module { module, adapter })
        })
        .collect();
    let merged: Vec<String> = all
        .iter()
        .flat_map(Change::parameters)
        .map(|(name, _)| name)
        .collect();
    for (name, replacement) in adapter.replaced() {
        let module = name.rsplit_once('.').map_or("", |(module, _)| module);
        if !merged.contains(name) && !skipped(module) {
            all.push(Change::Parameter { name, replacement });
        }
    }
    all.sort_by_cached_key(|change| {
        let elements = change
            .parameters()
            .swap_remove(0)
            .1
            .iter()
            .product::<usize>();
        std::cmp::Reverse(elements)
    });
    Ok(all)
}

/// The name of the merged tensors' file.
pub const OVERLAY: &str = "overlay.safetensors";

/// Writes the overlay of `adapter` into `folder`; returns where each parameter of the merged model is.
///
/// # Errors
/// If the adapter can't be merged, a result isn't finite, or the file can't be written.
pub fn merge(
    base: &BaseModel,
    adapter: &Adapter,
    dtype: Dtype,
    folder: &Path,
) -> Result<Parameters, PrepareError> {
    let spec = &adapter.spec;
    let modules = spec.modules();
    let changes = changes(adapter, &modules)?;
    let plans: Vec<TensorPlan> = changes
        .iter()
        .flat_map(Change::parameters)
        .map(|(name, shape)| TensorPlan { name, dtype, shape })
        .collect();
    // Before anything is merged, since this checks the shapes of the base's tensors.
    let mut parameters = Parameters::of_base(spec, &base.store)?;
    let path = folder.join(OVERLAY);
    let writer = SafetensorsWriter::create(&path, &plans)?;
    changes.par_iter().try_for_each(|change| {
        change.apply(base, adapter, &|name, values| writer.write(name, values))
    })?;
    writer.finish()?;

    let overlay = SafetensorsFile::open(&path)?;
    for plan in &plans {
        let tensor = overlay
            .get(&plan.name)
            .ok_or_else(|| WeightsError::Missing {
                name: plan.name.clone(),
                path: path.clone(),
            })?;
        parameters.set(&plan.name, Parameter::Stored(tensor.location()?));
    }
    if head_follows(adapter) {
        let embedding = format!("{}.weight", spec.embed_tokens.path);
        if let Some(location) = parameters.get(&embedding).cloned() {
            parameters.set(&format!("{}.weight", spec.lm_head.path), location);
        }
    }
    Ok(parameters)
}
