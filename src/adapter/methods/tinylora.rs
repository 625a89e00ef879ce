//! TinyLoRA: `W' = W + B (sum of v[k] P[k]) A`, where only the few numbers `v` are trained.
//!
//! With `r` at most the weight's smaller side:
//!
//! | tensor | shape |
//! |---|---|
//! | `tinylora_A` | `[r, in_features]`, of an embedding `[r, embedding_dim]` |
//! | `tinylora_B` | `[out_features, r]`, of an embedding `[num_embeddings, r]` |
//! | `tinylora_P` | `[u, r, r]` |
//! | shared `base_model.tinylora_v.<group>` | `[u]` |
//!
//! `A = sqrt(S) Vᵀ` and `B = U sqrt(S)` are the weight's largest singular components. Consecutive
//! modules share `v`: there are `round(modules * (1 - weight_tying))` groups. Without
//! `save_projection`, `P` is drawn again, normal with variance `1 / r`, from `projection_seed` plus
//! the module's index. Sums are taken in float32.
//!
//! Sources: arXiv:2602.04118; PEFT, `tuners/tinylora/`.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array1, Array2, Array3, Axis};

use super::{Class, Method};
use crate::adapter::form::{
    BaseModule, EmbeddingForm, Form, FormTensor, LinearForm, TensorRole, elements,
};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::components::{LeadingComponents, scaled_columns, scaled_rows};
use crate::adapter::toolbox::options::{factor, rank, seed};
use crate::adapter::toolbox::tuner::{Loading, TargetModule, Tuner};
use crate::adapter::{AdapterError, AdapterTensors, Effects, Init, ModuleAdapter};
use crate::random::TorchGenerator;

/// The tensors of one module.
#[derive(Debug)]
struct TinyLora {
    factors: Factors,
    /// `sum of v[k] P[k]`, `[r, r]`
    inner: Array2<f32>,
    /// The weight's rows and columns.
    shape: [usize; 2],
    embedding: bool,
}

#[derive(Debug)]
enum Factors {
    /// `A` `[r, columns]` and `B` `[rows, r]` of the file.
    Saved(Array2<f32>, Array2<f32>),
    /// A fresh adapter's: the base's own components.
    OfWeight(LeadingComponents),
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "TINYLORA",
    class: Class::Weight,
    variants: "weight_tying, save_projection false",
    refused: "`init_weights` false for fresh adapters",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let rank = rank(config, "r", 2)?;
    let u = config.optional_size("u")?.unwrap_or(64);
    let first_seed = seed(config, "projection_seed", 42)?;
    let saved = config.flag("save_projection", true)?;
    let tying = factor(config, "weight_tying", 0.0)?;
    if !(0.0..=1.0).contains(&tying) {
        return Err(config.wrong("weight_tying", "a number from 0 to 1").into());
    }
    let init = init(&loading)?;
    // PEFT adds an embedding's change after the module has scaled its rows.
    let row_scale = loading.base.spec.row_scale().unwrap_or(1.0);

    let mut tuner = Tuner::open(loading, QUERY_VALUE, Some("tinylora_only"))?;
    let modules = tuner.selected.len();
    let groups = Groups::new(modules, tying);
    let used: BTreeSet<usize> = (0..modules).map(|index| groups.of(index)).collect();
    let mut shared = BTreeMap::new();
    for group in used {
        let key = format!("base_model.tinylora_v.{group}");
        shared.insert(group, tuner.tensors.vector(&key, u, init)?);
    }
    tuner.count_shared(u * shared.len());

    let mut next = 0;
    tuner.adapt_any(|tensors, target| {
        let index = next;
        next += 1;
        let (module, shape, embedding) = match target {
            TargetModule::Linear(layer) => (
                &layer.module,
                [layer.out_features, layer.in_features],
                false,
            ),
            TargetModule::Embedding(table) => (
                &table.module,
                [table.num_embeddings, table.embedding_dim],
                true,
            ),
        };
        let r = rank.min(shape[0]).min(shape[1]);
        let key = |name: &str| format!("{}.tinylora_{name}", module.path);
        let factors = match tensors.is_fresh() {
            true => Factors::OfWeight(LeadingComponents::new(&module.path, r)),
            false => Factors::Saved(
                tensors.matrix(&key("A"), [r, shape[1]], Init::Zeros)?,
                tensors.matrix(&key("B"), [shape[0], r], Init::Zeros)?,
            ),
        };
        let seed = first_seed.wrapping_add(index as u64);
        let projections = projections(tensors, &key("P"), [u, r, r], saved, seed)?;
        let mut inner = combined(&shared[&groups.of(index)], &projections);
        if embedding {
            inner /= row_scale as f32;
        }
        Ok(Box::new(TinyLora {
            factors,
            inner,
            shape,
            embedding,
        }))
    })
}

/// How a fresh `v` is initialised.
fn init(loading: &Loading) -> Result<Init, AdapterError> {
    const KEY: &str = "init_weights";
    let config = loading.config;
    match config.get(KEY) {
        None | Some(serde_json::Value::Bool(true)) => Ok(Init::Zeros),
        Some(serde_json::Value::String(name)) if name == "uniform" => {
            let bound = factor(config, "init_v_bound", 0.02)?;
            Ok(Init::Uniform(bound as f32))
        }
        Some(serde_json::Value::Bool(false)) if loading.tensors.is_fresh() => {
            let reason = "PEFT leaves the vectors uninitialised then; use `true` or `uniform`";
            Err(config.refused(KEY, reason).into())
        }
        Some(serde_json::Value::Bool(false)) => Ok(Init::Zeros),
        Some(_) => Err(config.wrong(KEY, "`true`, `false` or `uniform`").into()),
    }
}

