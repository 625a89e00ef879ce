//! Llama (`model_type: "llama"`): the family that others are described by their differences from.
//!
//! - `h = x + o_proj(attention(norm(x)))`, `y = h + mlp(norm(h))`, RMSNorm, rotary positions.
//! - Grouped-query attention; a gated MLP.
//! - Biases on all four attention projections with `attention_bias`, and on all three MLP
//!   projections with `mlp_bias`.
//!
//! Source: `modeling_llama.py`, Hugging Face Transformers.

use super::{DefaultTargets, Family, Shape};
use crate::arch::heads::Heads;
use crate::arch::rope::{self, RopeDefaults};
use crate::arch::{
    Activation, Arrangement, Attention, DecoderSpec, Embedding, Layer, Linear, MOST_LAYERS, Mlp,
    Norm, NormKind, Position, Projections, read,
};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "llama",
    name: "Llama, SmolLM2 and others",
    special: "RMSNorm, rotary positions, grouped queries, gated MLP",
    refused: "",
    targets: DefaultTargets {
        adalora: &["q_proj", "v_proj"],
        beft: &["v_proj"],
        ia3: &["k_proj", "v_proj", "down_proj"],
        ia3_feedforward: &["down_proj"],
        ln_tuning: &["input_layernorm", "post_attention_layernorm", "norm"],
        osf: &[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "down_proj",
            "up_proj",
        ],
        ..DefaultTargets::alike(&["q_proj", "v_proj"])
    },
    nested_defaults: Some(
        r#"{"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32}"#,
    ),
    shapes: &[
        Shape {
            name: "llama-135m",
            copies: Some("HuggingFaceTB/SmolLM2-135M"),
            parameters: 134_515_008,
            config: r#"{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "head_dim": 64,
                "hidden_act": "silu", "hidden_size": 576, "intermediate_size": 1536,
                "max_position_embeddings": 8192, "mlp_bias": false, "model_type": "llama",
                "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
                "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 100000.0,
                "tie_word_embeddings": true, "vocab_size": 49152}"#,
        },
        // Copies no model: the layers and the vocabulary of Llama 3.2 3B, a twelfth as wide. Whatever
        // names its layers or tokens can be tried on it in seconds.
        Shape {
            name: "llama-57m",
            copies: None,
            parameters: 56_703_232,
            config: r#"{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "head_dim": 64,
                "hidden_act": "silu", "hidden_size": 256, "intermediate_size": 768,
                "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
                "num_attention_heads": 4, "num_hidden_layers": 28, "num_key_value_heads": 4,
                "rms_norm_eps": 1e-05, "rope_scaling": { "factor": 32.0, "high_freq_factor": 4.0,
                "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
                "rope_type": "llama3" }, "rope_theta": 500000.0, "tie_word_embeddings": true,
                "vocab_size": 128256}"#,
        },
        // Copies no model: 336 million parameters with an untied head, of which a decode step in
        // float32 reads 1.21 GB.
        Shape {
            name: "llama-336m",
            copies: None,
            parameters: 336_118_784,
            config: r#"{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "head_dim": 64,
                "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 2816,
                "max_position_embeddings": 4096, "mlp_bias": false, "model_type": "llama",
                "num_attention_heads": 16, "num_hidden_layers": 24, "num_key_value_heads": 4,
                "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 10000.0,
                "tie_word_embeddings": false, "vocab_size": 32000}"#,
        },
        Shape {
            name: "llama-3.2-1b",
            copies: Some("meta-llama/Llama-3.2-1B"),
            parameters: 1_235_814_400,
            config: r#"{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "head_dim": 64,
                "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192,
                "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
                "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
                "rms_norm_eps": 1e-05, "rope_scaling": { "factor": 32.0, "high_freq_factor": 4.0,
                "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
                "rope_type": "llama3" }, "rope_theta": 500000.0, "tie_word_embeddings": true,
                "vocab_size": 128256}"#,
        },
        Shape {
            name: "llama-3.2-3b",
            copies: Some("meta-llama/Llama-3.2-3B"),
            parameters: 3_212_749_824,
            config: r#"{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "head_dim": 128,
                "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
                "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
                "num_attention_heads": 24, "num_hidden_layers": 28, "num_key_value_heads": 8,
                "rms_norm_eps": 1e-05, "rope_scaling": { "factor": 32.0, "high_freq_factor": 4.0,
                "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
                "rope_type": "llama3" }, "rope_theta": 500000.0, "tie_word_embeddings": true,
                "vocab_size": 128256}"#,
        },
        Shape {
            name: "llama-3.1-8b",
            copies: Some("meta-llama/Llama-3.1-8B"),
            parameters: 8_030_261_248,
            config: r#"{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "head_dim": 128,
                "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
                "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
                "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
                "rms_norm_eps": 1e-05, "rope_scaling": { "factor": 8.0, "high_freq_factor": 4.0,
                "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
                "rope_type": "llama3" }, "rope_theta": 500000.0, "tie_word_embeddings": false,
                "vocab_size": 128256}"#,
        },
    ],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    decoder(config, &Differences::default())
}

