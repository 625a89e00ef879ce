//! RoAd: rotates and scales pairs of outputs, bias included.
//!
//! | tensor | shape |
//! |---|---|
//! | `road_theta`, `road_alpha` of `road_1` | `[out_features / 2]` |
//! | `road_theta`, `road_alpha` of `road_2` | `[out_features]` |
//! | `road_theta`, `road_alpha` of `road_4` | `[2 out_features]` |
//!
//! In each group of `group_size` outputs, an output of the first half is paired with the one at the
//! same position of the second: `y₁' = c₁ y₁ − t₁ y₂`, `y₂' = c₂ y₂ + t₂ y₁`, `c = α cos θ`,
//! `t = α sin θ`. `road_1` has one angle for each pair, `road_2` one for each output, `road_4` one
//! for each `c` and each `t`.
//!
//! Sources: Liao and Monz, arXiv:2409.00119; PEFT, `tuners/road/`.

use ndarray::Array1;

use super::{Class, Method};
use crate::adapter::form::{
    Form, FormTensor, LinearForm, Native, NativeForm, NativeSite, OutputStage, TensorRole,
};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::options::rank;
use crate::adapter::toolbox::tuner::{Loading, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter};
use crate::graph::{Attr, Value};
use crate::json::{ConfigError, JsonObject};

/// The number of angles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    AnglePerPair,
    AnglePerOutput,
    TwoAnglesPerOutput,
}

/// The rotations of one layer.
#[derive(Debug)]
struct Road {
    /// Keys of angles and scales.
    keys: [String; 2],
    theta: Array1<f32>,
    alpha: Array1<f32>,
    variant: Variant,
    group: usize,
    out_features: usize,
}

impl Variant {
    fn read(config: &JsonObject) -> Result<Self, ConfigError> {
        match config.optional_text("variant")? {
            None | Some("road_1") => Ok(Self::AnglePerPair),
            Some("road_2") => Ok(Self::AnglePerOutput),
            Some("road_4") => Ok(Self::TwoAnglesPerOutput),
            Some(_) => Err(config.wrong("variant", "one of `road_1`, `road_2`, `road_4`")),
        }
    }

    fn angles(self, out_features: usize) -> usize {
        match self {
            Self::AnglePerPair => out_features / 2,
            Self::AnglePerOutput => out_features,
            Self::TwoAnglesPerOutput => 2 * out_features,
        }
    }

    /// The indices of the angles of `c` and of `t` for output `index`.
    fn angle_indices(self, index: usize, group: usize) -> [usize; 2] {
        let (which, within) = (index / group, index % group);
        match self {
            Self::AnglePerPair => [which * (group / 2) + within % (group / 2); 2],
            Self::AnglePerOutput => [index; 2],
            Self::TwoAnglesPerOutput => [2 * which, 2 * which + 1].map(|row| row * group + within),
        }
    }
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "ROAD",
    class: Class::Weight,
    variants: "road_1, road_2, road_4",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let variant = Variant::read(config)?;
    let group = rank(config, "group_size", 64)?;
    if !group.is_multiple_of(2) {
        return Err(config.wrong("group_size", "an even number").into());
    }
    let [init_theta, init_alpha] = match config.flag("init_weights", true)? {
        true => [Init::Zeros, Init::Constant(1.0)],
        false => [Init::Normal(0.5), Init::Around(1.0, 0.5)],
    };
    Tuner::open(loading, QUERY_VALUE, None)?.adapt(|tensors, layer| {
        let out_features = layer.out_features;
        if !out_features.is_multiple_of(group) {
            let path = layer.path();
            let expected = format!("a divisor of {out_features}, the outputs of `{path}`");
            return Err(config.wrong("group_size", &expected).into());
        }
        let count = variant.angles(out_features);
        let keys = ["road_theta", "road_alpha"].map(|name| layer.key(name));
        Ok(Road {
            keys: keys.map(|key| tensors.full_key(&key)),
            theta: tensors.vector(&layer.key("road_theta"), count, init_theta)?,
            alpha: tensors.vector(&layer.key("road_alpha"), count, init_alpha)?,
            variant,
            group,
            out_features,
        })
    })
}

