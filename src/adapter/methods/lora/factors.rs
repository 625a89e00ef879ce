//! `A` and `B` of a linear layer, as the variants store them.
//!
//! | variant | stored | used |
//! |---|---|---|
//! | BD-LoRA | the blocks of `A` or `B` | block-diagonal |
//! | QALoRA (over GPTQ) | `A`, `[r, in_features / group]` | each column for a group of inputs |
//! | KaSA | `A`, `B`, `lora_diag` `[r]` | `B`'s columns times the diagonal |
//! | MiCA | `A`, `B` | unchanged; `B` isn't trained |
//! | VeLoRA, MonteCLoRA | `A`, `B`, tensors for training | `A` and `B` unchanged |
//!
//! For weights other than GPTQ's, PEFT ignores `use_qalora`: the shape of `A` shows it.

use std::collections::BTreeMap;

use ndarray::{Array1, Array2};
use rayon::prelude::*;

use super::block_diagonal::{Side, block_diagonal};
use super::config::LoraConfig;
use super::init::{LoraInit, StoredShapes};
use super::residual::{FreshFactors, minor, orthogonal, principal};
use crate::adapter::toolbox::components::scaled_columns;
use crate::adapter::toolbox::tuner::{TargetEmbedding, TargetLinear, TargetModule, target_module};
use crate::adapter::{AdapterError, AdapterTensors, Init};
use crate::arch::Module;
use crate::json::JsonObject;
use crate::model::BaseModel;

/// The factors of one layer.
#[derive(Debug)]
pub struct Factors {
    /// `[r, in_features]`
    pub a: Array2<f32>,
    /// `[out_features, r]`
    pub b: Array2<f32>,
    /// The number of their parameters that PEFT trains.
    pub trainable: usize,
    /// The number of parameters that PEFT counts and doesn't train.
    pub frozen: usize,
}

/// Reads the factors of `layer`, unless they were `made` from its weight.
///
/// # Errors
/// If a tensor is missing or has another shape, or the rank is too large for the layer.
pub fn factors(
    lora: &LoraConfig,
    config: &JsonObject,
    tensors: &mut AdapterTensors,
    layer: &TargetLinear,
    r: usize,
    made: Option<FreshFactors>,
) -> Result<Factors, AdapterError> {
    check_rank(lora, config, layer, r)?;
    let keys = [layer.key("lora_A.weight"), layer.key("lora_B.weight")];
    let sizes = [r, layer.in_features, layer.out_features];
    let blocks = match &lora.blocks {
        Some(blocks) => blocks.of(config, layer.path(), sizes)?,
        None => None,
    };
    let group = pooled(lora, tensors, &keys[0], layer, r);
    let (a, b) = match made {
        Some(factors) => factors,
        None => lora.init.linear(
            tensors,
            keys.each_ref().map(String::as_str),
            stored(sizes, blocks, group),
        )?,
    };
    let mut factors = Factors {
        trainable: a.len() + b.len(),
        frozen: 0,
        a,
        b,
    };
    if lora.init == LoraInit::Mica {
        factors.frozen = factors.b.len();
        factors.trainable = factors.a.len();
    }
    match blocks {
        Some((Side::A, count)) => factors.a = block_diagonal(&factors.a, count),
        Some((Side::B, count)) => factors.b = block_diagonal(&factors.b, count),
        None => {}
    }
    if let Some(group) = group {
        factors.a = unpooled(&factors.a, group);
    }
    if lora.kasa {
        let diagonal: Array1<f32> =
            tensors.vector(&layer.key("lora_diag"), r, Init::Normal(1.0))?;
        factors.b = scaled_columns(&factors.b, &diagonal);
        factors.trainable += r;
    }
    factors.trainable += training_only(lora, tensors, layer, r)?;
    Ok(factors)
}

/// Checks the rank for variants that decompose the weight.
fn check_rank(
    lora: &LoraConfig,
    config: &JsonObject,
    layer: &TargetLinear,
    r: usize,
) -> Result<(), AdapterError> {
    let smaller = layer.in_features.min(layer.out_features);
    let largest = match lora.init {
        _ if lora.kasa => smaller - 1,
        LoraInit::Pissa | LoraInit::Olora | LoraInit::Mica => smaller,
        _ => return Ok(()),
    };
    at_most(config, layer.path(), r, largest)
}

/// Checks the rank of an embedding; only MiCA decomposes one.
///
/// # Errors
/// If the rank is too large for the table.
pub fn check_table_rank(
    lora: &LoraConfig,
    config: &JsonObject,
    table: &TargetEmbedding,
    r: usize,
) -> Result<(), AdapterError> {
    let largest = table.num_embeddings.min(table.embedding_dim);
    match lora.init {
        LoraInit::Mica => at_most(config, &table.module.path, r, largest),
        _ => Ok(()),
    }
}

fn at_most(config: &JsonObject, path: &str, r: usize, largest: usize) -> Result<(), AdapterError> {
    match r <= largest {
        true => Ok(()),
        false => {
            let expected = format!("at most {largest}, for `{path}` (it gets {r})");
            Err(config.wrong("r", &expected).into())
        }
    }
}

