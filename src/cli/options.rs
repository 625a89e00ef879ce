//! Options that most commands share.

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};

use crate::adapter::{AdapterForm, ValuesFrom};
use crate::arch::LatentCache;
use crate::engine::WeightsMode;
use crate::quantize::stored::KeptBase;
use crate::quantize::{Accuracy, Format, FormatChoice};
use crate::study::{GpuLayers, ProviderChoice, Settings, TokenizerChoice};
use crate::weights::Dtype;

/// Where results are, unless something else is asked for.
pub const RESULTS: &str = "results";
/// Where exported models are, unless something else is asked for.
const EXPORTED: &str = "exported_models";

/// Values of `--quantize-algorithm`.
const ALGORITHMS: [&str; 3] = ["rtn", "search", "k_quant"];

/// Options that most commands share.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub struct CommonOptions {
    /// Base model: a folder, a hub id (`org/name[@revision]`), or `synthetic/<shape>` [default: the one that the adapter
    /// names; `model_id` of the parameters where it names none, and wasn't trained].
    #[arg(long, global = true, value_name = "ID_OR_PATH")]
    pub model: Option<String>,

    /// Dtype that weights are rounded to: float32, float16, bfloat16.
    #[arg(long, global = true, value_name = "DTYPE")]
    pub dtype: Option<Dtype>,

    /// Quantize the weights of linear layers.
    #[arg(long, global = true, value_name = "FORMAT", value_parser = weights())]
    pub quantize: Option<FormatChoice>,

    /// How 4 bits are found: `rtn` rounds to the nearest, symmetric around zero; `search` looks for each block's scale and
    /// zero point, and loses less; `k_quant` does so as in onnxruntime [default: rtn].
    #[arg(long, global = true, value_name = "NAME", value_parser = algorithm())]
    pub quantize_algorithm: Option<&'static str>,

    /// Values that share a scale with 4 and 8 bits: 16, 32, 64, 128, 256. Larger blocks are faster and lose more [default:
    /// 128].
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(16..=256))]
    pub quantize_block: Option<u16>,

    /// What the head is quantized to, whose rounding costs most [default: 8bit; float with nf4].
    #[arg(long, global = true, value_name = "FORMAT", value_parser = one_of(&FormatChoice::of_head()))]
    pub quantize_head: Option<FormatChoice>,

    /// What layers are quantized to that compute keys or values alone [default: 8bit; nf4 with nf4].
    #[arg(long, global = true, value_name = "FORMAT", value_parser = kv_proj())]
    pub quantize_kv_proj: Option<Format>,

    /// What the token embedding is quantized to [default: float].
    #[arg(long, global = true, value_name = "FORMAT", value_parser = one_of(&FormatChoice::of_embedding()))]
    pub quantize_embedding: Option<FormatChoice>,

    /// Arithmetic with 4 and 8 bits on a CPU: 4 rounds inputs to 8 bits too, 1 computes in float32 and is several times
    /// slower [default: 4].
    #[arg(long, global = true, value_name = "LEVEL", value_parser = accuracy)]
    pub quantize_accuracy: Option<Accuracy>,

    /// What of a base that's a quantized checkpoint stays in its codes: `exact` where products are then those of the scheme
    /// itself, `codes` wherever ONNX Runtime has an operator, `float` nothing [default: exact].
    #[arg(long, global = true, value_name = "WHAT", value_parser = kept_base())]
    pub quantized_base: Option<KeptBase>,

    /// Arithmetic with a quantized base's codes on a CPU: 1 computes in float32, 4 rounds inputs to 8 bits and is faster
    /// [default: 1].
    #[arg(long, global = true, value_name = "LEVEL", value_parser = accuracy)]
    pub quantized_base_accuracy: Option<Accuracy>,

    /// Round weights that are merged into a quantized base to the checkpoint's scheme again.
    #[arg(long, global = true)]
    pub requantize: bool,

    /// What latent attention caches for each token: every head's key and value, or the short vector that they're expanded
    /// from, which takes a fraction of the memory [default: expanded].
    #[arg(long, global = true, value_name = "CACHE")]
    pub mla: Option<LatentCacheChoice>,

    /// Where to run. `auto` takes CUDA where a GPU and a CUDA build of ONNX Runtime are there.
    #[arg(long, global = true, value_name = "PROVIDER", default_value = "auto")]
    pub ep: ExecutionProvider,

    /// Number of the GPU.
    #[arg(long, global = true, value_name = "N", default_value_t = 0)]
    pub device: u32,

    /// Layers that are computed on the GPU, the first ones; the others are computed on the CPU. `auto` takes all, or as
    /// many as have room where `measure` finds that not all have.
    #[arg(long, global = true, value_name = "N|all|auto", value_parser = gpu_layers, default_value = "auto")]
    pub gpu_layers: GpuLayers,

    /// Start decode steps on a GPU as a CUDA graph, where that's possible and gives the same.
    #[arg(long, global = true)]
    pub cuda_graph: bool,

    /// Threads of the CPU provider [default: physical cores].
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// How the CPU provider holds weights [default: mapped to measure, in-place for other commands]. `prepare` makes
    /// what `mapped` needs only if asked for it.
    #[arg(long, global = true, value_name = "MODE")]
    pub weights: Option<WeightsChoice>,

    /// How an unmerged adapter is computed: the cheapest form that gives the same, or what the method itself
    /// computes at every step.
    #[arg(long, global = true, value_name = "FORM", default_value = "reduced")]
    pub adapter_form: FormChoice,

    /// Refuse an adapter whose weights aren't there, where it would be drawn fresh [default: drawn fresh only where nothing
    /// says that it was trained].
    #[arg(long, global = true)]
    pub trained: bool,

    /// Draw the adapter's values fresh, whatever its folder holds.
    #[arg(long, global = true, conflicts_with = "trained")]
    pub fresh: bool,

    /// Ask nothing of the network.
    #[arg(long, global = true)]
    pub offline: bool,

    /// Parameters in place of `default_benchmark_params.json`.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Folder of result files.
    #[arg(long, global = true, value_name = "DIR", default_value = RESULTS)]
    pub output: PathBuf,

    /// Folder of exported models.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = EXPORTED
    )]
    pub export_dir: PathBuf,

    /// Say more about what is done.
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

