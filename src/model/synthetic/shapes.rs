//! The shapes: sizes of known models, from their `config.json` on the Hugging Face hub.

use serde_json::Value;

use super::llama::Llama;
use super::opt::Opt;

/// A model's architecture and sizes.
pub(super) struct Shape {
    pub name: &'static str,
    pub architecture: Architecture,
}

pub(super) enum Architecture {
    Llama(Llama),
    Opt(Opt),
}

/// One tensor of a checkpoint.
pub(super) struct Tensor {
    pub name: String,
    /// Outermost dimension first; a projection is `[out_features, in_features]`.
    pub shape: Vec<u64>,
    pub values: Values,
}

/// How a tensor's values are drawn.
#[derive(Clone, Copy)]
pub(super) enum Values {
    /// Uniform, with mean 0 and standard deviation 0.02: projections and embeddings.
    Matrix,
    /// Uniform in 1 ± 0.05: the weights of norms.
    Norm,
    /// Uniform in 0 ± 0.02.
    Bias,
}

impl Tensor {
    pub fn matrix(name: String, rows: u64, columns: u64) -> Self {
        Self {
            name,
            shape: vec![rows, columns],
            values: Values::Matrix,
        }
    }

    pub fn norm(name: String, size: u64) -> Self {
        Self {
            name,
            shape: vec![size],
            values: Values::Norm,
        }
    }

    pub fn bias(name: String, size: u64) -> Self {
        Self {
            name,
            shape: vec![size],
            values: Values::Bias,
        }
    }

    /// The number of values.
    pub fn len(&self) -> u64 {
        self.shape.iter().product()
    }
}

impl Shape {
    /// The content of `config.json`.
    pub fn config(&self, torch_dtype: &str) -> Value {
        match &self.architecture {
            Architecture::Llama(llama) => llama.config(torch_dtype),
            Architecture::Opt(opt) => opt.config(torch_dtype),
        }
    }

    /// Every tensor of the checkpoint, in the order of the file.
    pub fn tensors(&self) -> Vec<Tensor> {
        match &self.architecture {
            Architecture::Llama(llama) => llama.tensors(),
            Architecture::Opt(opt) => opt.tensors(),
        }
    }

    pub fn max_position_embeddings(&self) -> u64 {
        match &self.architecture {
            Architecture::Llama(llama) => llama.max_position_embeddings,
            Architecture::Opt(opt) => opt.max_position_embeddings,
        }
    }
}

