//! Falcon-H1 (`model_type: "falcon_h1"`): every layer has Mamba-2's mixer beside attention.
//!
//! - Both take the same input, and their outputs are added.
//! - Multipliers on embeddings and logits, on the inputs and outputs of both mixers, on the parts of
//!   the mixer's projection, on keys, and in the MLP.
//! - The mixer's norm is optional (`mamba_rms_norm`), and may come before or after the gate.
//!
//! Source: `modeling_falcon_h1.py`, Hugging Face Transformers.

use super::bamba;
use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::mamba::{GateOrder, MambaSizes};
use crate::arch::{DecoderSpec, EmbeddingScale, MambaScales, Mlp, Recurrence, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "falcon_h1",
    name: "Falcon-H1",
    special: "Mamba-2's mixer beside attention in every layer; multipliers",
    refused: "LoRA and its relatives on the mixers' `out_proj`, as in PEFT",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[Shape {
        name: "falcon-h1-0.5b",
        copies: Some("tiiuae/Falcon-H1-0.5B-Base"),
        parameters: 521_411_104,
        config: r#"{"architectures": ["FalconH1ForCausalLM"], "attention_bias": false,
            "attention_in_multiplier": 1.0, "attention_out_multiplier": 0.9375,
            "embedding_multiplier": 5.656854249492381, "head_dim": 64, "hidden_act": "silu",
            "hidden_size": 1024, "intermediate_size": 2048, "key_multiplier": 0.390625,
            "lm_head_multiplier": 0.0390625, "mamba_conv_bias": true, "mamba_d_conv": 4,
            "mamba_d_head": 64, "mamba_d_ssm": 1536, "mamba_d_state": 128, "mamba_expand": 2,
            "mamba_n_groups": 1, "mamba_n_heads": 24, "mamba_norm_before_gate": false,
            "mamba_proj_bias": false, "mamba_rms_norm": false, "max_position_embeddings": 16384,
            "mlp_bias": false, "mlp_multipliers": [0.8838834764831844, 0.5859375],
            "model_type": "falcon_h1", "num_attention_heads": 8, "num_hidden_layers": 36,
            "num_key_value_heads": 2, "projectors_bias": false, "rms_norm_eps": 1e-05,
            "rope_theta": 100000000000.0, "ssm_in_multiplier": 1.25,
            "ssm_multipliers": [0.3535533905932738, 0.25, 0.3535533905932738, 0.5,
            0.3535533905932738], "ssm_out_multiplier": 0.23570226039551587,
            "tie_word_embeddings": false, "vocab_size": 32784}"#,
    }],
    read: spec,
};

/// Transformers' defaults of the sizes.
const DEFAULTS: &str = r#"{"vocab_size": 128000, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32}"#;

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let config = &read::with_defaults(config.clone(), DEFAULTS);
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        mlp_bias: Bias::Key("mlp_bias", false),
        key_value_heads: Some(8),
        positions: 8192,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    bamba::rename(&mut spec);
    let number = |key| Ok::<f64, ConfigError>(config.optional_number(key)?.unwrap_or(1.0));
    let other_than_1 = |number: f64| Some(number).filter(|&number| number != 1.0);
    spec.embedding_scale = other_than_1(number("embedding_multiplier")?).map(EmbeddingScale::Rows);
    spec.logit_scale = other_than_1(number("lm_head_multiplier")?);
    let [gate, down] = list(config, "mlp_multipliers")?;
    let scales = MambaScales {
        input: number("ssm_in_multiplier")?,
        projected: list(config, "ssm_multipliers")?,
        output: number("ssm_out_multiplier")?,
    };
    let sizes = sizes(config, spec.hidden_size)?;
    let [input, output, key] = [
        number("attention_in_multiplier")?,
        number("attention_out_multiplier")?,
        number("key_multiplier")?,
    ];
    for layer in &mut spec.layers {
        let mut mixer = sizes.read(config, &format!("{}.mamba", layer.path), spec.hidden_size)?;
        mixer.scales = Some(scales);
        layer.recurrence = Some(Recurrence::Mamba2(Box::new(mixer)));
        if let Some(attention) = &mut layer.attention {
            attention.input_scale = other_than_1(input);
            attention.o_proj.output_scale = other_than_1(output);
            attention.scale *= key;
        }
        if let Mlp::Gated {
            gate_proj,
            down_proj,
            ..
        } = &mut layer.mlp
        {
            gate_proj.output_scale = other_than_1(gate);
            down_proj.output_scale = other_than_1(down);
        }
    }
    Ok(spec)
}

fn sizes(config: &JsonObject, hidden_size: usize) -> Result<MambaSizes, ConfigError> {
    let alike = bamba::sizes(config, hidden_size)?;
    let inner = match config.json().get("mamba_d_ssm") {
        None => Some(1024),
        Some(_) => config.optional_size("mamba_d_ssm")?.or(alike.inner),
    };
    let order = config.flag("mamba_norm_before_gate", true)?;
    Ok(MambaSizes {
        inner,
        bias: [("mamba_proj_bias", false), ("projectors_bias", false)],
        gate: match (config.flag("mamba_rms_norm", false)?, order) {
            (false, _) => GateOrder::Alone,
            (true, true) => GateOrder::Last,
            (true, false) => GateOrder::First,
        },
        ..alike
    })
}

/// Reads a list of multipliers, which are 1 by default.
fn list<const N: usize>(config: &JsonObject, key: &str) -> Result<[f64; N], ConfigError> {
    let Some(value) = config.get(key) else {
        return Ok([1.0; N]);
    };
    let numbers: Option<Vec<f64>> = serde_json::from_value(value.clone()).ok();
    let numbers = numbers.and_then(|numbers| numbers.try_into().ok());
    numbers.ok_or_else(|| config.wrong(key, &format!("a list of {N} numbers")))
}
