//! Super-Tuning: changes the largest (or smallest) elements of the weight, and with `r` adds a
//! low-rank pair: `W' = W + scatter(values) + lora_alpha / r * B A`.
//!
//! With `z = floor(out_features * in_features * (1 - sparsity))`:
//!
//! | tensor | shape |
//! |---|---|
//! | `supertuning_values` | `[z]` |
//! | `supertuning_indices` | `[z]`, integers: flat indices into the weight |
//! | `supertuning_lora_A.weight` (`r`) | `[r, in_features]` |
//! | `supertuning_lora_B.weight` (`r`) | `[out_features, r]` |
//!
//! Without `save_precomputed_indices` the indices are computed again: the elements' order by
//! absolute value. If two elements have the same absolute value, the order isn't unique, which is
//! an error.
//!
//! Sources: arXiv:2607.09287; PEFT, `tuners/supertuning/`.

use std::cmp::Ordering;

use ndarray::{Array1, Array2};

use super::shira::scatter_add;
use super::{Class, Method};
use crate::adapter::form::{Form, FormTensor, LinearForm, TensorRole};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::dense::changed_tensor;
use crate::adapter::toolbox::options::{factor, rank};
use crate::adapter::toolbox::tuner::{Loading, TargetLinear, Tuner};
use crate::adapter::{AdapterError, AdapterTensors, Effects, Init, ModuleAdapter};

/// The tensors of one layer.
#[derive(Debug)]
struct Supertuning {
    /// `[z]`
    values: Array1<f32>,
    /// Flat indices into the weight.
    indices: Vec<usize>,
    pair: Option<Pair>,
    out_features: usize,
    in_features: usize,
}

#[derive(Debug)]
struct Pair {
    keys: [String; 2],
    /// `[r, in_features]`
    a: Array2<f32>,
    /// `[out_features, r]`
    b: Array2<f32>,
    scaling: f32,
}

/// Which elements of a weight are changed.
#[derive(Debug, Clone, Copy)]
enum Select {
    Largest,
    Smallest,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "SUPERTUNING",
    class: Class::Weight,
    variants: "r, save_precomputed_indices false",
    refused: "unsaved indices if elements have the same size",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let base = loading.base;
    let sparsity = config.optional_number("sparsity")?.unwrap_or(0.99);
    if !(0.0..1.0).contains(&sparsity) {
        return Err(config
            .wrong("sparsity", "a number from 0 to below 1")
            .into());
    }
    let select = match config.flag("select_top", true)? {
        true => Select::Largest,
        false => Select::Smallest,
    };
    let r = match config.get("r") {
        None => None,
        Some(_) => Some(rank(config, "r", 0)?),
    };
    let scaling = match r {
        Some(r) => factor(config, "lora_alpha", 2.0 * r as f64)? / r as f64,
        None => 0.0,
    };
    let saved = config.flag("save_precomputed_indices", true)?;
    let identity = config.flag("init_weights", true)?;
    Tuner::open(loading, QUERY_VALUE, None)?.adapt(|tensors, layer| {
        let count = (layer.elements() as f64 * (1.0 - sparsity)) as usize;
        if count == 0 {
            let expected = format!("less, so that `{}` has an element to change", layer.path());
            return Err(config.wrong("sparsity", &expected).into());
        }
        let key = layer.key("supertuning_indices");
        let is_redrawn = tensors.is_redrawn(&key, saved);
        let indices = if is_redrawn && !tensors.has_values() {
            Vec::new()
        } else if is_redrawn {
            let weight = base.full_matrix(&format!("{}.weight", layer.module.source))?;
            let (indices, unique) = by_size(&weight, count, select);
            if !unique && !tensors.is_fresh() {
                let reason = format!(
                    "elements of `{}.weight` have the same absolute value, so which trained values belong to them can't \
                    be known; save the adapter with `save_precomputed_indices`",
                    layer.path()
                );
                return Err(config.refused("save_precomputed_indices", &reason).into());
            }
            indices
        } else {
            tensors.indices(&key, &[count], layer.elements())?
        };
        let values = match identity {
            true => Init::Zeros,
            false => Init::Normal(1.0),
        };
        Ok(Supertuning {
            values: tensors.vector(&layer.key("supertuning_values"), count, values)?,
            indices,
            pair: match r {
                Some(r) => Some(pair(tensors, layer, r, scaling as f32, identity)?),
                None => None,
            },
            out_features: layer.out_features,
            in_features: layer.in_features,
        })
    })
}

