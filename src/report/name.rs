//! What a result's file is called: everything that was chosen for a measurement, so that another
//! choice is another file.
//!
//! ```text
//! <method>--<name>--<model>--<dtype>[-<quantization>]--<provider>[--<choice>]…[--<hash>].json
//! ```
//!
//! The choices are few words where they aren't the usual ones (`batch-8`, `native`). The hash
//! stands for all others that aren't, such as numbers of runs and of tokens; without any there's
//! none. The result itself has them in `run_info.settings`.

use serde_json::{Map, Value};

use crate::file_names::{self, short_hash};
use crate::model::ModelId;
use crate::quantize::Quantization;
use crate::weights::Dtype;

/// Longer names are cut. File systems allow 255 bytes, and a file that's being written has some
/// more.
const LONGEST: usize = 200;

/// What was chosen for a measurement.
#[derive(Debug, Clone)]
pub struct ResultName {
    /// Of the experiment, or of whatever else is measured; different for different folders.
    pub target: String,
    /// The base model.
    pub model_id: String,
    /// The type that weights are measured in.
    pub dtype: Dtype,
    /// What is quantized.
    pub quantization: Option<Quantization>,
    /// `cpu` or `cuda`
    pub provider: &'static str,
    /// Choices that are told in a word, but for the usual ones.
    pub choices: Vec<String>,
    /// All others that aren't the usual ones.
    pub settings: Map<String, Value>,
}

impl ResultName {
    /// The file's name.
    pub fn file(&self) -> String {
        let id = ModelId::parse(&self.model_id);
        // What isn't there has failed results as well.
        let id = id.unwrap_or_else(|_| ModelId::Local(self.model_id.as_str().into()));
        let precision = match self.quantization {
            Some(quantization) => format!("{}-{}", self.dtype, quantization.label()),
            None => self.dtype.to_string(),
        };
        let mut parts = vec![
            self.target.clone(),
            file_names::of_model(&id),
            precision,
            self.provider.to_owned(),
        ];
        parts.extend(self.choices.iter().cloned());
        if !self.settings.is_empty() {
            let settings = Value::Object(self.settings.clone()).to_string();
            parts.push(short_hash(settings.as_bytes()));
        }
        let mut name = parts.join("--");
        if name.len() > LONGEST {
            let digest = short_hash(name.as_bytes());
            name.truncate(name.floor_char_boundary(LONGEST));
            name = format!("{name}--{digest}");
        }
        name + ".json"
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::quantize::Format;

    fn name() -> ResultName {
        ResultName {
            target: "lora--lora_r8".to_owned(),
            model_id: "synthetic/llama-135m".to_owned(),
            dtype: Dtype::Float32,
            quantization: None,
            provider: "cpu",
            choices: Vec::new(),
            settings: Map::new(),
        }
    }

    #[test]
    fn the_usual_choices_make_a_short_name() {
        let expected = "lora--lora_r8--synthetic--llama-135m--float32--cpu.json";
        assert_eq!(name().file(), expected);
        let other = ResultName {
            dtype: Dtype::BFloat16,
            quantization: Some(Quantization::new(Format::Int4)),
            choices: vec!["batch-8".to_owned(), "native".to_owned()],
            ..name()
        };
        let expected =
            "lora--lora_r8--synthetic--llama-135m--bfloat16-4bit--cpu--batch-8--native.json";
        assert_eq!(other.file(), expected);
    }

    #[test]
    fn every_setting_makes_a_difference() {
        let with = |key: &str, value: Value| {
            let mut name = name();
            name.settings.insert(key.to_owned(), value);
            name.file()
        };
        let names = [
            name().file(),
            with("seed", json!(1)),
            with("seed", json!(2)),
            with("num_inference_runs", json!(1)),
        ];
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{names:?}");
        }
    }

    #[test]
    fn long_names_are_cut_and_stay_different() {
        let long = |end: &str| {
            let target = "lora--".to_owned() + &"é".repeat(150) + end;
            ResultName { target, ..name() }.file()
        };
        assert!(long("a").len() < 255 && long("a") != long("b"));
    }
}