impl CommonOptions {
    /// The options as they'd be given again, but for those that have their usual values. Where results
    /// go and what is said isn't part of it.
    pub fn arguments(&self) -> Vec<String> {
        let Self {
            model,
            dtype,
            quantize,
            quantize_algorithm,
            quantize_block,
            quantize_head,
            quantize_kv_proj,
            quantize_embedding,
            quantize_accuracy,
            quantized_base,
            quantized_base_accuracy,
            requantize,
            mla,
            ep,
            device,
            gpu_layers,
            cuda_graph,
            threads,
            weights,
            adapter_form,
            trained,
            fresh,
            offline,
            config,
            output: _,
            export_dir,
            verbose: _,
        } = self;
        let part = |part: &Option<FormatChoice>, float: &'static str| {
            part.map(|part| part.format().map_or(float, Format::name).to_owned())
        };
        let value = |value: Option<PossibleValue>| value.map(|value| value.get_name().to_owned());
        let path = |path: &Path| path.display().to_string();
        let options = [
            ("--model", model.clone()),
            ("--dtype", dtype.map(|dtype| dtype.to_string())),
            ("--quantize", part(quantize, "none")),
            (
                "--quantize-algorithm",
                quantize_algorithm.map(str::to_owned),
            ),
            (
                "--quantize-block",
                quantize_block.map(|size| size.to_string()),
            ),
            ("--quantize-head", part(quantize_head, "float")),
            (
                "--quantize-kv-proj",
                quantize_kv_proj.map(|format| format.name().to_owned()),
            ),
            ("--quantize-embedding", part(quantize_embedding, "float")),
            (
                "--quantize-accuracy",
                quantize_accuracy.map(|accuracy| accuracy.level().to_string()),
            ),
            (
                "--quantized-base",
                quantized_base.map(|kept| kept.name().to_owned()),
            ),
            (
                "--quantized-base-accuracy",
                quantized_base_accuracy.map(|accuracy| accuracy.level().to_string()),
            ),
            ("--mla", mla.and_then(|mla| value(mla.to_possible_value()))),
            (
                "--ep",
                value(ep.to_possible_value()).filter(|_| *ep != ExecutionProvider::Auto),
            ),
            ("--device", (*device > 0).then(|| device.to_string())),
            (
                "--gpu-layers",
                match gpu_layers {
                    GpuLayers::Auto => None,
                    GpuLayers::All => Some("all".to_owned()),
                    GpuLayers::First(layers) => Some(layers.to_string()),
                },
            ),
            ("--threads", threads.map(|threads| threads.to_string())),
            (
                "--weights",
                weights.and_then(|weights| value(weights.to_possible_value())),
            ),
            (
                "--adapter-form",
                value(adapter_form.to_possible_value())
                    .filter(|_| *adapter_form != FormChoice::Reduced),
            ),
            ("--config", config.as_deref().map(path)),
            (
                "--export-dir",
                Some(path(export_dir)).filter(|folder| folder != EXPORTED),
            ),
        ];
        let flags = [
            ("--cuda-graph", *cuda_graph),
            ("--requantize", *requantize),
            ("--trained", *trained),
            ("--fresh", *fresh),
            ("--offline", *offline),
        ];
        let with_value = options
            .into_iter()
            .filter_map(|(name, value)| Some([name.to_owned(), value?]));
        let flags = flags.into_iter().filter(|(_, is_given)| *is_given);
        with_value
            .flatten()
            .chain(flags.map(|(name, _)| name.to_owned()))
            .collect()
    }

    /// The same without the command line's types. Where results go and what is said isn't part of it.
    pub fn settings(&self) -> Settings {
        Settings {
            model: self.model.clone(),
            dtype: self.dtype,
            quantize: self.quantize,
            quantize_algorithm: self.quantize_algorithm,
            quantize_block: self.quantize_block.map(usize::from),
            quantize_head: self.quantize_head,
            quantize_kv_proj: self.quantize_kv_proj,
            quantize_embedding: self.quantize_embedding,
            quantize_accuracy: self.quantize_accuracy,
            quantized_base: self.quantized_base,
            quantized_base_accuracy: self.quantized_base_accuracy,
            requantize: self.requantize,
            mla: self.mla.map(Into::into),
            provider: self.ep.into(),
            device: self.device,
            gpu_layers: self.gpu_layers,
            cuda_graph: self.cuda_graph,
            threads: self.threads.map(usize::from),
            weights: self.weights.map(Into::into),
            adapter_form: self.adapter_form.into(),
            values: match (self.trained, self.fresh) {
                (true, _) => ValuesFrom::Trained,
                (_, true) => ValuesFrom::Fresh,
                _ => ValuesFrom::AsFound,
            },
            offline: self.offline,
            parameters: self.config.clone(),
            export_dir: self.export_dir.clone(),
        }
    }
}

