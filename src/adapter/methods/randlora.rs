//! RandLoRA: a full-rank sum of scaled random bases that all modules share.
//!
//! With `small = min(out_features, in_features)`, `large` the other size and `n = ceil(small / r)`:
//!
//! | tensor | shape |
//! |---|---|
//! | `randlora_lambda` | `[r, n]` |
//! | `randlora_gamma` | `[n, small]` |
//! | shared `base_model.randlora_A` | `[r, 1, largest small]` |
//! | shared `base_model.randlora_B` | `[largest large, largest n, r]` |
//!
//! `D = B' A'`, `[large, small]`, with `A'[(rho, beta)] = lambda[rho, beta] A[rho] ∘ gamma[beta]`,
//! and `B'` the first `n` bases of `B`, whose columns run over `(beta, rho)`. The two orders
//! differ, as in PEFT. `W' = W + randlora_alpha / r * D`, transposed if the layer is wide. PEFT
//! also stores the shared matrices under every module. Sums are taken in float32.
//!
//! Without `save_projection` they are drawn again from `projection_prng_key`: in bfloat16, which
//! PEFT uses on machines that have it, else float16; or, with `sparse` and `very_sparse`, as signs.
//!
//! Sources: Albert et al., arXiv:2502.00987; PEFT, `tuners/randlora/`.

use std::sync::Arc;

use half::bf16;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, Array3, s};

use super::{Class, Method};
use crate::adapter::form::{Form, FormTensor, Native, NativeForm, TensorRole};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::dense::changed_weight;
use crate::adapter::toolbox::options::{factor, rank, seed};
use crate::adapter::toolbox::tuner::{Loading, TargetLinear, Tuner};
use crate::adapter::{AdapterError, AdapterTensors, Effects, Init, ModuleAdapter};
use crate::random::TorchGenerator;

/// The tensors of one layer.
#[derive(Debug)]
struct RandLora {
    /// Keys of `A`, `B`, `lambda` and `gamma`.
    keys: [String; 4],
    bases: Arc<Bases>,
    /// `[r, n]`
    lambda: Array2<f32>,
    /// `[n, small]`
    gamma: Array2<f32>,
    out_features: usize,
    in_features: usize,
    scaling: f32,
}

/// The matrices that all modules share.
#[derive(Debug)]
struct Bases {
    /// `[r, 1, small]`
    a: Array3<f32>,
    /// `[large, n, r]`
    b: Array3<f32>,
}

/// How the bases are drawn.
#[derive(Debug, Clone, Copy)]
enum Drawing {
    Uniform,
    /// Of `2 k` elements one is -1, one is 1, the others are 0; `k` is 3.
    Sparse,
    /// As [`Sparse`](Self::Sparse), with `k = sqrt(small)`.
    VerySparse,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "RANDLORA",
    class: Class::Weight,
    variants: "sparse, very_sparse, save_projection false",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let r = rank(config, "r", 32)?;
    let scaling = factor(config, "randlora_alpha", 640.0)? / r as f64;
    let saved = config.flag("save_projection", true)?;
    let key = seed(config, "projection_prng_key", 0)?;
    let identity = config.flag("init_weights", true)?;
    let drawing = match (
        config.flag("very_sparse", false)?,
        config.flag("sparse", false)?,
    ) {
        (true, _) => Drawing::VerySparse,
        (false, true) => Drawing::Sparse,
        (false, false) => Drawing::Uniform,
    };

    let tuner = Tuner::open(loading, QUERY_VALUE, Some("randlora_only"))?;
    let layers = tuner.layers()?;
    let largest = |size: fn(&TargetLinear) -> usize| layers.iter().map(size).max().unwrap_or(0);
    let inputs = largest(|layer| layer.in_features);
    let outputs = largest(|layer| layer.out_features);
    let (small, large) = (inputs.min(outputs), inputs.max(outputs));
    let shapes = ([r, 1, small], [large, small.div_ceil(r), r]);
    let keys = ["A", "B"].map(|matrix| format!("base_model.randlora_{matrix}"));
    let bases = if keys.iter().any(|key| tuner.tensors.is_redrawn(key, saved)) {
        Bases::draw(drawing, &mut TorchGenerator::new(key), shapes)
    } else {
        Bases {
            a: tuner.tensors.cube(&keys[0], shapes.0, Init::Zeros)?,
            b: tuner.tensors.cube(&keys[1], shapes.1, Init::Zeros)?,
        }
    };
    let bases = Arc::new(bases);
    tuner.adapt(|tensors, layer| {
        claim_copies(tensors, layer, shapes)?;
        let small = layer.in_features.min(layer.out_features);
        let n = small.div_ceil(r);
        let [lambda, gamma] = match identity {
            true => [Init::Zeros, Init::Constant(1.0 / n.max(small) as f32)],
            false => [Init::Normal(1.0), Init::Constant(1.0 / n.max(small) as f32)],
        };
        let [key_lambda, key_gamma] =
            ["lambda", "gamma"].map(|which| layer.key(&format!("randlora_{which}")));
        Ok(RandLora {
            keys: [&keys[0], &keys[1], &key_lambda, &key_gamma].map(|key| tensors.full_key(key)),
            bases: Arc::clone(&bases),
            lambda: tensors.matrix(&key_lambda, [r, n], lambda)?,
            gamma: tensors.matrix(&key_gamma, [n, small], gamma)?,
            out_features: layer.out_features,
            in_features: layer.in_features,
            scaling: scaling as f32,
        })
    })
}