/// Where a linear layer has a bias.
#[derive(Debug, Clone, Copy)]
pub enum Bias {
    /// Nowhere.
    Never,
    /// If this key of `config.json` is true; the second value is the default.
    Key(&'static str, bool),
    /// Everywhere.
    Always,
}

/// How a family's configuration differs from Llama's.
#[derive(Debug, Clone)]
pub struct Differences {
    /// The kind of all norms.
    pub norm: NormKind,
    /// The key of the norms' epsilon, and its default.
    pub epsilon: (&'static str, f64),
    /// Biases of queries, keys and values.
    pub qkv_bias: Bias,
    /// Bias of the output projection.
    pub output_bias: Bias,
    /// Biases of the MLP.
    pub mlp_bias: Bias,
    /// Default of `tie_word_embeddings`.
    pub tied: bool,
    /// The key of the activation, and its default.
    pub activation: (&'static str, Activation),
    /// Default number of key heads; `None` means as many as query heads.
    pub key_value_heads: Option<usize>,
    /// Default width of a head; `None` means `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// Default of `max_position_embeddings`.
    pub positions: usize,
    /// Defaults of the rotary embedding.
    pub rope: RopeDefaults,
}

impl Default for Differences {
    fn default() -> Self {
        Self {
            norm: NormKind::Rms,
            epsilon: ("rms_norm_eps", 1e-6),
            qkv_bias: Bias::Key("attention_bias", false),
            output_bias: Bias::Key("attention_bias", false),
            mlp_bias: Bias::Key("mlp_bias", false),
            tied: false,
            activation: ("hidden_act", Activation::Silu),
            key_value_heads: None,
            head_dim: None,
            positions: 2048,
            rope: RopeDefaults::default(),
        }
    }
}

/// Reads a decoder that differs from Llama's by `differences`, with Llama's module names.
pub fn decoder(config: &JsonObject, differences: &Differences) -> Result<DecoderSpec, ConfigError> {
    let hidden_size = config.size("hidden_size")?;
    let intermediate_size = config.size("intermediate_size")?;
    let vocab_size = config.size("vocab_size")?;
    let heads = Heads::grouped(
        config,
        hidden_size,
        differences.key_value_heads,
        differences.head_dim,
    )?;
    let (key, default) = differences.epsilon;
    let epsilon = read::epsilon(config, key, default)?;
    let (key, default) = differences.activation;
    let activation = read::activation(config, key, default)?;
    let max_position_embeddings = config
        .optional_size("max_position_embeddings")?
        .unwrap_or(differences.positions);
    let rotary = rope::rotary(config, heads.width, &differences.rope)?;
    let rotary = rotary.up_to(max_position_embeddings);
    let bias = |bias: Bias| match bias {
        Bias::Never => Ok(false),
        Bias::Key(key, default) => config.flag(key, default),
        Bias::Always => Ok(true),
    };
    let biases = [
        (differences.qkv_bias, bias(differences.qkv_bias)?),
        (differences.output_bias, bias(differences.output_bias)?),
        (differences.mlp_bias, bias(differences.mlp_bias)?),
    ];
    let [qkv, output, mlp] = biases;

    let norm = |path: String| Norm::new(path, hidden_size, differences.norm, epsilon);
    let linear = |path: String, out, input, (from, bias): (Bias, bool)| {
        let linear = Linear::new(path, out, input, bias);
        match from {
            Bias::Key(key, _) => linear.with_bias_key(key),
            Bias::Never | Bias::Always => linear,
        }
    };
    let (queries, keys) = (heads.queries * heads.width, heads.keys * heads.width);
    let layers = (0..config.size_up_to("num_hidden_layers", MOST_LAYERS)?)
        .map(|index| {
            let path = format!("model.layers.{index}");
            let at = |name: &str| format!("{path}.{name}");
            Layer {
                attention: Some(Attention {
                    position: Position::Rotary(rotary.clone()),
                    ..Attention::new(
                        heads,
                        Projections::Separate {
                            query: linear(at("self_attn.q_proj"), queries, hidden_size, qkv),
                            key: linear(at("self_attn.k_proj"), keys, hidden_size, qkv),
                            value: linear(at("self_attn.v_proj"), keys, hidden_size, qkv),
                        },
                        linear(at("self_attn.o_proj"), hidden_size, queries, output),
                    )
                }),
                recurrence: None,
                mlp: Mlp::Gated {
                    gate_proj: linear(at("mlp.gate_proj"), intermediate_size, hidden_size, mlp),
                    up_proj: linear(at("mlp.up_proj"), intermediate_size, hidden_size, mlp),
                    down_proj: linear(at("mlp.down_proj"), hidden_size, intermediate_size, mlp),
                    activation,
                },
                arrangement: Arrangement::before(
                    norm(at("input_layernorm")),
                    norm(at("post_attention_layernorm")),
                ),
                residual_scale: None,
                path,
            }
        })
        .collect();

    let embed_tokens = Embedding::new("model.embed_tokens", vocab_size, hidden_size);
    let lm_head = read::head(config, differences.tied, &embed_tokens, "lm_head", false)?;
    let (positions, positions_end) = rotary.most_positions(max_position_embeddings);
    Ok(DecoderSpec {
        positions_end,
        base_prefix: "model.",
        final_norm: Some(norm("model.norm".to_owned())),
        ..DecoderSpec::plain(config, positions, embed_tokens, layers, lm_head)?
    })
}