impl ModuleAdapter for Road {
    fn form(&self) -> Form<'_> {
        let half = self.group / 2;
        let is_first = move |index: usize| index % self.group < half;
        let place = move |index: usize| self.variant.angle_indices(index, self.group);
        let own = move |index: usize| {
            let [place, _] = place(index);
            self.alpha[place] * self.theta[place].cos()
        };
        let other = move |index: usize| {
            let [_, place] = place(index);
            let t = self.alpha[place] * self.theta[place].sin();
            if is_first(index) { -t } else { t }
        };
        let order = (0..self.out_features).map(|index| match is_first(index) {
            true => index + half,
            false => index - half,
        });
        let shape = [self.out_features];
        Form::Linear(LinearForm {
            output: Some(OutputStage::Pairs {
                own: FormTensor::derived("own", &shape, TensorRole::Factor, move |_| {
                    Ok((0..self.out_features).map(own).collect())
                }),
                other: FormTensor::derived("other", &shape, TensorRole::Term, move |_| {
                    Ok((0..self.out_features).map(other).collect())
                }),
                order: order.collect(),
            }),
            ..LinearForm::default()
        })
    }

    /// Angles are turned into factors in every step, and the halves of groups are swapped.
    fn native(&self) -> Native<'_> {
        let tensors = vec![
            FormTensor::stored(&self.keys[0], &self.theta, TensorRole::Term),
            FormTensor::stored(&self.keys[1], &self.alpha, TensorRole::Factor),
        ];
        let (half, out) = ((self.group / 2) as i64, self.out_features as i64);
        let group = self.group as i64;
        Native::Own(NativeForm::new(tensors, move |site| {
            let (theta, alpha) = (site.inputs[0].clone(), site.inputs[1].clone());
            let reshape = |site: &mut NativeSite, name: &str, x: &Value, shape: &[i64]| {
                let name = site.name(name);
                site.graph.reshape(&name, x, shape)
            };
            let take = |site: &mut NativeSite, name: &str, x: &Value, index: i64, axis: i64| {
                let at = site.name(name);
                let index = site
                    .graph
                    .constant_i64(&format!("{at}/index"), &[index], false);
                site.graph.gather(&at, x, &index, axis)
            };
            let concat = |site: &mut NativeSite, name: &str, x: [&Value; 2], axis: i64| {
                let name = site.name(name);
                site.graph
                    .op("Concat", &name, &x, &[("axis", Attr::Int(axis))])
            };
            // Spreads the angles or scales for `c` (`which` 0) or for `t` (1) over the outputs.
            let spread = |site: &mut NativeSite, name: &str, x: &Value, which: i64| {
                let spread = match self.variant {
                    Variant::AnglePerPair => {
                        let rows = reshape(site, &format!("{name}/rows"), x, &[-1, 1, half]);
                        concat(site, &format!("{name}/twice"), [&rows, &rows], 1)
                    }
                    Variant::AnglePerOutput => x.clone(),
                    Variant::TwoAnglesPerOutput => {
                        let rows = reshape(site, &format!("{name}/rows"), x, &[-1, 2, group]);
                        take(site, &format!("{name}/row"), &rows, which, 1)
                    }
                };
                reshape(site, &format!("{name}/flat"), &spread, &[out])
            };
            let factor = |site: &mut NativeSite, name: &str, function: &str, which: i64| {
                let angle = spread(site, &format!("{name}/theta"), &theta, which);
                let scale = spread(site, &format!("{name}/alpha"), &alpha, which);
                // ONNX Runtime has no sine or cosine in bfloat16.
                let angle = site.to_f32(&format!("{name}/theta/float32"), &angle);
                let turned = site.op(function, &format!("{name}/{function}/float32"), &[&angle]);
                let narrow = site.name(&format!("{name}/{function}"));
                let turned = site.graph.to_compute(&narrow, &turned);
                site.op("Mul", name, &[&scale, &turned])
            };
            let own = factor(site, "c", "Cos", 0);
            let other = factor(site, "t", "Sin", 1);

            let y = site.base(site.x);
            let halves = reshape(site, "halves", &y, &[0, 0, -1, 2, half]);
            let first = take(site, "first", &halves, 0, 3);
            let second = take(site, "second", &halves, 1, 3);
            let second = site.op("Neg", "negative", &[&second]);
            let turned = concat(site, "turned", [&second, &first], 3);
            let turned = reshape(site, "turned/flat", &turned, &[0, 0, out]);
            let turned = site.op("Mul", "other", &[&turned, &other]);
            let kept = site.op("Mul", "own", &[&y, &own]);
            site.op("Add", "Add", &[&kept, &turned])
        }))
    }

    fn trainable_params(&self) -> usize {
        self.theta.len() + self.alpha.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::ModuleWeights;
    use ndarray::{Array2, array};
    use std::f32::consts::FRAC_PI_2;

    #[test]
    fn places_of_angles_follow_the_variant() {
        let all = |variant: Variant| -> Vec<[usize; 2]> {
            (0..8)
                .map(|index| variant.angle_indices(index, 4))
                .collect()
        };
        assert_eq!(
            all(Variant::AnglePerPair).concat()[..],
            [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]
        );
        assert_eq!(all(Variant::AnglePerOutput)[5], [5, 5]);
        assert_eq!(
            all(Variant::TwoAnglesPerOutput)[3..6],
            [[3, 7], [8, 12], [9, 13]]
        );
    }

    #[test]
    fn halves_of_a_group_turn_with_their_bias() {
        let adapter = Road {
            keys: Default::default(),
            theta: array![FRAC_PI_2, 0.0],
            alpha: array![2.0, 3.0],
            variant: Variant::AnglePerPair,
            group: 4,
            out_features: 4,
        };
        let mut module = ModuleWeights {
            weight: Array2::eye(4),
            bias: Some(array![1.0, 2.0, 3.0, 4.0]),
        };
        adapter.merge_into(&mut module).unwrap();
        let expected = array![-6.0, 6.0, 2.0, 12.0];
        assert!(
            (module.bias.unwrap() - expected)
                .iter()
                .all(|d| d.abs() < 1e-5)
        );
        assert!((module.weight[[0, 2]] + 2.0).abs() < 1e-6 && module.weight[[2, 0]] == 2.0);
    }
}
