//! HRA: `W' = W H`, with `H` the product of `r` reflections `I − 2 u uᵀ`, first to last.
//!
//! | tensor | shape |
//! |---|---|
//! | `hra_u` | `[in_features, r]`, one vector in each column |
//!
//! Columns are normalised; with `apply_GS` they are first made orthogonal to the ones before. In
//! compact form `H = I − U T Uᵀ` with an upper triangular `T`, so `W H = W − (W U T) Uᵀ`: one
//! low-rank pair. Reflections are combined in float64; the product with `W` is computed in float32.
//!
//! Sources: Yuan et al., arXiv:2405.17484; Schreiber and Van Loan, 1989 (compact form); PEFT,
//! `tuners/hra/`.

use ndarray::{Array2, s};

use super::{Class, Method};
use crate::adapter::form::{
    BaseModule, Form, FormTensor, LinearForm, Native, NativeForm, TensorRole, elements,
};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::options::rank;
use crate::adapter::toolbox::tuner::{Loading, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter};
use crate::graph::Value;

/// The reflections of one layer.
#[derive(Debug)]
struct Hra {
    key: String,
    /// As stored, `[in_features, r]`.
    stored: Array2<f32>,
    gram_schmidt: bool,
    /// `[in_features, r]`, columns of norm 1.
    u: Array2<f32>,
    /// `[r, r]`
    t: Array2<f32>,
    out_features: usize,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "HRA",
    class: Class::Weight,
    variants: "apply_GS",
    refused: "`apply_GS` with an even `r` for fresh adapters",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let r = rank(config, "r", 8)?;
    let gram_schmidt = config.flag("apply_GS", false)?;
    let symmetric = config.flag("init_weights", true)? && r.is_multiple_of(2);
    if gram_schmidt && symmetric && loading.tensors.is_fresh() {
        let reason = "a fresh adapter's vectors are equal in pairs, and this turns the second of each into rounding noise; use an odd \
                      `r`, or `init_weights` false";
        return Err(config.refused("apply_GS", reason).into());
    }
    Tuner::open(loading, QUERY_VALUE, Some("hra_only"))?.adapt(|tensors, layer| {
        let rows = layer.in_features;
        let values = tensors.take_or(&layer.key("hra_u"), &[rows, r], |rng| {
            // Two equal reflections in a row cancel.
            let drawn = if symmetric { r / 2 } else { r };
            let draws = Init::linear_default(drawn).draw(rows * drawn, rng);
            Ok(match symmetric {
                true => draws.into_iter().flat_map(|value| [value; 2]).collect(),
                false => draws,
            })
        })?;
        let u = Array2::from_shape_vec((rows, r), values)
            .expect("`take_or` gives as many values as asked for");
        let mut hra = Hra::new(&u.mapv(f64::from), gram_schmidt);
        hra.out_features = layer.out_features;
        hra.key = tensors.full_key(&layer.key("hra_u"));
        Ok(hra)
    })
}

impl Hra {
    fn new(columns: &Array2<f64>, gram_schmidt: bool) -> Self {
        let r = columns.ncols();
        let mut u = columns.clone();
        let mut t: Array2<f64> = Array2::zeros((r, r));
        for k in 0..r {
            if gram_schmidt {
                for j in 0..k {
                    let other = u.column(j).to_owned();
                    let overlap = other.dot(&u.column(k));
                    u.column_mut(k).scaled_add(-overlap, &other);
                }
            }
            let norm = u.column(k).dot(&u.column(k)).sqrt();
            u.column_mut(k).mapv_inplace(|value| value / norm);
            if !gram_schmidt && k > 0 {
                let overlaps = u.slice(s![.., ..k]).t().dot(&u.column(k));
                let above = t.slice(s![..k, ..k]).dot(&overlaps) * -2.0;
                t.slice_mut(s![..k, k]).assign(&above);
            }
            t[[k, k]] = 2.0;
        }
        Self {
            u: u.mapv(|value| value as f32),
            t: t.mapv(|value| value as f32),
            out_features: 0,
            key: String::new(),
            stored: columns.mapv(|value| value as f32),
            gram_schmidt,
        }
    }

