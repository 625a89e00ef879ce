//! Folds an adapter into the weights that it changes, and writes only those, to
//! `overlay.safetensors`.
//!
//! Weights are widened to float32, merged, and rounded once to the requested dtype; for a quantized
//! model they're quantized after that. Each thread holds one module at a time, so memory is bounded
//! by threads × the largest changed tensor.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use rayon::prelude::*;

use super::PrepareError;
use super::export::Shared;
use super::repacked::{Used, codes_plans, found_codes, write_parts};
use crate::adapter::{Adapter, AdapterError, ModuleAdapter, Replacement};
use crate::arch::{Module, ModuleKind};
use crate::graph::{Parameter, Parameters};
use crate::model::BaseModel;
use crate::prepared::Precision;
use crate::quantize::stored::{CodesForm, Form, StoredWeight};
use crate::quantize::{Format, QuantizeError, QuantizedFile, joined_plans, write_matrix};
use crate::weights::{
    BytesPlan, SafetensorsFile, SafetensorsWriter, WeightsError, WriteTensorError,
};

/// A change that a merge makes.
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
        /// Its new value.
        replacement: &'a Replacement,
    },
}

/// Receives a merged parameter's name and its values, in row-major order.
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

    /// Computes the changed parameters and passes each to `take`.
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

/// All changes that merging `adapter` makes in `modules`, the modules of its architecture. The
/// largest come first, so that no thread is left with a large one at the end.
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
    let head = &adapter.spec.lm_head.path;
    // A router's own parameter has the router's path, and isn't what its adapter changes.
    let is_layer = |module: &&Module| !matches!(module.kind, ModuleKind::Parameter { .. });
    let adapted = modules
        .iter()
        .filter(is_layer)
        .filter(|module| !(head_follows && module.path == *head));
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
        let follows = head_follows && *name == format!("{head}.weight");
        if !merged.contains(name) && !follows {
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

/// The file of merged tensors.
pub const OVERLAY: &str = "overlay.safetensors";

/// Writes the overlay of `adapter` into `folder`; returns where each parameter of the merged model
/// is. `shared` has the base's quantized weights.
///
/// # Errors
/// If the adapter can't be merged, a result isn't finite, or the file can't be written.
pub fn merge(
    base: &BaseModel,
    adapter: &Adapter,
    precision: Precision,
    shared: Shared,
    folder: &Path,
) -> Result<Parameters, PrepareError> {
    let spec = &adapter.spec;
    let modules = spec.modules();
    let changes = changes(adapter, &modules)?;
    let mut weights: HashMap<String, (Option<Format>, bool)> = HashMap::new();
    for module in &modules {
        let quantization = precision.quantization;
        let format = quantization.and_then(|quantization| quantization.of(spec, module));
        let name = format!("{}.weight", module.path);
        weights.insert(name, (format, module.is_stored_in_out()));
    }
    let schemes = schemes(base, &modules, precision, shared);
    let mut merged = Vec::new();
    for (name, shape) in changes.iter().flat_map(Change::parameters) {
        let (format, in_out) = weights.get(&name).copied().unwrap_or_default();
        merged.push(Merged {
            scheme: schemes.get(&name).copied(),
            name,
            shape,
            format,
            in_out,
        });
    }
    let embedding = format!("{}.weight", spec.embed_tokens.path);
    let head = format!("{}.weight", spec.lm_head.path);
    // A tied head uses the merged embedding: the same tensor if both have the same format, else a
    // copy in the head's format.
    let followed = merged
        .iter()
        .find(|one| head_follows(adapter) && one.name == embedding);
    let (head_format, _) = weights.get(&head).copied().unwrap_or_default();
    let head_copy = followed
        .filter(|one| one.format != head_format)
        .map(|one| Merged {
            name: head.clone(),
            format: head_format,
            ..one.clone()
        });
    let follows = followed.is_some() && head_copy.is_none();
    merged.extend(head_copy.clone());
    // Before anything is merged, since this checks the shapes of the base's tensors.
    let mut parameters = shared.parameters(base, spec, precision, &|name| {
        adapter.replaced().contains_key(name)
    })?;
    let path = folder.join(OVERLAY);
    let plans: Vec<BytesPlan> = merged.iter().flat_map(|one| one.plans(precision)).collect();
    let writer = SafetensorsWriter::create_with(&path, &plans, &[])?;
    let by_name = merged.iter().map(|one| (one.name.as_str(), one));
    let by_name: BTreeMap<&str, &Merged> = by_name.collect();
    changes.par_iter().try_for_each(|change| {
        change.apply(base, adapter, &|name, values| {
            by_name
                .get(name)
                .expect("every merged parameter is planned")
                .write(&writer, values, precision)?;
            match &head_copy {
                Some(head) if name == embedding => head.write(&writer, values, precision),
                _ => Ok(()),
            }
        })
    })?;
    writer.finish()?;

    let overlay = QuantizedFile::of(SafetensorsFile::open(&path)?);
    for one in &merged {
        parameters.set(&one.name, one.find(&overlay, &path, shared)?);
    }
    if follows && let Some(location) = parameters.get(&embedding).cloned() {
        parameters.set(&head, location);
    }
    Ok(parameters)
}

/// The base's quantized weights in whose scheme merged ones are stored, by their parameter.
fn schemes<'a>(
    base: &BaseModel,
    modules: &[Module],
    precision: Precision,
    shared: Shared<'a>,
) -> HashMap<String, &'a Used> {
    let Some(repacked) = shared.repacked.filter(|_| precision.base.requantize) else {
        return HashMap::new();
    };
    let found = modules.iter().filter_map(|module| {
        let tensor = base.tensor(&module.tensor("weight")).ok()?;
        let used = repacked.get(tensor.name)?;
        let fits = module.matrix_size() == Some([used.weight.row_count(), used.weight.columns()]);
        fits.then(|| (format!("{}.weight", module.path), used))
    });
    found.collect()
}

