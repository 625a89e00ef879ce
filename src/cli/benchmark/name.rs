//! What the results of a measurement are called.

use serde_json::{Map, Value, json};

use super::Benchmark;
use crate::cli::options::{CommonOptions, FormChoice};
use crate::cli::prompt_plans::PromptSource;
use crate::cli::setup;
use crate::config::BenchmarkConfig;
use crate::engine::{Provider, WeightsMode};
use crate::machine::physical_cores;
use crate::report::ResultName;

impl Benchmark<'_> {
    /// The name of the result of `target`. Every field and every option is listed, so that a new one can't be forgotten.
    pub(super) fn name(&self, config: &BenchmarkConfig, target: &str) -> ResultName {
        let Self {
            common,
            provider,
            prompts,
            tokenizer,
            interrupt: _,
            hardware: _,
            system: _,
            started: _,
            timestamp: _,
            target: precision,
            empty,
            aa,
            cached_base,
            swap,
            contexts,
            base_only,
        } = self;
        let CommonOptions {
            // `config` has them.
            model: _,
            dtype: _,
            quantize: _,
            quantize_head: _,
            quantize_embedding: _,
            quantize_accuracy: _,
            config: _,
            // `provider` has it.
            ep: _,
            device,
            cuda_graph,
            threads: _,
            weights: _,
            adapter_form,
            // Without weights it measures nothing.
            trained: _,
            fresh,
            // Where files are, and what is said.
            offline: _,
            output: _,
            export_dir: _,
            verbose: _,
        } = common;
        let options = setup::engine_options(common, *provider, 0, WeightsMode::Mapped);
        let mut choices = Vec::new();
        let mut settings = other_parameters(config);
        if let [size] = config.batch_sizes[..]
            && size > 1
        {
            choices.push(format!("batch-{size}"));
        }
        if let Some(task) = config.task_id.filter(|task| *task > 0) {
            choices.push(format!("task-{task}"));
        }
        if *fresh {
            choices.push("fresh".to_owned());
        }
        if *adapter_form == FormChoice::Native {
            choices.push("native".to_owned());
        }
        let provider = match provider {
            Provider::Cpu => {
                if options.threads != physical_cores() {
                    choices.push(format!("threads-{}", options.threads));
                }
                if options.weights != WeightsMode::Mapped {
                    choices.push(options.weights.to_string());
                }
                "cpu"
            }
            Provider::Cuda(_) => {
                if *device > 0 {
                    choices.push(format!("device-{device}"));
                }
                if *cuda_graph {
                    choices.push("cuda-graph".to_owned());
                }
                "cuda"
            }
        };
        let mut set = |key: &str, value: Option<Value>| {
            settings.extend(value.map(|value| (key.to_owned(), value)));
        };
        set("prompts", PromptSource::digest(*prompts).map(Value::from));
        set("tokenizer", tokenizer.given().map(Value::from));
        set("sweep", (!contexts.is_empty()).then(|| json!(contexts)));
        set("swap", swap.map(Value::from));
        set(
            "target_precision",
            precision.as_ref().map(|of| {
                json!({
                    "half_width_pct": of.half_width_pct,
                    "max_seconds": of.max_time.as_secs_f64(),
                })
            }),
        );
        for (key, chosen) in [
            ("aa", *aa),
            ("empty", *empty),
            ("cached_base", *cached_base && !base_only),
        ] {
            set(key, chosen.then_some(Value::Bool(true)));
        }
        ResultName {
            target: target.to_owned(),
            model_id: config.model_id.clone(),
            dtype: config.dtype,
            quantization: config.quantization().ok().flatten(),
            provider,
            choices,
            settings,
        }
    }
}

/// The parameters that the rest of a name doesn't tell, and that differ from those that are built in.
fn other_parameters(config: &BenchmarkConfig) -> Map<String, Value> {
    let usual = BenchmarkConfig::built_in();
    let single = config.batch_sizes.len() == 1;
    let told = BenchmarkConfig {
        model_id: config.model_id.clone(),
        dtype: config.dtype,
        batch_sizes: if single {
            &config.batch_sizes
        } else {
            &usual.batch_sizes
        }
        .clone(),
        task_id: config.task_id,
        quantization_keys: config.quantization_keys,
        ..usual
    };
    let told = told.to_json();
    let Value::Object(mut all) = config.to_json() else {
        return Map::new();
    };
    all.retain(|key, value| told[key.as_str()] != *value);
    all
}
