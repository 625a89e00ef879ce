//! Qwen3's mixtures of experts (`model_type: "qwen3_moe"`): Qwen3 with experts.
//!
//! - Every `decoder_sparse_step`-th layer has experts, but for `mlp_only_layers`; the others have a perceptron.
//! - `norm_topk_prob`: the weights of a token's experts are divided by their sum.
//! - With `use_sliding_window` every layer sees a window.
//!
//! Source: `modeling_qwen3_moe.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use crate::arch::experts::Experts;
use crate::arch::{DecoderSpec, NormKind, NormOver, read, windows};
use crate::json::{ConfigError, JsonObject};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        mlp_bias: Bias::Never,
        key_value_heads: Some(4),
        positions: 32_768,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    spec.norm_queries_and_keys(["q_norm", "k_norm"], NormOver::Head, NormKind::Rms);

    let size = config.size("moe_intermediate_size")?;
    let normalised = config.flag("norm_topk_prob", false)?;
    let count = read::either(config, ["num_experts", "num_local_experts"]);
    let experts = Experts::read(config, count, size, normalised)?;
    let step = config.optional_size("decoder_sparse_step")?.unwrap_or(1);
    let dense: Vec<usize> = match config.get("mlp_only_layers") {
        None => Vec::new(),
        Some(list) => serde_json::from_value(list.clone())
            .map_err(|_| config.wrong("mlp_only_layers", "a list of layers"))?,
    };
    experts.replace(&mut spec, |layer| {
        (layer + 1).is_multiple_of(step) && !dense.contains(&layer)
    });

    let window = match config.flag("use_sliding_window", false)? {
        true => windows::size(config, Some(4096))?,
        false => None,
    };
    let every = vec![true; spec.layers.len()];
    windows::set(&mut spec, &every, window);
    Ok(spec)
}
