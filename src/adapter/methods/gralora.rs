//! GraLoRA: the weight is cut into `k × k` blocks, each with its own low-rank pair.
//!
//! | tensor | shape |
//! |---|---|
//! | `gralora_A` | `[k, in_features / k, r]` |
//! | `gralora_B` | `[k, r, out_features / k]` |
//! | `gralora_A_general.weight` (`hybrid_r`) | `[hybrid_r, in_features]` |
//! | `gralora_B_general.weight` (`hybrid_r`) | `[out_features, hybrid_r]` |
//!
//! With `q = r / k`, the block of outputs `j` and inputs `n` gains
//! `s * (A[n][:, j q .. (j+1) q] · B[j][n q .. (n+1) q, :])ᵀ`, `s = alpha / (r + hybrid_r)`.
//! Together they are one pair of rank `k r` (`+ hybrid_r`): row `(j, n, c)` of `A` is
//! `A[n][:, j q + c]` at the inputs `n`, column `(j, n, c)` of `B` is `s B[j][n q + c]` at the
//! outputs `j`. Sums are taken in float32.
//!
//! Sources: Jung et al., arXiv:2505.20355; PEFT, `tuners/gralora/`.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, Array3, Axis, concatenate, s};

use super::{Class, Method};
use crate::adapter::form::{
    BaseModule, Form, FormTensor, LinearForm, Native, NativeForm, NativeSite, TensorRole, elements,
};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::options::{factor, rank};
use crate::adapter::toolbox::tuner::{Loading, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter, ModuleWeights};
use crate::graph::Value;

/// The tensors of one layer.
#[derive(Debug)]
struct GraLora {
    /// Keys of `A`, `B`, and the general `A`, `B`.
    keys: [String; 4],
    /// `[k, in_features / k, r]`
    a: Array3<f32>,
    /// `[k, r, out_features / k]`
    b: Array3<f32>,
    /// The general `A`, `[h, in_features]`, and `B`, `[out_features, h]`.
    general: Option<(Array2<f32>, Array2<f32>)>,
    scaling: f32,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "GRALORA",
    class: Class::Weight,
    variants: "hybrid_r",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let r = rank(config, "r", 32)?;
    let k = rank(config, "gralora_k", 2)?;
    let hybrid = match config.get("hybrid_r") {
        Some(value) if value.as_u64() == Some(0) => 0,
        None => 0,
        Some(_) => rank(config, "hybrid_r", 0)?,
    };
    if !r.is_multiple_of(k) {
        let expected = format!("a multiple of `gralora_k`, {k}");
        return Err(config.wrong("r", &expected).into());
    }
    let scaling = factor(config, "alpha", 64.0)? / (r + hybrid) as f64;
    let identity = config.flag("init_weights", true)?;
    let second = |fan_in: usize| match identity {
        true => Init::Zeros,
        false => Init::linear_default(fan_in),
    };
    Tuner::open(loading, QUERY_VALUE, Some("gralora_only"))?.adapt(|tensors, layer| {
        let (rows, columns) = (layer.out_features, layer.in_features);
        if !rows.is_multiple_of(k) || !columns.is_multiple_of(k) {
            let path = layer.path();
            let expected = format!("a divisor of {rows} and {columns}, the sizes of `{path}`");
            return Err(config.wrong("gralora_k", &expected).into());
        }
        let (key_a, key_b) = (layer.key("gralora_A"), layer.key("gralora_B"));
        let a = tensors.cube(
            &key_a,
            [k, columns / k, r],
            Init::linear_default(columns / k),
        )?;
        let b = tensors.cube(&key_b, [k, r, rows / k], second(r))?;
        let mut general = None;
        if hybrid > 0 {
            let [key_a, key_b] =
                ["A", "B"].map(|name| layer.key(&format!("gralora_{name}_general.weight")));
            let init = Init::linear_default(columns);
            general = Some((
                tensors.matrix(&key_a, [hybrid, columns], init)?,
                tensors.matrix(&key_b, [rows, hybrid], second(hybrid))?,
            ));
        }
        let general_keys = ["A", "B"].map(|name| format!("gralora_{name}_general.weight"));
        let names = ["gralora_A", "gralora_B", &general_keys[0], &general_keys[1]];
        Ok(GraLora {
            keys: names.map(|name| tensors.full_key(&layer.key(name))),
            a,
            b,
            general,
            scaling: scaling as f32,
        })
    })
}