fn projections(
    tensors: &mut AdapterTensors,
    key: &str,
    shape: [usize; 3],
    saved: bool,
    seed: u64,
) -> Result<Array3<f32>, AdapterError> {
    if !tensors.is_redrawn(key, saved) {
        return tensors.cube(key, shape, Init::Zeros);
    }
    let [u, r, _] = shape;
    let deviation = 1.0 / (r as f64).sqrt();
    let values = TorchGenerator::new(seed).normal(u * r * r, deviation);
    Ok(Array3::from_shape_vec(shape, values).expect("as many were drawn"))
}

/// `sum of v[k] P[k]`
fn combined(v: &Array1<f32>, projections: &Array3<f32>) -> Array2<f32> {
    let mut sum = Array2::zeros((projections.dim().1, projections.dim().2));
    for (&factor, projection) in v.iter().zip(projections.axis_iter(Axis(0))) {
        sum.scaled_add(factor, &projection);
    }
    sum
}

/// The modules that share a vector.
#[derive(Debug, Clone, Copy)]
struct Groups {
    count: usize,
    size: usize,
}

impl Groups {
    fn new(modules: usize, tying: f64) -> Self {
        let count = (modules as f64 * (1.0 - tying)).round_ties_even() as usize;
        let count = count.max(1);
        Self {
            count,
            size: (modules / count).max(1),
        }
    }

    fn of(self, index: usize) -> usize {
        (index / self.size).min(self.count - 1)
    }
}

impl TinyLora {
    /// `A`, `[r, columns]`
    fn a(&self, base: &BaseModule) -> Result<Array2<f32>, AdapterError> {
        match &self.factors {
            Factors::Saved(a, _) => Ok(a.clone()),
            Factors::OfWeight(leading) => {
                let found = leading.of(base.weight()?)?;
                Ok(scaled_rows(&found.vt, &found.s.mapv(f32::sqrt)))
            }
        }
    }

    /// `B` times the inner matrix, `[rows, r]`
    fn b(&self, base: &BaseModule) -> Result<Array2<f32>, AdapterError> {
        match &self.factors {
            Factors::Saved(_, b) => Ok(b.dot(&self.inner)),
            Factors::OfWeight(leading) => {
                let found = leading.of(base.weight()?)?;
                Ok(scaled_columns(&found.u, &found.s.mapv(f32::sqrt)).dot(&self.inner))
            }
        }
    }
}

impl ModuleAdapter for TinyLora {
    fn form(&self) -> Form<'_> {
        let r = self.inner.nrows();
        let [rows, columns] = self.shape;
        if self.embedding {
            // A token selects a row of B, which is multiplied by A: in the embedding's form they
            // are swapped.
            let a = FormTensor::derived("A", &[r, rows], TensorRole::Table, |base| {
                Ok(elements(&self.b(base)?.reversed_axes()))
            });
            let b = FormTensor::derived("B", &[columns, r], TensorRole::Term, |base| {
                Ok(elements(&self.a(base)?.reversed_axes()))
            });
            return Form::Embedding(EmbeddingForm {
                delta: Some((a, b)),
                ..EmbeddingForm::default()
            });
        }
        let a = FormTensor::derived("A", &[r, columns], TensorRole::Term, |base| {
            Ok(elements(&self.a(base)?))
        });
        let b = FormTensor::derived("B", &[rows, r], TensorRole::Term, |base| {
            Ok(elements(&self.b(base)?))
        });
        Form::Linear(LinearForm::low_rank(a, b))
    }

    /// Shared vectors are counted once, by [`load`].
    fn trainable_params(&self) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::ModuleWeights;
    use ndarray::array;

    #[test]
    fn modules_are_grouped_as_in_peft() {
        let all = |modules, tying| {
            let groups = Groups::new(modules, tying);
            (0..modules)
                .map(|index| groups.of(index))
                .collect::<Vec<_>>()
        };
        assert_eq!(all(4, 0.0), [0, 1, 2, 3]);
        assert_eq!(all(4, 1.0), [0, 0, 0, 0]);
        // 2.5 groups are rounded to 2, of 2 modules each; the last group takes the rest.
        assert_eq!(all(5, 0.5), [0, 0, 1, 1, 1]);
    }

    #[test]
    fn a_table_takes_the_same_product_as_a_layer() {
        let adapter = |embedding| TinyLora {
            factors: Factors::Saved(
                array![[1.0, 2.0], [0.0, 1.0]],
                array![[1.0, 0.0], [2.0, 1.0]],
            ),
            inner: combined(
                &array![1.0, 2.0],
                &array![[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.5]]],
            ),
            shape: [2, 2],
            embedding,
        };
        for embedding in [false, true] {
            let mut module = ModuleWeights {
                weight: Array2::zeros((2, 2)),
                bias: None,
            };
            adapter(embedding).merge_into(&mut module).unwrap();
            // B [[1, 2], [0, 1]] A
            assert_eq!(module.weight, array![[1.0, 4.0], [2.0, 9.0]]);
        }
    }

    #[test]
    fn a_fresh_one_takes_the_largest_components_of_the_weight() {
        let adapter = TinyLora {
            factors: Factors::OfWeight(LeadingComponents::new("x", 1)),
            inner: array![[1.0]],
            shape: [2, 2],
            embedding: false,
        };
        let mut module = ModuleWeights {
            weight: array![[3.0, 0.0], [0.0, 1.0]],
            bias: None,
        };
        adapter.merge_into(&mut module).unwrap();
        let expected = array![[6.0, 0.0], [0.0, 1.0]];
        let difference: Array2<f32> = module.weight - expected;
        assert!(difference.iter().all(|value| value.abs() < 1e-5));
    }
}