/// The stored shapes of `A` and `B`, and the distribution of a fresh `A`.
fn stored(
    [r, in_features, out_features]: [usize; 3],
    blocks: Option<(Side, usize)>,
    group: Option<usize>,
) -> StoredShapes {
    let mut stored = StoredShapes {
        a: [r, in_features],
        b: [out_features, r],
        blocks_in_a: false,
    };
    match blocks {
        Some((Side::A, count)) => {
            stored.a[1] /= count;
            stored.blocks_in_a = true;
        }
        Some((Side::B, count)) => stored.b[1] /= count,
        None => {}
    }
    if let Some(group) = group {
        stored.a[1] /= group;
    }
    stored
}

/// Fresh factors that are computed from weights, by the modules' paths. Each thread holds one
/// weight. For an embedding, PEFT computes MiCA's only.
///
/// # Errors
/// If a rank is too large for its module, or a weight can't be read or decomposed.
pub fn factors_from_weights(
    lora: &LoraConfig,
    config: &JsonObject,
    base: &BaseModel,
    tensors: &AdapterTensors,
    selected: &[Module],
) -> Result<BTreeMap<String, FreshFactors>, AdapterError> {
    let of_weight = matches!(
        lora.init,
        LoraInit::Pissa | LoraInit::Olora | LoraInit::Mica
    );
    if !of_weight || !tensors.is_fresh() || !tensors.has_values() {
        return Ok(BTreeMap::new());
    }
    let make = |module: &Module| -> Result<Option<(String, FreshFactors)>, AdapterError> {
        let path = module.path.as_str();
        let (r, scaling) = lora.rank_and_scaling(config, path)?;
        let weight = || base.full_matrix(&format!("{}.weight", module.source));
        let pair = match target_module(base, module) {
            Some(TargetModule::Linear(layer)) => {
                check_rank(lora, config, &layer, r)?;
                match lora.init {
                    LoraInit::Pissa => principal(&weight()?, path, r, scaling)?,
                    LoraInit::Olora => orthogonal(&weight()?, path, r)?,
                    _ => (
                        Array2::zeros((r, layer.in_features)),
                        minor(&weight()?, path, r)?,
                    ),
                }
            }
            Some(TargetModule::Embedding(table)) if lora.init == LoraInit::Mica => {
                check_table_rank(lora, config, &table, r)?;
                // An embedding's rows are its outputs: `[num_embeddings, embedding_dim]`.
                (
                    Array2::zeros((r, table.num_embeddings)),
                    minor(&weight()?.reversed_axes(), path, r)?,
                )
            }
            _ => return Ok(None),
        };
        Ok(Some((path.to_owned(), pair)))
    };
    let made = selected.par_iter().map(make).filter_map(Result::transpose);
    made.collect()
}

/// QALoRA's group size, if the file's `A` is that narrow.
fn pooled(
    lora: &LoraConfig,
    tensors: &AdapterTensors,
    key: &str,
    layer: &TargetLinear,
    r: usize,
) -> Option<usize> {
    let group = lora.qalora_group?;
    let narrow = layer.in_features.is_multiple_of(group)
        && tensors.shape(key)? == [r, layer.in_features / group];
    (narrow && group > 1).then_some(group)
}

/// QALoRA's `A` for single inputs, `A*[:, c] = A[:, c div group] * groups / group`: PEFT applies `A` to
/// the means of groups of inputs, times the number of groups.
fn unpooled(a: &Array2<f32>, group: usize) -> Array2<f32> {
    let groups = a.ncols();
    let factor = groups as f32 / group as f32;
    Array2::from_shape_fn((a.nrows(), groups * group), |(row, column)| {
        a[[row, column / group]] * factor
    })
}

/// Marks the tensors that only training needs as used; returns how many of their parameters PEFT
/// trains.
fn training_only(
    lora: &LoraConfig,
    tensors: &mut AdapterTensors,
    layer: &TargetLinear,
    r: usize,
) -> Result<usize, AdapterError> {
    if lora.velora {
        let key = layer.key("lora_velora_embed");
        if let Some(shape) = tensors.shape(&key) {
            tensors.claim(&key, &shape)?;
        }
    }
    let Some(samples) = lora.monteclora_samples else {
        return Ok(0);
    };
    for (name, shape) in [
        ("expert_weights", vec![samples]),
        ("expert_weights_prior", vec![samples]),
        ("gaussian_var_prior", vec![r, r]),
        ("std_prior", vec![r]),
    ] {
        let key = layer.key(&format!("lora_monteclora_sampler.{name}"));
        if tensors.has(&key) {
            tensors.claim(&key, &shape)?;
        }
    }
    Ok(r + samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn averaged_inputs_share_a_column() {
        let wide = unpooled(&array![[1.0, 2.0, 4.0]], 2);
        assert_eq!(wide, array![[1.5, 1.5, 3.0, 3.0, 6.0, 6.0]]);
    }

    #[test]
    fn blocks_and_groups_narrow_what_is_stored() {
        let shapes = |blocks, group| {
            let stored = stored([4, 12, 8], blocks, group);
            (stored.a, stored.b)
        };
        assert_eq!(shapes(None, None), ([4, 12], [8, 4]));
        assert_eq!(shapes(Some((Side::A, 2)), None), ([4, 6], [8, 4]));
        assert_eq!(shapes(Some((Side::B, 2)), None), ([4, 12], [8, 2]));
        assert_eq!(shapes(None, Some(3)), ([4, 4], [8, 4]));
    }
}
