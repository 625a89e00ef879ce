//! VB-LoRA: `W' = W + B A`, both composed of vectors from a bank that all layers share.
//!
//! | tensor | shape |
//! |---|---|
//! | `base_model.vblora_vector_bank` | `[num_vectors, v]` |
//! | `vblora_logits_A` | `[r, in_features / v, num_vectors]` |
//! | `vblora_logits_B` | `[out_features / v, r, num_vectors]` |
//! | `…_topk_indices`, `…_topk_weights` (`save_only_topk_weights`) | last axis `topk`, `topk − 1` |
//!
//! Each sub-vector of `v` numbers is the sum of the `topk` vectors with the largest logits,
//! weighted by the softmax of those. In place of logits a file may hold the indices and all weights
//! but the last, as the weights' sum is 1. Sums are taken in float32.
//!
//! Sources: Li et al., arXiv:2405.15179; PEFT, `tuners/vblora/`.

use std::sync::Arc;

use ndarray::{Array2, Array3, ArrayView1, Axis};

use super::{Class, Method};
use crate::adapter::form::{Form, FormTensor, LinearForm, TensorRole, elements};
use crate::adapter::targets::defaults::ADALORA;
use crate::adapter::toolbox::options::rank;
use crate::adapter::toolbox::tuner::{Loading, Tuner};
use crate::adapter::{AdapterError, AdapterTensors, Effects, Init, ModuleAdapter};
use crate::json::JsonObject;

const BANK: &str = "base_model.vblora_vector_bank";

/// The vectors of which each sub-vector of a matrix consists, and their weights.
#[derive(Debug)]
struct Mixture {
    /// The number of sub-vectors along both axes.
    shape: [usize; 2],
    /// `topk` pairs of a vector's index and its weight for each sub-vector.
    picks: Vec<(usize, f32)>,
    topk: usize,
}

/// The mixtures of one layer.
#[derive(Debug)]
struct VbLora {
    bank: Arc<Array2<f32>>,
    /// `[r, in_features / v]`
    a: Mixture,
    /// `[out_features / v, r]`
    b: Mixture,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "VBLORA",
    class: Class::Weight,
    variants: "save_only_topk_weights",
    refused: "equal logits between which `topk` has to decide",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let r = rank(config, "r", 4)?;
    let count = rank(config, "num_vectors", 256)?;
    let length = rank(config, "vector_length", 256)?;
    let topk = rank(config, "topk", 2)?;
    if topk > count {
        let expected = format!("at most `num_vectors`, {count}");
        return Err(config.wrong("topk", &expected).into());
    }
    let only_topk = config.flag("save_only_topk_weights", false)?;
    let number =
        |key: &str, default: f64| crate::adapter::toolbox::options::factor(config, key, default);
    let logits = Init::Normal(number("init_logits_std", 0.1)? as f32);
    let bound = bound(config, number("init_vector_bank_bound", 0.02)? as f32)?;

    let mut tuner = Tuner::open(loading, ADALORA, Some("vblora_only"))?;
    let bank = tuner.tensors.matrix(BANK, [count, length], bound)?;
    tuner.count_shared(bank.len());
    let bank = Arc::new(bank);
    tuner.adapt(|tensors, layer| {
        let (rows, columns) = (layer.out_features, layer.in_features);
        if !rows.is_multiple_of(length) || !columns.is_multiple_of(length) {
            let path = layer.path();
            let expected = format!("a divisor of {rows} and {columns}, the sizes of `{path}`");
            return Err(config.wrong("vector_length", &expected).into());
        }
        let mut take = |name: &str, shape: [usize; 2]| {
            let key = layer.key(name);
            if only_topk && !tensors.is_fresh() {
                Mixture::chosen(tensors, &key, shape, count, topk)
            } else {
                let values = tensors.cube(&key, [shape[0], shape[1], count], logits)?;
                if !tensors.is_fresh()
                    && let Some([one, other]) = tie(&values, topk)
                {
                    return Err(tensors.layout(format!(
                        "tensor `{key}`: vectors {one} and {other} have the same logit, and `topk` includes only one of them; \
                         PEFT's choice depends on where it runs"
                    )));
                }
                Ok(Mixture::largest(&values, topk))
            }
        };
        Ok(VbLora {
            a: take("vblora_logits_A", [r, columns / length])?,
            b: take("vblora_logits_B", [rows / length, r])?,
            bank: bank.clone(),
        })
    })
}

fn bound(config: &JsonObject, bound: f32) -> Result<Init, AdapterError> {
    if bound > 0.0 {
        return Ok(Init::Uniform(bound));
    }
    let key = "init_vector_bank_bound";
    Err(config.wrong(key, "a positive number").into())
}

/// In the names of tensors with logits.
pub const LOGITS: &str = "vblora_logits_";

/// The indices of the vectors by descending logit.
fn largest_first(lane: ArrayView1<f32>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..lane.len()).collect();
    order.sort_by(|&x, &y| lane[y].total_cmp(&lane[x]));
    order
}

/// Two vectors of a sub-vector with the same logit, if only one of them is among the `topk`
/// largest. That's frequent in 16 bits.
fn tie(logits: &Array3<f32>, topk: usize) -> Option<[usize; 2]> {
    logits.lanes(Axis(2)).into_iter().find_map(|lane| {
        let order = largest_first(lane);
        let (last, next) = (order[topk - 1], *order.get(topk)?);
        let equal = lane[last] == lane[next] && lane[last] > f32::NEG_INFINITY;
        equal.then_some([last, next])
    })
}

