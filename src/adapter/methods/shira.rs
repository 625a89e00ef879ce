//! SHiRA: changes a few elements of the weight.
//!
//! With `z = r (out_features + in_features)`:
//!
//! | tensor | shape |
//! |---|---|
//! | `shira_weight` | `[z]` |
//! | `shira_indices` | `[2, z]`, integers: rows, then columns |
//!
//! A fresh adapter's indices are those of PEFT's `random` mask: the first `z` numbers of a
//! permutation of the weight's elements, sorted. Every module uses `random_seed`; if that's null,
//! PyTorch's default seed.
//!
//! Source: PEFT, `tuners/shira/`.

use ndarray::{Array1, Array2};

use super::{Class, Method};
use crate::adapter::form::Form;
use crate::adapter::targets::defaults::QUERY_VALUE_ONLY;
use crate::adapter::toolbox::dense::changed_weight;
use crate::adapter::toolbox::options::{rank, seed};
use crate::adapter::toolbox::seeded_indices::SeededIndices;
use crate::adapter::toolbox::tuner::{Loading, TargetLinear, Tuner};
use crate::adapter::{AdapterError, AdapterTensors, Effects, Init, ModuleAdapter};
use crate::random::TorchGenerator;

/// The tensors of one layer.
#[derive(Debug)]
struct Shira {
    /// `[z]`
    values: Array1<f32>,
    /// Flat indices into the weight.
    indices: Vec<usize>,
    out_features: usize,
    in_features: usize,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "SHIRA",
    class: Class::Weight,
    variants: "",
    refused: "`mask_type` other than random for fresh adapters",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let r = rank(config, "r", 32)?;
    let fresh = loading.tensors.is_fresh();
    if fresh && config.optional_text("mask_type")?.unwrap_or("random") != "random" {
        let reason = "a fresh adapter can only be made with `random`; a trained one has its indices in the file";
        return Err(config.refused("mask_type", reason).into());
    }
    let init = match config.flag("init_weights", true)? {
        true => Init::Zeros,
        false => Init::Normal(1.0),
    };
    let mut indices =
        SeededIndices::new(seed(config, "random_seed", TorchGenerator::DEFAULT_SEED)?);
    Tuner::open(loading, QUERY_VALUE_ONLY, None)?.adapt(|tensors, layer| {
        let count = r * (layer.out_features + layer.in_features);
        if count > layer.elements() {
            let expected = format!(
                "a rank with no more than the {} elements of `{}`",
                layer.elements(),
                layer.path()
            );
            return Err(config.wrong("r", &expected).into());
        }
        let mut chosen = match fresh {
            true => indices.of(layer, count).to_vec(),
            false => saved_indices(tensors, layer, count)?,
        };
        if fresh {
            chosen.sort_unstable();
        }
        Ok(Shira {
            values: tensors.vector(&layer.key("shira_weight"), count, init)?,
            indices: chosen,
            out_features: layer.out_features,
            in_features: layer.in_features,
        })
    })
}

fn saved_indices(
    tensors: &mut AdapterTensors,
    layer: &TargetLinear,
    count: usize,
) -> Result<Vec<usize>, AdapterError> {
    let key = layer.key("shira_indices");
    let longest = layer.out_features.max(layer.in_features);
    let indices = tensors.indices(&key, &[2, count], longest)?;
    let (rows, columns) = indices.split_at(count);
    for (numbers, size) in [(rows, layer.out_features), (columns, layer.in_features)] {
        if let Some(wrong) = numbers.iter().find(|number| **number >= size) {
            let full = tensors.full_key(&key);
            return Err(tensors.layout(format!(
                "tensor `{full}` holds {wrong}, expected indices below {size} in this row"
            )));
        }
    }
    let pairs = rows.iter().zip(columns);
    Ok(pairs
        .map(|(row, column)| row * layer.in_features + column)
        .collect())
}

/// Adds `values` to the elements of `weight` at the flat indices `places`.
pub fn scatter_add(weight: &mut Array2<f32>, indices: &[usize], values: &Array1<f32>) {
    let columns = weight.ncols();
    for (place, value) in indices.iter().zip(values) {
        weight[[place / columns, place % columns]] += value;
    }
}

impl ModuleAdapter for Shira {
    fn form(&self) -> Form<'_> {
        let shape = [self.out_features, self.in_features];
        Form::Linear(changed_weight(shape, |weight| {
            scatter_add(weight, &self.indices, &self.values);
            Ok(())
        }))
    }

    fn trainable_params(&self) -> usize {
        self.values.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn values_are_added_where_their_places_are() {
        let mut weight = array![[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]];
        scatter_add(&mut weight, &[1, 5], &array![2.0, 3.0]);
        assert_eq!(weight, array![[1.0, 3.0, 1.0], [1.0, 1.0, 4.0]]);
    }
}
