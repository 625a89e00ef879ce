//! LoHa: `W' = W + alpha / r * (w1_a w1_b) ∘ (w2_a w2_b)`.
//!
//! | tensor | shape |
//! |---|---|
//! | `hada_w1_a`, `hada_w2_a` | `[out_features, r]` |
//! | `hada_w1_b`, `hada_w2_b` | `[r, in_features]` |
//!
//! `rank_pattern` and `alpha_pattern` set `r` and `alpha` by module. As one pair it has rank `r²`:
//! row `(p, q)` of `A` is `w1_b[p] ∘ w2_b[q]`, column `(p, q)` of `B` is `w1_a[:, p] ∘ w2_a[:, q]`.
//! Sums are taken in float32.
//!
//! Sources: Hyeon-Woo et al., arXiv:2108.06098; PEFT, `tuners/loha/`.

use ndarray::{Array2, Axis, s};

use super::{Class, Method};
use crate::adapter::form::{
    BaseModule, Form, FormTensor, LinearForm, Native, NativeForm, TensorRole, elements,
};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::options::{Factor, Rank};
use crate::adapter::toolbox::tuner::{Loading, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter, ModuleWeights};

/// The tensors of one layer.
#[derive(Debug)]
struct LoHa {
    /// Keys of `w1_a`, `w1_b`, `w2_a`, `w2_b`.
    keys: [String; 4],
    /// `w1_a`, `w2_a`: `[out_features, r]`
    a: [Array2<f32>; 2],
    /// `w1_b`, `w2_b`: `[r, in_features]`
    b: [Array2<f32>; 2],
    scaling: f32,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "LOHA",
    class: Class::Weight,
    variants: "",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let ranks = Rank::read(config, 8)?;
    let alphas = Factor::read(config, "alpha", 8.0, "alpha_pattern")?;
    let identity = config.flag("init_weights", true)?;
    Tuner::open(loading, QUERY_VALUE, None)?.adapt(|tensors, layer| {
        let r = ranks.of(config, layer.path())?;
        let scaling = alphas.of(config, layer.path())? / r as f64;
        let (rows, columns) = (layer.out_features, layer.in_features);
        let mut take =
            |name: &str, shape: [usize; 2], init| tensors.matrix(&layer.key(name), shape, init);
        let last = match identity {
            true => Init::Zeros,
            false => Init::linear_default(columns),
        };
        let w1_a = take("hada_w1_a", [rows, r], Init::linear_default(r))?;
        let w1_b = take("hada_w1_b", [r, columns], Init::linear_default(columns))?;
        let w2_a = take("hada_w2_a", [rows, r], Init::linear_default(r))?;
        let w2_b = take("hada_w2_b", [r, columns], last)?;
        let names = ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"];
        Ok(LoHa {
            keys: names.map(|name| tensors.full_key(&layer.key(name))),
            a: [w1_a, w2_a],
            b: [w1_b, w2_b],
            scaling: scaling as f32,
        })
    })
}

impl LoHa {
    /// Adds the delta a few rows at a time, without a second matrix of the weight's size.
    fn add_to(&self, weight: &mut Array2<f32>) {
        const ROWS: usize = 256;
        for (index, mut rows) in weight.axis_chunks_iter_mut(Axis(0), ROWS).enumerate() {
            let start = index * ROWS;
            let part = |which: usize| {
                let a = self.a[which].slice(s![start..start + rows.nrows(), ..]);
                a.dot(&self.b[which])
            };
            let mut delta = part(0) * part(1);
            delta *= self.scaling;
            rows += &delta;
        }
    }
}

