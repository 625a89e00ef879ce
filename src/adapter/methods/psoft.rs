//! PSOFT: rotates the largest singular components of the weight: `W' = W + U diag(S) (R - I) Vᵀ`;
//! with `ab_svd_init` `pissa_init`, `W' = W + U sqrt(S) (R - I) sqrt(S) Vᵀ`.
//!
//! | tensor | shape |
//! |---|---|
//! | `psoft_R.weight` | `[r (r - 1) / 2]`, or without `psoft_orth` `[r, r]` |
//! | `psoft_R.vector_a`, `psoft_R.vector_b` (`psoft_mag_a`, `psoft_mag_b`) | `[r]` |
//!
//! `R = diag(b) R₀ diag(a)`. `R₀ = (I + Q) (I - Q)⁻¹` with `Q` the skew-symmetric matrix of the
//! tensor, or (`use_cayley_neumann`) a part of its series, where `Q` is first scaled down to the
//! norm `cayley_neumann_eps`. Without `psoft_orth`, `R₀` is the tensor itself. `psoft_alpha`
//! cancels.
//!
//! The components aren't saved, and the signs of singular vectors are arbitrary. If `R` mixes two
//! of them, the result depends on the signs that LAPACK returned where the adapter was trained:
//! such an adapter is refused. If `R` is diagonal, the result doesn't depend on the signs.
//!
//! Source: PEFT, `tuners/psoft/`.

use ndarray::{Array1, Array2, Axis};

use super::oft::neumann;
use super::{Class, Method};
use crate::adapter::form::{Form, FormTensor, LinearForm, TensorRole, elements};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::components::{
    LeadingComponents, components, leading, scaled_columns, scaled_rows,
};
use crate::adapter::toolbox::options::{factor, rank};
use crate::adapter::toolbox::skew::{cayley, skew};
use crate::adapter::toolbox::tuner::{Loading, TargetLinear, Tuner};
use crate::adapter::{AdapterError, AdapterTensors, Effects, Init, ModuleAdapter};
use crate::json::JsonObject;

/// The tensors of one layer.
#[derive(Debug)]
struct Psoft {
    leading: LeadingComponents,
    /// The diagonal of `R`; the other elements are 0.
    diagonal: Array1<f32>,
    /// Whether both factors contain the square root of the singular values.
    balanced: bool,
    out_features: usize,
    in_features: usize,
    trainable: usize,
}

/// The options.
#[derive(Debug)]
struct Options {
    r: usize,
    balanced: bool,
    exact_svd: bool,
    orthogonal: bool,
    magnitudes: [bool; 2],
    series: Option<usize>,
    norm: Option<f64>,
    identity: bool,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "PSOFT",
    class: Class::Weight,
    variants: "diagonal rotations, and fresh ones",
    refused: "rotations that mix singular vectors, whose signs aren't saved; `psoft_svd` lowrank, except for the identity",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let options = Options::read(config)?;
    let base = loading.base;
    let tuner = Tuner::open(loading, QUERY_VALUE, None)?;
    let reweighted = tuner.reweighted();
    tuner.adapt(|tensors, layer| {
        let r = options.r;
        if r > layer.in_features.min(layer.out_features) {
            let expected = format!("at most the smaller side of `{}`", layer.path());
            return Err(config.wrong("r", &expected).into());
        }
        let (rotation, trainable) = options.rotation(tensors, layer)?;
        let mixed = rotation.indexed_iter().any(|((i, j), value)| i != j && *value != 0.0);
        let diagonal = rotation.diag().mapv(|value| value as f32);
        let idle = diagonal.iter().all(|value| *value == 1.0);
        if mixed && !tensors.is_fresh() {
            let reason = format!(
                "the rotation of `{}` mixes singular vectors, whose signs PEFT doesn't save; merge the \
                 adapter with PEFT, or convert it to LoRA there (`save_as_lora`)",
                layer.path()
            );
            return Err(config.refused("psoft_R.weight", &reason).into());
        }
        if mixed {
            let reason = "a fresh adapter's random rotation mixes singular vectors of unknown signs";
            return Err(config.refused("init_weights", reason).into());
        }
        if !idle && !options.exact_svd {
            let reason = "PEFT's singular vectors come from a random projection then; merge the adapter \
                          with PEFT, or convert it to LoRA there (`save_as_lora`)";
            return Err(config.refused("psoft_svd", reason).into());
        }
        let leading = match reweighted.contains(layer.path()) {
            false => LeadingComponents::new(layer.path(), r),
            // The base weight's components stay, although the file has another weight.
            true => {
                let weight = base.matrix(&format!("{}.weight", layer.module.source))?;
                let all = components(&weight, layer.path())?;
                LeadingComponents::known(layer.path(), r, leading(&all, r))
            }
        };
        Ok(Psoft {
            leading,
            diagonal,
            balanced: options.balanced,
            out_features: layer.out_features,
            in_features: layer.in_features,
            trainable,
        })
    })
}

impl Options {
    fn read(config: &JsonObject) -> Result<Self, AdapterError> {
        let one_of = |key: &str, [default, other]: [&str; 2]| match config
            .optional_text(key)?
            .unwrap_or(default)
        {
            found if found == default => Ok(true),
            found if found == other => Ok(false),
            _ => Err(config.wrong(key, &format!("`{default}` or `{other}`"))),
        };
        let terms = config
            .optional_size("num_cayley_neumann_terms")?
            .unwrap_or(5);
        let norm = match config.get("cayley_neumann_eps") {
            None => None,
            Some(_) => Some(factor(config, "cayley_neumann_eps", 0.0)?),
        };
        Ok(Self {
            r: rank(config, "r", 32)?,
            balanced: !one_of("ab_svd_init", ["psoft_init", "pissa_init"])?,
            exact_svd: one_of("psoft_svd", ["full", "lowrank"])?,
            orthogonal: config.flag("psoft_orth", true)?,
            magnitudes: [
                config.flag("psoft_mag_b", true)?,
                config.flag("psoft_mag_a", true)?,
            ],
            series: config.flag("use_cayley_neumann", false)?.then_some(terms),
            norm,
            identity: config.flag("init_weights", true)?,
        })
    }

