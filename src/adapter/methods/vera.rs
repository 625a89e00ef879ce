//! VeRA and PVeRA: `W' = W + (lambda_b ∘ B) (lambda_d ∘ A)`, with random `A` and `B` that all
//! modules share.
//!
//! | tensor | VeRA | PVeRA |
//! |---|---|---|
//! | `vera_lambda_b`, `pvera_lambda_b` | `[out_features]` | `[out_features]` |
//! | `vera_lambda_d`, `pvera_lambda_d` | `[r]` | `[2 r]` |
//! | shared `base_model.{vera,pvera}_A` | `[r, widest input]` | `[2 r, widest input]` |
//! | shared `base_model.{vera,pvera}_B` | `[widest output, r]` | `[widest output, r]` |
//!
//! A module uses the first columns of `A` and the first rows of `B`. The first half of PVeRA's
//! `lambda_d` and `A` gives the mean, which inference uses; the second half gives a variance for
//! training. Without `save_projection` both matrices are drawn again from `projection_prng_key`.
//! Sums are taken in float32.
//!
//! Sources: Kopiczko et al., arXiv:2310.11454 (VeRA); arXiv:2512.07703 (PVeRA); PEFT,
//! `tuners/vera/`, `tuners/pvera/`.

use std::sync::Arc;

use ndarray::{Array1, Array2, Axis, s};

use super::{Class, Method};
use crate::adapter::form::{
    Form, FormTensor, LinearForm, Native, NativeForm, TensorRole, elements,
};
use crate::adapter::targets::defaults::QUERY_VALUE_ONLY;
use crate::adapter::toolbox::options::{factor, rank, seed};
use crate::adapter::toolbox::tuner::{Loading, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter};
use crate::random::TorchGenerator;

/// The tensors of one layer.
#[derive(Debug)]
struct Vera {
    /// Keys of `A`, `B`, `lambda_d` and `lambda_b`.
    keys: [String; 4],
    /// `[at least r, at least in_features]`
    a: Arc<Array2<f32>>,
    /// `[at least out_features, r]`
    b: Arc<Array2<f32>>,
    /// `[r]`, or `[2 r]`
    lambda_d: Array1<f32>,
    /// `[out_features]`
    lambda_b: Array1<f32>,
    in_features: usize,
}

/// The entry in [`METHODS`](super::METHODS).
pub const VERA: Method = Method {
    peft_type: "VERA",
    class: Class::Weight,
    variants: "save_projection false",
    refused: "",
    load,
};

/// Reads a VeRA adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    load_as(loading, "vera", 1)
}

/// The entry in [`METHODS`](super::METHODS).
pub const PVERA: Method = Method {
    peft_type: "PVERA",
    class: Class::Weight,
    variants: "save_projection false",
    refused: "`sample_at_inference`, since every run would differ",
    load: load_probabilistic,
};

/// Reads a PVeRA adapter.
fn load_probabilistic(loading: Loading) -> Result<Effects, AdapterError> {
    if loading.config.flag("sample_at_inference", false)? {
        let reason = "the result would change from run to run; with `false` the mean is used";
        return Err(loading.config.refused("sample_at_inference", reason).into());
    }
    load_as(loading, "pvera", 2)
}

/// Loads either. `halves` is 2 if a variance is stacked below the mean.
fn load_as(loading: Loading, name: &str, halves: usize) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let r = rank(config, "r", 256)?;
    let d_initial = factor(config, "d_initial", 0.1)? as f32;
    let saved = config.flag("save_projection", true)?;
    let key = seed(config, "projection_prng_key", 0)?;
    let identity = config.flag("init_weights", true)?;

    let tuner = Tuner::open(loading, QUERY_VALUE_ONLY, Some(&format!("{name}_only")))?;
    let layers = tuner.layers()?;
    let widest_input = layers.iter().map(|layer| layer.in_features).max();
    let widest_output = layers.iter().map(|layer| layer.out_features).max();
    let shape_a = [halves * r, widest_input.unwrap_or(0)];
    let shape_b = [widest_output.unwrap_or(0), r];
    let keys = ["A", "B"].map(|matrix| format!("base_model.{name}_{matrix}"));
    let (a, b) = if keys.iter().any(|key| tuner.tensors.is_redrawn(key, saved)) {
        let mut generator = TorchGenerator::new(key);
        let a = kaiming(&mut generator, shape_a);
        (a, kaiming(&mut generator, shape_b))
    } else {
        let a = tuner.tensors.matrix(&keys[0], shape_a, Init::Zeros)?;
        (a, tuner.tensors.matrix(&keys[1], shape_b, Init::Zeros)?)
    };
    let (a, b) = (Arc::new(a), Arc::new(b));
    let lambda_b = match identity {
        true => Init::Zeros,
        false => Init::Normal(1.0),
    };
    tuner.adapt(|tensors, layer| {
        let [key_d, key_b] = ["d", "b"].map(|which| layer.key(&format!("{name}_lambda_{which}")));
        let lambda_d = match identity {
            true => Init::Constant(d_initial),
            false => Init::Normal(1.0),
        };
        Ok(Vera {
            keys: [&keys[0], &keys[1], &key_d, &key_b].map(|key| tensors.full_key(key)),
            a: Arc::clone(&a),
            b: Arc::clone(&b),
            lambda_d: tensors.vector(&key_d, halves * r, lambda_d)?,
            lambda_b: tensors.vector(&key_b, layer.out_features, lambda_b)?,
            in_features: layer.in_features,
        })
    })
}

