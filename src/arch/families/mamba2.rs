//! Mamba-2 (`model_type: "mamba2"`): state spaces alone, neither attention nor MLPs.
//!
//! Source: `modeling_mamba2.py`, Hugging Face Transformers.

use super::{DefaultTargets, Family, Shape};
use crate::arch::mamba::{GateOrder, MambaSizes};
use crate::arch::{
    Arrangement, DecoderSpec, Embedding, Layer, MOST_LAYERS, Mlp, Norm, NormKind, Recurrence, read,
};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "mamba2",
    name: "Mamba-2",
    special: "state spaces alone: neither attention nor MLPs",
    refused: "LoRA and its relatives on `out_proj`, as in PEFT",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[
        Shape {
            name: "mamba2-370m",
            copies: Some("state-spaces/mamba2-370m"),
            parameters: 368_346_624,
            config: r#"{"architectures": ["Mamba2ForCausalLM"], "chunk_size": 256, "conv_kernel": 4, "expand": 2,
                "head_dim": 64, "hidden_act": "silu", "hidden_size": 1024, "layer_norm_epsilon": 1e-05,
                "model_type": "mamba2", "n_groups": 1, "num_heads": 32, "num_hidden_layers": 48,
                "residual_in_fp32": true, "state_size": 128, "tie_word_embeddings": true,
                "use_bias": false, "use_conv_bias": true, "vocab_size": 50288}"#,
        },
        Shape {
            name: "mamba-codestral-7b",
            copies: Some("mistralai/Mamba-Codestral-7B-v0.1"),
            parameters: 7_285_403_648,
            config: r#"{"architectures": ["Mamba2ForCausalLM"], "chunk_size": 256, "conv_kernel": 4, "expand": 2,
                "head_dim": 64, "hidden_act": "silu", "hidden_size": 4096, "layer_norm_epsilon": 1e-05,
                "model_type": "mamba2", "n_groups": 8, "num_heads": 128, "num_hidden_layers": 64,
                "residual_in_fp32": true, "state_size": 128, "tie_word_embeddings": false,
                "use_bias": false, "use_conv_bias": true, "vocab_size": 32768}"#,
        },
    ],
    read: spec,
};

/// Transformers' defaults of the sizes.
const DEFAULTS: &str = r#"{"vocab_size": 32768, "hidden_size": 4096, "num_hidden_layers": 64}"#;

/// The longest sequence: the model has no limit, and states don't grow.
const POSITIONS: usize = 1 << 20;

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let config = &read::with_defaults(config.clone(), DEFAULTS);
    let hidden_size = config.size("hidden_size")?;
    let epsilon = read::epsilon(config, "layer_norm_epsilon", 1e-5)?;
    let sizes = MambaSizes {
        heads: ("num_heads", 128),
        head_width: ("head_dim", Some(64)),
        groups: ("n_groups", 8),
        state: ("state_size", 128),
        kernel: ("conv_kernel", 4),
        inner: None,
        conv_bias: ("use_conv_bias", true),
        bias: [("use_bias", false); 2],
        activation: "hidden_act",
        gate: GateOrder::First,
        epsilon,
        limit: "time_step_limit",
    };
    let norm = |path: String| Norm::new(path, hidden_size, NormKind::Rms, epsilon);
    let layers = (0..config.size_up_to("num_hidden_layers", MOST_LAYERS)?).map(|index| {
        let path = format!("backbone.layers.{index}");
        let mixer = sizes.read(config, &format!("{path}.mixer"), hidden_size)?;
        Ok(Layer {
            attention: None,
            recurrence: Some(Recurrence::Mamba2(Box::new(mixer))),
            mlp: Mlp::Absent,
            arrangement: Arrangement::mixer_alone(norm(format!("{path}.norm"))),
            residual_scale: None,
            path,
        })
    });
    let layers = layers.collect::<Result<Vec<Layer>, ConfigError>>()?;
    let vocab_size = config.size("vocab_size")?;
    let embedding = Embedding::new("backbone.embeddings", vocab_size, hidden_size);
    let lm_head = read::head(config, false, &embedding, "lm_head", false)?;
    Ok(DecoderSpec {
        base_prefix: "backbone.",
        other_names: &[("backbone.embeddings", "backbone.embedding")],
        final_norm: Some(norm("backbone.norm_f".to_owned())),
        ..DecoderSpec::plain(config, POSITIONS, embedding, layers, lm_head)?
    })
}
