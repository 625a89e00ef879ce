//! GLoRA: `W' = W + W ∘ A + B`, `b' = b + b ∘ D + E + W C`, with the base's `W` and `b`.
//!
//! | path | `lora` | `vector` | `constant` |
//! |---|---|---|---|
//! | `glora_A`, `glora_B` | `.Xd` `[out, r]`, `.Xu` `[r, in]` | `.X` `[out, 1]` | `.X` `[1]` |
//! | `glora_C` | `.Xd` `[in, r]`, `.Xu` `[r, 1]` | `.X` `[in, 1]` | |
//! | `glora_D`, `glora_E` | | `.X` `[out]` | `.X` `[1]` |
//!
//! Here `out` is `out_features`, and `in` is `in_features`.
//!
//! `config_A_B`, `config_C` and `config_D_E` choose the form of each path. A path with `none`, and
//! `C`, `D`, `E` of a base without bias, has a tensor `.zeros`. No smaller tensors with the base's
//! weight give the same result, so the weight is replaced. Sums are taken in float32.
//!
//! Sources: Chavan et al., arXiv:2306.07967; PEFT, `tuners/glora/`.

use ndarray::{Array1, Array2, Axis, s};

use super::{Class, Method};
use crate::adapter::form::{Form, FormTensor, LinearForm, TensorRole};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::dense::changed_tensor;
use crate::adapter::toolbox::options::rank;
use crate::adapter::toolbox::tuner::{Loading, TargetLinear, Tuner};
use crate::adapter::{AdapterError, AdapterTensors, Effects, Init, ModuleAdapter};
use crate::json::{ConfigError, JsonObject};

/// The form of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Lora,
    Vector,
    Constant,
    None,
}

/// One path.
#[derive(Debug)]
enum Support {
    /// `Xd Xu`
    Product(Array2<f32>, Array2<f32>),
    /// One number for each row.
    Column(Array1<f32>),
    Constant(f32),
    None,
}

/// The five paths of one layer.
#[derive(Debug)]
struct Glora {
    /// `A`, `B`
    weight: [Support; 2],
    /// `C`
    into_bias: Support,
    /// `D`, `E`
    bias: [Support; 2],
    shape: [usize; 2],
    has_bias: bool,
}

impl Kind {
    fn read(
        config: &JsonObject,
        key: &str,
        default: Self,
        allowed: &[(&str, Self)],
    ) -> Result<Self, ConfigError> {
        let Some(text) = config.optional_text(key)? else {
            return Ok(default);
        };
        let found = allowed.iter().find(|(name, _)| *name == text);
        found.map(|(_, kind)| *kind).ok_or_else(|| {
            let names: Vec<&str> = allowed.iter().map(|(name, _)| *name).collect();
            config.wrong(key, &format!("one of {}", names.join(", ")))
        })
    }
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "GLORA",
    class: Class::Weight,
    variants: "lora, vector, constant, none",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let r = rank(config, "r", 8)?;
    let (lora, vector) = (("lora", Kind::Lora), ("vector", Kind::Vector));
    let (constant, none) = (("constant", Kind::Constant), ("none", Kind::None));
    let all = [lora, vector, constant, none];
    let weight = Kind::read(config, "config_A_B", Kind::Lora, &all)?;
    let into_bias = Kind::read(config, "config_C", Kind::Lora, &[lora, vector, none])?;
    let bias = Kind::read(
        config,
        "config_D_E",
        Kind::Constant,
        &[vector, constant, none],
    )?;
    let identity = config.flag("init_weights", true)?;
    Tuner::open(loading, QUERY_VALUE, Some("glora_only"))?.adapt(|tensors, layer| {
        let shape = [layer.out_features, layer.in_features];
        let [rows, columns] = shape;
        let mut take = |name: &str, kind, shape: &[usize]| {
            support(tensors, layer, name, kind, shape, r, identity)
        };
        let of_bias = |kind| if layer.bias { kind } else { Kind::None };
        Ok(Glora {
            weight: [
                take("glora_A", weight, &[rows, columns])?,
                take("glora_B", weight, &[rows, columns])?,
            ],
            into_bias: take("glora_C", of_bias(into_bias), &[columns, 1])?,
            bias: [
                take("glora_D", of_bias(bias), &[rows])?,
                take("glora_E", of_bias(bias), &[rows])?,
            ],
            shape,
            has_bias: layer.bias,
        })
    })
}

/// Reads the path `name`; `shape` is its shape as a whole matrix or vector.
fn support(
    tensors: &mut AdapterTensors,
    layer: &TargetLinear,
    name: &str,
    kind: Kind,
    shape: &[usize],
    r: usize,
    identity: bool,
) -> Result<Support, AdapterError> {
    let key = |part: &str| layer.key(&format!("{name}.{part}"));
    let random = |init| if identity { Init::Zeros } else { init };
    Ok(match kind {
        Kind::Lora => {
            let columns = shape[1];
            let (down, up) = (
                random(Init::linear_default(r)),
                Init::linear_default(columns),
            );
            Support::Product(
                tensors.matrix(&key("Xd"), [shape[0], r], down)?,
                tensors.matrix(&key("Xu"), [r, columns], up)?,
            )
        }
        Kind::Vector => {
            let mut shape = shape.to_vec();
            if shape.len() == 2 {
                shape[1] = 1;
            }
            let fan_in = *shape.last().expect("a path has a shape");
            let init = random(Init::linear_default(fan_in));
            Support::Column(tensors.take(&key("X"), &shape, init)?.into())
        }
        Kind::Constant => {
            let init = random(Init::Normal(0.02));
            Support::Constant(tensors.take(&key("X"), &[1], init)?[0])
        }
        Kind::None => {
            if tensors.has(&key("zeros")) {
                tensors.claim(&key("zeros"), shape)?;
            }
            Support::None
        }
    })
}

