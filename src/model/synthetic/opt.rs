//! OPT's `config.json` and tensors.
//!
//! Source: `configuration_opt.py` and `modeling_opt.py`, Hugging Face Transformers.

use serde_json::{Value, json};

use super::shapes::Tensor;
use super::tokenizer::{END_OF_TEXT_ID, PADDING_ID};

/// Rows of the position table in front of position 0.
const POSITION_OFFSET: u64 = 2;

pub(super) struct Opt {
    pub hidden_size: u64,
    /// Width of the token embeddings; projected in and out where it isn't `hidden_size`.
    pub word_embed_proj_dim: u64,
    pub ffn_dim: u64,
    pub num_hidden_layers: u64,
    pub num_attention_heads: u64,
    pub vocab_size: u64,
    pub max_position_embeddings: u64,
    /// Whether norms stand before their sublayer; only then there's a norm after the last layer.
    pub do_layer_norm_before: bool,
}

impl Opt {
    pub fn config(&self, torch_dtype: &str) -> Value {
        json!({
            "activation_dropout": 0.0,
            "activation_function": "relu",
            "architectures": ["OPTForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": END_OF_TEXT_ID,
            "do_layer_norm_before": self.do_layer_norm_before,
            "dropout": 0.1,
            "eos_token_id": END_OF_TEXT_ID,
            "ffn_dim": self.ffn_dim,
            "hidden_size": self.hidden_size,
            "init_std": 0.02,
            "layerdrop": 0.0,
            "max_position_embeddings": self.max_position_embeddings,
            "model_type": "opt",
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "pad_token_id": PADDING_ID,
            "torch_dtype": torch_dtype,
            "use_cache": true,
            "vocab_size": self.vocab_size,
            "word_embed_proj_dim": self.word_embed_proj_dim,
        })
    }

    pub fn tensors(&self) -> Vec<Tensor> {
        let hidden = self.hidden_size;
        let embedding = self.word_embed_proj_dim;
        let positions = self.max_position_embeddings + POSITION_OFFSET;
        let path = |name: &str| format!("model.decoder.{name}");

        let mut tensors = vec![
            Tensor::matrix(path("embed_tokens.weight"), self.vocab_size, embedding),
            Tensor::matrix(path("embed_positions.weight"), positions, hidden),
        ];
        if embedding != hidden {
            tensors.extend([
                Tensor::matrix(path("project_in.weight"), hidden, embedding),
                Tensor::matrix(path("project_out.weight"), embedding, hidden),
            ]);
        }
        for layer in 0..self.num_hidden_layers {
            let path = |name: &str| path(&format!("layers.{layer}.{name}"));
            for projection in ["k_proj", "v_proj", "q_proj", "out_proj"] {
                tensors.extend(linear(
                    &path(&format!("self_attn.{projection}")),
                    hidden,
                    hidden,
                ));
            }
            tensors.extend(layer_norm(&path("self_attn_layer_norm"), hidden));
            tensors.extend(linear(&path("fc1"), self.ffn_dim, hidden));
            tensors.extend(linear(&path("fc2"), hidden, self.ffn_dim));
            tensors.extend(layer_norm(&path("final_layer_norm"), hidden));
        }
        if self.do_layer_norm_before {
            tensors.extend(layer_norm(&path("final_layer_norm"), hidden));
        }
        tensors
    }
}

fn linear(path: &str, out_features: u64, in_features: u64) -> [Tensor; 2] {
    [
        Tensor::matrix(format!("{path}.weight"), out_features, in_features),
        Tensor::bias(format!("{path}.bias"), out_features),
    ]
}

fn layer_norm(path: &str, size: u64) -> [Tensor; 2] {
    [
        Tensor::norm(format!("{path}.weight"), size),
        Tensor::bias(format!("{path}.bias"), size),
    ]
}
