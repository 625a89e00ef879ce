//! What a study tells while it runs. Whoever watches finds the words: the command line in
//! `cli/terminal.rs`.

use std::io;
use std::path::Path;

use super::StudyError;
use super::prompt_warnings::PromptWarning;
use super::result_files::CaseResult;
use super::room::GpuRoom;
use super::tokenizer::{TokenizerDifference, TokenizerPlace};
use crate::measure::quiet::{Look, QuietGate, Waited};
use crate::measure::session::Progress;
use crate::model::ModelId;
use crate::model::hub::HubId;
use crate::onnxruntime::Provider;
use crate::onnxruntime::install::InstallEvent;
use crate::onnxruntime::library::Library;
use crate::prepared::{BaseQuantization, Variant};
use crate::weights::Dtype;

/// Whoever watches a study.
pub trait Observer {
    /// Something happened.
    fn observe(&mut self, event: Event<'_>);
}

/// Watches nothing.
impl Observer for () {
    fn observe(&mut self, _: Event<'_>) {}
}

/// Something that happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Something that one should know to read the figures, or that's worth trying.
    Note(Note<'a>),
    /// Bytes are fetched or made; with another label, for something else.
    Bytes {
        /// What is fetched or made.
        label: &'a str,
        /// Bytes that are done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Whatever [`Bytes`](Self::Bytes) and [`Install`](Self::Install) told of is done, or has
    /// failed.
    BytesEnded,
    /// ONNX Runtime is fetched.
    Install(InstallEvent),
    /// The hub's adapter `id` is in `folder`.
    AdapterFound {
        /// As it was named.
        id: &'a HubId,
        /// Where it is.
        folder: &'a Path,
    },
    /// The base model `id` was opened.
    BaseOpened {
        /// As it was named.
        id: &'a ModelId,
        /// Where it is.
        folder: &'a Path,
    },
    /// ONNX Runtime was found or fetched.
    LibraryFound {
        /// The library.
        library: &'a Library,
        /// Where it will run graphs.
        provider: Provider,
    },
    /// The base's weights are quantized, once.
    Quantizing {
        /// Their size once they're quantized.
        bytes: u64,
    },
    /// The weights of a quantized base are laid out for ONNX Runtime, once.
    Repacking {
        /// The size of what's written.
        bytes: u64,
    },
    /// Weights are laid out for the processor, once.
    LayingOut {
        /// Their size.
        bytes: u64,
    },
    /// The machine isn't quiet yet, or hasn't been for long enough.
    Waiting {
        /// What's waited for.
        gate: &'a QuietGate,
        /// What others did in the last second.
        look: &'a Look,
    },
    /// Waiting for a quiet machine is over.
    Waited {
        /// What was waited for.
        gate: &'a QuietGate,
        /// What came of it.
        waited: &'a Waited,
    },
    /// A measurement goes on.
    Progress(Progress<'a>),
    /// The measurement that [`Progress`](Self::Progress) told of is over.
    ProgressEnded,
    /// The sweep measures batches of this size next.
    BatchSize(usize),
    /// Adapters take turns next.
    Swapping {
        /// How many.
        adapters: usize,
    },
    /// Batches with several adapters generate next.
    Mixing {
        /// The most adapters in one.
        adapters: usize,
    },
    /// An adapter starts from its file next.
    ColdStarts,
    /// Prompts with a common prefix start next.
    SharedPrefixes,
    /// Cases were measured together, well or badly, and their results are written.
    Measured {
        /// One for each case.
        results: &'a [CaseResult],
    },
    /// The study was interrupted.
    Interrupted {
        /// What was measured until then, one for each case.
        results: &'a [CaseResult],
    },
    /// Some of several targets failed, and the others go on. Where there's one target, its error
    /// ends the study.
    Failed {
        /// Their names.
        targets: &'a str,
        /// Why.
        error: &'a StudyError,
    },
}

/// Something that one should know.
#[derive(Debug)]
#[non_exhaustive]
pub enum Note<'a> {
    /// A checkpoint has an `adapter_config.json` without an adapter's weights, which is passed
    /// over.
    AdapterConfigIgnored {
        /// The checkpoint.
        folder: &'a Path,
    },
    /// A folder holds both an adapter and a whole model, and is taken for the adapter.
    AdapterAndModel {
        /// The folder.
        folder: &'a Path,
    },
    /// A parameter has no meaning here.
    ParameterIgnored(&'a str),
    /// The adapter names another base than the one that's used.
    OtherBase {
        /// The base that it names.
        named: &'a str,
        /// The base that's used.
        used: &'a str,
    },
    /// The adapter was trained for another task than the one that it's used for.
    OtherTask {
        /// Its task.
        named: &'a str,
        /// The task that it's used for.
        used: &'a str,
    },
    /// The values of the adapter are drawn fresh.
    FreshValues {
        /// The adapter's folder.
        folder: &'a Path,
    },
    /// A tensor of the base has more rows than its vocabulary has tokens.
    SurplusRows {
        /// The tensor.
        name: &'a str,
        /// Its rows.
        rows: usize,
        /// The rows that are used.
        used: usize,
    },
    /// There is a GPU, and weights in float32 run on the processor all the same.
    Float32OnCpu,
    /// Not all layers have room on the GPU.
    LayersOnCpu(&'a GpuRoom),
    /// There is a GPU, and no build of ONNX Runtime that can use it.
    NoCudaLibrary,
    /// The adapter has several tasks, none was chosen, and this one is taken.
    TaskTaken {
        /// The one that's taken.
        id: usize,
        /// How many there are.
        count: usize,
    },
    /// How the adapter is taken.
    Adapter(&'a str),
    /// The unmerged adapter needs float weights where the base's are quantized, which costs time.
    FloatWeights {
        /// The adapter's method.
        peft_type: &'a str,
        /// The type of the float weights.
        dtype: Dtype,
        /// How many quantized weights they replace.
        replaced: usize,
        /// How many weights of the base are quantized.
        of: usize,
    },
    /// Weights of a quantized base are dequantized.
    DequantizedBase {
        /// The base.
        base: &'a BaseQuantization,
        /// The type of the floats.
        dtype: Dtype,
    },
    /// An adapter changes weights of a quantized base.
    ChangedCodes {
        /// The variant.
        variant: Variant,
        /// The base.
        base: &'a BaseQuantization,
        /// The type of floats in the place of codes.
        dtype: Dtype,
    },
    /// Decode steps aren't started as the CUDA graph that was asked for.
    NoCudaGraph {
        /// The variant.
        variant: Variant,
        /// Why not.
        reason: &'a str,
    },
    /// Texts go through another tokenizer than the base's.
    OtherTokenizer {
        /// The tokenizer.
        place: &'a TokenizerPlace,
        /// How it compares with the base's.
        difference: TokenizerDifference,
    },
    /// A checkpoint gets a tokenizer whose files aren't the base's.
    CheckpointTokenizer(&'a TokenizerPlace),
    /// A merged checkpoint and its base have vocabularies of different sizes.
    VocabularySizes {
        /// The checkpoint.
        merged: &'a ModelId,
        /// The checkpoint's tokens.
        merged_size: usize,
        /// The base's tokens.
        base_size: usize,
    },
    /// The prompts may not be what they should be.
    Prompts(&'a PromptWarning),
    /// The unmerged graph with an adapter of zeros was asked for, and there's none.
    NoEmptyVariant,
    /// No earlier measurement of the base fits.
    NoCachedBase,
    /// The base's measurement can't be written for later studies.
    BaseNotKept(&'a io::Error),
    /// The base was measured before, and nothing has changed.
    BaseIsCached,
}
