//! Poly: every task mixes a shared set of low-rank skills; for one task the result is a low-rank
//! pair.
//!
//! | tensor | shape |
//! |---|---|
//! | `poly_lora_A` | `[n_splits, n_skills, in_features / n_splits, r]` |
//! | `poly_lora_B` | `[n_splits, n_skills, r, out_features / n_splits]` |
//! | `poly_router.module_logits` | `[n_tasks, n_splits * n_skills]` |
//!
//! The logits of task `t` weight the skills of each split: sigmoids, divided by their sum. `A` of a
//! split is the weighted sum of its skills' `A`; the splits' are joined side by side. `B` likewise.
//! `W' = W + (A B)ᵀ / r`. PEFT takes the task with every call; here it's chosen when the adapter is
//! prepared. Sums are taken in float32.
//!
//! Sources: Ponti et al., arXiv:2202.13914; PEFT, `tuners/poly/`.

use ndarray::{Array2, Array4, s};

use super::{Class, Method};
use crate::adapter::form::{Form, FormTensor, LinearForm, TensorRole, elements};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::task::Task;
use crate::adapter::toolbox::options::rank;
use crate::adapter::toolbox::tuner::{Loading, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter};

/// The mixed skills of one layer.
#[derive(Debug)]
struct Poly {
    /// `[r, in_features]`
    a: Array2<f32>,
    /// `[out_features, r]`, divided by `r`
    b: Array2<f32>,
    trainable: usize,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "POLY",
    class: Class::Weight,
    variants: "one fixed task (`--task-id`)",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let r = rank(config, "r", 8)?;
    let skills = rank(config, "n_skills", 4)?;
    let splits = rank(config, "n_splits", 1)?;
    if !matches!(config.optional_text("poly_type")?, None | Some("poly")) {
        return Err(config.wrong("poly_type", "`poly`").into());
    }
    let task = Task::choose(config, "n_tasks", loading.task_id)?;
    let tasks = task.count;
    let identity = config.flag("init_weights", true)?;
    let mut effects = Tuner::open(loading, QUERY_VALUE, None)?.adapt(|tensors, layer| {
        let (rows, columns) = (layer.out_features, layer.in_features);
        if !rows.is_multiple_of(splits) || !columns.is_multiple_of(splits) {
            let path = layer.path();
            let expected = format!("a divisor of {rows} and {columns}, the sizes of `{path}`");
            return Err(config.wrong("n_splits", &expected).into());
        }
        let second = match identity {
            true => Init::Zeros,
            false => Init::linear_default(r),
        };
        let first = Init::linear_default(columns / splits);
        let mut take = |name: &str, shape: [usize; 4], init| {
            let values = tensors.take(&layer.key(name), &shape, init)?;
            Ok::<_, AdapterError>(
                Array4::from_shape_vec(shape, values)
                    .expect("`take` gives as many values as asked for"),
            )
        };
        let a = take("poly_lora_A", [splits, skills, columns / splits, r], first)?;
        let b = take("poly_lora_B", [splits, skills, r, rows / splits], second)?;
        let key = layer.key("poly_router.module_logits");
        let logits = tensors.matrix(&key, [tasks, splits * skills], Init::Uniform(1e-3))?;
        let trainable = a.len() + b.len() + logits.len();
        let weights = weights(&logits, task.id, splits);
        Ok(Poly {
            a: mixed(&a, &weights)
                .reversed_axes()
                .as_standard_layout()
                .into_owned(),
            b: mixed(&b.permuted_axes([0, 1, 3, 2]), &weights) / r as f32,
            trainable,
        })
    })?;
    effects.task = Some(task);
    Ok(effects)
}

/// The weights of the skills, `[splits, skills]`.
fn weights(logits: &Array2<f32>, task: usize, splits: usize) -> Array2<f32> {
    let row = logits.row(task).mapv(|logit| 1.0 / (1.0 + (-logit).exp()));
    let skills = row.len() / splits;
    let mut weights = Array2::from_shape_vec((splits, skills), row.to_vec())
        .expect("a row has a logit for each split and skill");
    for mut split in weights.rows_mut() {
        let sum = split.sum() + 1e-12;
        split /= sum;
    }
    weights
}

/// The weighted sums over the skills of `[splits, skills, n, r]`, splits one below the other:
/// `[splits * n, r]`.
fn mixed(all: &Array4<f32>, weights: &Array2<f32>) -> Array2<f32> {
    let (splits, _, n, r) = all.dim();
    let mut mixed = Array2::zeros((splits * n, r));
    for ((split, skill), &weight) in weights.indexed_iter() {
        let mut place = mixed.slice_mut(s![split * n..(split + 1) * n, ..]);
        place.scaled_add(weight, &all.slice(s![split, skill, .., ..]));
    }
    mixed
}

impl ModuleAdapter for Poly {
    fn form(&self) -> Form<'_> {
        Form::Linear(LinearForm::low_rank(
            FormTensor::derived("A", self.a.shape(), TensorRole::Term, |_| {
                Ok(elements(&self.a))
            }),
            FormTensor::derived("B", self.b.shape(), TensorRole::Term, |_| {
                Ok(elements(&self.b))
            }),
        ))
    }

    fn trainable_params(&self) -> usize {
        self.trainable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn skills_are_weighed_by_the_task_s_sigmoids_split_by_split() {
        let third = -(3.0_f32.ln());
        // Sigmoids: 1/2, 1/4 | 1/4, 1/4.
        let logits = array![[9.0, 9.0, 9.0, 9.0], [0.0, third, third, third]];
        let weights = weights(&logits, 1, 2);
        let expected = array![[2.0 / 3.0, 1.0 / 3.0], [0.5, 0.5]];
        assert!((&weights - expected).iter().all(|d: &f32| d.abs() < 1e-6));
        let skills = Array4::from_shape_fn((2, 2, 1, 1), |(split, skill, _, _)| {
            (10 * split + 3 * skill) as f32
        });
        let mixed = mixed(&skills, &weights);
        assert!(
            (mixed - array![[1.0], [11.5]])
                .iter()
                .all(|d| d.abs() < 1e-5)
        );
    }
}
