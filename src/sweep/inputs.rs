//! From a combination's inputs to the parts of its key.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::digest::{Digests, of_json};
use super::job::Parts;
use crate::adapter::{AdapterForm, ValuesFrom, expert_folders, folder};
use crate::config::BenchmarkConfig;
use crate::experiment::Experiment;
use crate::experiment::check::PARAMS;
use crate::files;
use crate::lowering::WeightsMode;
use crate::model::hub::HubId;
use crate::model::{ModelId, TOKENIZER_FILES, synthetic};
use crate::onnxruntime::{locate::locate, pins};
use crate::prepare::GRAPH_REVISION;
use crate::quantize::Accuracy;
use crate::quantize::stored::KeptBase;
use crate::study::{GpuLayers, PromptSource, ProviderChoice, Settings, Study};

/// The revision of the program, as a part of keys: the same on every node with the same program and
/// ONNX Runtime, whatever the node's machine.
///
/// # Errors
/// If the source's revision isn't known, and the program's own file can't be read.
pub fn program(provider: ProviderChoice) -> io::Result<Value> {
    let revision = match option_env!("PEFT_BENCH_GIT_REVISION") {
        Some(revision) if !revision.ends_with("-dirty") => revision.to_owned(),
        // Two builds of a changed source have the same revision.
        _ => Digests::default().of_file(&std::env::current_exe()?)?,
    };
    let on_gpu = provider == ProviderChoice::Cuda;
    let installed = locate(on_gpu).ok().flatten();
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "revision": revision,
        "graphs": GRAPH_REVISION,
        // Where there's none yet, this one is fetched.
        "onnxruntime": installed.map_or_else(|| pins::VERSION.to_owned(), |found| found.version),
    }))
}

/// The digest of an adapter: of its configuration, of its weights unless they're drawn fresh, of
/// its parameters and its tokenizer, and the same of its experts.
///
/// # Errors
/// If a file can't be read.
pub fn of_experiment(experiment: &Experiment, digests: &mut Digests) -> io::Result<String> {
    let mut parts = Vec::new();
    for place in [experiment.folder.clone()]
        .into_iter()
        .chain(expert_folders(&experiment.folder))
    {
        let mut files = folder::files(&place);
        files.push(place.join(PARAMS));
        files.extend(TOKENIZER_FILES.iter().map(|name| place.join(name)));
        for file in files.into_iter().filter(|file| file.is_file()) {
            let is_weights = file
                .extension()
                .is_some_and(|ending| ending == "safetensors");
            if !(is_weights && experiment.fresh) {
                parts.push(of_named(&file, digests)?);
            }
        }
    }
    Ok(of_json(&json!({
        "stem": experiment.file_stem(),
        "fresh": experiment.fresh,
        "files": parts,
    })))
}

/// The digest of a base model: of a synthetic one's shape, of a hub's commit, of a folder's files.
/// `folder` is where it is; `None` if it isn't here yet.
///
/// # Errors
/// If a file can't be read.
pub fn of_base(id: &ModelId, folder: Option<&Path>, digests: &mut Digests) -> io::Result<String> {
    let told = match (id, folder) {
        (ModelId::Synthetic(shape), _) => json!(["synthetic", shape, synthetic::VERSION]),
        (ModelId::Hub(HubId { repo, .. }), Some(folder)) => {
            // A snapshot's folder is called by its commit.
            let commit = folder.file_name().unwrap_or_default().to_string_lossy();
            json!(["hub", repo, commit])
        }
        (ModelId::Hub(HubId { repo, revision }), None) => {
            json!(["hub", repo, revision.as_deref().unwrap_or("main")])
        }
        (ModelId::Local(folder), _) => {
            let names = folder::names(folder).into_iter();
            let is_read = |name: &String| {
                name.ends_with(".safetensors")
                    || name.ends_with(".safetensors.index.json")
                    || name == "config.json"
                    || TOKENIZER_FILES.contains(&name.as_str())
            };
            let files = names.filter(is_read);
            let files: io::Result<Vec<Value>> = files
                .map(|name| of_named(&folder.join(name), digests))
                .collect();
            json!(["folder", files?])
        }
    };
    Ok(of_json(&told))
}

/// A file's name and digest; that of JSON doesn't depend on the order of keys.
fn of_named(file: &Path, digests: &mut Digests) -> io::Result<Value> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let is_config = name.ends_with("config.json") || name == PARAMS;
    let value = is_config
        .then(|| serde_json::from_slice::<Value>(&files::read(file).ok()?).ok())
        .flatten();
    let digest = match value {
        Some(value) => of_json(&value),
        None => digests.of_file(file)?,
    };
    Ok(json!([name, digest]))
}

/// The digest of the prompts; `None` for those that are built in.
pub fn of_prompts(study: &Study) -> Option<String> {
    PromptSource::digest(study.prompts.as_deref())
}

/// The digest of everything that's chosen for a measurement. Every field and every setting is
/// listed, so that a new one can't be forgotten. `prompts` is [`of_prompts`] of the same study.
pub fn of_parameters(study: &Study, config: &BenchmarkConfig, prompts: Option<&str>) -> String {
    let Study {
        targets: _,
        settings,
        prompts: _,
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
    } = study;
    let Settings {
        // `config` has them, and the base's digest the model.
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
        provider,
        // Which of several like devices it is makes no difference.
        device: _,
        gpu_layers,
        cuda_graph,
        threads,
        weights,
        adapter_form,
        quantized_base,
        quantized_base_accuracy,
        requantize,
        values,
        // Where files are.
        offline: _,
        export_dir: _,
    } = settings;
    let mut parameters = config.to_json();
    if let Some(keys) = parameters.as_object_mut() {
        // It may be a path.
        keys.shift_remove("model_id");
    }
    let goal = precision_goal
        .as_ref()
        .map(|goal| json!([goal.half_width_pct, goal.max_time.as_secs_f64()]));
    let mut all = json!({
        "parameters": parameters,
        "prompts": prompts,
        "tokenizer": tokenizer.written(),
        "contexts": contexts,
        "swap": swap,
        "aa": aa,
        "empty": empty,
        "cached_base": cached_base,
        "restarts": restarts,
        "precision_goal": goal,
        "provider": match provider {
            ProviderChoice::Cpu => "cpu",
            ProviderChoice::Cuda => "cuda",
            ProviderChoice::Auto => "auto",
        },
        "cuda_graph": cuda_graph,
        "threads": threads,
        "weights": weights.unwrap_or(WeightsMode::Mapped).to_string(),
        "quantized_base": quantized_base.map(KeptBase::name),
        "quantized_base_accuracy": quantized_base_accuracy.map(Accuracy::level),
        "requantize": requantize,
        "native": *adapter_form == AdapterForm::Native,
        "fresh": *values == ValuesFrom::Fresh,
    });
    // `auto` and `all` compute the same, where they compute.
    if let GpuLayers::First(layers) = gpu_layers {
        all["gpu_layers"] = (*layers).into();
    }
    // Without it, the digest is that of earlier versions.
    if let (Some(all), Some(serving)) = (all.as_object_mut(), serving.written()) {
        all.insert("serving".to_owned(), serving);
    }
    of_json(&all)
}

/// The parts of a key.
pub fn parts(experiment: String, base: String, parameters: String, program: &Value) -> Parts {
    Parts {
        experiment,
        base,
        parameters,
        program: of_json(program),
    }
}
