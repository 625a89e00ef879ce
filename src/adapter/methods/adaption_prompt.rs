//! Adaption prompt (LLaMA-Adapter): in the last layers, every token also attends to trained rows, through a gate.
//!
//! | tensor | shape |
//! |---|---|
//! | `adaption_prompt` | `[1, adapter_len, hidden_size]` |
//! | `adaption_gate` | `[1]` |
//!
//! They hang on the attention (`model.layers.0.self_attn`). With `K = k_proj(prompt)` and `V = v_proj(prompt)`, which
//! aren't turned by any position, and `q` the layer's own queries, which are: the attention's output gains
//! `o_proj(gate · softmax(q Kᵀ / sqrt(head_dim)) V)`. `K` and `V` depend on no token, so they are worked out here, with
//! the factor on the scores in `K` and the gate in `V`. A fresh adapter has `N(0, 1)` rows and a gate of 0, which makes
//! it the identity.
//!
//! Sources: Zhang et al., arXiv:2303.16199; PEFT, `tuners/adaption_prompt/`.

use ndarray::{Array1, Array2, Array3};

use crate::adapter::form::{AttentionForm, Form, Part, Role, elements};
use crate::adapter::tuner::Loading;
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter};
use crate::arch::{Attention, Linear, Projections};
use crate::json_object::JsonObject;
use crate::model::BaseModel;

/// Architectures that PEFT has it for, but for GPT-2, and what it calls their attention.
const MODEL_TYPES: [&str; 2] = ["llama", "mistral"];
const ATTENTION: &str = "self_attn";

/// Keys and values of one layer.
#[derive(Debug)]
struct AdaptionPrompt {
    /// `[num_key_value_heads, head_dim, adapter_len]`, divided by `sqrt(head_dim)`
    keys: Array3<f32>,
    /// `[num_key_value_heads, adapter_len, head_dim]`, times the gate
    values: Array3<f32>,
    trainable: usize,
}

/// Reads the adapter.
pub fn load(loading: Loading) -> Result<Effects, AdapterError> {
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
        let attention = &layer.attention;
        let Projections::Separate { key, value, .. } = &attention.projections else {
            unreachable!("the families that are let through have projections of their own");
        };
        let (k_proj, v_proj) = (key, value);
        let key = |name: &str| format!("{}.{name}", attention.path());
        let shape = [1, length, width];
        let prompt = tensors.take(&key("adaption_prompt"), &shape, Init::Normal(1.0))?;
        let gate = tensors.vector(&key("adaption_gate"), 1, Init::Zeros)?[0];
        let prompt = Array2::from_shape_vec((length, width), prompt)
            .expect("`take` gives as many values as asked for");
        let scale = 1.0 / (attention.head_dim as f32).sqrt();
        let heads = |layer: &Linear| match tensors.has_values() {
            true => heads(base, attention, layer, &prompt),
            false => Ok(Array3::zeros((
                length,
                attention.num_key_value_heads,
                attention.head_dim,
            ))),
        };
        let keys = heads(k_proj)? * scale;
        let values = heads(v_proj)? * gate;
        let adapter = AdaptionPrompt {
            keys: keys.permuted_axes([1, 2, 0]),
            values: values.permuted_axes([1, 0, 2]),
            trainable: prompt.len() + 1,
        };
        let path = attention.path().to_owned();
        effects.modules.insert(path, Box::new(adapter));
    }
    Ok(effects)
}

fn check_target(config: &JsonObject, model_type: &str) -> Result<(), AdapterError> {
    if !MODEL_TYPES.contains(&model_type) {
        return Err(AdapterError::Targets {
            path: config.path().to_owned(),
            message: format!(
                "ADAPTION_PROMPT is for {}, and this base is `{model_type}`",
                MODEL_TYPES.join(" and ")
            ),
        });
    }
    match config.optional_text("target_modules")? {
        None | Some(ATTENTION) => Ok(()),
        Some(_) => Err(config
            .wrong("target_modules", &format!("`{ATTENTION}`"))
            .into()),
    }
}

/// The prompt through a projection of keys or values: `[adapter_len, num_key_value_heads, head_dim]`.
fn heads(
    base: &BaseModel,
    attention: &Attention,
    layer: &Linear,
    prompt: &Array2<f32>,
) -> Result<Array3<f32>, AdapterError> {
    let source = format!("{}.weight", layer.source);
    let stored = base.tensor(&source)?;
    stored.expect_shape(&[layer.out_features, layer.in_features])?;
    let weight = base.matrix(&source)?;
    let mut rows = prompt.dot(&weight.t());
    if layer.bias {
        let bias = base.tensor(&format!("{}.bias", layer.source))?;
        bias.expect_shape(&[layer.out_features])?;
        rows += &Array1::from(bias.to_f32()?);
    }
    let shape = (
        prompt.nrows(),
        attention.num_key_value_heads,
        attention.head_dim,
    );
    Ok(rows
        .into_shape_with_order(shape)
        .expect("the projection has the sizes of the attention"))
}

impl ModuleAdapter for AdaptionPrompt {
    fn form(&self) -> Form<'_> {
        let (keys, values) = (&self.keys, &self.values);
        Form::Attention(AttentionForm {
            keys: Part::derived("K", keys.shape(), Role::Term, |_| Ok(elements(keys))),
            values: Part::derived("V", values.shape(), Role::Term, |_| Ok(elements(values))),
        })
    }

    fn trainable_params(&self) -> usize {
        self.trainable
    }
}
