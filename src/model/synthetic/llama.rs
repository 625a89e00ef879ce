//! Llama's `config.json` and tensors.
//!
//! Source: `configuration_llama.py` and `modeling_llama.py`, Hugging Face Transformers.

use serde_json::{Value, json};

use super::shapes::Tensor;
use super::tokenizer::END_OF_TEXT_ID;

pub(super) struct Llama {
    pub hidden_size: u64,
    pub intermediate_size: u64,
    pub num_hidden_layers: u64,
    pub num_attention_heads: u64,
    pub num_key_value_heads: u64,
    pub head_dim: u64,
    pub vocab_size: u64,
    pub max_position_embeddings: u64,
    pub rope_theta: f64,
    /// Llama 3's rotary scaling, from a context of 8192.
    pub rope_scaling_factor: Option<f64>,
    pub tie_word_embeddings: bool,
}

impl Llama {
    pub fn config(&self, torch_dtype: &str) -> Value {
        let rope_scaling = self.rope_scaling_factor.map(|factor| {
            json!({
                "factor": factor,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            })
        });
        json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": END_OF_TEXT_ID,
            "eos_token_id": END_OF_TEXT_ID,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-5,
            "rope_scaling": rope_scaling,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": torch_dtype,
            "use_cache": true,
            "vocab_size": self.vocab_size,
        })
    }

    pub fn tensors(&self) -> Vec<Tensor> {
        let hidden = self.hidden_size;
        let query = self.num_attention_heads * self.head_dim;
        let key_value = self.num_key_value_heads * self.head_dim;

        let embedding = "model.embed_tokens.weight".to_owned();
        let mut tensors = vec![Tensor::matrix(embedding, self.vocab_size, hidden)];
        for layer in 0..self.num_hidden_layers {
            let path = |name: &str| format!("model.layers.{layer}.{name}.weight");
            tensors.extend([
                Tensor::norm(path("input_layernorm"), hidden),
                Tensor::matrix(path("self_attn.q_proj"), query, hidden),
                Tensor::matrix(path("self_attn.k_proj"), key_value, hidden),
                Tensor::matrix(path("self_attn.v_proj"), key_value, hidden),
                Tensor::matrix(path("self_attn.o_proj"), hidden, query),
                Tensor::norm(path("post_attention_layernorm"), hidden),
                Tensor::matrix(path("mlp.gate_proj"), self.intermediate_size, hidden),
                Tensor::matrix(path("mlp.up_proj"), self.intermediate_size, hidden),
                Tensor::matrix(path("mlp.down_proj"), hidden, self.intermediate_size),
            ]);
        }
        tensors.push(Tensor::norm("model.norm.weight".to_owned(), hidden));
        if !self.tie_word_embeddings {
            let head = "lm_head.weight".to_owned();
            tensors.push(Tensor::matrix(head, self.vocab_size, hidden));
        }
        tensors
    }
}
