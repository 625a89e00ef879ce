//! LoKr: `W' = W + alpha / r * (w1 ⊗ w2)`, a Kronecker product: block `(p, q)` gains `w1[p, q] w2`.
//!
//! | tensor | shape |
//! |---|---|
//! | `lokr_w1`, or `lokr_w1_a`, `lokr_w1_b` | `[o_l, i_m]`, or `[o_l, r]`, `[r, i_m]` |
//! | `lokr_w2`, or `lokr_w2_a`, `lokr_w2_b` | `[o_k, i_n]`, or `[o_k, r]`, `[r, i_n]` |
//!
//! `out_features = o_l o_k`, `in_features = i_m i_n`, each split by `decompose_factor` (−1: as
//! square as possible). `w2` is factored if `r < max(o_k, i_n) / 2`; `w1` only with
//! `decompose_both`, by the same rule. `alpha / r` applies even if nothing is factored. Products of
//! factors are computed in float32.
//!
//! Sources: Edalati et al., arXiv:2212.10650; Yeh et al., arXiv:2309.14859; PEFT, `tuners/lokr/`.

use ndarray::Array2;

use super::{Class, Method};
use crate::adapter::form::{
    Delta, Form, FormTensor, LinearForm, Native, NativeForm, NativeSite, TensorRole, elements,
};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::options::{Factor, Rank};
use crate::adapter::toolbox::tuner::{Loading, TargetLinear, Tuner};
use crate::adapter::{AdapterError, AdapterTensors, Effects, Init, ModuleAdapter};
use crate::json::{ConfigError, JsonObject};

/// One operand of the Kronecker product.
#[derive(Debug)]
enum Side {
    Whole { key: String, matrix: Array2<f32> },
    Factored { a: Array2<f32>, b: Array2<f32> },
}

/// The tensors of one layer.
#[derive(Debug)]
struct LoKr {
    w1: Side,
    w2: Side,
    scaling: f32,
}

/// How a fresh adapter is initialised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// `w1` is 0.
    Default,
    /// `w2` is 0.
    Lycoris,
    /// Nothing is 0.
    Random,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "LOKR",
    class: Class::Weight,
    variants: "decompose_both, decompose_factor",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let ranks = Rank::read(config, 8)?;
    let alphas = Factor::read(config, "alpha", 8.0, "alpha_pattern")?;
    let both = config.flag("decompose_both", false)?;
    let factor = decompose_factor(config)?;
    let start = match config.get("init_weights") {
        None | Some(serde_json::Value::Bool(true)) => Start::Default,
        Some(serde_json::Value::Bool(false)) => Start::Random,
        Some(serde_json::Value::String(name)) if name == "lycoris" => Start::Lycoris,
        Some(_) => {
            let expected = "`true`, `false` or `lycoris`";
            return Err(config.wrong("init_weights", expected).into());
        }
    };
    Tuner::open(loading, QUERY_VALUE, None)?.adapt(|tensors, layer| {
        let r = ranks.of(config, layer.path())?;
        let scaling = alphas.of(config, layer.path())? / r as f64;
        let (o_l, o_k) = factorization(layer.out_features, factor);
        let (i_m, i_n) = factorization(layer.in_features, factor);
        let is_factored = |rows: usize, columns: usize| 2 * r < rows.max(columns);
        let w1 = side(
            tensors,
            layer,
            ["lokr_w1", "lokr_w1_a", "lokr_w1_b"],
            [o_l, i_m],
            (both && is_factored(o_l, i_m)).then_some(r),
            [start == Start::Default, false],
        )?;
        let w2 = side(
            tensors,
            layer,
            ["lokr_w2", "lokr_w2_a", "lokr_w2_b"],
            [o_k, i_n],
            is_factored(o_k, i_n).then_some(r),
            [false, start == Start::Lycoris],
        )?;
        Ok(LoKr {
            w1,
            w2,
            scaling: scaling as f32,
        })
    })
}

/// `decompose_factor`: `None` for −1.
fn decompose_factor(config: &JsonObject) -> Result<Option<usize>, ConfigError> {
    match config.get("decompose_factor") {
        None => Ok(None),
        Some(value) if value.as_i64() == Some(-1) => Ok(None),
        Some(_) => {
            let found = config.optional_size("decompose_factor");
            found.map_err(|_| config.wrong("decompose_factor", "-1 or a positive integer"))
        }
    }
}

/// Reads one operand. `names` are its keys, whole and factored; `zeros` are the factors that start
/// at 0.
fn side(
    tensors: &mut AdapterTensors,
    layer: &TargetLinear,
    names: [&str; 3],
    [rows, columns]: [usize; 2],
    r: Option<usize>,
    zeros: [bool; 2],
) -> Result<Side, AdapterError> {
    let init = |zero: bool, fan_in: usize| match zero {
        true => Init::Zeros,
        false => Init::linear_default(fan_in),
    };
    let [whole, a, b] = names.map(|name| layer.key(name));
    Ok(match r {
        None => Side::Whole {
            matrix: tensors.matrix(&whole, [rows, columns], init(zeros != [false; 2], columns))?,
            key: tensors.full_key(&whole),
        },
        Some(r) => Side::Factored {
            a: tensors.matrix(&a, [rows, r], init(zeros[0], r))?,
            b: tensors.matrix(&b, [r, columns], init(zeros[1], columns))?,
        },
    })
}

