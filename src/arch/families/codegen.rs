//! CodeGen (`model_type: "codegen"`): GPT-J with one change.
//!
//! - Queries, keys and values in one projection of four blocks, each with the rows of queries,
//!   values and keys.
//!
//! Source: `modeling_codegen.py`, Hugging Face Transformers.

use super::gptj;
use super::{DefaultTargets, Family, Shape};
use crate::arch::{Declared, DecoderSpec, FusedRows, Linear, Projections};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "codegen",
    name: "CodeGen",
    special: "GPT-J with a fused projection in four blocks",
    refused: "",
    targets: DefaultTargets::alike(&["qkv_proj"]),
    nested_defaults: None,
    shapes: &[Shape {
        name: "codegen-350m",
        copies: Some("Salesforce/codegen-350M-mono"),
        parameters: 356_712_448,
        config: r#"{"activation_function": "gelu_new", "architectures": ["CodeGenForCausalLM"],
            "layer_norm_epsilon": 1e-05, "model_type": "codegen", "n_embd": 1024, "n_head": 16,
            "n_inner": null, "n_layer": 20, "n_positions": 2048, "rotary_dim": 32,
            "tie_word_embeddings": false, "vocab_size": 51200}"#,
    }],
    read: spec,
};

/// The blocks of the fused projection, one for each device that the models were trained on.
const BLOCKS: usize = 4;

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let mut spec = gptj::spec(config)?;
    let hidden_size = spec.hidden_size;
    if !hidden_size.is_multiple_of(BLOCKS) {
        return Err(config.wrong("n_embd", &format!("a multiple of {BLOCKS}")));
    }
    for layer in &mut spec.layers {
        let path = format!("{}.attn.qkv_proj", layer.path);
        let Some(attention) = &mut layer.attention else {
            continue;
        };
        attention.declared = Declared::OutputFirst;
        attention.projections = Projections::Fused {
            qkv: Linear::new(path, 3 * hidden_size, hidden_size, false),
            rows: FusedRows::Blocks(BLOCKS),
        };
    }
    Ok(spec)
}
