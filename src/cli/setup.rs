//! From options and configuration to what the library takes.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::named_base::named_base;
use super::options::{CommonOptions, ExecutionProvider};
use super::progress::{ByteProgress, message};
use super::tokenizer::TokenizerOptions;
use crate::adapter::Task;
use crate::adapter::folder::CONFIG;
use crate::config::{BenchmarkConfig, Source};
use crate::engine::{
    DecoderEngine, EngineError, EngineOptions, OnnxRuntime, Provider, StepGraph, WeightsMode,
};
use crate::experiment::Experiment;
use crate::json::JsonObject;
use crate::machine::physical_cores;
use crate::model::{BaseModel, ModelId};
use crate::onnxruntime::install::locate_or_install;
use crate::onnxruntime::library::Library;
use crate::onnxruntime::locate::locate;
use crate::prepare::Preparation;
use crate::prepared::{Manifest, Precision, PreparedVariant};
use crate::system::Hardware;
use crate::weights::Dtype;

/// The file of defaults, in the working folder.
const DEFAULTS: &str = "default_benchmark_params.json";

/// The task that every model is run for.
const TASK: &str = "CAUSAL_LM";

/// Reads the parameters: the defaults, an experiment's overrides, then the command line's options. The
/// base is that of the command line, else of the overrides, else the one that the adapter names, else of the defaults.
pub fn config(common: &CommonOptions, experiment: Option<&Experiment>) -> Result<BenchmarkConfig> {
    let here = Path::new(DEFAULTS);
    let defaults = match &common.config {
        Some(file) => Source::File(file),
        None if here.is_file() => Source::File(here),
        None => Source::Embedded,
    };
    let overrides = experiment.map(|experiment| experiment.folder.join("benchmark_params.json"));
    let overrides = overrides.filter(|path| path.is_file());
    let note = |text: &str| message(&format!("note: {text}"));
    let mut config = BenchmarkConfig::load(defaults, overrides.as_deref(), &note)?;
    let own = overrides.as_deref().map(BenchmarkConfig::own_model);
    let own = own.transpose()?.flatten();
    if let Some(model) = &common.model {
        config.model_id.clone_from(model);
    } else if own.is_none()
        && let Some(experiment) = experiment
        && let Some(named) = named_base(experiment)?
    {
        config.model_id = named;
    }
    if let Some(experiment) = experiment {
        note_use(experiment, &config)?;
    }
    if let Some(dtype) = common.dtype {
        config.dtype = dtype;
    }
    let keys = &mut config.quantization_keys;
    if let Some(choice) = common.quantize {
        keys.set(choice.format());
    }
    keys.head = common.quantize_head.or(keys.head);
    keys.embedding = common.quantize_embedding.or(keys.embedding);
    keys.accuracy = common.quantize_accuracy.or(keys.accuracy);
    config.quantization()?;
    Ok(config)
}

/// Says what's remarkable of an adapter: another base model than the one it's used with, or another task. Names differ for
/// good reasons too (a local copy, a synthetic stand-in), so it's no error; tensors that don't fit are.
fn note_use(experiment: &Experiment, config: &BenchmarkConfig) -> Result<()> {
    let adapter = JsonObject::read(&experiment.folder.join(CONFIG))?;
    let last = |name: &str| {
        let name = name
            .trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or(name);
        name.split('@').next().unwrap_or(name).to_lowercase()
    };
    match adapter.optional_text("base_model_name_or_path")? {
        Some(named) if !named.is_empty() && last(named) != last(&config.model_id) => {
            message(&format!(
                "note: the adapter was made for `{named}` and is used with `{}`",
                config.model_id
            ))
        }
        _ => {}
    }
    match adapter.optional_text("task_type")? {
        Some(task) if task != TASK => message(&format!(
            "note: the adapter's `task_type` is `{task}`, and it's used as `{TASK}`, as far as its tensors fit"
        )),
        _ => {}
    }
    Ok(())
}

/// Says so where an adapter's values are drawn.
pub fn note_fresh(experiment: &Experiment) {
    if experiment.fresh {
        message(&format!(
            "note: the values of `{}` are drawn fresh",
            experiment.folder.display()
        ));
    }
}

/// Opens the base model, showing progress where it's fetched or made.
pub fn base_model(common: &CommonOptions, config: &BenchmarkConfig) -> Result<BaseModel> {
    let id = ModelId::parse(&config.model_id)?;
    let progress = ByteProgress::default();
    let model = BaseModel::open(&id, config.dtype, common.offline, &|label, done, total| {
        progress.report(label, done, total);
    });
    progress.finish();
    let model = model.with_context(|| match &common.model {
        Some(_) => format!("cannot open base model `{id}`"),
        None => format!(
            "cannot open base model `{id}`, which the adapter or the parameters name (`--model` takes another: a folder, or a \
             hub id)"
        ),
    })?;
    if let Some((name, rows)) = model.surplus_rows() {
        let size = model.spec.vocab_size;
        message(&format!(
            "note: `{name}` has {rows} rows, and `vocab_size` in `config.json` is {size}: the first {size} are used, unless \
             an adapter is for more"
        ));
    }
    if common.verbose {
        message(&format!("base model {id} in {}", model.folder.display()));
    }
    Ok(model)
}

