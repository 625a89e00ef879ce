//! The engine's errors.

use std::path::PathBuf;

use thiserror::Error;

use crate::lowering::gathered::NotGathered;
use crate::lowering::laid_out_tensor::LayOutError;
use crate::lowering::model_file::ModelFileError;
use crate::weights::WeightsError;

/// Why a variant can't be opened or run.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum EngineError {
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("no memory for {bytes} bytes of weights; `--weights mapped` needs none")]
    Memory {
        bytes: usize,
        source: std::io::Error,
    },
    #[error(transparent)]
    Model(#[from] ModelFileError),
    #[error(transparent)]
    Adapter(#[from] WeightsError),
    #[error(transparent)]
    Pack(#[from] LayOutError),
    #[error("ONNX Runtime cannot use CUDA device {device}: {message}")]
    Cuda { device: u32, message: String },
    #[error("ONNX Runtime cannot run `{name}`: {message}")]
    Run { name: String, message: String },
    #[error(
        "a prefix (prefix tuning) can't be run with a batch of {batch_size}: ONNX Runtime's `GroupQueryAttention` \
         supports a prompt after a filled cache for one sequence only"
    )]
    PrefixBatch { batch_size: usize },
    #[error(
        "`{name}` was exported for batches of {fixed}, and can't be run with {batch_size}; export it with an open batch size"
    )]
    FixedBatch {
        name: String,
        fixed: usize,
        batch_size: usize,
    },
    #[error(
        "layers in bfloat16 can't be computed on the CPU (`--gpu-layers`): ONNX Runtime has nearly no operators for it there; \
         `--dtype float16` can"
    )]
    LayersInBfloat16,
    #[error(transparent)]
    Gathered(NotGathered),
    #[error(
        "the adapters of `{name}` and `{other}` can't be in one session: `{input}` is {shape:?} in one and {other_shape:?} in \
         the other"
    )]
    Stacked {
        name: String,
        other: String,
        input: String,
        shape: Vec<usize>,
        other_shape: Vec<usize>,
    },
    #[error("the adapter of `{name}` can't replace that of `{other}`: {reason}")]
    Swap {
        name: String,
        other: String,
        reason: String,
    },
    #[error("token id {id} is not in the vocabulary (0 to {})", vocab_size - 1)]
    TokenId { id: u32, vocab_size: usize },
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    #[error(
        "prompt and new tokens need {needed} positions, but the model has {max_position_embeddings}{}",
        end.as_ref().map(|why| format!(": {why}")).unwrap_or_default()
    )]
    Positions {
        needed: usize,
        max_position_embeddings: usize,
        end: Option<String>,
    },
    #[error("{needed} positions are needed, and the cache was made for {reserved}")]
    TooLong { needed: usize, reserved: usize },
}

impl EngineError {
    /// Converts an error of ONNX Runtime into [`Run`](Self::Run), with the variant's `name`.
    pub fn runtime(name: &str) -> impl Fn(ort::Error) -> Self + use<> {
        let name = name.to_owned();
        move |error| Self::Run {
            name: name.clone(),
            message: error.message().to_owned(),
        }
    }
}