/// `--quantize`: the formats, and `none`.
fn weights() -> impl TypedValueParser<Value = FormatChoice> {
    let format = |format: &Format| PossibleValue::new(format.name()).help(format.about());
    let none = PossibleValue::new("none").help("Nothing is quantized, whatever the parameters say");
    let all = Format::NAMED.iter().map(format).chain([none]);
    PossibleValuesParser::new(all).map(|name| Format::named(&name).into())
}

/// One of `parts`, by name.
fn one_of(
    parts: &[(&'static str, FormatChoice)],
) -> impl TypedValueParser<Value = FormatChoice> + use<> {
    let values = parts
        .iter()
        .map(|(name, choice)| possible(name, choice.format()));
    PossibleValuesParser::new(values).map(|name| Format::named(&name).into())
}

/// `--quantize-kv-proj`
fn kv_proj() -> impl TypedValueParser<Value = Format> + use<> {
    let all = FormatChoice::of_kv_proj();
    let values = all
        .iter()
        .map(|(name, format)| possible(name, Some(*format)));
    PossibleValuesParser::new(values)
        .map(|name| Format::named(&name).expect("it was checked against their names"))
}

/// A value of options on a part. Formats with blocks of other sizes are many, and not listed.
fn possible(name: &'static str, format: Option<Format>) -> PossibleValue {
    let listed = format.is_none_or(|format| Format::NAMED.contains(&format));
    PossibleValue::new(name).hide(!listed)
}

fn kept_base() -> impl TypedValueParser<Value = KeptBase> + use<> {
    let names = KeptBase::ALL.map(KeptBase::name);
    PossibleValuesParser::new(names).map(|name| KeptBase::named(&name).unwrap_or_default())
}

/// `--quantize-algorithm`: the schemes of evenly spaced codes.
fn algorithm() -> impl TypedValueParser<Value = &'static str> + use<> {
    PossibleValuesParser::new(ALGORITHMS).map(|name| {
        let mut all = ALGORITHMS.into_iter();
        all.find(|known| *known == name)
            .expect("it was checked against them")
    })
}

fn gpu_layers(text: &str) -> Result<GpuLayers, String> {
    match text {
        "auto" => Ok(GpuLayers::Auto),
        "all" => Ok(GpuLayers::All),
        text => {
            let layers = text.parse().map(GpuLayers::First);
            layers.map_err(|_| "expected a number of layers, `all` or `auto`".to_owned())
        }
    }
}

fn accuracy(text: &str) -> Result<Accuracy, String> {
    let level = text.parse::<u8>().ok();
    let found = level.and_then(|level| Accuracy::try_from(level).ok());
    found.ok_or_else(|| "expected 1 or 4".to_owned())
}

/// `--ep`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExecutionProvider {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU; an error where there's none.
    Cuda,
    /// A GPU where there is one, else the processor.
    Auto,
}

