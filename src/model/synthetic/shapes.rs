//! `config.json` and the list of tensors of a synthetic model. The shapes themselves are in the
//! files of their families; the list of tensors follows from the architecture.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::tokenizer::{END_OF_TEXT_ID, PADDING_ID};
use crate::arch::{self, Activation, DecoderSpec, ModuleKind, Shape};
use crate::json::{ConfigError, JsonObject};

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
    /// This value: parameters of an activation.
    Constant(f32),
}

impl Tensor {
    /// The number of values.
    pub fn len(&self) -> u64 {
        self.shape.iter().product()
    }
}

impl Shape {
    /// The complete `config.json`.
    pub(super) fn config(&self, torch_dtype: &str) -> Value {
        let mut config = self.json();
        config["bos_token_id"] = json!(END_OF_TEXT_ID);
        config["eos_token_id"] = json!(END_OF_TEXT_ID);
        config["pad_token_id"] = json!(PADDING_ID);
        config["torch_dtype"] = json!(torch_dtype);
        config["use_cache"] = json!(true);
        config
    }

    /// The architecture.
    pub(super) fn spec(&self) -> DecoderSpec {
        spec_of(self.name, self.json())
            .unwrap_or_else(|error| panic!("a shape is a supported model: {error}"))
    }

    /// Every tensor of the checkpoint, in the order of the file.
    pub(super) fn tensors(&self) -> Vec<Tensor> {
        tensors_of(&self.spec())
    }

    fn json(&self) -> Value {
        serde_json::from_str(self.config).expect("the shapes' configurations are JSON")
    }
}

/// The architecture of the shape `name` with this `config.json`.
pub(super) fn spec_of(name: &str, config: Value) -> Result<DecoderSpec, ConfigError> {
    arch::spec(&JsonObject::of(Path::new(name), config))
}

/// Every tensor of a checkpoint of `spec`, in the order of the file.
pub(super) fn tensors_of(spec: &DecoderSpec) -> Vec<Tensor> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for module in spec.modules() {
        for (parameter, shape) in module.parameters() {
            let name = module.tensor(parameter);
            // A tied head shares the embedding's tensor.
            if !seen.insert(name.clone()) {
                continue;
            }
            let values = match (&module.kind, parameter) {
                // A factor of what passes through a layer.
                (ModuleKind::Parameter { .. }, "layer_scalar") => Distribution::Norm,
                (_, "bias") | (ModuleKind::Parameter { .. }, _) => Distribution::Bias,
                (ModuleKind::Norm { kind, .. }, _) if kind.adds_one() => Distribution::Bias,
                (ModuleKind::Norm { .. }, _) => Distribution::Norm,
                (ModuleKind::Xielu, name) => Distribution::Constant(Activation::fresh_xielu(name)),
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

/// All shapes, by family.
pub fn shapes() -> impl Iterator<Item = &'static Shape> {
    arch::FAMILIES.iter().flat_map(|family| family.shapes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::synthetic::tokenizer;

    fn shape(name: &str) -> &'static Shape {
        shapes().find(|shape| shape.name == name).unwrap()
    }

    #[test]
    fn every_shape_has_its_parameters_and_is_of_its_family() {
        for family in arch::FAMILIES {
            assert!(!family.shapes.is_empty(), "{}", family.model_type);
            for shape in family.shapes {
                let counted = shape.tensors();
                // These two are constants of an activation.
                let is_parameter =
                    |name: &str| !name.ends_with(".act_fn.beta") && !name.ends_with(".act_fn.eps");
                let counted = counted.iter().filter(|tensor| is_parameter(&tensor.name));
                let counted: u64 = counted.map(Tensor::len).sum();
                assert_eq!(counted, shape.parameters, "{}", shape.name);
                let model_type = &shape.config("float32")["model_type"];
                assert_eq!(model_type, family.model_type, "{}", shape.name);
            }
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
        for shape in shapes() {
            let vocab_size = shape.config("float32")["vocab_size"].as_u64().unwrap();
            assert!(tokens <= vocab_size, "{}", shape.name);
        }
    }

    #[test]
    fn tensor_names_are_unique_and_a_head_of_its_own_is_there_only_when_untied() {
        for shape in shapes() {
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
