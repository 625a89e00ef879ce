//! BEFT: only biases are trained, `b' = b + beft_bias`.
//!
//! | tensor | shape |
//! |---|---|
//! | `beft_bias` | `[1, out_features]` |
//!
//! A layer without a bias gets one.
//!
//! Source: PEFT, `tuners/beft/`.

use ndarray::Array1;

use super::{Class, Method};
use crate::adapter::form::{Form, FormTensor, LinearForm, Native, TensorRole};
use crate::adapter::targets::defaults::BEFT;
use crate::adapter::toolbox::tuner::{Loading, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter};

/// The term added to one layer's bias, `[out_features]`.
#[derive(Debug)]
struct Beft(Array1<f32>);

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "BEFT",
    class: Class::Parameter,
    variants: "",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let init = match loading.config.flag("init_weights", true)? {
        true => Init::Zeros,
        false => Init::Normal(1.0),
    };
    Tuner::open(loading, BEFT, None)?.adapt(|tensors, layer| {
        let values = tensors.take(&layer.key("beft_bias"), &[1, layer.out_features], init)?;
        Ok(Beft(values.into()))
    })
}

impl ModuleAdapter for Beft {
    fn form(&self) -> Form<'_> {
        let bias = FormTensor::derived("bias", &[self.0.len()], TensorRole::InPlace, |base| {
            Ok(match base.bias()? {
                Some(bias) => (bias + &self.0).to_vec(),
                None => self.0.to_vec(),
            })
        });
        Form::Linear(LinearForm {
            bias: Some(bias),
            ..LinearForm::default()
        })
    }

    fn native(&self) -> Native<'_> {
        Native::Reduced
    }

    fn trainable_params(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::ModuleWeights;
    use ndarray::array;

    #[test]
    fn a_bias_is_added_to_or_made() {
        for (bias, expected) in [(Some(array![1.0]), array![3.0]), (None, array![2.0])] {
            let mut module = ModuleWeights {
                weight: array![[5.0]],
                bias,
            };
            Beft(array![2.0]).merge_into(&mut module).unwrap();
            assert_eq!(
                (module.weight, module.bias),
                (array![[5.0]], Some(expected))
            );
        }
    }
}
