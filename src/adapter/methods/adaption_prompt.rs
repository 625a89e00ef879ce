//! Adaption prompt (LLaMA-Adapter): in the last layers, every token also attends to trained rows,
//! scaled by a gate.
//!
//! | tensor | shape |
//! |---|---|
//! | `adaption_prompt` | `[1, adapter_len, hidden_size]` |
//! | `adaption_gate` | `[1]` |
//!
//! They belong to the attention (`model.layers.0.self_attn`). `K = k_proj(prompt)` and
//! `V = v_proj(prompt)` get no rotary embedding; `q`, the layer's own queries, have one. The
//! attention's output gains `o_proj(gate · softmax(q Kᵀ / sqrt(head_dim)) V)`. `K` and `V` don't
//! depend on tokens, so they are computed here, with the scores' factor in `K` and the gate in `V`.
//! A fresh adapter has `N(0, 1)` rows and a gate of 0, so it doesn't change the base.
//!
//! On GPT-2, where `c_attn` computes queries, keys and values together, the term isn't projected,
//! and the scores' factor is the same even if the model's own is another.
//!
//! Sources: Zhang et al., arXiv:2303.16199; PEFT, `tuners/adaption_prompt/`.

use ndarray::{Array1, Array2, Array3, ArrayView2, s};

use super::{Class, Method};
use crate::adapter::form::{AttentionForm, Form, FormTensor, TensorRole, elements};
use crate::adapter::toolbox::tuner::Loading;
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter};
use crate::arch::{Attention, Linear, Projections};
use crate::graph::AttentionPlace;
use crate::json::JsonObject;
use crate::model::BaseModel;

/// Architectures that PEFT supports, and their names of the attention.
const ATTENTIONS: [(&str, &str); 3] = [
    ("llama", "self_attn"),
    ("mistral", "self_attn"),
    ("gpt2", "attn"),
];

/// The keys and values of one layer.
#[derive(Debug)]
struct AdaptionPrompt {
    /// `[num_key_value_heads, head_dim, adapter_len]`, divided by `sqrt(head_dim)`
    keys: Array3<f32>,
    /// `[num_key_value_heads, adapter_len, head_dim]`, times the gate
    values: Array3<f32>,
    place: AttentionPlace,
    trainable: usize,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "ADAPTION_PROMPT",
    class: Class::Unmergeable,
    variants: "",
    refused: "bases other than llama, mistral and gpt2",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let Loading {
        config,
        base,
        tensors,
        ..
    } = loading;
    let spec = &base.spec;
    check_target(config, &spec.model_type)?;
    let length = config.size_up_to("adapter_len", spec.max_position_embeddings)?;
    let adapted = config.size_up_to("adapter_layers", spec.layers.len())?;
    let width = spec.hidden_size;
    let mut effects = Effects {
        unmergeable: Some("adds attention to trained rows, not a change of weights"),
        ..Default::default()
    };
    for layer in &spec.layers[spec.layers.len() - adapted..] {
        let Some(attention) = &layer.attention else {
            continue;
        };
        let place = match attention.projections {
            Projections::Separate { .. } | Projections::KeyIsValue { .. } => AttentionPlace::Heads,
            Projections::Fused { .. } => AttentionPlace::Output,
            Projections::Latent(_) => unreachable!("no base that's accepted has it"),
            // There are no projections that would make keys of the prompt.
            Projections::OfLayer { .. } => continue,
        };
        let key = |name: &str| format!("{}.{name}", attention.path());
        let shape = [1, length, width];
        let prompt = tensors.take(&key("adaption_prompt"), &shape, Init::Normal(1.0))?;
        let gate = tensors.vector(&key("adaption_gate"), 1, Init::Zeros)?[0];
        let prompt = Array2::from_shape_vec((length, width), prompt)
            .expect("`take` gives as many values as asked for");
        let scale = 1.0 / (attention.head_dim as f32).sqrt();
        let [keys, values] = match tensors.has_values() {
            true => heads(base, attention, &prompt)?,
            false => [(); 2].map(|()| {
                Array3::zeros((length, attention.num_key_value_heads, attention.head_dim))
            }),
        };
        let (keys, values) = (keys * scale, values * gate);
        let adapter = AdaptionPrompt {
            keys: keys.permuted_axes([1, 2, 0]),
            values: values.permuted_axes([1, 0, 2]),
            place,
            trainable: prompt.len() + 1,
        };
        let path = attention.path().to_owned();
        effects.modules.insert(path, Box::new(adapter));
    }
    Ok(effects)
}