pub(super) static SHAPES: [Shape; 7] = [
    // HuggingFaceTB/SmolLM2-135M
    Shape {
        name: "llama-135m",
        architecture: Architecture::Llama(Llama {
            hidden_size: 576,
            intermediate_size: 1_536,
            num_hidden_layers: 30,
            num_attention_heads: 9,
            num_key_value_heads: 3,
            head_dim: 64,
            vocab_size: 49_152,
            max_position_embeddings: 8_192,
            rope_theta: 100_000.0,
            rope_scaling_factor: None,
            tie_word_embeddings: true,
        }),
    },
    // No model's own: 336 million parameters with an untied head, where a decode step in float32
    // reads 1.21 GB.
    Shape {
        name: "llama-336m",
        architecture: Architecture::Llama(Llama {
            hidden_size: 1_024,
            intermediate_size: 2_816,
            num_hidden_layers: 24,
            num_attention_heads: 16,
            num_key_value_heads: 4,
            head_dim: 64,
            vocab_size: 32_000,
            max_position_embeddings: 4_096,
            rope_theta: 10_000.0,
            rope_scaling_factor: None,
            tie_word_embeddings: false,
        }),
    },
    // meta-llama/Llama-3.2-1B
    Shape {
        name: "llama-3.2-1b",
        architecture: Architecture::Llama(Llama {
            hidden_size: 2_048,
            intermediate_size: 8_192,
            num_hidden_layers: 16,
            num_attention_heads: 32,
            num_key_value_heads: 8,
            head_dim: 64,
            vocab_size: 128_256,
            max_position_embeddings: 131_072,
            rope_theta: 500_000.0,
            rope_scaling_factor: Some(32.0),
            tie_word_embeddings: true,
        }),
    },
    // meta-llama/Llama-3.2-3B
    Shape {
        name: "llama-3.2-3b",
        architecture: Architecture::Llama(Llama {
            hidden_size: 3_072,
            intermediate_size: 8_192,
            num_hidden_layers: 28,
            num_attention_heads: 24,
            num_key_value_heads: 8,
            head_dim: 128,
            vocab_size: 128_256,
            max_position_embeddings: 131_072,
            rope_theta: 500_000.0,
            rope_scaling_factor: Some(32.0),
            tie_word_embeddings: true,
        }),
    },
    // meta-llama/Llama-3.1-8B
    Shape {
        name: "llama-3.1-8b",
        architecture: Architecture::Llama(Llama {
            hidden_size: 4_096,
            intermediate_size: 14_336,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 8,
            head_dim: 128,
            vocab_size: 128_256,
            max_position_embeddings: 131_072,
            rope_theta: 500_000.0,
            rope_scaling_factor: Some(8.0),
            tie_word_embeddings: false,
        }),
    },
    // facebook/opt-125m
    Shape {
        name: "opt-125m",
        architecture: Architecture::Opt(Opt {
            hidden_size: 768,
            word_embed_proj_dim: 768,
            ffn_dim: 3_072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            vocab_size: 50_272,
            max_position_embeddings: 2_048,
            do_layer_norm_before: true,
        }),
    },
    // facebook/opt-350m
    Shape {
        name: "opt-350m",
        architecture: Architecture::Opt(Opt {
            hidden_size: 1_024,
            word_embed_proj_dim: 512,
            ffn_dim: 4_096,
            num_hidden_layers: 24,
            num_attention_heads: 16,
            vocab_size: 50_272,
            max_position_embeddings: 2_048,
            do_layer_norm_before: false,
        }),
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::synthetic::tokenizer;

    fn shape(name: &str) -> &'static Shape {
        SHAPES.iter().find(|shape| shape.name == name).unwrap()
    }

    #[test]
    fn every_shape_has_the_parameter_count_of_the_model_it_copies() {
        for (name, parameters) in [
            ("llama-135m", 134_515_008),
            ("llama-336m", 336_118_784),
            ("llama-3.2-1b", 1_235_814_400),
            ("llama-3.2-3b", 3_212_749_824),
            ("llama-3.1-8b", 8_030_261_248),
            ("opt-125m", 125_239_296),
            ("opt-350m", 331_196_416),
        ] {
            let counted: u64 = shape(name).tensors().iter().map(Tensor::len).sum();
            assert_eq!(counted, parameters, "{name}");
        }
    }

    #[test]
    fn every_shape_has_room_for_the_tokenizers_ids() {
        let tokens = tokenizer::train().unwrap().get_vocab_size(true) as u64;
        for shape in &SHAPES {
            let vocab_size = shape.config("float32")["vocab_size"].as_u64().unwrap();
            assert!(tokens <= vocab_size, "{}", shape.name);
        }
    }

    #[test]
    fn tensor_names_are_unique_and_a_head_of_its_own_is_there_only_when_untied() {
        for shape in &SHAPES {
            let mut names: Vec<String> = shape.tensors().into_iter().map(|t| t.name).collect();
            let tied = shape.config("float32")["tie_word_embeddings"] != false;
            assert_eq!(names.iter().any(|name| name == "lm_head.weight"), !tied);
            let count = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count, "{}", shape.name);
        }
    }

    #[test]
    fn opt_350m_projects_its_embeddings_and_has_no_final_norm() {
        let find = |shape: &Shape, part: &str| {
            let tensors = shape.tensors();
            tensors
                .into_iter()
                .find(|tensor| tensor.name.contains(part))
                .map(|t| t.shape)
        };
        let large = shape("opt-350m");
        assert_eq!(
            find(large, "decoder.project_in.weight"),
            Some(vec![1024, 512])
        );
        assert_eq!(
            find(large, "decoder.project_out.weight"),
            Some(vec![512, 1024])
        );
        assert_eq!(
            find(large, "decoder.embed_tokens.weight"),
            Some(vec![50272, 512])
        );
        assert_eq!(
            find(large, "decoder.embed_positions.weight"),
            Some(vec![2050, 1024])
        );
        assert_eq!(find(large, "decoder.final_layer_norm"), None);
        let small = shape("opt-125m");
        assert_eq!(find(small, "decoder.project_in"), None);
        assert_eq!(
            find(small, "decoder.final_layer_norm.bias"),
            Some(vec![768])
        );
    }

    #[test]
    fn configurations_have_the_form_of_the_real_models() {
        let llama = shape("llama-3.2-1b").config("bfloat16");
        assert_eq!(llama["architectures"][0], "LlamaForCausalLM");
        assert_eq!(llama["model_type"], "llama");
        assert_eq!(llama["torch_dtype"], "bfloat16");
        assert_eq!(llama["rope_scaling"]["rope_type"], "llama3");
        assert_eq!(llama["rope_scaling"]["factor"], 32.0);
        assert!(shape("llama-135m").config("float32")["rope_scaling"].is_null());
        let opt = shape("opt-350m").config("float16");
        assert_eq!(opt["architectures"][0], "OPTForCausalLM");
        assert_eq!(opt["do_layer_norm_before"], false);
        assert_eq!(opt["word_embed_proj_dim"], 512);
    }
}