/// Splits a dimension. If `factor` divides it, `factor` comes first. Otherwise: the two divisors
/// that are closest to each other, the smaller one first and at most `factor`.
///
/// Source: PEFT, `tuners/lokr/layer.py`, `factorization`.
fn factorization(dimension: usize, factor: Option<usize>) -> (usize, usize) {
    if let Some(factor) = factor
        && dimension.is_multiple_of(factor)
    {
        return (factor, dimension / factor);
    }
    let most = factor.unwrap_or(dimension);
    let (mut m, mut n) = (1, dimension);
    while m < n {
        let mut larger = m + 1;
        while !dimension.is_multiple_of(larger) {
            larger += 1;
        }
        if larger > most {
            break;
        }
        (m, n) = (larger, dimension / larger);
    }
    (m.min(n), m.max(n))
}

impl Side {
    fn tensor(&self, name: &'static str, scaling: f32) -> FormTensor<'_> {
        match self {
            Self::Whole { key, matrix } if scaling == 1.0 => {
                FormTensor::stored(key, matrix, TensorRole::Term)
            }
            Self::Whole { key, matrix } => {
                FormTensor::scaled(key, matrix, scaling, TensorRole::Term)
            }
            Self::Factored { a, b } => {
                let shape = [a.nrows(), b.ncols()];
                FormTensor::derived(name, &shape, TensorRole::Term, move |_| {
                    let mut product = a.dot(b);
                    product *= scaling;
                    Ok(elements(&product))
                })
            }
        }
    }

    /// The tensors as stored; factors are named `a` and `b`.
    fn native_tensors(&self, a: &'static str, b: &'static str) -> Vec<FormTensor<'_>> {
        match self {
            Self::Whole { key, matrix } => vec![FormTensor::stored(key, matrix, TensorRole::Term)],
            Self::Factored { a: left, b: right } => {
                let tensor = |name, matrix: &'_ Array2<f32>| {
                    let values = elements(matrix);
                    FormTensor::derived(name, matrix.shape(), TensorRole::Term, move |_| {
                        Ok(values.clone())
                    })
                };
                vec![tensor(a, left), tensor(b, right)]
            }
        }
    }

    /// Rows and columns.
    fn dim(&self) -> (usize, usize) {
        match self {
            Self::Whole { matrix, .. } => matrix.dim(),
            Self::Factored { a, b } => (a.nrows(), b.ncols()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Whole { matrix, .. } => matrix.len(),
            Self::Factored { a, b } => a.len() + b.len(),
        }
    }
}

impl ModuleAdapter for LoKr {
    fn form(&self) -> Form<'_> {
        Form::Linear(LinearForm {
            delta: Some(Delta::Kronecker {
                outer: self.w1.tensor("w1", self.scaling),
                inner: self.w2.tensor("w2", 1.0),
            }),
            ..LinearForm::default()
        })
    }

    /// `x · (alpha / r * (w1 ⊗ w2))ᵀ`, with the whole product written out.
    fn native(&self) -> Native<'_> {
        let mut tensors = self.w1.native_tensors("w1_a", "w1_b");
        let first = tensors.len();
        tensors.extend(self.w2.native_tensors("w2_a", "w2_b"));
        let [(p, q), (u, v)] = [&self.w1, &self.w2].map(Side::dim);
        Native::Own(NativeForm::new(tensors, move |site| {
            let side = |site: &mut NativeSite, name: &str, from: usize, to: usize| {
                let own = site.inputs[from..to].to_vec();
                match own.as_slice() {
                    [a, b] => site.op("MatMul", name, &[a, b]),
                    [whole, ..] => whole.clone(),
                    [] => unreachable!("a side has tensors"),
                }
            };
            let last = site.inputs.len();
            let w1 = side(site, "w1", 0, first);
            let w2 = side(site, "w2", first, last);
            let shape = |sizes: [usize; 4]| sizes.map(|size| size as i64);
            let name = site.name("w1/blocks");
            let w1 = site.graph.reshape(&name, &w1, &shape([p, 1, q, 1]));
            let name = site.name("w2/blocks");
            let w2 = site.graph.reshape(&name, &w2, &shape([1, u, 1, v]));
            let product = site.op("Mul", "kron/Mul", &[&w1, &w2]);
            let name = site.name("kron");
            let sizes = [(p * u) as i64, (q * v) as i64];
            let product = site.graph.reshape(&name, &product, &sizes);
            let scaling = site.scalar("scaling", self.scaling);
            let weight = site.op("Mul", "scaled", &[&product, &scaling]);
            let x = site.x.clone();
            let delta = site.matmul_transposed("delta", &x, &weight);
            site.base_plus(&delta)
        }))
    }

    fn trainable_params(&self) -> usize {
        self.w1.len() + self.w2.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::ModuleWeights;
    use ndarray::array;

    /// Values of PEFT's function.
    #[test]
    fn dimensions_split_as_peft_splits_them() {
        for (dimension, factor, expected) in [
            (4096, None, (64, 64)),
            (768, None, (24, 32)),
            (7, None, (1, 7)),
            (96, Some(4), (4, 24)),
            (96, Some(5), (4, 24)),
            (64, Some(32), (32, 2)),
            (30, Some(4), (3, 10)),
        ] {
            let found = factorization(dimension, factor);
            assert_eq!(found, expected, "{dimension} by {factor:?}");
        }
    }

    #[test]
    fn factors_are_multiplied_before_the_product() {
        let adapter = LoKr {
            w1: Side::Whole {
                key: "w1".to_owned(),
                matrix: array![[1.0, -1.0]],
            },
            w2: Side::Factored {
                a: array![[1.0], [2.0]],
                b: array![[3.0]],
            },
            scaling: 2.0,
        };
        let mut module = ModuleWeights {
            weight: Array2::zeros((2, 2)),
            bias: None,
        };
        adapter.merge_into(&mut module).unwrap();
        assert_eq!(module.weight, array![[6.0, -6.0], [12.0, -12.0]]);
        assert_eq!(adapter.trainable_params(), 5);
    }
}
