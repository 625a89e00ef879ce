//! aLoRA, activated LoRA: the pair acts on the tokens from the prompt's last invocation sequence
//! on.
//!
//! `y = W x + b + mask * scaling * (B A x + b_B)`. The mask is 0 before the last occurrence of
//! `alora_invocation_tokens` in the prompt, and 1 from its first token on and for all generated
//! tokens; generated tokens don't invoke it again. Without an occurrence the base model runs.
//! Tensors and initial values are LoRA's. A change that depends on the token can't be merged into a
//! weight.
//!
//! Source: PEFT, `tuners/lora/variants.py` (`ALoraLinearVariant`, `calculate_alora_offsets`).

use super::linear::LoraLinear;
use super::residual::Residual;
use crate::adapter::ModuleAdapter;
use crate::adapter::form::{Form, FormTensor, Native, NativeForm, TensorRole, elements};
use crate::json::{ConfigError, JsonObject};

/// The key in the configuration.
pub const KEY: &str = "alora_invocation_tokens";

/// Reads the invocation sequence, if there's one. As in PEFT, an empty one counts as none.
///
/// # Errors
/// If it isn't a list of ids below `vocab_size`.
pub fn invocation(config: &JsonObject, vocab_size: usize) -> Result<Option<Vec<u32>>, ConfigError> {
    let Some(value) = config.get(KEY) else {
        return Ok(None);
    };
    let id = |value: &serde_json::Value| {
        let id = value.as_u64().filter(|&id| id < vocab_size as u64)?;
        u32::try_from(id).ok()
    };
    let ids: Option<Vec<u32>> = value
        .as_array()
        .and_then(|list| list.iter().map(id).collect());
    let expected = format!("a list of token ids below {vocab_size}, the base's `vocab_size`");
    let ids = ids.ok_or_else(|| config.wrong(KEY, &expected))?;
    Ok((!ids.is_empty()).then_some(ids))
}

/// The pair of a linear layer.
#[derive(Debug)]
pub struct Activated(pub LoraLinear);

impl ModuleAdapter for Activated {
    fn form(&self) -> Form<'_> {
        let lora = &self.0;
        let mut tensors = vec![
            FormTensor::stored(&lora.keys[0], &lora.a, TensorRole::Term).with_rank_axis(0),
            FormTensor::scaled(&lora.keys[1], &lora.b, lora.scaling, TensorRole::Term)
                .with_rank_axis(1),
        ];
        if let Some(bias) = &lora.bias {
            tensors.push(FormTensor::derived(
                "bias",
                &[bias.len()],
                TensorRole::Term,
                move |_| Ok(elements(&(bias * lora.scaling))),
            ));
        }
        let taken_out = lora.to_take_out();
        if let Some(residual) = taken_out {
            let shape = [lora.b.nrows(), lora.a.ncols()];
            tensors.push(FormTensor::derived(
                "weight",
                &shape,
                TensorRole::InPlace,
                |module| Ok(elements(&residual.of(module.weight()?)?)),
            ));
        }
        Form::Native(NativeForm::new(tensors, move |site| {
            let mut inputs = site.inputs.clone().into_iter();
            let mut next = || {
                inputs
                    .next()
                    .expect("the form has as many tensors as were given")
            };
            let (a, b) = (next(), next());
            let bias = lora.bias.is_some().then(&mut next);
            let weight = taken_out.map(|_| next());
            let (x, mask) = (site.x.clone(), site.token_gate());
            let y = match &weight {
                Some(weight) => site.linear(&x, weight),
                None => site.base(&x),
            };
            let mut inner = site.matmul_transposed("A/MatMul", &x, &a);
            // Without a bias, the inner value is masked, which has fewer elements.
            if bias.is_none() {
                inner = site.op("Mul", "masked", &[&inner, &mask]);
            }
            let mut delta = site.matmul_transposed("B/MatMul", &inner, &b);
            if let Some(bias) = &bias {
                delta = site.op("Add", "B/Add", &[&delta, bias]);
                delta = site.op("Mul", "masked", &[&delta, &mask]);
            }
            site.op("Add", "Add", &[&y, &delta])
        }))
    }

    fn native(&self) -> Native<'_> {
        Native::Reduced
    }

    fn residual(&self) -> Option<&Residual> {
        self.0.residual()
    }

    fn trainable_params(&self) -> usize {
        self.0.trainable_params()
    }
}
