//! DEFT: `W' = W + Q (s R − Rtᵀ W)`: removes a subspace of the outputs, and adds a trained term in
//! it.
//!
//! | tensor | shape |
//! |---|---|
//! | `deft_P` | `[out_features, r]`, `r` at most `out_features` |
//! | `deft_R` (absent with `para`) | `[r, in_features]` |
//!
//! `decomposition_method` `relu`: `Q = P`, `Rt = relu(P)`. `qr`: both are the orthonormal factor of
//! `P`, with the signs of Householder reflections, which `R` was trained with. `s = alpha / r`, or
//! 1 without `alpha`. With `para` no term is added. The orthonormal factor is computed in float64,
//! products in float32.
//!
//! Sources: PEFT, `tuners/deft/`; LAPACK, `dgeqr2` (signs).

use ndarray::{Array2, s};

use super::{Class, Method};
use crate::adapter::form::{BaseModule, Form, FormTensor, LinearForm, TensorRole, elements};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::options::{factor, rank};
use crate::adapter::toolbox::tuner::{Loading, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter};

/// The factors of one layer.
#[derive(Debug)]
struct Deft {
    /// `[out_features, r]`
    q: Array2<f32>,
    /// `Rt`, `[out_features, r]`
    right: Array2<f32>,
    /// `s R`, `[r, in_features]`
    filling: Option<Array2<f32>>,
    in_features: usize,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "DEFT",
    class: Class::Weight,
    variants: "relu, qr, para",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let (config, base) = (loading.config, loading.base);
    let wanted = rank(config, "r", 8)?;
    let qr = match config.optional_text("decomposition_method")? {
        None | Some("relu") => false,
        Some("qr") => true,
        Some(_) => {
            return Err(config
                .wrong("decomposition_method", "`relu` or `qr`")
                .into());
        }
    };
    let alpha = factor(config, "alpha", 0.0)?;
    let para = config.flag("para", false)?;
    let identity = config.flag("init_weights", true)?;
    let spread = 0.02 * factor(config, "init_scale", 1.0)? as f32;
    Tuner::open(loading, QUERY_VALUE, Some("deft_only"))?.adapt(|tensors, layer| {
        let (rows, columns) = (layer.out_features, layer.in_features);
        let r = wanted.min(rows);
        let scaling = if alpha == 0.0 {
            1.0
        } else {
            (alpha / r as f64) as f32
        };
        let p = tensors.matrix(&layer.key("deft_P"), [rows, r], Init::Normal(0.02))?;
        let [q, right] = if qr {
            let q = orthonormal(&p.mapv(f64::from)).mapv(|value| value as f32);
            [q.clone(), q]
        } else {
            let right = p.mapv(|value| value.max(0.0));
            [p, right]
        };
        let mut filling = None;
        if !para {
            let values = tensors.take_or(&layer.key("deft_R"), &[r, columns], |rng| {
                if !identity {
                    return Ok(Init::Normal(spread).draw(r * columns, rng));
                }
                let weight = base.matrix(&format!("{}.weight", layer.module.source))?;
                Ok(elements(&(right.t().dot(&weight) / scaling)))
            })?;
            let values = Array2::from_shape_vec((r, columns), values)
                .expect("`take_or` gives as many values as asked for");
            filling = Some(values * scaling);
        }
        Ok(Deft {
            q,
            right,
            filling,
            in_features: columns,
        })
    })
}

/// `Q` of `P = Q R` by Householder reflections: `R_kk = −sign(x₀) |x|`.
fn orthonormal(p: &Array2<f64>) -> Array2<f64> {
    let (rows, r) = p.dim();
    let mut work = p.clone();
    let mut reflections = Vec::with_capacity(r);
    for k in 0..r {
        let mut v = work.slice(s![k.., k]).to_owned();
        let norm = v.dot(&v).sqrt();
        let rest = v.slice(s![1..]);
        // LAPACK doesn't reflect a column with zeros below its diagonal.
        if rest.dot(&rest) > 0.0 {
            v[0] += norm.copysign(v[0]);
            let scale = 2.0 / v.dot(&v);
            for j in k..r {
                let mut column = work.slice_mut(s![k.., j]);
                let overlap = v.dot(&column) * scale;
                column.scaled_add(-overlap, &v);
            }
            reflections.push((k, v, scale));
        }
    }
    let mut q = Array2::zeros((rows, r));
    q.diag_mut().fill(1.0);
    for (k, v, scale) in reflections.iter().rev() {
        for j in 0..r {
            let mut column = q.slice_mut(s![*k.., j]);
            let overlap = v.dot(&column) * scale;
            column.scaled_add(-overlap, v);
        }
    }
    q
}

impl Deft {
    /// `s R − Rtᵀ W`, `[r, in_features]`
    fn a(&self, weight: &Array2<f32>) -> Array2<f32> {
        let taken = self.right.t().dot(weight);
        match &self.filling {
            Some(filling) => filling - &taken,
            None => -taken,
        }
    }
}

impl ModuleAdapter for Deft {
    fn form(&self) -> Form<'_> {
        let (rows, r) = self.q.dim();
        let columns = self.in_features;
        let weight = |base: &BaseModule| {
            let weight = base.weight()?;
            Ok(elements(&(weight + &self.q.dot(&self.a(weight)))))
        };
        Form::Linear(LinearForm::low_rank_or_weight(
            FormTensor::derived("A", &[r, columns], TensorRole::Term, |base: &BaseModule| {
                Ok(elements(&self.a(base.weight()?)))
            }),
            FormTensor::derived("B", &[rows, r], TensorRole::Term, |_| Ok(elements(&self.q))),
            FormTensor::derived("weight", &[rows, columns], TensorRole::InPlace, weight),
        ))
    }

    fn trainable_params(&self) -> usize {
        self.q.len() + self.filling.as_ref().map_or(0, Array2::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::ModuleWeights;
    use ndarray::array;

    /// numpy.linalg.qr([[3, 1], [4, 2], [0, 5]]): the first column is −(3, 4, 0) / 5.
    #[test]
    fn signs_are_those_of_householder_s_reflections() {
        let q = orthonormal(&array![[3.0, 1.0], [4.0, 2.0], [0.0, 5.0]]);
        let first = [-0.6, -0.8, 0.0];
        for (value, expected) in q.column(0).iter().zip(first) {
            assert!((value - expected).abs() < 1e-12, "{q}");
        }
        let product = q.t().dot(&q) - Array2::<f64>::eye(2);
        assert!(product.iter().all(|value| value.abs() < 1e-12));
        // The second diagonal element after the first reflection is 0.4, so R₁₁ < 0.
        assert!(q[[2, 1]] < 0.0);
        // Zeros below the diagonal: no reflection, so the sign stays.
        assert_eq!(orthonormal(&array![[-2.0], [0.0]]), array![[1.0], [0.0]]);
    }

    #[test]
    fn a_subspace_is_taken_out_and_filled() {
        let adapter = Deft {
            q: array![[1.0], [0.0]],
            right: array![[1.0], [0.0]],
            filling: Some(array![[5.0, 6.0, 7.0]]),
            in_features: 3,
        };
        let mut module = ModuleWeights {
            weight: array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
            bias: None,
        };
        adapter.merge_into(&mut module).unwrap();
        assert_eq!(module.weight, array![[5.0, 6.0, 7.0], [4.0, 5.0, 6.0]]);
    }
}