impl Support {
    /// Calls `add` with each element of `rows`, which begin at row `start`, and the path's value
    /// there. Does nothing for `none`.
    fn apply(
        &self,
        start: usize,
        mut rows: ndarray::ArrayViewMut2<f32>,
        add: impl Fn(&mut f32, f32),
    ) {
        match self {
            Self::Product(down, up) => {
                let down = down.slice(s![start..start + rows.nrows(), ..]);
                rows.zip_mut_with(&down.dot(up), |value, own| add(value, *own));
            }
            Self::Column(column) => {
                let own = column.slice(s![start..start + rows.nrows()]);
                for (mut row, &own) in rows.axis_iter_mut(Axis(0)).zip(own) {
                    row.mapv_inplace(|mut value| {
                        add(&mut value, own);
                        value
                    });
                }
            }
            Self::Constant(own) => rows.map_inplace(|value| add(value, *own)),
            Self::None => {}
        }
    }

    /// The path as a vector of `length`.
    fn vector(&self, length: usize) -> Array1<f32> {
        match self {
            Self::Product(down, up) => down.dot(up).column(0).to_owned(),
            Self::Column(column) => column.clone(),
            Self::Constant(own) => Array1::from_elem(length, *own),
            Self::None => Array1::zeros(length),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Product(down, up) => down.len() + up.len(),
            Self::Column(column) => column.len(),
            Self::Constant(_) => 1,
            Self::None => 0,
        }
    }

    fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl Glora {
    /// `W ∘ (1 + A) + B`, a few rows at a time.
    fn change(&self, weight: &mut Array2<f32>) {
        const ROWS: usize = 256;
        for (index, mut rows) in weight.axis_chunks_iter_mut(Axis(0), ROWS).enumerate() {
            let start = index * ROWS;
            let [a, b] = &self.weight;
            a.apply(start, rows.view_mut(), |value, own| *value += *value * own);
            b.apply(start, rows.view_mut(), |value, own| *value += own);
        }
    }

    /// `b + b ∘ D + E + W C`
    fn changed_bias(&self, weight: &Array2<f32>, bias: &Array1<f32>) -> Array1<f32> {
        let [rows, columns] = self.shape;
        let [d, e] = [&self.bias[0], &self.bias[1]].map(|path| path.vector(rows));
        bias + &(bias * &d) + e + weight.dot(&self.into_bias.vector(columns))
    }

    fn changes_bias(&self) -> bool {
        let mut paths = self.bias.iter().chain([&self.into_bias]);
        self.has_bias && !paths.all(Support::is_none)
    }
}

impl ModuleAdapter for Glora {
    fn form(&self) -> Form<'_> {
        let weight = (!self.weight.iter().all(Support::is_none)).then(|| {
            changed_tensor(self.shape, |weight| {
                self.change(weight);
                Ok(())
            })
        });
        let bias = self.changes_bias().then(|| {
            FormTensor::derived("bias", &[self.shape[0]], TensorRole::InPlace, |base| {
                let own = base.bias()?.cloned();
                let own = own.unwrap_or_else(|| Array1::zeros(self.shape[0]));
                Ok(self.changed_bias(base.weight()?, &own).to_vec())
            })
        });
        Form::Linear(LinearForm {
            weight,
            bias,
            ..LinearForm::default()
        })
    }

    fn trainable_params(&self) -> usize {
        let paths = self.weight.iter().chain(&self.bias);
        paths.chain([&self.into_bias]).map(Support::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::ModuleWeights;
    use ndarray::array;

    #[test]
    fn weight_and_bias_change_by_the_base_s_own() {
        let adapter = Glora {
            weight: [
                Support::Product(array![[1.0], [0.0]], array![[1.0, 2.0]]),
                Support::Column(array![0.5, -0.5]),
            ],
            into_bias: Support::Column(array![1.0, 1.0]),
            bias: [Support::Constant(2.0), Support::Column(array![10.0, 20.0])],
            shape: [2, 2],
            has_bias: true,
        };
        let mut module = ModuleWeights {
            weight: array![[1.0, 2.0], [3.0, 4.0]],
            bias: Some(array![1.0, -1.0]),
        };
        adapter.merge_into(&mut module).unwrap();
        assert_eq!(module.weight, array![[2.5, 6.5], [2.5, 3.5]]);
        assert_eq!(module.bias, Some(array![16.0, 24.0]));
        assert_eq!(adapter.trainable_params(), (2 + 2) + 2 + 2 + 1 + 2);
    }
}
