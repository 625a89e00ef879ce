//! Makes a plain LoRA adapter of another one: for each module, the best pair of a rank for its
//! change of the weight.
//!
//! The change is that of the merge, so DoRA's magnitudes, OFT's rotations or LoHa's products are
//! all in it. What isn't a change of a matrix is carried over where LoRA has a place for it, and
//! refused by name where it hasn't.

mod carried;
mod config;
mod pair;
mod rank;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use thiserror::Error;

pub use rank::Rank;

use crate::adapter::folder::{CONFIG, WEIGHTS};
use crate::adapter::{Adapter, AdapterError, BoundTensor};
use crate::arch::{Module, ModuleKind, last_name};
use crate::decomposition::DecompositionError;
use crate::files::{temporary_folder, write_file};
use crate::model::{BaseModel, TOKENIZER_FILES};
use crate::weights::{Dtype, SafetensorsWriter, TensorPlan, WeightsError, WriteTensorError};
use carried::{PREFIX, Plan, change_of, has_bias};
use config::{Pairs, config};
use pair::Pair;

/// Why an adapter can't be converted.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum ConvertError {
    #[error("there is no change of weights to convert: {reason}")]
    NoDelta { reason: String },
    #[error(
        "{peft_type} can't become LoRA: it changes no matrix of a linear layer or an embedding, only other parameters \
         (`{first}`)"
    )]
    NoMatrix { peft_type: String, first: String },
    #[error(
        "`{path}` can't be converted: its last name is also that of experts' weights, and PEFT's LoRA takes it for those"
    )]
    NamedAsExperts { path: String },
    #[error(
        "`{path}` belongs to experts or their router, whose pairs LoRA keeps by parameters (`target_parameters`); only \
         linear layers and embeddings are converted"
    )]
    Expert { path: String },
    #[error("{peft_type} changes `{name}`, which a LoRA adapter has no place for")]
    Parameter { name: String, peft_type: String },
    #[error(
        "the adapter adds a bias to `{path}`, and changes an embedding; LoRA (`lora_bias`) can't have both"
    )]
    BiasBesideEmbedding { path: String },
    #[error("the change of `{path}` can't be decomposed")]
    Decomposition {
        path: String,
        source: DecompositionError,
    },
    #[error("`{}` is there already; `--name` or `--into` takes another", .0.display())]
    Exists(PathBuf),
    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Tensor(#[from] WriteTensorError),
}

/// A module's pair, and what's lost of its change.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConvertedModule {
    /// Its path.
    pub module: String,
    /// The rank of the pair.
    pub rank: usize,
    /// The Frobenius norm of the change.
    pub norm: f64,
    /// The share of its squared singular values that's kept.
    pub energy_kept: f64,
    /// The norm of what's lost, relative to that of the change.
    pub relative_error: f64,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Conversion {
    /// The original's method.
    pub method: String,
    /// By module, in the order of the model.
    pub modules: Vec<ConvertedModule>,
    /// Other tensors that were carried over.
    pub carried: Vec<String>,
}

