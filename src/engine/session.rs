//! One session of ONNX Runtime: opening it and running it.

use std::ffi::CStr;
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
use crate::lowering::block_size;
use crate::lowering::model_file::ROOT;
use crate::onnxruntime::OnnxRuntime;
use crate::onnxruntime::cuda::Stream;
use crate::onnxruntime::cuda_libraries;

/// How many channels ONNX Runtime keeps side by side on this processor; `None` if it has no such
/// layout. A process has one ONNX Runtime, which is asked once.
pub fn block_size(runtime: &OnnxRuntime) -> Option<usize> {
    static BLOCK_SIZE: OnceLock<Option<usize>> = OnceLock::new();
    let open = |model: &Model| {
        let builder = Session::builder(runtime.environment()).ok()?;
        let mut builder = builder.with_log_level(LogLevel::Fatal).ok()?;
        builder.commit_from_memory(&model.encode_to_vec()).ok()
    };
    *BLOCK_SIZE.get_or_init(|| block_size::of_runtime(open))
}

/// Opens a session on `model`, with `weights` that are in memory already; `packs` lets ONNX Runtime copy others into
/// its own layout. Given a stream, it runs on that and may record CUDA graphs.
pub(super) fn open_session(
    runtime: &OnnxRuntime,
    name: &str,
    model: &Model,
    options: &EngineOptions,
    packs: bool,
    weights: Option<&SharedWeights>,
    stream: Option<&Stream>,
) -> Result<Session, EngineError> {
    let builder =
        configure(runtime, options, packs, stream).map_err(|error| match options.provider {
            Provider::Cuda(device) => EngineError::Cuda {
                device,
                message: explain_cuda(&error),
            },
            Provider::Cpu => EngineError::Run {
                name: name.to_owned(),
                message: error,
            },
        });
    let mut builder = builder?;
    if let Some(weights) = weights {
        let failed = |message| EngineError::Run {
            name: name.to_owned(),
            message,
        };
        weights.share(&mut builder, model).map_err(failed)?;
    }
    builder
        .commit_from_memory(&model.encode_to_vec())
        .map_err(EngineError::runtime(name))
}

fn configure(
    runtime: &OnnxRuntime,
    options: &EngineOptions,
    packs: bool,
    stream: Option<&Stream>,
) -> Result<SessionBuilder, String> {
    let text = |error: ort::Error<SessionBuilder>| error.message().to_owned();
    let key = "session.model_external_initializers_file_folder_path";
    let mut builder =
        Session::builder(runtime.environment()).map_err(|error| error.message().to_owned())?;
    builder = builder.with_log_level(LogLevel::Error).map_err(text)?;
    builder = builder.with_intra_threads(options.threads).map_err(text)?;
    let level = GraphOptimizationLevel::Level3;
    builder = builder.with_optimization_level(level).map_err(text)?;
    builder = builder.with_prepacking(packs).map_err(text)?;
    // Input lengths change from step to step, and a memory pattern is made for each of them.
    builder = builder.with_memory_pattern(false).map_err(text)?;
    builder = builder.with_config_entry(key, ROOT).map_err(text)?;
    // Threads that wait for the next step by spinning take the cores of whoever's turn it is.
    let key = "session.force_spinning_stop";
    builder = builder.with_config_entry(key, "1").map_err(text)?;
    // And a session's threads spin from their start on, by default for as long as the other one takes to open, on the
    // cores that it needs. What a step does between two operators that share their work is much shorter than this.
    let key = "session.intra_op.spin_duration_us";
    builder = builder.with_config_entry(key, "500").map_err(text)?;
    if options.provider == Provider::Cpu {
        // Weights, where they are copied, by all threads; and longer runs of them for each part of a convolution's
        // sum, which are read ahead better than the 128 that are the default.
        let key = "session.prepack.enable_parallel";
        builder = builder.with_config_entry(key, "1").map_err(text)?;
        let key = "mlas.nchwc_pointwise_conv_max_input_channel_batch";
        builder = builder.with_config_entry(key, "512").map_err(text)?;
    }
    if let Some(folder) = &options.profile {
        builder = builder
            .with_profiling(folder.join("profile"))
            .map_err(text)?;
    }
    if let Provider::Cuda(device) = options.provider {
        cuda_libraries::preload();
        // It puts rotations into attention that are left outside since attention can't do them.
        let key = "optimization.disable_specified_optimizers";
        let fusion = "GroupQueryAttentionFusion";
        builder = builder.with_config_entry(key, fusion).map_err(text)?;
        // Weights stay as long as the session: outside the arena, which hands out memory again and rounds it up.
        let key = "session.use_device_allocator_for_initializers";
        builder = builder.with_config_entry(key, "1").map_err(text)?;
        let mut cuda = CUDA::default()
            .with_device_id(device as i32)
            .with_cuda_graph(stream.is_some())
            // The other strategy doubles what it takes at every turn, so that up to half of it is never used.
            .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
            .with_tf32(TF32);
        if let Some(stream) = stream {
            // SAFETY: the engine drops its stream after its sessions.
            #[expect(unsafe_code, reason = "the stream must outlive the session")]
            let on_stream = unsafe { cuda.with_compute_stream(stream.handle()) };
            cuda = on_stream;
        }
        // Without this, `ort` falls back to the CPU without a word.
        let cuda = cuda.build().error_on_failure();
        builder = builder.with_execution_providers([cuda]).map_err(text)?;
    }
    Ok(builder)
}

/// Adds what's missing on this machine to ONNX Runtime's message.
fn explain_cuda(message: &str) -> String {
    match cuda_libraries::preload().advice() {
        Some(advice) => format!("{message}; {advice}"),
        None => message.to_owned(),
    }
}

/// Runs the graph on what's bound. `ort`'s own call wraps every output in a new value, at each step two
/// for every layer, which nothing here looks at.
#[expect(unsafe_code, reason = "the safe call collects all outputs")]
pub(super) fn run_bound(
    session: &Session,
    binding: &IoBinding,
    options: Option<&RunOptions>,
) -> Result<(), String> {
    let api = ort::api();
    let options = options.map_or(std::ptr::null(), |options| options.ptr());
    // SAFETY: both handles are alive; null run options are allowed; a status that isn't null is an
    // error, whose message is copied before it's released.
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
