//! Uni-LoRA: low-rank pairs whose elements are all taken from one short trained vector.
//!
//! | tensor | shape |
//! |---|---|
//! | shared `base_model.unilora_theta_d` | `[theta_d_length]` |
//! | `unilora_indices_A`, `unilora_scales_A` (`save_indices`) | `[r, in_features]` |
//! | `unilora_indices_B`, `unilora_scales_B` (`save_indices`) | `[out_features, r]` |
//!
//! `W' = W + B A`, with `A[j] = theta[index] / sqrt(count)`, where `count` is how often that index
//! occurs in the whole model; `B` likewise. Unless they're saved, the indices are drawn again:
//! every index equally often, a few randomly chosen ones once more, all shuffled from `proj_seed`
//! (by NumPy), and distributed to the modules in the model's order, `A` before `B`. The scale is
//! rounded to the base weight's dtype.
//!
//! Sources: arXiv:2506.00799; PEFT, `tuners/unilora/`.

use std::sync::Arc;

use ndarray::Array1;

use super::{Class, Method};
use crate::adapter::form::{Form, FormTensor, LinearForm, TensorRole};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::components::rounded;
use crate::adapter::toolbox::options::{factor, rank};
use crate::adapter::toolbox::tuner::{Loading, TargetLinear, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter};
use crate::json::JsonObject;
use crate::random::NumpyGenerator;
use crate::weights::Dtype;

/// The tensors of one layer.
#[derive(Debug)]
struct UniLora {
    /// `[theta_d_length]`
    theta: Arc<Array1<f32>>,
    a: Elements,
    b: Elements,
    r: usize,
    out_features: usize,
    in_features: usize,
}

/// The elements of one matrix, row by row.
#[derive(Debug)]
struct Elements {
    /// Indices into the vector.
    indices: Vec<usize>,
    /// The factor of each element.
    scales: Scales,
}

#[derive(Debug)]
enum Scales {
    /// One for each element.
    Saved(Vec<f32>),
    /// One for each index, rounded to the dtype.
    ByIndex(Arc<Vec<f32>>, Dtype),
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "UNILORA",
    class: Class::Weight,
    variants: "save_indices",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let base = loading.base;
    let r = rank(config, "r", 4)?;
    let length = config.optional_size_up_to("theta_d_length", u32::MAX as usize)?;
    let length = length.unwrap_or(256);
    let bound = factor(config, "init_theta_d_bound", 0.02)? as f32;
    let init = match config.flag("init_weights", true)? {
        true => Init::Uniform(bound),
        false => Init::Normal(1.0),
    };
    let seed = proj_seed(config)?;

    let mut tuner = Tuner::open(loading, QUERY_VALUE, Some("unilora_only"))?;
    let layers = tuner.layers()?;
    let key = "base_model.unilora_theta_d";
    let theta = Arc::new(tuner.tensors.vector(key, length, init)?);
    tuner.count_shared(length);
    // As in PEFT: saved indices are used, missing ones are drawn.
    let is_saved = |layer: &TargetLinear| tuner.tensors.has(&layer.key("unilora_indices_A"));
    let mut dealt = if layers.iter().any(is_saved) {
        Dealt::none()
    } else {
        let count = layers
            .iter()
            .map(|layer| r * (layer.in_features + layer.out_features));
        Dealt::new(count.sum(), length, seed)
    };
    tuner.adapt(|tensors, layer| {
        let dtype = base.dtype_in_use(&format!("{}.weight", layer.module.source))?;
        let mut matrix = |which: &str, shape: [usize; 2]| {
            let indices = layer.key(&format!("unilora_indices_{which}"));
            let scales = layer.key(&format!("unilora_scales_{which}"));
            if dealt.is_empty() {
                return Ok::<_, AdapterError>(Elements {
                    indices: tensors.indices(&indices, &shape, length)?,
                    scales: Scales::Saved(tensors.take(&scales, &shape, Init::Zeros)?),
                });
            }
            Ok(Elements {
                indices: dealt.take(shape[0] * shape[1]),
                scales: Scales::ByIndex(Arc::clone(&dealt.scales), dtype),
            })
        };
        Ok(UniLora {
            a: matrix("A", [r, layer.in_features])?,
            b: matrix("B", [layer.out_features, r])?,
            theta: Arc::clone(&theta),
            r,
            out_features: layer.out_features,
            in_features: layer.in_features,
        })
    })
}

