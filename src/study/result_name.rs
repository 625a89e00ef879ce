//! What the results of a trial are called.

use serde_json::{Map, Value, json};

use super::Study;
use super::prompt_source::PromptSource;
use super::result_files::ResultFiles;
use super::settings::{GpuLayers, Settings};
use crate::adapter::{AdapterForm, ValuesFrom};
use crate::arch::LatentCache;
use crate::config::BenchmarkConfig;
use crate::engine::{Provider, WeightsMode};
use crate::machine::physical_cores;
use crate::quantize::Accuracy;
use crate::quantize::stored::KeptBase;
use crate::report::ResultName;

impl ResultFiles<'_> {
    /// The name of the result of the case that's called `result_stem`. Every field and every
    /// setting is listed, so that a new one can't be forgotten.
    pub(super) fn name(&self, config: &BenchmarkConfig, result_stem: &str) -> ResultName {
        let Study {
            targets: _,
            settings,
            prompts,
            tokenizer,
            // `config` has them.
            batch_sizes: _,
            task_id: _,
            contexts,
            swap,
            serving,
            aa,
            empty,
            cached_base,
            restarts,
            precision_goal,
            // Where files are, and how it's run.
            output: _,
            worker: _,
            quiet_gate: _,
            interrupt: _,
        } = self.study;
        let Settings {
            // `config` has them.
            model: _,
            dtype: _,
            quantize: _,
            quantize_algorithm: _,
            quantize_block: _,
            quantize_head: _,
            quantize_kv_proj: _,
            quantize_embedding: _,
            quantize_accuracy: _,
            mla: _,
            parameters: _,
            // `self.provider` has it.
            provider: _,
            device,
            gpu_layers,
            cuda_graph,
            threads: _,
            weights: _,
            adapter_form,
            quantized_base,
            quantized_base_accuracy,
            requantize,
            values,
            // Where files are.
            offline: _,
            export_dir: _,
        } = settings;
        let options = self.options(config);
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
        if config.mla == Some(LatentCache::Compressed) {
            choices.push("mla-compressed".to_owned());
        }
        // Measuring with `Values::Trained` fails without weights.
        if *values == ValuesFrom::Fresh {
            choices.push("fresh".to_owned());
        }
        if let Some(kept) = quantized_base.filter(|kept| *kept != KeptBase::Exact) {
            choices.push(format!("base-{}", kept.name()));
        }
        if let Some(accuracy) = quantized_base_accuracy.filter(|of| *of != Accuracy::Float32) {
            choices.push(format!("base-accuracy-{}", accuracy.level()));
        }
        if *requantize {
            choices.push("requantized".to_owned());
        }
        if *adapter_form == AdapterForm::Native {
            choices.push("native".to_owned());
        }
        let provider = match self.provider {
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
                if let GpuLayers::First(layers) = gpu_layers {
                    choices.push(format!("gpu-layers-{layers}"));
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
        set(
            "prompts",
            PromptSource::digest(prompts.as_deref()).map(Value::from),
        );
        set("tokenizer", tokenizer.written().map(Value::from));
        set("sweep", (!contexts.is_empty()).then(|| json!(contexts)));
        set("restarts", (*restarts > 1).then(|| json!(restarts)));
        set("swap", swap.map(Value::from));
        set("serving", serving.written());
        set(
            "target_precision",
            precision_goal.as_ref().map(|of| {
                json!({
                    "half_width_pct": of.half_width_pct,
                    "max_seconds": of.max_time.as_secs_f64(),
                })
            }),
        );
        for (key, chosen) in [
            ("aa", *aa),
            ("empty", *empty),
            ("cached_base", *cached_base && !self.study.is_of_base()),
        ] {
            set(key, chosen.then_some(Value::Bool(true)));
        }
        ResultName {
            target: result_stem.to_owned(),
            model_id: config.model_id.clone(),
            dtype: config.dtype,
            quantization: config.quantization().ok().flatten(),
            provider,
            choices,
            settings,
        }
    }
}

/// The parameters that the rest of a name doesn't tell, and that differ from those that are built
/// in.
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
        mla: config.mla,
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
