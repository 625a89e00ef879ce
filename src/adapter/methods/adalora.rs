//! AdaLoRA: `W' = W + c * B diag(E) A`, `c = alpha / (init_r + 1e-5)`.
//!
//! | tensor | shape |
//! |---|---|
//! | `lora_A` | `[r, in_features]` |
//! | `lora_B` | `[out_features, r]` |
//! | `lora_E` | `[r, 1]` |
//!
//! Training removes ranks module by module. The shapes of the remaining tensors tell a module's
//! rank, which may be 0; the divisor stays `init_r`. `alpha` is `lora_alpha`, or `init_r` if that
//! isn't positive. Sums are taken in float32.
//!
//! PEFT keeps the remaining ranks in `rank_pattern`, too: `true` for each of a module's `init_r`
//! ranks that's left. A fresh adapter has these ranks, as PEFT gives them to a trained one.
//!
//! Sources: Zhang et al., arXiv:2303.10512; PEFT, `tuners/adalora/`.

use std::collections::BTreeMap;

use ndarray::{Array2, Axis};
use serde::Deserialize;

use super::{Class, Method};
use crate::adapter::form::{
    Form, FormTensor, LinearForm, Native, NativeForm, TensorRole, elements,
};
use crate::adapter::targets::defaults::ADALORA;
use crate::adapter::toolbox::options::{factor, rank};
use crate::adapter::toolbox::tuner::{Loading, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter};
use crate::json::{ConfigError, JsonObject};

/// The tensors of one layer.
#[derive(Debug)]
struct AdaLora {
    /// Keys of `A`, `B`, `E`.
    keys: [String; 3],
    /// `[r, in_features]`
    a: Array2<f32>,
    /// `[out_features, r]`
    b: Array2<f32>,
    /// `[r, 1]`
    e: Array2<f32>,
    scaling: f32,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "ADALORA",
    class: Class::Weight,
    variants: "pruned ranks",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let init_r = rank(config, "init_r", 12)?;
    let alpha = factor(config, "lora_alpha", 8.0)?;
    let alpha = if alpha > 0.0 { alpha } else { init_r as f64 };
    let scaling = (alpha / (init_r as f64 + 1e-5)) as f32;
    let identity = config.flag("init_lora_weights", true)?;
    let left = RanksLeft::read(config)?;

    let mut tuner = Tuner::open(loading, ADALORA, Some("lora_only"))?;
    // `ranknum`, a parameter that PEFT doesn't save.
    tuner.count_frozen(tuner.selected.len());
    tuner.adapt(|tensors, layer| {
        let key = layer.key("lora_A");
        let r = match tensors.shape(&key).as_deref() {
            Some(&[r, _]) => r,
            _ => left.of(config, &layer.key("lora_E")).unwrap_or(init_r),
        };
        let [deviation, energy] = if identity {
            [Init::Normal(0.02), Init::Zeros]
        } else {
            [Init::Normal(1.0), Init::Normal(1.0)]
        };
        Ok(AdaLora {
            keys: ["lora_A", "lora_B", "lora_E"].map(|name| tensors.full_key(&layer.key(name))),
            a: tensors.matrix(&key, [r, layer.in_features], deviation)?,
            b: tensors.matrix(&layer.key("lora_B"), [layer.out_features, r], deviation)?,
            e: tensors.matrix(&layer.key("lora_E"), [r, 1], energy)?,
            scaling,
        })
    })
}

/// `rank_pattern`: which ranks training has left, by the key of a module's `E`.
#[derive(Debug, Default, Deserialize)]
struct RanksLeft(BTreeMap<String, Vec<bool>>);

impl RanksLeft {
    fn read(config: &JsonObject) -> Result<Self, ConfigError> {
        let Some(value) = config.get("rank_pattern") else {
            return Ok(Self::default());
        };
        let expected = "lists of true and false by the names of tensors";
        serde_json::from_value(value.clone()).map_err(|_| config.wrong("rank_pattern", expected))
    }

    /// How many are left of the module whose `E` is `key`; `None` if it isn't named.
    fn of(&self, config: &JsonObject, key: &str) -> Option<usize> {
        let spellings = config.spellings(key);
        let left = spellings.iter().find_map(|key| self.0.get(key))?;
        Some(left.iter().filter(|is_left| **is_left).count())
    }
}

impl ModuleAdapter for AdaLora {
    fn form(&self) -> Form<'_> {
        if self.e.is_empty() {
            return Form::Linear(LinearForm::default());
        }
        Form::Linear(LinearForm::low_rank(
            FormTensor::stored(&self.keys[0], &self.a, TensorRole::Term),
            FormTensor::derived("B", self.b.shape(), TensorRole::Term, |_| {
                let mut b = self.b.clone();
                for (mut column, e) in b.axis_iter_mut(Axis(1)).zip(&self.e) {
                    column *= self.scaling * e;
                }
                Ok(elements(&b))
            }),
        ))
    }

    /// `A` is scaled by `E` at every step.
    fn native(&self) -> Native<'_> {
        if self.e.is_empty() {
            return Native::Reduced;
        }
        let [key_a, key_b, key_e] = &self.keys;
        let tensors = vec![
            FormTensor::stored(key_a, &self.a, TensorRole::Term),
            FormTensor::stored(key_b, &self.b, TensorRole::Term),
            FormTensor::stored(key_e, &self.e, TensorRole::Term),
        ];
        Native::Own(NativeForm::new(tensors, |site| {
            let [a, b, e] = [0, 1, 2].map(|index| site.inputs[index].clone());
            let a = site.op("Mul", "A_E", &[&a, &e]);
            let x = site.x.clone();
            let inner = site.matmul_transposed("A/MatMul", &x, &a);
            let delta = site.matmul_transposed("B/MatMul", &inner, &b);
            let scaling = site.scalar("scaling", self.scaling);
            let delta = site.op("Mul", "scaled", &[&delta, &scaling]);
            site.base_plus(&delta)
        }))
    }

    fn trainable_params(&self) -> usize {
        self.a.len() + self.b.len() + self.e.len()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::adapter::ModuleWeights;
    use ndarray::array;
    use serde_json::json;

    #[test]
    fn singular_values_scale_the_pair() {
        let adapter = AdaLora {
            keys: Default::default(),
            a: array![[1.0, 2.0], [1.0, 0.0]],
            b: array![[1.0, 10.0], [0.0, 1.0]],
            e: array![[2.0], [-1.0]],
            scaling: 0.5,
        };
        let mut module = ModuleWeights {
            weight: Array2::zeros((2, 2)),
            bias: None,
        };
        adapter.merge_into(&mut module).unwrap();
        assert_eq!(module.weight, array![[-4.0, 2.0], [-0.5, 0.0]]);
        assert_eq!(adapter.trainable_params(), 10);
    }

    #[test]
    fn a_rank_pattern_says_how_many_ranks_are_left() {
        let config = |pattern| JsonObject::of(Path::new("c"), json!({ "rank_pattern": pattern }));
        let own = config(json!({ "a.lora_E": [true, false, true], "b.lora_E": [false] }));
        let left = RanksLeft::read(&own).unwrap();
        let found = ["a.lora_E", "b.lora_E", "c.lora_E"].map(|key| left.of(&own, key));
        assert_eq!(found, [Some(2), Some(0), None]);
        assert!(RanksLeft::read(&config(json!({ "a": 3 }))).is_err());
        let none = RanksLeft::read(&config(json!(null))).unwrap();
        assert_eq!(none.of(&own, "a.lora_E"), None);
    }
}
