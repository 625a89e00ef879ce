//! DeLoRA: `W' = W + (B diag(lambda / (r |A_k| |B_k|)) A) ∘ w_norm`, with columns scaled by
//! `w_norm`.
//!
//! | tensor | shape |
//! |---|---|
//! | `delora_A` | `[r, in_features]` |
//! | `delora_B` | `[out_features, r]` |
//! | `delora_lambda` | `[1]` |
//! | `delora_w_norm` | `[in_features]`, norms of the base's columns, not trained |
//!
//! `|A_k|` are norms of rows, `|B_k|` of columns, each at least `1e-4`. `rank_pattern` and
//! `lambda_pattern` set a fresh adapter's values by module. Sums are taken in float32.
//!
//! Sources: Bini et al., arXiv:2503.18225; PEFT, `tuners/delora/`.

use ndarray::{Array1, Array2, Axis};

use super::lora::column_norms;
use super::{Class, Method};
use crate::adapter::form::{
    Form, FormTensor, LinearForm, Native, NativeForm, NativeSite, TensorRole, elements,
};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::options::{Factor, Rank};
use crate::adapter::toolbox::tuner::{Loading, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter};
use crate::graph::Value;

/// The lower bound of norms.
const LEAST: f32 = 1e-4;

/// The tensors of one layer.
#[derive(Debug)]
struct DeLora {
    /// Keys of `A`, `B`, lambda and norms.
    keys: [String; 4],
    /// `[r, in_features]`
    a: Array2<f32>,
    /// `[out_features, r]`
    b: Array2<f32>,
    /// `[1]`
    lambda: Array1<f32>,
    /// `[in_features]`
    w_norm: Array1<f32>,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "DELORA",
    class: Class::Weight,
    variants: "",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let (config, base) = (loading.config, loading.base);
    let ranks = Rank::read(config, 8)?;
    let lambdas = Factor::read(config, "delora_lambda", 15.0, "lambda_pattern")?;
    let identity = config.flag("init_weights", true)?;
    Tuner::open(loading, QUERY_VALUE, Some("delora_only"))?.adapt(|tensors, layer| {
        let r = ranks.of(config, layer.path())?;
        let (rows, columns) = (layer.out_features, layer.in_features);
        let lambda = Init::Constant(lambdas.of(config, layer.path())? as f32);
        let second = match identity {
            true => Init::Zeros,
            false => Init::linear_default(r),
        };
        let init = Init::linear_default(columns);
        let w_norm = tensors.take_or(&layer.key("delora_w_norm"), &[columns], |_| {
            let weight = base.matrix(&format!("{}.weight", layer.module.source))?;
            Ok(column_norms(&weight).to_vec())
        })?;
        let names = ["delora_A", "delora_B", "delora_lambda", "delora_w_norm"];
        Ok(DeLora {
            keys: names.map(|name| tensors.full_key(&layer.key(name))),
            a: tensors.matrix(&layer.key("delora_A"), [r, columns], init)?,
            b: tensors.matrix(&layer.key("delora_B"), [rows, r], second)?,
            lambda: tensors.vector(&layer.key("delora_lambda"), 1, lambda)?,
            w_norm: w_norm.into(),
        })
    })
}

impl DeLora {
    /// `lambda / (r |A_k| |B_k|)` for each `k`.
    fn factors(&self) -> Vec<f32> {
        let scaled = self.lambda[0] / self.a.nrows() as f32;
        let pairs = self.a.axis_iter(Axis(0)).zip(self.b.axis_iter(Axis(1)));
        pairs
            .map(|(row, column)| {
                let row = row.dot(&row).sqrt().max(LEAST);
                scaled / (row * column.dot(&column).sqrt().max(LEAST))
            })
            .collect()
    }
}

impl ModuleAdapter for DeLora {
    fn form(&self) -> Form<'_> {
        Form::Linear(LinearForm::low_rank(
            FormTensor::derived("A", self.a.shape(), TensorRole::Term, |_| {
                Ok(elements(&(&self.a * &self.w_norm)))
            }),
            FormTensor::derived("B", self.b.shape(), TensorRole::Term, |_| {
                Ok(elements(&(&self.b * &Array1::from(self.factors()))))
            }),
        ))
    }

    /// The norms of `A` and `B` are computed in every step.
    fn native(&self) -> Native<'_> {
        let key = |index: usize| &self.keys[index];
        let tensors = vec![
            FormTensor::stored(key(0), &self.a, TensorRole::Term),
            FormTensor::stored(key(1), &self.b, TensorRole::Term),
            FormTensor::stored(key(2), &self.lambda, TensorRole::Factor),
            FormTensor::stored(key(3), &self.w_norm, TensorRole::Factor),
        ];
        let r = self.a.nrows() as f32;
        Native::Own(NativeForm::new(tensors, move |site| {
            let [a, b, lambda, w_norm] = [0, 1, 2, 3].map(|index| site.inputs[index].clone());
            let least = site.scalar("least", LEAST);
            let norm = |site: &mut NativeSite, name: &str, x: &Value, axis: i64| {
                let norm = site.norms(name, x, axis, false);
                site.op("Max", &format!("{name}/Max"), &[&norm, &least])
            };
            let rows = norm(site, "A/norms", &a, 1);
            let columns = norm(site, "B/norms", &b, 0);
            let norms = site.op("Mul", "norms", &[&rows, &columns]);
            let divisor = site.scalar("r", r);
            let scaled = site.op("Div", "lambda_by_r", &[&lambda, &divisor]);
            let factors = site.op("Div", "factors", &[&scaled, &norms]);
            let x = site.x.clone();
            let x = site.op("Mul", "x", &[&x, &w_norm]);
            let inner = site.matmul_transposed("A/MatMul", &x, &a);
            let inner = site.op("Mul", "inner", &[&inner, &factors]);
            let delta = site.matmul_transposed("B/MatMul", &inner, &b);
            site.base_plus(&delta)
        }))
    }

    fn trainable_params(&self) -> usize {
        self.a.len() + self.b.len() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::ModuleWeights;
    use ndarray::array;

    #[test]
    fn directions_are_normalised_and_columns_scaled() {
        let adapter = DeLora {
            keys: Default::default(),
            a: array![[3.0, 4.0]],
            b: array![[0.0], [2.0]],
            lambda: array![10.0],
            w_norm: array![1.0, 0.5],
        };
        let mut module = ModuleWeights {
            weight: Array2::zeros((2, 2)),
            bias: None,
        };
        adapter.merge_into(&mut module).unwrap();
        let expected = array![[0.0, 0.0], [6.0, 4.0]];
        assert!((module.weight - expected).iter().all(|d| d.abs() < 1e-5));
    }

    #[test]
    fn a_zero_direction_is_no_division_by_zero() {
        let adapter = DeLora {
            keys: Default::default(),
            a: array![[3.0, 4.0]],
            b: array![[0.0], [0.0]],
            lambda: array![10.0],
            w_norm: array![1.0, 1.0],
        };
        assert_eq!(adapter.factors(), [10.0 / (5.0 * 1e-4)]);
    }
}
