//! Opening and running a session of ONNX Runtime.

use std::ffi::CStr;
use std::path::Path;
use std::sync::OnceLock;

use ort::AsPointer;
use ort::ep::{ArenaExtendStrategy, CUDA};
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{IoBinding, RunOptions, Session};
use prost::Message;

use super::shared_weights::SharedWeights;
use super::{EngineError, EngineOptions, Provider, TF32};
use crate::graph::proto::Model;
use crate::lowering::model_file::ROOT;
use crate::lowering::{block_size, layers_on_cpu};
use crate::onnxruntime::OnnxRuntime;
use crate::onnxruntime::cuda::Stream;
use crate::onnxruntime::cuda_libraries;

/// The block size of ONNX Runtime's `NCHWc` layout on this processor; `None` if it has no such
/// layout. It's found once, since a process has only one ONNX Runtime.
pub fn block_size(runtime: &OnnxRuntime) -> Option<usize> {
    static BLOCK_SIZE: OnceLock<Option<usize>> = OnceLock::new();
    let open = |model: &Model| {
        let builder = Session::builder(runtime.environment()).ok()?;
        let mut builder = builder.with_log_level(LogLevel::Fatal).ok()?;
        builder.commit_from_memory(&model.encode_to_vec()).ok()
    };
    *BLOCK_SIZE.get_or_init(|| block_size::of_runtime(open))
}

/// Opens a session on `model`. It shares `weights`, which are in memory already. `packs` allows
/// ONNX Runtime to copy other weights into its own layout. With a stream, the session runs on it
/// and can record CUDA graphs.
pub(super) fn open_session(
    runtime: &OnnxRuntime,
    name: &str,
    model: &Model,
    options: &EngineOptions,
    packs: bool,
    weights: Option<&SharedWeights>,
    stream: Option<&Stream>,
) -> Result<Session, EngineError> {
    let failed = |message| EngineError::Run {
        name: name.to_owned(),
        message,
    };
    let mut builder = builder(runtime, name, options, packs, stream)?;
    let key = "session.model_external_initializers_file_folder_path";
    builder = builder
        .with_config_entry(key, ROOT)
        .map_err(|error| failed(error.message().to_owned()))?;
    if let Some(weights) = weights {
        weights.share(&mut builder, model).map_err(failed)?;
    }
    builder
        .commit_from_memory(&model.encode_to_vec())
        .map_err(EngineError::runtime(name))
}

/// Opens a session on the graph in the file `path`, as its exporter made it.
pub(super) fn open_file(
    runtime: &OnnxRuntime,
    path: &Path,
    options: &EngineOptions,
) -> Result<Session, EngineError> {
    let name = path.display().to_string();
    let mut builder = builder(runtime, &name, options, true, None)?;
    builder
        .commit_from_file(path)
        .map_err(EngineError::runtime(&name))
}

/// A session's builder with all options. `name` is the variant's, for errors.
fn builder(
    runtime: &OnnxRuntime,
    name: &str,
    options: &EngineOptions,
    packs: bool,
    stream: Option<&Stream>,
) -> Result<SessionBuilder, EngineError> {
    configure(runtime, options, packs, stream).map_err(|error| match options.provider {
        Provider::Cuda(device) => EngineError::Cuda {
            device,
            message: explain_cuda(&error),
        },
        Provider::Cpu => EngineError::Run {
            name: name.to_owned(),
            message: error,
        },
    })
}