impl GraLora {
    fn sizes(&self) -> (usize, usize, usize, usize) {
        let (k, inputs, r) = self.a.dim();
        (k, r / k, inputs, self.b.len_of(Axis(2)))
    }

    /// `[k r + h, in_features]`
    fn joined_a(&self) -> Array2<f32> {
        let (k, q, inputs, _) = self.sizes();
        let mut joined = Array2::zeros((k * k * q, k * inputs));
        for (j, n) in (0..k).flat_map(|j| (0..k).map(move |n| (j, n))) {
            let rows = (j * k + n) * q..(j * k + n + 1) * q;
            let mut place = joined.slice_mut(s![rows, n * inputs..(n + 1) * inputs]);
            place.assign(&self.a.slice(s![n, .., j * q..(j + 1) * q]).t());
        }
        match &self.general {
            Some((a, _)) => concatenate![Axis(0), joined, *a],
            None => joined,
        }
    }

    /// `[out_features, k r + h]`, scaled.
    fn joined_b(&self) -> Array2<f32> {
        let (k, q, _, outputs) = self.sizes();
        let mut joined = Array2::zeros((k * outputs, k * k * q));
        for (j, n) in (0..k).flat_map(|j| (0..k).map(move |n| (j, n))) {
            let columns = (j * k + n) * q..(j * k + n + 1) * q;
            let mut place = joined.slice_mut(s![j * outputs..(j + 1) * outputs, columns]);
            place.assign(&self.b.slice(s![j, n * q..(n + 1) * q, ..]).t());
        }
        if let Some((_, b)) = &self.general {
            joined = concatenate![Axis(1), joined, *b];
        }
        joined *= self.scaling;
        joined
    }

    fn add_to(&self, weight: &mut Array2<f32>) {
        let (k, q, inputs, outputs) = self.sizes();
        for (j, n) in (0..k).flat_map(|j| (0..k).map(move |n| (j, n))) {
            let a = self.a.slice(s![n, .., j * q..(j + 1) * q]);
            let b = self.b.slice(s![j, n * q..(n + 1) * q, ..]);
            let mut block = weight.slice_mut(s![
                j * outputs..(j + 1) * outputs,
                n * inputs..(n + 1) * inputs
            ]);
            general_mat_mul(self.scaling, &b.t(), &a.t(), 1.0, &mut block);
        }
        if let Some((a, b)) = &self.general {
            general_mat_mul(self.scaling, b, a, 1.0, weight);
        }
    }
}