fn check_target(config: &JsonObject, model_type: &str) -> Result<(), AdapterError> {
    let names = || ATTENTIONS.map(|(name, _)| name).join(", ");
    let found = ATTENTIONS.iter().find(|(name, _)| *name == model_type);
    let (_, attention) = found.ok_or_else(|| AdapterError::Targets {
        path: config.path().to_owned(),
        message: format!(
            "ADAPTION_PROMPT supports {}, and this base is `{model_type}`",
            names()
        ),
    })?;
    match config.optional_text("target_modules")? {
        Some(other) if other != *attention => {
            let expected = format!("`{attention}`");
            Err(config.wrong("target_modules", &expected).into())
        }
        _ => Ok(()),
    }
}

/// The prompt's keys and values by head, each `[adapter_len, num_key_value_heads, head_dim]`.
fn heads(
    base: &BaseModel,
    attention: &Attention,
    prompt: &Array2<f32>,
) -> Result<[Array3<f32>; 2], AdapterError> {
    let count = attention.num_key_value_heads;
    let shape = (prompt.nrows(), count, attention.head_dim);
    let split = |rows: ArrayView2<f32>| {
        let rows = rows.to_shape(shape);
        rows.expect("the projection has the sizes of the attention")
            .into_owned()
    };
    match &attention.projections {
        Projections::Separate { key, value, .. } => Ok([
            split(projected(base, key, prompt)?.view()),
            split(projected(base, value, prompt)?.view()),
        ]),
        Projections::KeyIsValue { key, .. } => {
            let both = split(projected(base, key, prompt)?.view());
            Ok([both.clone(), both])
        }
        Projections::OfLayer { .. } => Ok([(); 2].map(|()| Array3::zeros(shape))),
        Projections::Fused { qkv, .. } => {
            let rows = projected(base, qkv, prompt)?;
            let width = count * attention.head_dim;
            let [keys, values] = [1, 2].map(|part| part * width..(part + 1) * width);
            Ok([keys, values].map(|part| split(rows.slice(s![.., part]))))
        }
        Projections::Latent(_) => unreachable!("no base that's accepted has it"),
    }
}

/// Applies a linear layer to the prompt: `[adapter_len, out_features]`.
fn projected(
    base: &BaseModel,
    layer: &Linear,
    prompt: &Array2<f32>,
) -> Result<Array2<f32>, AdapterError> {
    let source = format!("{}.weight", layer.source);
    let (_, shape) = layer.module().parameters().swap_remove(0);
    base.tensor(&source)?.expect_shape(&shape)?;
    let weight = base.matrix(&source)?;
    let mut rows = prompt.dot(&weight.t());
    if layer.bias {
        let bias = base.tensor(&format!("{}.bias", layer.source))?;
        bias.expect_shape(&[layer.out_features])?;
        rows += &Array1::from(base.values(&bias, 0..bias.elements())?);
    }
    Ok(rows)
}

impl ModuleAdapter for AdaptionPrompt {
    fn form(&self) -> Form<'_> {
        let (keys, values) = (&self.keys, &self.values);
        Form::Attention(AttentionForm {
            keys: FormTensor::derived("K", keys.shape(), TensorRole::Term, |_| Ok(elements(keys))),
            values: FormTensor::derived("V", values.shape(), TensorRole::Term, |_| {
                Ok(elements(values))
            }),
            place: self.place,
        })
    }

    fn trainable_params(&self) -> usize {
        self.trainable
    }
}
