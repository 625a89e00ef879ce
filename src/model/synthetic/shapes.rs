//! The shapes: sizes of known models, from their `config.json` on the Hugging Face hub. The list of
//! tensors follows from the architecture.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::tokenizer::{END_OF_TEXT_ID, PADDING_ID};
use crate::arch::{self, DecoderSpec, ModuleKind, NormKind};
use crate::json::JsonObject;

/// A model's architecture and sizes.
pub(super) struct Shape {
    pub name: &'static str,
    /// The hub id of the model whose sizes it has.
    pub copies: Option<&'static str>,
    /// `config.json` without the keys that depend on the weights' dtype or the tokenizer.
    pub config: &'static str,
}

/// One tensor of a checkpoint.
pub(super) struct Tensor {
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<u64>,
    pub values: Distribution,
}

/// The distribution that a tensor's values are drawn from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Distribution {
    /// Uniform, with mean 0 and standard deviation 0.02: projections and embeddings.
    Matrix,
    /// Uniform in 1 ± 0.05: the weights of norms.
    Norm,
    /// Uniform in 0 ± 0.02: biases, and the weights of norms that add 1.
    Bias,
}

impl Tensor {
    /// The number of values.
    pub fn len(&self) -> u64 {
        self.shape.iter().product()
    }
}

impl Shape {
    /// The complete `config.json`.
    pub fn config(&self, torch_dtype: &str) -> Value {
        let mut config = self.json();
        config["bos_token_id"] = json!(END_OF_TEXT_ID);
        config["eos_token_id"] = json!(END_OF_TEXT_ID);
        config["pad_token_id"] = json!(PADDING_ID);
        config["torch_dtype"] = json!(torch_dtype);
        config["use_cache"] = json!(true);
        config
    }

    /// `model_type`
    pub fn model_type(&self) -> String {
        let config = self.json();
        config["model_type"].as_str().unwrap_or("").to_owned()
    }

    /// The architecture.
    pub fn spec(&self) -> DecoderSpec {
        let config = JsonObject::of(Path::new(self.name), self.json());
        arch::spec(&config).unwrap_or_else(|error| panic!("a shape is a supported model: {error}"))
    }

    /// All tensors of the checkpoint, in file order.
    pub fn tensors(&self) -> Vec<Tensor> {
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        for module in self.spec().modules() {
            for (parameter, shape) in module.parameters() {
                let name = module.tensor(parameter);
                // A tied head shares the embedding's tensor.
                if !seen.insert(name.clone()) {
                    continue;
                }
                let values = match (&module.kind, parameter) {
                    (_, "bias") => Distribution::Bias,
                    (ModuleKind::Norm { kind, .. }, _) if *kind == NormKind::RmsPlusOne => {
                        Distribution::Bias
                    }
                    (ModuleKind::Norm { .. }, _) => Distribution::Norm,
                    _ => Distribution::Matrix,
                };
                let shape = shape.into_iter().map(|size| size as u64).collect();
                all.push(Tensor {
                    name,
                    shape,
                    values,
                });
            }
        }
        all
    }

    fn json(&self) -> Value {
        serde_json::from_str(self.config).expect("the shapes' configurations are JSON")
    }
}

/// The shapes by name (also the name of the configuration's file), each with the model whose sizes
/// it has.
macro_rules! shapes {
    ($($name:literal: $copies:expr,)*) => {
        pub(super) static SHAPES: &[Shape] = &[
            $(Shape {
                name: $name,
                copies: $copies,
                config: include_str!(concat!("configs/", $name, ".json")),
            },)*
        ];
    };
}