impl ModuleAdapter for GraLora {
    fn form(&self) -> Form<'_> {
        let (k, q, inputs, outputs) = self.sizes();
        let rank = k * k * q + self.general.as_ref().map_or(0, |(a, _)| a.nrows());
        let (rows, columns) = (k * outputs, k * inputs);
        let weight = |base: &BaseModule| {
            let mut weight = base.weight()?.clone();
            self.add_to(&mut weight);
            Ok(elements(&weight))
        };
        Form::Linear(LinearForm::low_rank_or_weight(
            FormTensor::derived("A", &[rank, columns], TensorRole::Term, |_| {
                Ok(elements(&self.joined_a()))
            }),
            FormTensor::derived("B", &[rows, rank], TensorRole::Term, |_| {
                Ok(elements(&self.joined_b()))
            }),
            FormTensor::derived("weight", &[rows, columns], TensorRole::InPlace, weight),
        ))
    }

    /// Merges block by block, without the zeros of the joined pair.
    fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        self.add_to(&mut module.weight);
        Ok(())
    }

    /// Products by block; the two block axes are swapped between them.
    fn native(&self) -> Native<'_> {
        let mut tensors = vec![
            FormTensor::stored(&self.keys[0], &self.a, TensorRole::Term),
            FormTensor::stored(&self.keys[1], &self.b, TensorRole::Term),
        ];
        if let Some((a, b)) = &self.general {
            tensors.push(FormTensor::stored(&self.keys[2], a, TensorRole::Term));
            tensors.push(FormTensor::stored(&self.keys[3], b, TensorRole::Term));
        }
        let (k, q, inputs, outputs) = self.sizes();
        let [k, q, inputs, outputs] = [k, q, inputs, outputs].map(|size| size as i64);
        Native::Own(NativeForm::new(tensors, move |site| {
            let (a, b) = (site.inputs[0].clone(), site.inputs[1].clone());
            let reshape = |site: &mut NativeSite, name: &str, x: &Value, shape: &[i64]| {
                let name = site.name(name);
                site.graph.reshape(&name, x, shape)
            };
            let transpose = |site: &mut NativeSite, name: &str, x: &Value, order: &[i64]| {
                let name = site.name(name);
                site.graph.transpose(&name, x, order)
            };
            let x = site.x.clone();
            let blocks = reshape(site, "blocks", &x, &[0, 0, k, inputs]);
            let blocks = transpose(site, "to_front", &blocks, &[0, 2, 1, 3]);
            // [batch, n, sequence, r]
            let inner = site.op("MatMul", "A/MatMul", &[&blocks, &a]);
            let inner = reshape(site, "shares", &inner, &[0, 0, 0, k, q]);
            let inner = transpose(site, "exchange", &inner, &[0, 3, 2, 1, 4]);
            let inner = reshape(site, "gathered", &inner, &[0, 0, 0, k * q]);
            let outer = site.op("MatMul", "B/MatMul", &[&inner, &b]);
            let outer = transpose(site, "to_back", &outer, &[0, 2, 1, 3]);
            let mut delta = reshape(site, "join", &outer, &[0, 0, k * outputs]);
            if let [_, _, general_a, general_b] = site.inputs.as_slice() {
                let (a, b) = (general_a.clone(), general_b.clone());
                let inner = site.matmul_transposed("A_general/MatMul", &x, &a);
                let general = site.matmul_transposed("B_general/MatMul", &inner, &b);
                delta = site.op("Add", "general", &[&delta, &general]);
            }
            let scaling = site.scalar("scaling", self.scaling);
            let delta = site.op("Mul", "scaled", &[&delta, &scaling]);
            site.base_plus(&delta)
        }))
    }

    fn trainable_params(&self) -> usize {
        let general = |(a, b): &(Array2<f32>, Array2<f32>)| a.len() + b.len();
        self.a.len() + self.b.len() + self.general.as_ref().map_or(0, general)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_joined_pair_is_the_blocks() {
        let count = |from: f32| move |index: usize| (index as f32 * 0.37 + from).sin();
        let fill = |shape: (usize, usize, usize), from| {
            Array3::from_shape_fn(shape, |(x, y, z)| count(from)(x * 100 + y * 10 + z))
        };
        let flat = |shape: (usize, usize), from| {
            Array2::from_shape_fn(shape, |(x, y)| count(from)(x * 10 + y))
        };
        let adapter = GraLora {
            keys: Default::default(),
            a: fill((2, 3, 4), 0.1),
            b: fill((2, 4, 5), 0.7),
            general: Some((flat((1, 6), 0.2), flat((10, 1), 0.4))),
            scaling: 0.5,
        };
        let mut weight = Array2::zeros((10, 6));
        adapter.add_to(&mut weight);
        let joined = adapter.joined_b().dot(&adapter.joined_a());
        assert!((&weight - &joined).iter().all(|d| d.abs() < 1e-5));
        // Outputs 5.. and inputs ..3: j = 1, n = 0.
        let by_hand: f32 = (0..2)
            .map(|c| adapter.a[[0, 1, 2 + c]] * adapter.b[[1, c, 3]])
            .sum();
        let (a, b) = adapter.general.as_ref().unwrap();
        let expected = 0.5 * (by_hand + a[[0, 1]] * b[[8, 0]]);
        assert!((weight[[8, 1]] - expected).abs() < 1e-6);
    }
}