/// Marks the copies of the shared matrices under a module as used.
fn claim_copies(
    tensors: &mut AdapterTensors,
    layer: &TargetLinear,
    shapes: ([usize; 3], [usize; 3]),
) -> Result<(), AdapterError> {
    for (name, shape) in [("randlora_A", shapes.0), ("randlora_B", shapes.1)] {
        let key = layer.key(name);
        if tensors.has(&key) {
            tensors.claim(&key, &shape)?;
        }
    }
    Ok(())
}

impl Bases {
    fn draw(
        drawing: Drawing,
        generator: &mut TorchGenerator,
        (shape_a, shape_b): ([usize; 3], [usize; 3]),
    ) -> Self {
        let [r, _, small] = shape_a;
        let [large, n, _] = shape_b;
        match drawing {
            Drawing::Uniform => {
                let a = uniform(generator, r * small, small);
                // The bases are drawn one after the other, and stored side by side.
                let mut b = Array3::from_elem(shape_b, bf16::ZERO);
                for base in 0..n {
                    let values = uniform(generator, large * r, r);
                    let values = Array2::from_shape_vec((large, r), values);
                    b.slice_mut(s![.., base, ..])
                        .assign(&values.expect("as many were drawn"));
                }
                Self {
                    a: cube(shape_a, in_deviations_bf16(a)),
                    b: cube(shape_b, in_deviations_bf16(b.into_raw_vec_and_offset().0)),
                }
            }
            Drawing::Sparse | Drawing::VerySparse => {
                let k = match drawing {
                    Drawing::VerySparse => (small as f64).sqrt(),
                    _ => 3.0,
                };
                let mut signs = |count: usize| {
                    let values = (0..count).map(|_| sign(generator.rand(), k)).collect();
                    in_deviations(values)
                };
                let a = signs(r * small);
                Self {
                    a: cube(shape_a, a),
                    b: cube(shape_b, signs(large * n * r)),
                }
            }
        }
    }
}

fn cube(shape: [usize; 3], values: Vec<f32>) -> Array3<f32> {
    Array3::from_shape_vec(shape, values).expect("as many were drawn")
}

/// `kaiming_uniform_(a=sqrt(5))` of a bfloat16 tensor.
fn uniform(generator: &mut TorchGenerator, count: usize, fan_in: usize) -> Vec<bf16> {
    let gain = (2.0 / (1.0 + 5_f64.sqrt().powi(2))).sqrt();
    let bound = 3_f64.sqrt() * (gain / (fan_in as f64).sqrt());
    generator.uniform_bf16(count, bound)
}

fn sign(uniform: f32, k: f64) -> f32 {
    let part = 1.0 / (2.0 * k);
    if uniform < part as f32 {
        -1.0
    } else if uniform > (1.0 - part) as f32 {
        1.0
    } else {
        0.0
    }
}

/// The sample standard deviation.
fn deviation(values: impl ExactSizeIterator<Item = f64> + Clone) -> f64 {
    let count = values.len() as f64;
    let mean = values.clone().sum::<f64>() / count;
    let squares: f64 = values.map(|value| (value - mean).powi(2)).sum();
    (squares / (count - 1.0)).sqrt()
}

fn in_deviations(mut values: Vec<f32>) -> Vec<f32> {
    let deviation = deviation(values.iter().map(|&value| f64::from(value))) as f32;
    values.iter_mut().for_each(|value| *value /= deviation);
    values
}

/// Divides by the standard deviation, and rounds to bfloat16 wherever PEFT does.
fn in_deviations_bf16(values: Vec<bf16>) -> Vec<f32> {
    let deviation = bf16::from_f64(deviation(values.iter().map(|value| value.to_f64())));
    let scaled = |value: bf16| bf16::from_f32(value.to_f32() / deviation.to_f32()).to_f32();
    values.into_iter().map(scaled).collect()
}

impl RandLora {
    fn add_to(&self, weight: &mut Array2<f32>) {
        let (n, small) = self.gamma.dim();
        let r = self.lambda.nrows();
        let large = self.in_features.max(self.out_features);
        let mut a = Array2::zeros((r * n, small));
        for (index, mut row) in a.rows_mut().into_iter().enumerate() {
            let (rho, beta) = (index / n, index % n);
            row.assign(&self.bases.a.slice(s![rho, 0, ..small]));
            row *= &self.gamma.row(beta);
            row *= self.lambda[[rho, beta]];
        }
        let b = self.bases.b.slice(s![..large, ..n, ..]);
        let b = b.as_standard_layout();
        let b = b.to_shape((large, n * r)).expect("it's contiguous");
        if small == self.in_features {
            general_mat_mul(self.scaling, &b, &a, 1.0, weight);
        } else {
            general_mat_mul(self.scaling, &a.t(), &b.t(), 1.0, weight);
        }
    }
}