/// NumPy's seeds aren't negative.
fn proj_seed(config: &JsonObject) -> Result<u64, AdapterError> {
    match config.get("proj_seed") {
        None => Ok(42),
        Some(value) => Ok(value
            .as_u64()
            .ok_or_else(|| config.wrong("proj_seed", "an integer that isn't negative"))?),
    }
}

/// The indices of the whole model, in the order in which they're distributed.
#[derive(Debug)]
struct Dealt {
    indices: std::vec::IntoIter<u32>,
    /// `1 / sqrt(count)` for each index, 0 if it doesn't occur.
    scales: Arc<Vec<f32>>,
}

impl Dealt {
    fn none() -> Self {
        Self {
            indices: Vec::new().into_iter(),
            scales: Arc::default(),
        }
    }

    /// `count` indices below `length`.
    fn new(count: usize, length: usize, seed: u64) -> Self {
        let mut generator = NumpyGenerator::new(seed);
        let numbers = 0..u32::try_from(length).expect("the configuration's reader checks that");
        let mut indices: Vec<u32> = numbers
            .clone()
            .flat_map(|number| std::iter::repeat_n(number, count / length))
            .collect();
        let rest = (count % length) as u32;
        if rest > 0 {
            indices.extend(generator.choice(numbers.end, rest));
        }
        generator.shuffle(&mut indices);
        let mut counts = vec![0_u32; length];
        for &index in &indices {
            counts[index as usize] += 1;
        }
        let scale = |count: u32| match count {
            0 => 0.0,
            count => 1.0 / (count as f32).sqrt(),
        };
        Self {
            indices: indices.into_iter(),
            scales: Arc::new(counts.into_iter().map(scale).collect()),
        }
    }

    fn is_empty(&self) -> bool {
        self.scales.is_empty()
    }

    fn take(&mut self, count: usize) -> Vec<usize> {
        let taken = self.indices.by_ref().take(count);
        taken.map(|index| index as usize).collect()
    }
}

impl Elements {
    fn values(&self, theta: &Array1<f32>) -> Vec<f32> {
        let elements = self.indices.iter().enumerate();
        elements
            .map(|(place, &index)| {
                let scale = match &self.scales {
                    Scales::Saved(scales) => scales[place],
                    Scales::ByIndex(scales, dtype) => rounded(scales[index], *dtype),
                };
                theta[index] * scale
            })
            .collect()
    }
}

impl ModuleAdapter for UniLora {
    fn form(&self) -> Form<'_> {
        let a = FormTensor::derived("A", &[self.r, self.in_features], TensorRole::Term, |_| {
            Ok(self.a.values(&self.theta))
        });
        let b = FormTensor::derived("B", &[self.out_features, self.r], TensorRole::Term, |_| {
            Ok(self.b.values(&self.theta))
        });
        Form::Linear(LinearForm::low_rank(a, b))
    }

    /// The vector is shared, and counted once, by [`load`].
    fn trainable_params(&self) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn every_number_is_dealt_about_equally_often() {
        let mut dealt = Dealt::new(23, 5, 42);
        let mut counts = [0; 5];
        let all = dealt.take(23);
        for index in &all {
            counts[*index] += 1;
        }
        assert_eq!(counts.iter().sum::<i32>(), 23);
        assert!(counts.iter().all(|count| [4, 5].contains(count)));
        let scale = |count: &i32| 1.0 / (*count as f32).sqrt();
        assert_eq!(
            *dealt.scales,
            counts.iter().map(scale).collect::<Vec<f32>>()
        );
    }

    #[test]
    fn elements_are_numbers_of_the_vector_times_their_scales() {
        let elements = Elements {
            indices: vec![1, 0, 1],
            scales: Scales::ByIndex(Arc::new(vec![2.0, 0.5]), Dtype::Float32),
        };
        assert_eq!(elements.values(&array![3.0, 10.0]), [5.0, 6.0, 5.0]);
    }
}