fn pair(
    tensors: &mut AdapterTensors,
    layer: &TargetLinear,
    r: usize,
    scaling: f32,
    identity: bool,
) -> Result<Pair, AdapterError> {
    let keys = ["A", "B"].map(|which| layer.key(&format!("supertuning_lora_{which}.weight")));
    let init_b = match identity {
        true => Init::Zeros,
        false => Init::linear_default(r),
    };
    let init_a = Init::linear_default(layer.in_features);
    Ok(Pair {
        a: tensors.matrix(&keys[0], [r, layer.in_features], init_a)?,
        b: tensors.matrix(&keys[1], [layer.out_features, r], init_b)?,
        keys: keys.map(|key| tensors.full_key(&key)),
        scaling,
    })
}

/// The indices of the first `count` elements of `weight` ordered by absolute value, and whether
/// this result is unique.
fn by_size(weight: &Array2<f32>, count: usize, select: Select) -> (Vec<usize>, bool) {
    let sizes: Vec<f32> = weight.iter().map(|value| value.abs()).collect();
    let order = |a: &usize, b: &usize| -> Ordering {
        let ascending = sizes[*a].total_cmp(&sizes[*b]);
        match select {
            Select::Largest => ascending.reverse(),
            Select::Smallest => ascending,
        }
    };
    let mut indices: Vec<usize> = (0..sizes.len()).collect();
    let mut unique = true;
    if count < indices.len() {
        let (_, first_left_out, _) = indices.select_nth_unstable_by(count, order);
        let border = sizes[*first_left_out];
        indices.truncate(count);
        unique = indices.iter().all(|place| sizes[*place] != border);
    }
    indices.sort_unstable_by(|a, b| order(a, b).then(a.cmp(b)));
    unique &= indices
        .windows(2)
        .all(|pair| sizes[pair[0]] != sizes[pair[1]]);
    (indices, unique)
}

impl ModuleAdapter for Supertuning {
    fn form(&self) -> Form<'_> {
        let shape = [self.out_features, self.in_features];
        let weight = changed_tensor(shape, |weight| {
            scatter_add(weight, &self.indices, &self.values);
            Ok(())
        });
        let mut form = match &self.pair {
            Some(pair) => LinearForm::low_rank(
                FormTensor::stored(&pair.keys[0], &pair.a, TensorRole::Term),
                FormTensor::scaled(&pair.keys[1], &pair.b, pair.scaling, TensorRole::Term),
            ),
            None => LinearForm::default(),
        };
        form.weight = Some(weight);
        Form::Linear(form)
    }

    fn trainable_params(&self) -> usize {
        let pair = self.pair.as_ref();
        self.values.len() + pair.map_or(0, |pair| pair.a.len() + pair.b.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn elements_are_found_by_size() {
        let weight = array![[1.0, -4.0, 2.0], [0.5, 3.0, -0.25]];
        let found = by_size(&weight, 3, Select::Largest);
        assert_eq!(found, (vec![1, 4, 2], true));
        let found = by_size(&weight, 2, Select::Smallest);
        assert_eq!(found, (vec![5, 3], true));
    }

    #[test]
    fn elements_of_the_same_size_are_noticed() {
        let weight = array![[1.0, -2.0], [2.0, 1.0]];
        assert!(!by_size(&weight, 2, Select::Largest).1);
        assert!(!by_size(&weight, 3, Select::Largest).1);
        let weight = array![[1.0, 3.0], [2.0, 1.0]];
        assert!(by_size(&weight, 2, Select::Largest).1);
    }
}