shapes! {
    "llama-135m": Some("HuggingFaceTB/SmolLM2-135M"),
    // Not the shape of a known model: 336 million parameters with an untied head; a decode step in
    // float32 reads 1.21 GB.
    "llama-336m": None,
    "llama-3.2-1b": Some("meta-llama/Llama-3.2-1B"),
    "llama-3.2-3b": Some("meta-llama/Llama-3.2-3B"),
    "llama-3.1-8b": Some("meta-llama/Llama-3.1-8B"),
    "mistral-7b": Some("mistralai/Mistral-7B-v0.1"),
    "qwen2.5-0.5b": Some("Qwen/Qwen2.5-0.5B"),
    "qwen3-0.6b": Some("Qwen/Qwen3-0.6B"),
    "smollm3-3b": Some("HuggingFaceTB/SmolLM3-3B"),
    "mixtral-8x7b": Some("mistralai/Mixtral-8x7B-v0.1"),
    "qwen3-30b-a3b": Some("Qwen/Qwen3-30B-A3B"),
    "olmoe-942m": None,
    "olmoe-1b-7b": Some("allenai/OLMoE-1B-7B-0924"),
    "olmo-1b": Some("allenai/OLMo-1B-hf"),
    "olmo-2-1b": Some("allenai/OLMo-2-0425-1B"),
    "granite-3.1-2b": Some("ibm-granite/granite-3.1-2b-base"),
    "stablelm-2-1.6b": Some("stabilityai/stablelm-2-1_6b"),
    "starcoder2-3b": Some("bigcode/starcoder2-3b"),
    "gemma-2b": Some("google/gemma-2b"),
    "gemma-2-2b": Some("google/gemma-2-2b"),
    "gemma-3-1b": Some("google/gemma-3-1b-pt"),
    "aya-23-8b": Some("CohereLabs/aya-23-8B"),
    "phi-2": Some("microsoft/phi-2"),
    // All factors of its rotation are 1 here.
    "phi-3.5-mini": Some("microsoft/Phi-3.5-mini-instruct"),
    "opt-125m": Some("facebook/opt-125m"),
    "opt-350m": Some("facebook/opt-350m"),
    "gpt2": Some("openai-community/gpt2"),
    "gpt-j-6b": Some("EleutherAI/gpt-j-6b"),
    "pythia-160m": Some("EleutherAI/pythia-160m"),
    "falcon-7b": Some("tiiuae/falcon-7b"),
    "bloom-560m": Some("bigscience/bloom-560m"),
    "mpt-7b": Some("mosaicml/mpt-7b"),
}

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
            ("mistral-7b", 7_241_732_096),
            ("qwen2.5-0.5b", 494_032_768),
            ("qwen3-0.6b", 596_049_920),
            ("smollm3-3b", 3_075_098_624),
            ("mixtral-8x7b", 46_702_792_704),
            ("qwen3-30b-a3b", 30_532_122_624),
            ("olmoe-942m", 942_441_472),
            ("olmoe-1b-7b", 6_919_161_856),
            ("olmo-1b", 1_176_764_416),
            ("olmo-2-1b", 1_484_916_736),
            ("granite-3.1-2b", 2_533_531_648),
            ("stablelm-2-1.6b", 1_644_515_328),
            ("starcoder2-3b", 3_030_371_328),
            ("gemma-2b", 2_506_172_416),
            ("gemma-2-2b", 2_614_341_888),
            ("gemma-3-1b", 999_885_952),
            ("aya-23-8b", 8_028_033_024),
            ("phi-2", 2_779_683_840),
            ("phi-3.5-mini", 3_821_079_552),
            ("opt-125m", 125_239_296),
            ("opt-350m", 331_196_416),
            ("gpt2", 124_439_808),
            ("gpt-j-6b", 6_050_882_784),
            ("pythia-160m", 162_322_944),
            ("falcon-7b", 6_921_720_704),
            ("bloom-560m", 559_214_592),
            ("mpt-7b", 6_649_286_656),
        ] {
            let counted: u64 = shape(name).tensors().iter().map(Tensor::len).sum();
            assert_eq!(counted, parameters, "{name}");
        }
    }

    #[test]
    fn every_family_has_a_shape() {
        for family in arch::FAMILIES {
            let of_family = |shape: &Shape| shape.model_type() == family.model_type;
            assert!(SHAPES.iter().any(of_family), "{}", family.model_type);
        }
    }

    #[test]
    fn norms_that_add_to_one_are_drawn_around_zero() {
        let values = |name: &str| {
            let tensors = shape(name).tensors();
            let norm = tensors.iter().find(|t| t.name == "model.norm.weight");
            norm.unwrap().values
        };
        assert_eq!(values("gemma-2b"), Distribution::Bias);
        assert_eq!(values("mistral-7b"), Distribution::Norm);
    }

    #[test]
    fn every_shape_has_room_for_the_tokenizers_ids() {
        let tokens = tokenizer::train().unwrap().get_vocab_size(true) as u64;
        for shape in SHAPES {
            let vocab_size = shape.config("float32")["vocab_size"].as_u64().unwrap();
            assert!(tokens <= vocab_size, "{}", shape.name);
        }
    }

    #[test]
    fn tensor_names_are_unique_and_a_head_of_its_own_is_there_only_when_untied() {
        for shape in SHAPES {
            let mut names: Vec<String> = shape.tensors().into_iter().map(|t| t.name).collect();
            let tied = shape.spec().tied();
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