/// A parameter in the overlay.
#[derive(Debug, Clone)]
struct Merged<'a> {
    name: String,
    shape: Vec<usize>,
    /// The base's weight, if this one is rounded to the scheme of its checkpoint.
    scheme: Option<&'a Used>,
    /// The format that it's quantized to, if it is.
    format: Option<Format>,
    /// Whether it's a weight stored as `[in_features, out_features]`.
    in_out: bool,
}

impl Merged<'_> {
    /// `[out_features, in_features]`
    fn size(&self) -> [usize; 2] {
        match self.in_out {
            true => [self.shape[1], self.shape[0]],
            false => [self.shape[0], self.shape[1]],
        }
    }

    fn plans(&self, precision: Precision) -> Vec<BytesPlan> {
        if let Some((_, form)) = self.codes() {
            return codes_plans(&self.name, form, self.size(), precision.compute);
        }
        match self.format {
            Some(format) => {
                let [rows, columns] = self.size();
                joined_plans(
                    &[(&self.name, format, rows, columns)],
                    precision.quantized_types().scales,
                )
            }
            None => vec![BytesPlan {
                name: self.name.clone(),
                stored: precision.dtype.to_safetensors(),
                shape: self.shape.clone(),
            }],
        }
    }

    /// Writes `values`, rounded to the planned dtype, or quantized a few rows at a time.
    fn write(
        &self,
        writer: &SafetensorsWriter,
        values: &[f32],
        precision: Precision,
    ) -> Result<(), WriteTensorError> {
        if let Some(Used { weight, form }) = self.scheme {
            let parts = weight.requantize(values);
            return match form {
                Form::Codes(form) => write_parts(writer, &self.name, weight, form, &parts),
                Form::Float { .. } => writer.write(&self.name, &weight.values(&parts)),
            };
        }
        let Some(format) = self.format else {
            return writer.write(&self.name, values);
        };
        let [rows, columns] = self.size();
        let transposed;
        let values = match self.in_out {
            true => {
                let stored = ndarray::ArrayView2::from_shape((columns, rows), values)
                    .expect("a merged weight has its shape");
                transposed = stored.t().iter().copied().collect::<Vec<f32>>();
                &transposed
            }
            false => values,
        };
        let types = precision.quantized_types();
        Ok(
            write_matrix(writer, &self.name, format, columns, values, types)
                .map_err(QuantizeError::into_weights)?,
        )
    }

    /// The base's weight and the layout of its codes, if this one has codes of its scheme.
    fn codes(&self) -> Option<(&StoredWeight, &CodesForm)> {
        match &self.scheme?.form {
            Form::Codes(form) => Some((&self.scheme?.weight, form)),
            Form::Float { .. } => None,
        }
    }

    /// Finds it in the overlay, the file `path`.
    fn find(
        &self,
        overlay: &QuantizedFile,
        path: &Path,
        shared: Shared,
    ) -> Result<Parameter, PrepareError> {
        if let Some((weight, form)) = self.codes() {
            let of_base = shared.repacked.and_then(|all| all.find(weight.name()));
            let order = match of_base {
                Some(Parameter::Quantized(found)) => found.order,
                _ => None,
            };
            return Ok(Parameter::Quantized(found_codes(
                overlay,
                &self.name,
                form,
                self.size(),
                order,
            )?));
        }
        if let Some(format) = self.format {
            let [rows, columns] = self.size();
            let weight = overlay.find(&self.name, format, rows, columns)?;
            return Ok(Parameter::Quantized(weight));
        }
        let tensor = overlay
            .tensor(&self.name)
            .ok_or_else(|| WeightsError::Missing {
                name: self.name.clone(),
                path: path.to_owned(),
            })?;
        Ok(Parameter::Stored(tensor.location()?))
    }
}