impl From<ExecutionProvider> for ProviderChoice {
    fn from(choice: ExecutionProvider) -> Self {
        match choice {
            ExecutionProvider::Cpu => Self::Cpu,
            ExecutionProvider::Cuda => Self::Cuda,
            ExecutionProvider::Auto => Self::Auto,
        }
    }
}

/// `--mla`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LatentCacheChoice {
    /// Every head's key and value.
    Expanded,
    /// What they're expanded from.
    Compressed,
}

impl From<LatentCacheChoice> for LatentCache {
    fn from(choice: LatentCacheChoice) -> Self {
        match choice {
            LatentCacheChoice::Expanded => Self::Expanded,
            LatentCacheChoice::Compressed => Self::Compressed,
        }
    }
}

/// `--adapter-form`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormChoice {
    /// The cheapest form that computes the same.
    Reduced,
    /// What the method itself computes at every step.
    Native,
}

impl From<FormChoice> for AdapterForm {
    fn from(choice: FormChoice) -> Self {
        match choice {
            FormChoice::Reduced => Self::Reduced,
            FormChoice::Native => Self::Native,
        }
    }
}

/// `--weights`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightsChoice {
    /// Mapped: a copy that's laid out for the processor, made once in the base's prepared folder.
    Mapped,
    /// Mapped: the checkpoint alone. Nothing is written; everything is slower.
    InPlace,
    /// The laid-out copy, read into memory of the process when a session starts.
    Resident,
}

impl From<WeightsChoice> for WeightsMode {
    fn from(choice: WeightsChoice) -> Self {
        match choice {
            WeightsChoice::Mapped => Self::Mapped,
            WeightsChoice::InPlace => Self::InPlace,
            WeightsChoice::Resident => Self::Resident,
        }
    }
}

/// `--batch-size`
#[derive(Debug, Clone, Args)]
pub struct BatchOptions {
    /// Sequences to generate at once, in place of `batch_size` of the parameters. With several, such as `1,4,8`, the
    /// first is that of the main figures, and all are in the result's `sweep`.
    #[arg(
        long = "batch-size",
        value_name = "N,…",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u16).range(1..=1024)
    )]
    sizes: Vec<u16>,
}

impl BatchOptions {
    /// The sizes, each once; none where the parameters' are taken.
    pub fn sizes(&self) -> Vec<usize> {
        distinct(self.sizes.iter().map(|size| usize::from(*size)))
    }
}

/// `--restarts`
#[derive(Debug, Clone, Args)]
pub struct RestartOptions {
    /// Start all processes so many times, each with all warm-ups and runs. From 3 on, intervals cover
    /// what differs from one start of a process to the next; 5 confirm a small difference, and take
    /// about 5 times as long.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    restarts: u16,
}

impl RestartOptions {
    /// How often processes are started.
    pub fn count(&self) -> usize {
        usize::from(self.restarts)
    }
}

/// `--task-id`
#[derive(Debug, Clone, Args)]
pub struct TaskOptions {
    /// Task of an adapter that has several, counted from 0, in place of `task_id` of the parameters [default: 0].
    #[arg(long, value_name = "N")]
    task_id: Option<u32>,
}

impl TaskOptions {
    /// The task that was asked for.
    pub fn id(&self) -> Option<usize> {
        self.task_id.map(|id| id as usize)
    }
}

/// `--tokenizer`
#[derive(Debug, Clone, Args)]
pub struct TokenizerOptions {
    /// Tokenizer of texts, for every variant: the base's, the adapter's, or another folder's [default: the adapter's where
    /// it was saved with one].
    #[arg(long = "tokenizer", value_name = "base|adapter|PATH")]
    given: Option<String>,
}

impl TokenizerOptions {
    /// What was asked for.
    pub fn choice(&self) -> TokenizerChoice {
        match self.given.as_deref() {
            None => TokenizerChoice::Usual,
            Some("base") => TokenizerChoice::Base,
            Some("adapter") => TokenizerChoice::Adapter,
            Some(path) => TokenizerChoice::Path(path.into()),
        }
    }
}

/// Every number once, where it came first.
pub fn distinct(numbers: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut found = Vec::new();
    for number in numbers {
        if !found.contains(&number) {
            found.push(number);
        }
    }
    found
}
