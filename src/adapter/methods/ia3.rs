//! (IA)³: scales a layer's output, `y' = l ∘ (W x + b)`, or a feed-forward layer's input,
//! `y' = W (l ∘ x) + b`.
//!
//! | tensor | shape |
//! |---|---|
//! | `ia3_l` | `[out_features, 1]`, for a feed-forward layer `[1, in_features]` |
//!
//! `feedforward_modules` selects the feed-forward layers: a regular expression for the whole path,
//! or a list of endings (at a dot or not).
//!
//! Sources: Liu et al., arXiv:2205.05638; PEFT, `tuners/ia3/`.

use ndarray::Array1;

use super::{Class, Method};
use crate::adapter::form::{
    Form, FormTensor, InputStage, LinearForm, Native, OutputStage, TensorRole,
};
use crate::adapter::targets::NamePattern;
use crate::adapter::targets::defaults::{self, IA3, IA3_FEEDFORWARD};
use crate::adapter::toolbox::tuner::{Loading, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter};
use crate::json::{ConfigError, JsonObject};

/// The vector of one layer.
#[derive(Debug)]
struct Ia3 {
    key: String,
    /// `[out_features]`, or `[in_features]`
    l: Array1<f32>,
    feedforward: bool,
}

/// Selects the layers whose input is scaled.
#[derive(Debug)]
enum Feedforward {
    Pattern(NamePattern),
    Endings(Vec<String>),
}

impl Feedforward {
    const KEY: &'static str = "feedforward_modules";

    fn read(config: &JsonObject, model_type: &str) -> Result<Self, ConfigError> {
        match NamePattern::read(config, Self::KEY)? {
            Some(NamePattern::Names(names)) => Ok(Self::Endings(names)),
            Some(pattern) => Ok(Self::Pattern(pattern)),
            None => {
                let found = defaults::names(model_type, IA3_FEEDFORWARD);
                let names = found.ok_or_else(|| {
                    let expected = format!(
                        "the layers whose input is scaled (there's no default for model_type \
                         `{model_type}`)"
                    );
                    config.missing(Self::KEY, &expected)
                })?;
                Ok(Self::Endings(
                    names.iter().map(|&name| name.to_owned()).collect(),
                ))
            }
        }
    }

    fn contains(&self, config: &JsonObject, path: &str) -> Result<bool, ConfigError> {
        match self {
            Self::Pattern(pattern) => pattern.matches(config, Self::KEY, path),
            Self::Endings(names) => Ok(names.iter().any(|name| path.ends_with(name.as_str()))),
        }
    }
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "IA3",
    class: Class::Weight,
    variants: "feedforward_modules",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let feedforward = Feedforward::read(config, &loading.base.spec.model_type)?;
    let init = match config.flag("init_ia3_weights", true)? {
        true => Init::Constant(1.0),
        false => Init::Normal(1.0),
    };
    Tuner::open(loading, IA3, None)?.adapt(|tensors, layer| {
        let key = layer.key("ia3_l");
        let feedforward = feedforward.contains(config, layer.path())?;
        let shape = match feedforward {
            true => [1, layer.in_features],
            false => [layer.out_features, 1],
        };
        Ok(Ia3 {
            l: tensors.take(&key, &shape, init)?.into(),
            key: tensors.full_key(&key),
            feedforward,
        })
    })
}

impl ModuleAdapter for Ia3 {
    fn form(&self) -> Form<'_> {
        let scale = FormTensor::stored(&self.key, &self.l, TensorRole::Factor);
        let mut form = LinearForm::default();
        if self.feedforward {
            form.input.push(InputStage::Scale(scale));
        } else {
            form.output = Some(OutputStage::Scale(scale));
        }
        Form::Linear(form)
    }

    fn native(&self) -> Native<'_> {
        Native::Reduced
    }

    fn trainable_params(&self) -> usize {
        self.l.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::ModuleWeights;
    use ndarray::array;

    #[test]
    fn outputs_are_scaled_with_their_bias_and_inputs_without() {
        let merged = |feedforward| {
            let adapter = Ia3 {
                key: "ia3_l".to_owned(),
                l: array![2.0, 10.0],
                feedforward,
            };
            let mut module = ModuleWeights {
                weight: array![[1.0, 2.0], [3.0, 4.0]],
                bias: Some(array![5.0, 6.0]),
            };
            adapter.merge_into(&mut module).unwrap();
            (module.weight, module.bias.unwrap())
        };
        let outputs = (array![[2.0, 4.0], [30.0, 40.0]], array![10.0, 60.0]);
        assert_eq!(merged(false), outputs);
        assert_eq!(
            merged(true),
            (array![[2.0, 20.0], [6.0, 40.0]], array![5.0, 6.0])
        );
    }
}
