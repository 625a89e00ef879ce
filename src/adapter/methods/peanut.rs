//! PEANuT: the delta is computed by a small network from the base's weight,
//! `W' = W + scaling * B h(W)ᵀ`.
//!
//! | tensor | shape |
//! |---|---|
//! | `peanut_A.weight` | `[r, out_features]` |
//! | `peanut_B.weight` | `[out_features, r]` |
//! | `peanut_encoders.{k}.weight`, `peanut_decoders.{k}.weight` | `[r, r]`, `k < depth` |
//!
//! `h = act(Wᵀ Aᵀ)`, `[in_features, r]`. Each encoder computes `h ← act(h Eᵀ)`, each decoder
//! `h ← act(h Dᵀ) + e`, with `e` the input of the encoder of the same level. `act_fn` is the
//! activation. Computed in float32, except for the activation itself.
//!
//! Sources: Zhong et al., arXiv:2410.01870; PEFT, `tuners/peanut/`.

use ndarray::Array2;

use super::{Class, Method};
use crate::adapter::form::{BaseModule, Form, FormTensor, LinearForm, TensorRole, elements};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::options::{factor, rank};
use crate::adapter::toolbox::tuner::{Loading, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter};
use crate::json::{ConfigError, JsonObject};

/// The network of one layer.
#[derive(Debug)]
struct Peanut {
    /// `[r, out_features]`
    a: Array2<f32>,
    /// `[out_features, r]`
    b: Array2<f32>,
    /// `[r, r]` each
    encoders: Vec<Array2<f32>>,
    /// `[r, r]` each
    decoders: Vec<Array2<f32>>,
    activation: Activation,
    scaling: f32,
    key_b: String,
    in_features: usize,
}

/// An element-wise function, with Transformers' name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activation {
    Relu,
    Relu6,
    Relu2,
    LeakyRelu,
    Gelu,
    GeluTanh,
    QuickGelu,
    Silu,
    Mish,
    Tanh,
    Sigmoid,
    Linear,
}

impl Activation {
    const ALL: [(&'static str, Self); 15] = [
        ("relu", Self::Relu),
        ("relu6", Self::Relu6),
        ("relu2", Self::Relu2),
        ("leaky_relu", Self::LeakyRelu),
        ("gelu", Self::Gelu),
        ("gelu_python", Self::Gelu),
        ("gelu_new", Self::GeluTanh),
        ("gelu_pytorch_tanh", Self::GeluTanh),
        ("quick_gelu", Self::QuickGelu),
        ("silu", Self::Silu),
        ("swish", Self::Silu),
        ("mish", Self::Mish),
        ("tanh", Self::Tanh),
        ("sigmoid", Self::Sigmoid),
        ("linear", Self::Linear),
    ];

    fn read(config: &JsonObject) -> Result<Self, ConfigError> {
        let Some(name) = config.optional_text("act_fn")? else {
            return Ok(Self::Relu);
        };
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, own)| *own).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| name).join(", ");
            config.refused(
                "act_fn",
                &format!("`{name}` is not implemented; {names} are"),
            )
        })
    }

    fn of(self, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match self {
            Self::Relu => x.max(0.0),
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::Relu2 => x.max(0.0).powi(2),
            Self::LeakyRelu => x.max(0.01 * x),
            Self::Gelu => x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)) / 2.0,
            Self::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                x * (1.0 + inner.tanh()) / 2.0
            }
            Self::QuickGelu => x * sigmoid(1.702 * x),
            Self::Silu => x * sigmoid(x),
            Self::Mish => x * (x.max(0.0) + (-x.abs()).exp().ln_1p()).tanh(),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => sigmoid(x),
            Self::Linear => x,
        }
    }
}