/// The same for measuring with prompts, beside the adapter in `adapter` if there's one. What they're tokenized with has to be
/// there before anything is prepared.
pub fn base_to_measure(
    common: &CommonOptions,
    config: &BenchmarkConfig,
    tokenizer: &TokenizerOptions,
    adapter: Option<&Path>,
) -> Result<BaseModel> {
    let model = base_model(common, config)?;
    tokenizer.place(&model.folder, adapter)?.open()?;
    Ok(model)
}

/// Where to run weights of `dtype`.
pub fn provider(common: &CommonOptions, dtype: Dtype) -> Result<Provider> {
    let provider = any_provider(common, dtype)?;
    if common.cuda_graph && provider == Provider::Cpu {
        bail!("`--cuda-graph` is for a GPU, and this runs on the CPU");
    }
    Ok(provider)
}

fn any_provider(common: &CommonOptions, dtype: Dtype) -> Result<Provider> {
    let gpus = || Hardware::collect(common.device).num_accelerators;
    match common.ep {
        ExecutionProvider::Cpu => Ok(Provider::Cpu),
        ExecutionProvider::Cuda if gpus() == 0 => bail!(
            "`--ep cuda` was asked for, but this machine has no NVIDIA GPU (NVML finds none); \
             use `--ep cpu`"
        ),
        ExecutionProvider::Cuda => Ok(Provider::Cuda(common.device)),
        ExecutionProvider::Auto if gpus() == 0 => Ok(Provider::Cpu),
        ExecutionProvider::Auto if dtype == Dtype::Float32 => {
            // What a GPU would compute with has been checked on a CPU only.
            message(
                "note: there is a GPU, but float32 runs on the CPU unless `--ep cuda` asks for the GPU; \
                 `--dtype float16` or `bfloat16` runs there by itself",
            );
            Ok(Provider::Cpu)
        }
        ExecutionProvider::Auto => {
            if locate(true)?.is_some() {
                return Ok(Provider::Cuda(common.device));
            }
            message(
                "note: there is a GPU, but no CUDA build of ONNX Runtime, so this runs on the CPU; \
                 `peft-bench runtime install --cuda` fetches one",
            );
            Ok(Provider::Cpu)
        }
    }
}

/// The precision that follows from dtype and provider.
pub fn precision(dtype: Dtype, provider: Provider) -> Precision {
    Precision::new(dtype, matches!(provider, Provider::Cuda(_)))
}

/// Checks that a folder's variant computes as one that's prepared for `provider` would.
pub fn check_prepared(folder: &Path, manifest: &Manifest, provider: Provider) -> Result<()> {
    let expected = precision(manifest.dtype, provider);
    if manifest.compute != expected.compute {
        bail!(
            "`{}` was prepared to compute in {} and {provider} takes {}; prepare it again with this \
             `--ep`",
            folder.display(),
            manifest.compute,
            expected.compute
        );
    }
    if manifest.attention != expected.attention {
        bail!(
            "`{}` was prepared for another `--ep`: its attention is made of other operators than \
             {provider} takes; prepare it again with this `--ep`",
            folder.display()
        );
    }
    Ok(())
}

/// Where variants of `base` are prepared, and how. Its weights are quantized first, if they shall be.
pub fn preparation<'a>(
    common: &'a CommonOptions,
    config: &BenchmarkConfig,
    provider: Provider,
    base: &'a BaseModel,
) -> Result<Preparation<'a>> {
    let quantization = config.quantization()?;
    check_accuracy(config, provider)?;
    let preparation = Preparation {
        base,
        precision: precision(config.dtype, provider).with_quantization(quantization),
        export_dir: &common.export_dir,
        seed: config.seed,
        adapter_form: common.adapter_form.into(),
        task_id: config.task_id,
    };
    preparation.quantize(&|bytes| {
        message(&format!(
            "quantizing weights: {} MiB, once",
            bytes.div_ceil(1 << 20)
        ));
    })?;
    Ok(preparation)
}

/// Refuses to choose an arithmetic where there's but one.
fn check_accuracy(config: &BenchmarkConfig, provider: Provider) -> Result<()> {
    if let (Some(_), Provider::Cuda(_)) = (config.quantization_keys.accuracy, provider) {
        bail!(
            "`--quantize-accuracy` (`quantization_accuracy_level`) chooses the CPU's arithmetic; on a GPU, products with \
             quantized weights are computed in {}",
            config.dtype
        );
    }
    Ok(())
}

/// Says so where an adapter has several tasks and none was asked for.
pub fn note_task(config: &BenchmarkConfig, task: Option<Task>) {
    if let (None, Some(Task { id, count })) = (config.task_id, task)
        && count > 1
    {
        message(&format!(
            "note: the adapter has {count} tasks, and this is task {id}; `--task-id` takes another one"
        ));
    }
}