/// `U(±sqrt(6 / columns))`
fn kaiming(generator: &mut TorchGenerator, shape: [usize; 2]) -> Array2<f32> {
    let bound = 3_f64.sqrt() * (2_f64.sqrt() / (shape[1] as f64).sqrt());
    let values = generator.uniform(shape[0] * shape[1], bound);
    Array2::from_shape_vec(shape, values).expect("as many were drawn")
}

impl ModuleAdapter for Vera {
    fn form(&self) -> Form<'_> {
        let (r, out) = (self.b.ncols(), self.lambda_b.len());
        let a = FormTensor::derived("A", &[r, self.in_features], TensorRole::Term, move |_| {
            let scale = self.lambda_d.slice(s![..r]);
            let a = self.a.slice(s![..r, ..self.in_features]);
            Ok(elements(&(&a * &scale.insert_axis(Axis(1)))))
        });
        let b = FormTensor::derived("B", &[out, r], TensorRole::Term, move |_| {
            let scale = self.lambda_b.view().insert_axis(Axis(1));
            Ok(elements(&(&self.b.slice(s![..out, ..]) * &scale)))
        });
        Form::Linear(LinearForm::low_rank(a, b))
    }

    /// Each module slices the shared matrices, and scales after each product. PVeRA also computes
    /// its variance, which isn't used.
    fn native(&self) -> Native<'_> {
        let tensors = vec![
            FormTensor::stored(&self.keys[0], &*self.a, TensorRole::Term),
            FormTensor::stored(&self.keys[1], &*self.b, TensorRole::Term),
            FormTensor::stored(&self.keys[2], &self.lambda_d, TensorRole::Term),
            FormTensor::stored(&self.keys[3], &self.lambda_b, TensorRole::Term),
        ];
        Native::Own(NativeForm::new(tensors, move |site| {
            let [a, b, lambda_d, lambda_b] = [0, 1, 2, 3].map(|index| site.inputs[index].clone());
            let ((_, widest_input), (widest_output, r)) = (self.a.dim(), self.b.dim());
            let a = site.first("A", &a, 1, self.in_features, widest_input);
            let b = site.first("B", &b, 0, self.lambda_b.len(), widest_output);
            let x = site.x.clone();
            let inner = site.matmul_transposed("A/MatMul", &x, &a);
            let inner = site.op("Mul", "lambda_d", &[&inner, &lambda_d]);
            let mean = site.first("mean", &inner, 2, r, self.lambda_d.len());
            let outer = site.matmul_transposed("B/MatMul", &mean, &b);
            let delta = site.op("Mul", "lambda_b", &[&outer, &lambda_b]);
            site.base_plus(&delta)
        }))
    }

    fn trainable_params(&self) -> usize {
        self.lambda_d.len() + self.lambda_b.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::ModuleWeights;
    use ndarray::array;

    #[test]
    fn a_module_takes_the_corner_of_the_shared_matrices() {
        let adapter = Vera {
            keys: ["A", "B", "d", "b"].map(str::to_owned),
            a: Arc::new(array![[1.0, 2.0, 9.0], [3.0, 4.0, 9.0], [9.0, 9.0, 9.0]]),
            b: Arc::new(array![[1.0, 0.0], [1.0, 1.0], [9.0, 9.0]]),
            lambda_d: array![2.0, 1.0, 9.0],
            lambda_b: array![1.0, -1.0],
            in_features: 2,
        };
        let mut module = ModuleWeights {
            weight: Array2::zeros((2, 2)),
            bias: None,
        };
        adapter.merge_into(&mut module).unwrap();
        assert_eq!(module.weight, array![[2.0, 4.0], [-5.0, -8.0]]);
    }
}
