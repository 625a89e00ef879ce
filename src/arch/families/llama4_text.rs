//! Llama 4 without its vision tower (`model_type: "llama4_text"`).
//!
//! - Layers with rotated positions (`no_rope_layers` is 1 there) rotate pairs of neighbours; with
//!   `use_qk_norm`, an RMSNorm without weights follows for query and key heads.
//! - In the others, with `attn_temperature_tuning`, queries are multiplied by
//!   `1 + attn_scale * ln(1 + floor((position + 1) / floor_scale))`.
//! - Layers of the kind `chunked_attention` see keys of the same `attention_chunk_size` positions
//!   only.
//! - `moe_layers`, or every `interleave_moe_layer_step`-th layer, have experts and an MLP that every
//!   token uses; the others have an MLP of `intermediate_size_mlp`. A token's experts are those with
//!   the highest logits; their inputs are multiplied by the logits' sigmoid.
//! - Tensors with all experts of a layer are stored inputs before outputs.
//!
//! Source: `modeling_llama4.py`, `configuration_llama4.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::experts::describe::{ExpertForm, Experts, Routing, Shared, sizes};
use crate::arch::rope::{Pairs, RopeDefaults};
use crate::arch::{
    DecoderSpec, GateUpRows, NormKind, NormOrder, NormOver, Position, QueryScale, RouterModule,
    Scores, Stored, Weighs, read,
};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "llama4_text",
    name: "Llama 4",
    special: "experts with weighted inputs and a shared one; attention in chunks, layers without positions",
    refused: "adapters on experts and router, except LoRA",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 202048, "hidden_size": 5120, "intermediate_size": 8192, "num_hidden_layers": 48,
            "num_attention_heads": 40}"#,
    ),
    shapes: &[Shape {
        name: "llama-4-scout",
        copies: Some("meta-llama/Llama-4-Scout-17B-16E"),
        parameters: 107_769_861_120,
        config: r#"{"architectures": ["Llama4ForCausalLM"], "attention_bias": false,
            "attention_chunk_size": 8192, "attn_scale": 0.1, "attn_temperature_tuning": true,
            "floor_scale": 8192, "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120,
            "interleave_moe_layer_step": 1, "intermediate_size": 8192,
            "intermediate_size_mlp": 16384, "max_position_embeddings": 262144,
            "model_type": "llama4_text", "num_attention_heads": 40, "num_experts_per_tok": 1,
            "num_hidden_layers": 48, "num_key_value_heads": 8, "num_local_experts": 16,
            "rms_norm_eps": 1e-05, "rope_scaling": { "factor": 8.0, "high_freq_factor": 4.0,
            "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3" }, "rope_theta": 500000.0, "tie_word_embeddings": false,
            "use_qk_norm": true, "vocab_size": 202048}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let bias = Bias::Key("attention_bias", false);
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        qkv_bias: bias,
        output_bias: bias,
        mlp_bias: Bias::Never,
        key_value_heads: Some(8),
        head_dim: Some(128),
        positions: 4096 * 32,
        rope: RopeDefaults {
            theta: (500_000.0, "rope_theta"),
            pairs: Pairs::Neighbours,
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let size = config.size("intermediate_size")?;
    let dense = config.optional_size("intermediate_size_mlp")?;
    let of_dense = config.with("intermediate_size", dense.unwrap_or(16_384).into());
    let mut spec = llama::decoder(&of_dense, &differences)?;
    for layer in &mut spec.layers {
        for (path, source) in layer.mlp.names_mut() {
            *path = path.replacen(".mlp.", ".feed_forward.", 1);
            source.clone_from(path);
        }
    }
    set_attention(config, &mut spec)?;

    let count = read::either(config, ["num_local_experts", "num_experts"]);
    let sizes = sizes(
        config,
        [(count, Some(16)), ("num_experts_per_tok", Some(1))],
    )?;
    let routing = Routing {
        held_as: RouterModule::LinearWithMore,
        scores: Scores::SigmoidOfPicked,
        weighs: Weighs::Input,
        ..Routing::SOFTMAX
    };
    let experts = Experts {
        block: ["feed_forward", "feed_forward"],
        router: ["router", "router"],
        form: ExpertForm::Fused {
            rows: GateUpRows::Halves,
            stored: Stored::InOut,
            declared: false,
        },
        shared: Some(Shared::gated("shared_expert", size)),
        ..Experts::new(sizes, size, routing)
    };
    let step = config
        .optional_size("interleave_moe_layer_step")?
        .unwrap_or(1);
    let listed: Option<Vec<usize>> = match config.get("moe_layers") {
        None => None,
        Some(list) => Some(
            serde_json::from_value(list.clone())
                .map_err(|_| config.wrong("moe_layers", "a list of layers"))?,
        ),
    };
    experts.replace(&mut spec, |layer| match &listed {
        Some(listed) => listed.contains(&layer),
        None => (layer + 1).is_multiple_of(step),
    });
    Ok(spec)
}

/// Sets positions, norms, scales and chunks of all layers.
fn set_attention(config: &JsonObject, spec: &mut DecoderSpec) -> Result<(), ConfigError> {
    let layers = spec.layers.len();
    let interval = config.optional_size("no_rope_layer_interval")?.unwrap_or(4);
    const ROTATED: &str = "no_rope_layers";
    let listed: Vec<u64> = match config.get(ROTATED) {
        None => Vec::new(),
        Some(list) => serde_json::from_value(list.clone())
            .ok()
            .filter(|list: &Vec<u64>| list.is_empty() || list.len() == layers)
            .ok_or_else(|| {
                let expected = format!("0 or 1 for each of the {layers} layers");
                config.wrong(ROTATED, &expected)
            })?,
    };
    let rotated = |layer: usize| match listed.get(layer) {
        Some(rotated) => *rotated != 0,
        None => !(layer + 1).is_multiple_of(interval),
    };
    const CHUNK: &str = "attention_chunk_size";
    let chunk = match config.json().get(CHUNK) {
        None => Some(8192),
        Some(_) => config.optional_size(CHUNK)?,
    };
    const KINDS: &str = "layer_types";
    let in_chunks: Vec<bool> = match config.optional_texts(KINDS)? {
        None => (0..layers)
            .map(|layer| rotated(layer) && chunk.is_some())
            .collect(),
        Some(kinds) => kinds
            .iter()
            .map(|kind| match kind.as_str() {
                "chunked_attention" => Some(true),
                "full_attention" => Some(false),
                _ => None,
            })
            .collect::<Option<Vec<bool>>>()
            .filter(|kinds| kinds.len() == layers)
            .ok_or_else(|| {
                let expected = format!(
                    "`full_attention` or `chunked_attention` for each of the {layers} layers"
                );
                config.wrong(KINDS, &expected)
            })?,
    };
    if chunk.is_none() && in_chunks.contains(&true) {
        return Err(config.wrong(CHUNK, "a number of tokens: some layers have chunks"));
    }
    if config.flag("use_qk_norm", true)? {
        let names = ["q_norm", "k_norm"];
        spec.norm_queries_and_keys(names, NormOver::Head, NormKind::RmsWithoutParameters);
    }
    let scale = match config.flag("attn_temperature_tuning", true)? {
        false => None,
        true => Some(QueryScale {
            beta: config.optional_number("attn_scale")?.unwrap_or(0.1),
            original: config.optional_size("floor_scale")?.unwrap_or(8192),
            first: 1,
        }),
    };
    for (index, attention) in spec.attentions_mut().enumerate() {
        attention.norm_order = NormOrder::AfterRotation;
        attention.chunk = chunk.filter(|_| in_chunks[index]);
        if !rotated(index) {
            attention.position = Position::None;
            attention.query_key_norms = None;
            attention.query_scale = scale;
        }
    }
    Ok(())
}