impl Mixture {
    /// The vectors with the `topk` largest logits, for each sub-vector.
    fn largest(logits: &Array3<f32>, topk: usize) -> Self {
        let (rows, columns, _) = logits.dim();
        let mut picks = Vec::with_capacity(rows * columns * topk);
        for lane in logits.lanes(Axis(2)) {
            let mut order = largest_first(lane);
            order.truncate(topk);
            let weights: Vec<f32> = order
                .iter()
                .map(|&k| (lane[k] - lane[order[0]]).exp())
                .collect();
            let sum: f32 = weights.iter().sum();
            let shares = weights.into_iter().map(|weight| weight / sum);
            picks.extend(order.into_iter().zip(shares));
        }
        Self {
            shape: [rows, columns],
            picks,
            topk,
        }
    }

    /// Reads a file that holds only the chosen vectors' indices and weights.
    fn chosen(
        tensors: &mut AdapterTensors,
        key: &str,
        [rows, columns]: [usize; 2],
        count: usize,
        topk: usize,
    ) -> Result<Self, AdapterError> {
        let shape = |last| [rows, columns, last];
        let indices = tensors.indices(&format!("{key}_topk_indices"), &shape(topk), count)?;
        let weights = format!("{key}_topk_weights");
        let weights = tensors.take(&weights, &shape(topk - 1), Init::Zeros)?;
        let mut picks = Vec::with_capacity(indices.len());
        for (piece, indices) in indices.chunks_exact(topk).enumerate() {
            let own = &weights[piece * (topk - 1)..(piece + 1) * (topk - 1)];
            let rest = 1.0 - own.iter().sum::<f32>();
            let all = own.iter().copied().chain([rest]);
            picks.extend(indices.iter().copied().zip(all));
        }
        Ok(Self {
            shape: [rows, columns],
            picks,
            topk,
        })
    }

    /// The sub-vectors, `[rows, columns, v]`.
    fn vectors(&self, bank: &Array2<f32>) -> Array3<f32> {
        let [rows, columns] = self.shape;
        let mut vectors = Array3::zeros((rows, columns, bank.ncols()));
        let lanes = vectors.lanes_mut(Axis(2)).into_iter();
        for (mut vector, picks) in lanes.zip(self.picks.chunks_exact(self.topk)) {
            for &(index, weight) in picks {
                vector.scaled_add(weight, &bank.row(index));
            }
        }
        vectors
    }
}

impl ModuleAdapter for VbLora {
    fn form(&self) -> Form<'_> {
        let length = self.bank.ncols();
        let (r, rows) = (self.a.shape[0], self.b.shape[0] * length);
        let columns = self.a.shape[1] * length;
        Form::Linear(LinearForm::low_rank(
            FormTensor::derived("A", &[r, columns], TensorRole::Term, |_| {
                Ok(elements(&self.a.vectors(&self.bank)))
            }),
            FormTensor::derived("B", &[rows, r], TensorRole::Term, |_| {
                // [rows / v, r, v] to [rows / v, v, r].
                let vectors = self.b.vectors(&self.bank);
                Ok(vectors.permuted_axes([0, 2, 1]).iter().copied().collect())
            }),
        ))
    }

    fn trainable_params(&self) -> usize {
        let pieces = |mixture: &Mixture| mixture.shape[0] * mixture.shape[1];
        (pieces(&self.a) + pieces(&self.b)) * self.bank.nrows()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::ModuleWeights;
    use ndarray::array;

    #[test]
    fn the_largest_logits_share_by_their_softmax() {
        let third = 3.0_f32.ln();
        let mixture = Mixture::largest(&array![[[0.0, -9.0, third]]], 2);
        assert_eq!(mixture.picks[0].0, 2);
        assert!(
            (mixture.picks[0].1 - 0.75).abs() < 1e-6 && (mixture.picks[1].1 - 0.25).abs() < 1e-6
        );
    }

    #[test]
    fn a_tie_at_the_border_is_found() {
        let logits = array![[[1.0, 3.0, 2.0, 2.0]], [[4.0, 4.0, 1.0, 0.0]]];
        assert_eq!(tie(&logits, 2), Some([2, 3]));
        assert_eq!(tie(&logits, 1), Some([0, 1]));
        assert_eq!(tie(&logits, 3), None);
        assert_eq!(tie(&logits, 4), None);
        // The value that PEFT writes for vectors that aren't chosen.
        let none = f32::NEG_INFINITY;
        assert_eq!(tie(&array![[[1.0, none, none, none]]], 2), None);
    }

    #[test]
    fn vectors_lie_along_inputs_and_outputs() {
        let pick = |indices: &[usize], shape| Mixture {
            shape,
            picks: indices.iter().map(|&index| (index, 1.0)).collect(),
            topk: 1,
        };
        let adapter = VbLora {
            bank: Arc::new(array![[1.0, 2.0], [3.0, 5.0]]),
            a: pick(&[0, 1], [2, 1]),
            b: pick(&[1, 0], [1, 2]),
        };
        let mut module = ModuleWeights {
            weight: Array2::zeros((2, 2)),
            bias: None,
        };
        adapter.merge_into(&mut module).unwrap();
        // A = [[1, 2], [3, 5]], B = [[3, 1], [5, 2]].
        assert_eq!(module.weight, array![[6.0, 11.0], [11.0, 20.0]]);
        assert_eq!(adapter.trainable_params(), 8);
    }
}