impl ModuleAdapter for LoHa {
    fn form(&self) -> Form<'_> {
        let (rows, r) = self.a[0].dim();
        let columns = self.b[0].ncols();
        let pairs = move || (0..r).flat_map(move |p| (0..r).map(move |q| (p, q)));
        let a = FormTensor::derived("A", &[r * r, columns], TensorRole::Term, move |_| {
            let row = |(p, q)| (&self.b[0].row(p) * &self.b[1].row(q)).into_iter();
            Ok(pairs().flat_map(row).collect())
        });
        let b = FormTensor::derived("B", &[rows, r * r], TensorRole::Term, move |_| {
            let factor = |row, (p, q)| self.scaling * self.a[0][[row, p]] * self.a[1][[row, q]];
            let row = |row| pairs().map(move |pair| factor(row, pair));
            Ok((0..rows).flat_map(row).collect())
        });
        let weight = |base: &BaseModule| {
            let mut weight = base.weight()?.clone();
            self.add_to(&mut weight);
            Ok(elements(&weight))
        };
        let weight = FormTensor::derived("weight", &[rows, columns], TensorRole::InPlace, weight);
        Form::Linear(LinearForm::low_rank_or_weight(a, b, weight))
    }

    /// Two products of rank `r`, cheaper than the form's one of rank `r²`.
    fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        self.add_to(&mut module.weight);
        Ok(())
    }

    /// `x · (alpha / r * (w1_a w1_b) ∘ (w2_a w2_b))ᵀ`
    fn native(&self) -> Native<'_> {
        let tensor = |key, array| FormTensor::stored(key, array, TensorRole::Term);
        let [a1, b1, a2, b2] = &self.keys;
        let tensors = vec![
            tensor(a1, &self.a[0]),
            tensor(b1, &self.b[0]),
            tensor(a2, &self.a[1]),
            tensor(b2, &self.b[1]),
        ];
        Native::Own(NativeForm::new(tensors, |site| {
            let [a1, b1, a2, b2] = [0, 1, 2, 3].map(|index| site.inputs[index].clone());
            let first = site.op("MatMul", "w1", &[&a1, &b1]);
            let second = site.op("MatMul", "w2", &[&a2, &b2]);
            let product = site.op("Mul", "w1_w2", &[&first, &second]);
            let scaling = site.scalar("scaling", self.scaling);
            let weight = site.op("Mul", "scaled", &[&product, &scaling]);
            let x = site.x.clone();
            let delta = site.matmul_transposed("delta", &x, &weight);
            site.base_plus(&delta)
        }))
    }

    fn trainable_params(&self) -> usize {
        let all = self.a.iter().chain(&self.b);
        all.map(Array2::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::form::Delta;
    use ndarray::array;

    fn adapter() -> LoHa {
        LoHa {
            keys: ["1a", "1b", "2a", "2b"].map(str::to_owned),
            a: [
                array![[1.0, 2.0], [3.0, 4.0]],
                array![[1.0, -1.0], [0.0, 2.0]],
            ],
            b: [
                array![[1.0, 0.0], [1.0, 1.0]],
                array![[2.0, 1.0], [0.0, 1.0]],
            ],
            scaling: 0.5,
        }
    }

    #[test]
    fn products_are_multiplied_element_by_element() {
        let mut module = ModuleWeights {
            weight: Array2::zeros((2, 2)),
            bias: None,
        };
        adapter().merge_into(&mut module).unwrap();
        // [[3, 2], [7, 4]] ∘ [[2, 0], [0, 2]] / 2
        assert_eq!(module.weight, array![[3.0, 0.0], [0.0, 4.0]]);
    }

    #[test]
    fn the_pair_of_rank_r_squared_is_the_same() {
        let adapter = adapter();
        let (rows, columns) = (64, 64);
        let wide = LoHa {
            keys: adapter.keys,
            a: adapter.a.map(|a| a.select(Axis(0), &vec![1; rows])),
            b: adapter.b.map(|b| b.select(Axis(1), &vec![1; columns])),
            scaling: 0.5,
        };
        let Form::Linear(form) = wide.form() else {
            panic!("it adapts linear layers");
        };
        assert!(matches!(form.delta, Some(Delta::LowRank { .. })));
        let module = ModuleWeights {
            weight: Array2::ones((rows, columns)),
            bias: None,
        };
        let (mut direct, mut formed) = (module.clone(), module);
        wide.merge_into(&mut direct).unwrap();
        form.merge_into(&mut formed).unwrap();
        assert_eq!(direct.weight, formed.weight);
        assert_eq!(direct.weight[[5, 9]], 5.0);
    }
}