/// Says what there is to be told of how adapters are taken.
pub fn note_adapter(notes: &[String]) {
    for note in notes {
        message(&format!("note: {note}"));
    }
}

/// The same of the adapter of prepared variants.
pub fn note_adapter_of(prepared: &[PreparedVariant]) {
    let mut adapters = prepared
        .iter()
        .filter_map(|one| one.manifest.adapter.as_ref());
    if let Some(adapter) = adapters.next() {
        note_adapter(&adapter.notes);
    }
}

/// Says so where an unmerged adapter has float weights in the place of quantized ones, which its costs come from.
pub fn note_replaced(prepared: &[PreparedVariant]) {
    for variant in prepared {
        let adapter = variant.manifest.adapter.as_ref();
        if let (Some(found), Some(adapter)) = (&variant.manifest.quantization, adapter)
            && found.replaced_weights > 0
        {
            message(&format!(
                "note: unmerged, {} has weights in {} in the place of {} of {} that are quantized",
                adapter.peft_type,
                variant.manifest.compute,
                found.replaced_weights,
                found.replaced_weights + found.quantized_weights
            ));
        }
    }
}

/// Threads of the CPU provider.
pub fn threads(common: &CommonOptions) -> usize {
    common.threads.map_or_else(physical_cores, usize::from)
}

/// How sessions are opened, for a cache of `max_length` rows; `weights` unless the command line says otherwise.
pub fn engine_options(
    common: &CommonOptions,
    provider: Provider,
    max_length: usize,
    weights: WeightsMode,
) -> EngineOptions {
    EngineOptions {
        provider,
        threads: threads(common),
        weights: common.weights.map_or(weights, Into::into),
        batch_size: 1,
        max_length,
        logits_on_host: false,
        cuda_graph: common.cuda_graph,
        profile: None,
    }
}

/// Opens sessions on `variant`, and says if its decode steps aren't the CUDA graph that was asked for.
pub fn open_engine(
    runtime: &OnnxRuntime,
    variant: &PreparedVariant,
    options: &EngineOptions,
) -> Result<DecoderEngine, EngineError> {
    let engine = DecoderEngine::open(runtime, variant, options)?;
    if let Some(StepGraph::Refused(reason)) = engine.step_graph() {
        message(&format!(
            "note: the decode steps of {} are no CUDA graph: {reason}",
            variant.manifest.variant
        ));
    }
    Ok(engine)
}

/// Makes the copy of the weights that's laid out for the processor, where sessions will use one, and notes in the manifest
/// what that took.
pub fn lay_out(prepared: &mut PreparedVariant, options: &EngineOptions) -> Result<()> {
    let ready = DecoderEngine::make_ready(prepared, options, &|bytes| {
        message(&format!(
            "laying out weights for this processor: {} MiB, once",
            bytes.div_ceil(1 << 20)
        ));
    })?;
    let manifest = &mut prepared.manifest;
    match ready {
        // Made at another time, perhaps; these sessions do without.
        None => manifest.lay_out_seconds = None,
        Some(ready) if ready.own_seconds.is_some() => {
            manifest.lay_out_seconds = ready.own_seconds;
            let folder = &prepared.folder;
            let failed = || format!("cannot write `{}`", folder.join(Manifest::FILE).display());
            manifest.write(folder).with_context(failed)?;
        }
        Some(_) => {}
    }
    Ok(())
}

/// Finds ONNX Runtime, or fetches it.
pub fn library(common: &CommonOptions, provider: Provider) -> Result<Library> {
    let cuda = matches!(provider, Provider::Cuda(_));
    if common.offline {
        let Some(library) = locate(cuda)? else {
            bail!(
                "ONNX Runtime is not on this machine, and `--offline` forbids to fetch it; run \
                 `peft-bench runtime install`, or name a library in `ORT_DYLIB_PATH`"
            );
        };
        return Ok(library);
    }
    let progress = ByteProgress::default();
    let library = locate_or_install(cuda, &|event| progress.install(event));
    progress.finish();
    let library = library?;
    if common.verbose {
        let path = library.path.display();
        message(&format!(
            "ONNX Runtime {} from {path}, on {provider}",
            library.version
        ));
    }
    Ok(library)
}

/// Finds or fetches ONNX Runtime, and loads it.
pub fn onnx_runtime(common: &CommonOptions, provider: Provider) -> Result<OnnxRuntime> {
    Ok(OnnxRuntime::load(&library(common, provider)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::{Accuracy, Format};

    #[test]
    fn an_arithmetic_of_the_cpu_is_not_chosen_for_a_gpu() {
        let mut config = BenchmarkConfig::built_in();
        config.quantization_keys.set(Some(Format::Int4));
        assert!(check_accuracy(&config, Provider::Cuda(0)).is_ok());
        config.quantization_keys.accuracy = Some(Accuracy::Int8);
        assert!(check_accuracy(&config, Provider::Cpu).is_ok());
        let error = check_accuracy(&config, Provider::Cuda(0)).unwrap_err();
        assert!(error.to_string().contains("`--quantize-accuracy`"));
    }
}