fn configure(
    runtime: &OnnxRuntime,
    options: &EngineOptions,
    packs: bool,
    stream: Option<&Stream>,
) -> Result<SessionBuilder, String> {
    let text = |error: ort::Error<SessionBuilder>| error.message().to_owned();
    let mut builder =
        Session::builder(runtime.environment()).map_err(|error| error.message().to_owned())?;
    builder = builder.with_log_level(LogLevel::Error).map_err(text)?;
    builder = builder.with_intra_threads(options.threads).map_err(text)?;
    let level = GraphOptimizationLevel::Level3;
    builder = builder.with_optimization_level(level).map_err(text)?;
    builder = builder.with_prepacking(packs).map_err(text)?;
    // Input lengths change in every step, and ONNX Runtime would make a memory pattern for each.
    builder = builder.with_memory_pattern(false).map_err(text)?;
    // Threads that spin between runs would take cores from the subject whose turn it is.
    let key = "session.force_spinning_stop";
    builder = builder.with_config_entry(key, "1").map_err(text)?;
    // Threads of a new session spin from the start, on the cores that the other session needs to
    // open, and by default for as long as that takes. This limit is still much longer than the
    // pause between two parallel operators of a step.
    let key = "session.intra_op.spin_duration_us";
    builder = builder.with_config_entry(key, "500").map_err(text)?;
    if options.provider == Provider::Cpu {
        // Weights are packed by all threads. And a convolution sums up 512 input channels at a time
        // instead of the default of 128, since the hardware prefetches longer runs of weights
        // better.
        let key = "session.prepack.enable_parallel";
        builder = builder.with_config_entry(key, "1").map_err(text)?;
        let key = "mlas.nchwc_pointwise_conv_max_input_channel_batch";
        builder = builder.with_config_entry(key, "512").map_err(text)?;
    }
    if options.gpu_layers.is_some() {
        let (key, setting) = (layers_on_cpu::OPTION, layers_on_cpu::SETTING);
        builder = builder.with_config_entry(key, setting).map_err(text)?;
    }
    if let Some(folder) = &options.profile {
        builder = builder
            .with_profiling(folder.join("profile"))
            .map_err(text)?;
    }
    if let Provider::Cuda(device) = options.provider {
        cuda_libraries::preload();
        // This optimizer would move rotary embeddings into attention that are separate nodes
        // because attention doesn't support them.
        let key = "optimization.disable_specified_optimizers";
        let fusion = "GroupQueryAttentionFusion";
        builder = builder.with_config_entry(key, fusion).map_err(text)?;
        // Weights live as long as the session, so they don't need the arena, which rounds sizes up.
        let key = "session.use_device_allocator_for_initializers";
        builder = builder.with_config_entry(key, "1").map_err(text)?;
        let mut cuda = CUDA::default()
            .with_device_id(device as i32)
            .with_cuda_graph(stream.is_some())
            // The default strategy doubles the size of each extension, so up to half of the memory
            // is never used.
            .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
            .with_tf32(TF32);
        if let Some(stream) = stream {
            // SAFETY: the engine drops its stream after its sessions.
            #[expect(unsafe_code, reason = "the stream must outlive the session")]
            let on_stream = unsafe { cuda.with_compute_stream(stream.handle()) };
            cuda = on_stream;
        }
        // Otherwise `ort` silently falls back to the CPU.
        let cuda = cuda.build().error_on_failure();
        builder = builder.with_execution_providers([cuda]).map_err(text)?;
    }
    Ok(builder)
}

/// Adds advice on missing CUDA libraries to ONNX Runtime's message.
fn explain_cuda(message: &str) -> String {
    match cuda_libraries::preload().advice() {
        Some(advice) => format!("{message}; {advice}"),
        None => message.to_owned(),
    }
}

/// Runs the session with its binding. `ort`'s own call wraps every output in a new value: two for
/// each layer in every step, which nothing here uses.
#[expect(unsafe_code, reason = "the safe call collects all outputs")]
pub(super) fn run_bound(
    session: &Session,
    binding: &IoBinding,
    options: Option<&RunOptions>,
) -> Result<(), String> {
    let api = ort::api();
    let options = options.map_or(std::ptr::null(), |options| options.ptr());
    // SAFETY: both handles are alive, and run options may be null. A status that isn't null is an
    // error; its message is copied before the status is released.
    unsafe {
        let run = api.RunWithBinding;
        let status = run(session.ptr().cast_mut(), options, binding.ptr());
        if status.0.is_null() {
            return Ok(());
        }
        let message = (api.GetErrorMessage)(status.0);
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        (api.ReleaseStatus)(status.0);
        Err(text)
    }
}