/// Writes `adapter`, which was loaded for `base`, to `folder` as a LoRA adapter of `rank`. The
/// tokenizer in `tokenizer` goes with it, if there's one. `base_name` is for an adapter that
/// doesn't name its base. `add` writes what else belongs into the folder, before it has its name.
///
/// # Errors
/// If LoRA can't hold the adapter, `folder` exists, or something can't be read or written.
pub fn to_lora(
    adapter: &Adapter,
    base: &BaseModel,
    rank: Rank,
    tokenizer: &Path,
    folder: &Path,
    base_name: &str,
    add: &dyn Fn(&Conversion, &Path) -> io::Result<()>,
) -> Result<Conversion, ConvertError> {
    if folder.symlink_metadata().is_ok() {
        return Err(ConvertError::Exists(folder.to_owned()));
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ConvertError::Write { path, source }
    };
    let base = adapter.base(base);
    let modules = adapter.spec.modules();
    let Plan {
        modules: planned,
        mut carried,
    } = Plan::of(adapter, base, &modules)?;
    let experts = modules.iter().filter(|module| is_routed(module));
    let of_experts: BTreeSet<&str> = experts.map(|module| last_name(&module.path)).collect();
    if let Some((module, _)) = planned
        .iter()
        .find(|(module, _)| of_experts.contains(last_name(&module.path)))
    {
        let path = module.path.clone();
        return Err(ConvertError::NamedAsExperts { path });
    }
    let converted = planned.par_iter().map(|(module, own)| {
        let (change, bias) = change_of(adapter, base, module, *own)?;
        let pair = change.approximated(rank);
        let pair = pair.map_err(|source| ConvertError::Decomposition {
            path: module.path.clone(),
            source,
        })?;
        Ok((*module, pair, bias))
    });
    let mut converted = converted.collect::<Result<Vec<(&Module, Pair, _)>, ConvertError>>()?;
    let order = |path: &str| modules.iter().position(|module| module.path == path);
    converted.sort_by_key(|(module, ..)| order(&module.path));

    let mut added = Vec::new();
    for (module, _, bias) in &converted {
        match bias {
            Some(bias) if has_bias(module) => {
                carried.biases.insert(module.path.clone(), bias.clone());
            }
            Some(_) => added.push(module.path.as_str()),
            None => {}
        }
    }
    let is_table = |module: &Module| matches!(module.kind, ModuleKind::Embedding { .. });
    if let Some(path) = added.first()
        && converted.iter().any(|(module, ..)| is_table(module))
    {
        return Err(ConvertError::BiasBesideEmbedding {
            path: (*path).to_owned(),
        });
    }

    let mut tensors: Vec<BoundTensor> = Vec::new();
    for (module, pair, bias) in &converted {
        let [a, b] = match is_table(module) {
            true => ["lora_embedding_A", "lora_embedding_B"],
            false => ["lora_A.weight", "lora_B.weight"],
        };
        for (name, matrix) in [(a, &pair.a), (b, &pair.b)] {
            tensors.push(BoundTensor {
                name: format!("{PREFIX}{}.{name}", module.path),
                shape: matrix.shape().to_vec(),
                values: matrix.iter().copied().collect(),
            });
        }
        if !added.is_empty() {
            let bias = bias.as_ref().filter(|_| !has_bias(module));
            let rows = pair.b.nrows();
            tensors.push(BoundTensor {
                name: format!("{PREFIX}{}.lora_B.bias", module.path),
                shape: vec![rows],
                values: bias.cloned().unwrap_or_else(|| vec![0.0; rows]),
            });
        }
    }
    let all_biases = !carried.biases.is_empty();
    if all_biases {
        let is_converted = |path: &str| converted.iter().any(|(module, ..)| module.path == path);
        for module in modules.iter().filter(|module| has_bias(module)) {
            let place = format!("{}.bias", module.path);
            if carried
                .tensors
                .iter()
                .any(|tensor| tensor.name == format!("{PREFIX}{place}"))
            {
                continue;
            }
            let values = match carried.biases.get(&module.path) {
                Some(values) => values.clone(),
                None => base.values_of(&module.tensor("bias"))?,
            };
            let infix = if is_converted(&module.path) {
                ".base_layer"
            } else {
                ""
            };
            carried.tensors.push(BoundTensor {
                name: format!("{PREFIX}{}{infix}.bias", module.path),
                shape: vec![values.len()],
                values,
            });
        }
    }
    let pairs = Pairs {
        ranks: converted
            .iter()
            .map(|(module, pair, _)| (*module, pair.a.nrows()))
            .collect(),
        kept: &carried.options,
        all_biases,
        added_biases: !added.is_empty(),
    };
    let config = config(adapter, &modules, &pairs, base_name);
    let carried_names = carried
        .tensors
        .iter()
        .map(|tensor| tensor.name.clone())
        .collect();
    tensors.extend(carried.tensors);

    let parent = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(failed(parent))?;
    let partial = temporary_folder::create(parent).map_err(failed(folder))?;
    let made = partial.path();
    write_file(&made.join(CONFIG), format!("{config:#}\n").as_bytes()).map_err(failed(folder))?;
    write_tensors(&made.join(WEIGHTS), &tensors)?;
    for name in TOKENIZER_FILES {
        let from = tokenizer.join(name);
        if from.is_file() {
            fs::copy(&from, made.join(name)).map_err(failed(&from))?;
        }
    }
    let of_module = |(module, pair, _): (&Module, Pair, _)| ConvertedModule {
        module: module.path.clone(),
        rank: pair.a.nrows(),
        norm: pair.norm,
        energy_kept: pair.energy,
        relative_error: pair.error,
    };
    let conversion = Conversion {
        method: adapter.peft_type.clone(),
        modules: converted.into_iter().map(of_module).collect(),
        carried: carried_names,
    };
    add(&conversion, made).map_err(failed(folder))?;
    temporary_folder::give_name(made, folder).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => ConvertError::Exists(folder.to_owned()),
        _ => failed(folder)(error),
    })?;
    Ok(conversion)
}

fn is_routed(module: &Module) -> bool {
    matches!(module.kind, ModuleKind::Routed { .. })
}

fn write_tensors(path: &Path, tensors: &[BoundTensor]) -> Result<(), ConvertError> {
    let plans: Vec<TensorPlan> = tensors
        .iter()
        .map(|tensor| TensorPlan {
            name: tensor.name.clone(),
            dtype: Dtype::Float32,
            shape: tensor.shape.clone(),
        })
        .collect();
    let writer = SafetensorsWriter::create(path, &plans)?;
    for tensor in tensors {
        writer.write(&tensor.name, &tensor.values)?;
    }
    Ok(writer.finish()?)
}
