//! Folds an adapter into the weights that it touches: `overlay.safetensors`, those tensors and no others.
//!
//! Weights are widened to float32, merged, and rounded once to the dtype asked for. Each thread holds
//! one module at a time, so memory is bounded by threads × the largest touched tensor.

use std::path::Path;

use ndarray::{Array1, Array2};
use rayon::prelude::*;

use super::PrepareError;
use crate::adapter::{Adapter, AdapterError, ModuleWeights};
use crate::arch::{Module, ModuleKind};
use crate::graph::{Parameter, Parameters};
use crate::model::BaseModel;
use crate::weights::{Dtype, SafetensorsFile, SafetensorsWriter, TensorPlan, WeightsError};

/// Something that changes: a module with its adapter, or one replaced parameter.
enum Task<'a> {
    Module {
        module: &'a Module,
        bias: bool,
        elements: usize,
    },
    Parameter {
        name: &'a str,
        elements: usize,
    },
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
    if let Some(reason) = adapter.merge_refusal() {
        return Err(PrepareError::NotMergeable { reason });
    }
    let spec = &adapter.spec;
    let modules = spec.modules();
    let head_follows = spec.tied() && adapter.keeps_tie();
    let skipped = |path: &str| head_follows && path == spec.lm_head.path;

    let mut plans = Vec::new();
    let mut tasks = Vec::new();
    for module in &modules {
        let Some(changes) = adapter.module(&module.path).filter(|_| !skipped(&module.path)) else {
            continue;
        };
        let shape = module.parameters().swap_remove(0).1;
        let rows = shape[0];
        let bias = changes.merges_bias();
        let elements = shape.iter().product();
        plans.push(plan(&format!("{}.weight", module.path), dtype, shape));
        if bias {
            plans.push(plan(&format!("{}.bias", module.path), dtype, vec![rows]));
        }
        tasks.push(Task::Module {
            module,
            bias,
            elements,
        });
    }
    for (name, replacement) in adapter.replaced() {
        let module = name.rsplit_once('.').map_or("", |(module, _)| module);
        let planned = plans.iter().any(|plan| plan.name == *name);
        if planned || skipped(module) {
            continue;
        }
        plans.push(plan(name, dtype, replacement.shape.clone()));
        tasks.push(Task::Parameter {
            name,
            elements: replacement.len(),
        });
    }
    // The largest first, so that no thread is left with one at the end.
    tasks.sort_by_key(|task| match task {
        Task::Module { elements, .. } | Task::Parameter { elements, .. } => {
            std::cmp::Reverse(*elements)
        }
    });

    let path = folder.join(OVERLAY);
    let writer = SafetensorsWriter::create(&path, &plans)?;
    tasks.par_iter().try_for_each(|task| match task {
        Task::Module { module, bias, .. } => merge_module(base, adapter, &writer, module, *bias),
        Task::Parameter { name, .. } => {
            let replacement = &adapter.replaced()[*name];
            let values = adapter.replacement_values(base, replacement)?;
            writer.write(name, &values)?;
            Ok(())
        }
    })?;
    writer.finish()?;

    let mut parameters = Parameters::of_base(spec, &base.store)?;
    let overlay = SafetensorsFile::open(&path)?;
    for plan in &plans {
        let tensor = overlay.get(&plan.name).ok_or_else(|| WeightsError::Missing {
            name: plan.name.clone(),
            path: path.clone(),
        })?;
        parameters.set(&plan.name, Parameter::Stored(tensor.location()?));
    }
    if head_follows {
        let embedding = format!("{}.weight", spec.embed_tokens.path);
        if let Some(location) = parameters.get(&embedding).cloned() {
            parameters.set(&format!("{}.weight", spec.lm_head.path), location);
        }
    }
    Ok(parameters)
}

fn plan(name: &str, dtype: Dtype, shape: Vec<usize>) -> TensorPlan {
    TensorPlan {
        name: name.to_owned(),
        dtype,
        shape,
    }
}

fn merge_module(
    base: &BaseModel,
    adapter: &Adapter,
    writer: &SafetensorsWriter,
    module: &Module,
    bias: bool,
) -> Result<(), AdapterError> {
    let weight = format!("{}.weight", module.path);
    let values = match adapter.replaced().get(&weight) {
        Some(replacement) => adapter.replacement_values(base, replacement)?,
        None => base.tensor(&format!("{}.weight", module.source))?.to_f32()?,
    };
    let shape = module.parameters().swap_remove(0).1;
    let matrix = Array2::from_shape_vec((shape[0], shape[1]), values)
        .expect("shapes were checked when the model was opened");
    let mut weights = ModuleWeights {
        weight: matrix,
        bias: match bias {
            true => read_bias(base, adapter, module)?,
            false => None,
        },
    };
    adapter
        .module(&module.path)
        .expect("a task is made for adapted modules")
        .merge_into(&mut weights)?;
    let merged = weights.weight.as_standard_layout();
    writer.write(
        &weight,
        merged.as_slice().expect("standard layout is contiguous"),
    )?;
    if let (true, Some(merged)) = (bias, &weights.bias) {
        writer.write(&format!("{}.bias", module.path), &merged.to_vec())?;
    }
    Ok(())
}

/// The bias that the adapter starts from: a replaced one, or the base's, if it has one.
fn read_bias(
    base: &BaseModel,
    adapter: &Adapter,
    module: &Module,
) -> Result<Option<Array1<f32>>, AdapterError> {
    if let Some(replacement) = adapter.replaced().get(&format!("{}.bias", module.path)) {
        return Ok(Some(adapter.replacement_values(base, replacement)?.into()));
    }
    match module.kind {
        ModuleKind::Linear { bias: true, .. } => {
            let tensor = base.tensor(&format!("{}.bias", module.source))?;
            Ok(Some(tensor.to_f32()?.into()))
        }
        _ => Ok(None),
    }
}