/// The error function: its series near 0, else a continued fraction of its complement.
fn erf(x: f64) -> f64 {
    let square = x * x;
    if square < 9.0 {
        let (mut term, mut sum, mut k) = (x, x, 0.0);
        while f64::abs(term) > 1e-17 * f64::abs(sum) {
            k += 1.0;
            term *= -square / k;
            sum += term / (2.0 * k + 1.0);
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let mut fraction = 0.0;
    for k in (1..60).rev() {
        fraction = f64::from(k) / 2.0 / (x.abs() + fraction);
    }
    let complement = (-square).exp() / std::f64::consts::PI.sqrt() / (x.abs() + fraction);
    (1.0 - complement).copysign(x)
}

/// The largest depth of the network.
const DEEPEST: usize = 64;

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "PEANUT",
    class: Class::Weight,
    variants: "depth, act_fn",
    refused: "Transformers' rarer activations (`act_fn`)",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let r = rank(config, "r", 32)?;
    let depth = match config.get("depth") {
        Some(value) if value.as_u64() == Some(0) => 0,
        _ => config.optional_size_up_to("depth", DEEPEST)?.unwrap_or(0),
    };
    let activation = Activation::read(config)?;
    let scaling = factor(config, "scaling", 1.0)? as f32;
    let inner = Init::linear_default(r);
    let second = match config.flag("init_weights", true)? {
        true => Init::Zeros,
        false => inner,
    };
    Tuner::open(loading, QUERY_VALUE, None)?.adapt(|tensors, layer| {
        let rows = layer.out_features;
        let first = Init::linear_default(rows);
        let mut square = |name: &str| -> Result<Vec<Array2<f32>>, AdapterError> {
            (0..depth)
                .map(|k| {
                    let key = layer.key(&format!("peanut_{name}.{k}.weight"));
                    tensors.matrix(&key, [r, r], inner)
                })
                .collect()
        };
        let (encoders, decoders) = (square("encoders")?, square("decoders")?);
        let key_b = layer.key("peanut_B.weight");
        Ok(Peanut {
            a: tensors.matrix(&layer.key("peanut_A.weight"), [r, rows], first)?,
            b: tensors.matrix(&key_b, [rows, r], second)?,
            encoders,
            decoders,
            activation,
            scaling,
            key_b: tensors.full_key(&key_b),
            in_features: layer.in_features,
        })
    })
}

impl Peanut {
    /// `h(W)ᵀ`, `[r, in_features]`
    fn network(&self, weight: &Array2<f32>) -> Array2<f32> {
        let activate = |mut h: Array2<f32>| {
            h.mapv_inplace(|value| self.activation.of(f64::from(value)) as f32);
            h
        };
        let mut h = activate(self.a.dot(weight));
        let mut given = Vec::with_capacity(self.encoders.len());
        for encoder in &self.encoders {
            let next = activate(encoder.dot(&h));
            given.push(std::mem::replace(&mut h, next));
        }
        for decoder in &self.decoders {
            h = activate(decoder.dot(&h));
            if let Some(given) = given.pop() {
                h += &given;
            }
        }
        h
    }
}

impl ModuleAdapter for Peanut {
    fn form(&self) -> Form<'_> {
        let (rows, r) = self.b.dim();
        let columns = self.in_features;
        let weight = |base: &BaseModule| {
            let weight = base.weight()?;
            let delta = self.b.dot(&self.network(weight));
            Ok(elements(&(weight + &(delta * self.scaling))))
        };
        Form::Linear(LinearForm::low_rank_or_weight(
            FormTensor::derived("A", &[r, columns], TensorRole::Term, |base: &BaseModule| {
                Ok(elements(&self.network(base.weight()?)))
            }),
            FormTensor::scaled(&self.key_b, &self.b, self.scaling, TensorRole::Term),
            FormTensor::derived("weight", &[rows, columns], TensorRole::InPlace, weight),
        ))
    }

    fn trainable_params(&self) -> usize {
        let inner = self.encoders.iter().chain(&self.decoders);
        self.a.len() + self.b.len() + inner.map(Array2::len).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn the_error_function_is_right_on_both_sides_of_its_seam() {
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (-1.0, -0.842_700_792_949_714_9),
            (2.9, 0.999_958_902_121_900_5),
            (3.1, 0.999_988_351_342_963_4),
        ] {
            assert!((erf(x) - expected).abs() < 1e-12, "{x}: {}", erf(x));
        }
    }

    #[test]
    fn levels_get_back_what_their_encoder_was_given() {
        let peanut = Peanut {
            a: array![[1.0, 0.0]],
            b: array![[1.0], [1.0]],
            encoders: vec![array![[2.0]], array![[-1.0]]],
            decoders: vec![array![[1.0]], array![[3.0]]],
            activation: Activation::Relu,
            scaling: 1.0,
            key_b: "B".to_owned(),
            in_features: 2,
        };
        // h = (5, 0); (10, 0); (0, 0); decoders: 0 + (10, 0); (30, 0) + (5, 0).
        assert_eq!(
            peanut.network(&array![[5.0, -7.0], [1.0, 1.0]]),
            array![[35.0, 0.0]]
        );
        assert_eq!(peanut.trainable_params(), 8);
    }
}