    /// `−W U T`, `[out_features, r]`
    fn b(&self, weight: &Array2<f32>) -> Array2<f32> {
        -weight.dot(&self.u).dot(&self.t)
    }
}

impl ModuleAdapter for Hra {
    fn form(&self) -> Form<'_> {
        let (columns, r) = self.u.dim();
        let rows = self.out_features;
        let a = FormTensor::derived("A", &[r, columns], TensorRole::Term, |_| {
            Ok(elements(&self.u.t().to_owned()))
        });
        let b = FormTensor::derived("B", &[rows, r], TensorRole::Term, |base: &BaseModule| {
            Ok(elements(&self.b(base.weight()?)))
        });
        let weight = |base: &BaseModule| {
            let weight = base.weight()?;
            Ok(elements(&(weight + &self.b(weight).dot(&self.u.t()))))
        };
        let weight = FormTensor::derived("weight", &[rows, columns], TensorRole::InPlace, weight);
        Form::Linear(LinearForm::low_rank_or_weight(a, b, weight))
    }

    /// The product of the reflections is computed in every step, and the weight multiplied by it.
    fn native(&self) -> Native<'_> {
        let (columns, r) = self.stored.dim();
        let tensors = vec![FormTensor::stored(
            &self.key,
            &self.stored,
            TensorRole::Term,
        )];
        if self.gram_schmidt {
            return Native::Missing;
        }
        let form = NativeForm::new(tensors, move |site| {
            let u = site.inputs[0].clone();
            let norms = site.norms("norms", &u, 0, true);
            let u = site.op("Div", "u", &[&u, &norms]);
            let two = site.scalar("two", 2.0);
            let mut h: Option<Value> = None;
            for k in 0..r {
                let name = |what: &str| format!("{k}/{what}");
                let at = site.name(&name("column"));
                let index = site
                    .graph
                    .constant_i64(&format!("{at}/index"), &[k as i64], false);
                let column = site.graph.gather(&at, &u, &index, 1);
                let identity = match &h {
                    Some(h) => h.clone(),
                    None => site.identity("identity", columns),
                };
                let overlap = site.op("MatMul", &name("overlap"), &[&identity, &column]);
                let double = site.op("Mul", &name("double"), &[&overlap, &two]);
                let outer = site.matmul_transposed(&name("outer"), &double, &column);
                h = Some(site.op("Sub", &name("reflected"), &[&identity, &outer]));
            }
            let h = h.expect("a rank is positive");
            let weight = site.weight();
            let weight = site.op("MatMul", "weight", &[&weight, &h]);
            let x = site.x.clone();
            site.linear(&x, &weight)
        });
        Native::Own(form.over_weight())
    }

    fn trainable_params(&self) -> usize {
        self.u.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::ModuleWeights;
    use ndarray::array;

    fn product(columns: &Array2<f64>) -> Array2<f64> {
        let mut h = Array2::eye(columns.nrows());
        for u in columns.columns() {
            let u = u.to_owned() / u.dot(&u).sqrt();
            let u = u.insert_axis(ndarray::Axis(1));
            h = &h - &(h.dot(&u).dot(&u.t()) * 2.0);
        }
        h
    }

    #[test]
    fn the_compact_form_is_the_product_of_the_reflections() {
        let columns = array![[1.0, 2.0, 0.5], [0.0, 1.0, -3.0], [2.0, -1.0, 1.0]];
        let mut hra = Hra::new(&columns, false);
        hra.out_features = 3;
        let mut module = ModuleWeights {
            weight: Array2::eye(3),
            bias: None,
        };
        hra.merge_into(&mut module).unwrap();
        let difference = module.weight.mapv(f64::from) - product(&columns);
        assert!(difference.iter().all(|d| d.abs() < 1e-6), "{difference}");
    }

    #[test]
    fn orthogonal_reflections_are_one_block() {
        let columns = array![[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]];
        let mut hra = Hra::new(&columns, true);
        hra.out_features = 3;
        let mut module = ModuleWeights {
            weight: Array2::eye(3),
            bias: None,
        };
        hra.merge_into(&mut module).unwrap();
        let expected = array![[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]];
        assert!(
            (module.weight - expected)
                .iter()
                .all(|d: &f32| d.abs() < 1e-6)
        );
    }
}