impl ModuleAdapter for RandLora {
    fn form(&self) -> Form<'_> {
        // The sum of the bases has full rank: a pair would be larger than the weight.
        let shape = [self.out_features, self.in_features];
        Form::Linear(changed_weight(shape, |weight| {
            self.add_to(weight);
            Ok(())
        }))
    }

    /// Scales the shared bases for each module, and multiplies by both in turn.
    fn native(&self) -> Native<'_> {
        let tensors = vec![
            FormTensor::stored(&self.keys[0], &self.bases.a, TensorRole::Term),
            FormTensor::stored(&self.keys[1], &self.bases.b, TensorRole::Term),
            FormTensor::stored(&self.keys[2], &self.lambda, TensorRole::Term),
            FormTensor::stored(&self.keys[3], &self.gamma, TensorRole::Term),
        ];
        Native::Own(NativeForm::new(tensors, move |site| {
            let [a, b, lambda, gamma] = [0, 1, 2, 3].map(|index| site.inputs[index].clone());
            let (r, (n, small)) = (self.lambda.nrows(), self.gamma.dim());
            let (widest, most, _) = self.bases.b.dim();
            let large = self.in_features.max(self.out_features);
            let b = site.first("B/large", &b, 0, large, widest);
            let b = site.first("B/bases", &b, 1, n, most);
            let b = site.reshape("B", &b, &[large as i64, (n * r) as i64]);

            let a = site.first("A/small", &a, 2, small, self.bases.a.dim().2);
            let lambda = site.reshape("lambda", &lambda, &[r as i64, n as i64, 1]);
            let scaled = site.op("Mul", "A/lambda", &[&lambda, &a]);
            let scaled = site.op("Mul", "A/gamma", &[&scaled, &gamma]);
            let a = site.reshape("A", &scaled, &[(r * n) as i64, small as i64]);

            let x = site.x.clone();
            let product = if small == self.in_features {
                let inner = site.matmul_transposed("A/MatMul", &x, &a);
                site.matmul_transposed("B/MatMul", &inner, &b)
            } else {
                let inner = site.op("MatMul", "B/MatMul", &[&x, &b]);
                site.op("MatMul", "A/MatMul", &[&inner, &a])
            };
            let scaling = site.scalar("scaling", self.scaling);
            let delta = site.op("Mul", "scaled", &[&product, &scaling]);
            site.base_plus(&delta)
        }))
    }

    fn trainable_params(&self) -> usize {
        self.lambda.len() + self.gamma.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Axis, array};

    fn adapter(out_features: usize, in_features: usize) -> RandLora {
        RandLora {
            keys: ["A", "B", "lambda", "gamma"].map(str::to_owned),
            bases: Arc::new(Bases {
                a: array![[[1.0, 2.0]], [[3.0, 4.0]]],
                // [large 3, n 1, r 2]
                b: array![[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]]],
            }),
            lambda: array![[2.0], [1.0]],
            gamma: array![[1.0, 0.5]],
            out_features,
            in_features,
            scaling: 1.0,
        }
    }

    #[test]
    fn a_wide_layer_takes_the_transpose_of_a_tall_one() {
        let mut tall = Array2::zeros((3, 2));
        adapter(3, 2).add_to(&mut tall);
        assert_eq!(tall, array![[2.0, 2.0], [3.0, 2.0], [5.0, 4.0]]);
        let mut wide = Array2::zeros((2, 3));
        adapter(2, 3).add_to(&mut wide);
        assert_eq!(wide, tall.t());
    }

    #[test]
    fn ranks_and_bases_are_flattened_in_different_orders() {
        let adapter = RandLora {
            keys: ["A", "B", "lambda", "gamma"].map(str::to_owned),
            bases: Arc::new(Bases {
                a: array![[[1.0]], [[10.0]]]
                    .broadcast((2, 1, 3))
                    .unwrap()
                    .to_owned(),
                b: Array3::from_shape_vec((3, 2, 2), (0..12).map(|v| v as f32).collect()).unwrap(),
            }),
            lambda: array![[1.0, 2.0], [3.0, 4.0]],
            gamma: Array2::ones((2, 3)),
            out_features: 3,
            in_features: 3,
            scaling: 1.0,
        };
        let mut weight = Array2::zeros((3, 3));
        adapter.add_to(&mut weight);
        // Columns of B' by (base, rank): 0 1 2 3; rows of A' by (rank, base): 1 2 30 40.
        assert_eq!(weight[[0, 0]], 1.0 * 2.0 + 2.0 * 30.0 + 3.0 * 40.0);
        assert_eq!(weight.index_axis(Axis(1), 0), weight.index_axis(Axis(1), 2));
    }

    #[test]
    fn signs_are_cut_at_both_ends() {
        assert_eq!(
            [0.1, 0.2, 0.8, 0.9].map(|u| sign(u, 3.0)),
            [-1.0, 0.0, 0.0, 1.0]
        );
        assert_eq!(in_deviations(vec![-1.0, 0.0, 1.0]), [-1.0, 0.0, 1.0]);
    }
}