    /// `R`, `[r, r]`, and the number of its parameters.
    fn rotation(
        &self,
        tensors: &mut AdapterTensors,
        layer: &TargetLinear,
    ) -> Result<(Array2<f64>, usize), AdapterError> {
        let r = self.r;
        let key = |name: &str| layer.key(&format!("psoft_R.{name}"));
        let mut trainable = 0;
        let mut rotation = if self.orthogonal {
            let init = match self.identity {
                true => Init::Zeros,
                false => Init::Normal(0.1),
            };
            let upper = tensors.vector(&key("weight"), r * (r - 1) / 2, init)?;
            trainable += upper.len();
            self.turned(skew(&elements(&upper), r))
        } else {
            let identity = self.identity;
            let values = tensors.take_or(&key("weight"), &[r, r], |rng| {
                let noise = Init::Normal(0.1).draw(r * r, rng);
                let noise = Array2::from_shape_vec((r, r), noise).expect("as many were drawn");
                let identity_matrix = Array2::<f32>::eye(r);
                let all = if identity {
                    identity_matrix
                } else {
                    identity_matrix + noise
                };
                Ok(elements(&all))
            })?;
            trainable += r * r;
            let matrix = Array2::from_shape_vec((r, r), values);
            matrix
                .expect("`take_or` gives as many values")
                .mapv(f64::from)
        };
        for ((name, on), axis) in [("vector_b", 1), ("vector_a", 0)]
            .into_iter()
            .zip(self.magnitudes)
            .map(|((name, axis), on)| ((name, on), axis))
        {
            if on {
                let by = tensors.vector(&key(name), r, Init::Constant(1.0))?;
                trainable += r;
                rotation *= &by.mapv(f64::from).insert_axis(Axis(axis));
            }
        }
        Ok((rotation, trainable))
    }

    /// `R₀` of a skew-symmetric matrix.
    fn turned(&self, mut skew: Array2<f64>) -> Array2<f64> {
        let Some(terms) = self.series else {
            return cayley(&-skew);
        };
        let norm = skew.iter().map(|value| value * value).sum::<f64>().sqrt();
        if let Some(largest) = self.norm.filter(|largest| norm > *largest) {
            skew *= largest / (norm + 1e-12);
        }
        neumann(&skew, terms)
    }
}

impl ModuleAdapter for Psoft {
    fn form(&self) -> Form<'_> {
        let r = self.diagonal.len();
        let a = FormTensor::derived("A", &[r, self.in_features], TensorRole::Term, |base| {
            let found = self.leading.of(base.weight()?)?;
            Ok(match self.balanced {
                true => elements(&scaled_rows(&found.vt, &found.s.mapv(f32::sqrt))),
                false => elements(&found.vt),
            })
        });
        let b = FormTensor::derived("B", &[self.out_features, r], TensorRole::Term, |base| {
            let found = self.leading.of(base.weight()?)?;
            let sizes = match self.balanced {
                true => found.s.mapv(f32::sqrt),
                false => found.s.clone(),
            };
            let change = self.diagonal.mapv(|value| value - 1.0);
            Ok(elements(&scaled_columns(&found.u, &(sizes * change))))
        });
        Form::Linear(LinearForm::low_rank(a, b))
    }

    fn trainable_params(&self) -> usize {
        self.trainable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::ModuleWeights;
    use ndarray::array;

    fn merged(balanced: bool) -> Array2<f32> {
        let adapter = Psoft {
            leading: LeadingComponents::new("x", 1),
            diagonal: array![3.0],
            balanced,
            out_features: 2,
            in_features: 2,
            trainable: 0,
        };
        let mut module = ModuleWeights {
            weight: array![[0.0, 4.0], [1.0, 0.0]],
            bias: None,
        };
        adapter.merge_into(&mut module).unwrap();
        module.weight
    }

    #[test]
    fn a_diagonal_scales_components() {
        for balanced in [false, true] {
            let difference: Array2<f32> = merged(balanced) - array![[0.0, 12.0], [1.0, 0.0]];
            assert!(difference.iter().all(|value| value.abs() < 1e-5));
        }
    }

    #[test]
    fn a_turn_is_the_inverse_of_ofts() {
        let options = |series, norm| Options {
            r: 2,
            balanced: false,
            exact_svd: true,
            orthogonal: true,
            magnitudes: [true, true],
            series,
            norm,
            identity: true,
        };
        let turned = options(None, None).turned(skew(&[1.0], 2));
        let difference = &turned - &array![[0.0, 1.0], [-1.0, 0.0]];
        assert!(difference.iter().all(|value| value.abs() < 1e-12));
        // Scaled down to a small norm, the series equals the exact rotation.
        let angle = 0.02 / 2_f64.sqrt();
        let expected = options(None, None).turned(skew(&[angle as f32], 2));
        let turned = options(Some(6), Some(0.02)).turned(skew(&[1.0], 2));
        assert!((turned - expected).iter().all(|value| value.abs() < 1e-8));
    }
}
