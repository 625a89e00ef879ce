//! Why a study, or one of its targets, fails.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::parameters::StudyParametersError;
use super::prepared_folder::PreparedFolderError;
use super::prompt_source::PromptError;
use super::sessions::SessionError;
use super::setup::SetupError;
use super::target::TargetError;
use super::task::TaskError;
use super::tokenizer::TokenizerChoiceError;
use crate::engine::EngineError;
use crate::measure::quiet::{QuietGate, Waited};
use crate::model::TokenizerError;
use crate::prepare::PrepareError;
use crate::report::WriteError;

/// Why a study, or one of its targets, fails.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum StudyError {
    #[error(transparent)]
    Target(Box<TargetError>),
    #[error(transparent)]
    PreparedFolder(Box<PreparedFolderError>),
    #[error(transparent)]
    Parameters(Box<StudyParametersError>),
    #[error(transparent)]
    Task(Box<TaskError>),
    #[error(transparent)]
    Setup(Box<SetupError>),
    #[error(transparent)]
    Session(Box<SessionError>),
    #[error(transparent)]
    TokenizerChoice(Box<TokenizerChoiceError>),
    #[error(transparent)]
    Tokenizer(Box<TokenizerError>),
    #[error(transparent)]
    Prompt(Box<PromptError>),
    #[error(transparent)]
    Prepare(Box<PrepareError>),
    #[error(transparent)]
    Engine(Box<EngineError>),
    #[error(transparent)]
    Write(Box<WriteError>),
    #[error("cannot find this program's own file")]
    Program(#[source] io::Error),
    #[error("cannot make a folder for other adapters")]
    TemporaryFolder(#[source] io::Error),
    #[error("cannot write the base's measurement")]
    BaseMeasurement(#[source] io::Error),
    #[error(
        "the weights of the {subjects} variants that are measured together take {needed_gib} GiB, and the GPU has {has_gib} GiB{why}: \
         take a larger one, `--quantize`, or `--ep cpu`"
    )]
    GpuTooSmall {
        subjects: usize,
        needed_gib: String,
        has_gib: String,
        /// Why not some of the layers are there, with what comes before it; empty if that wasn't
        /// asked for.
        why: String,
    },
    /// What failed, and then its result couldn't be written either.
    #[error("{write}")]
    Unwritten {
        write: String,
        source: Box<StudyError>,
    },
    #[error(
        "what was measured is in `{}`, as it can't be written to its place", path.display()
    )]
    Rescued { path: PathBuf, source: WriteError },
    /// It was measured, and something went wrong with it; the results are written.
    #[error("{0}")]
    Measurement(String),
    /// Some of several targets, which are named.
    #[error("failed: {}", .0.join(", "))]
    Targets(Vec<String>),
    /// What was measured until then is written.
    #[error("interrupted")]
    Interrupted,
    #[error("{0}")]
    Busy(Box<Busy>),
    #[error(
        "`--quiet-gate` can't tell what other processes do: it needs Linux, whose `/proc/stat` counts the cores' time; \
         leave it out to measure without"
    )]
    UntoldOthers,
}

/// The machine didn't become quiet. Nothing was measured, and nothing is written.
#[derive(Debug)]
pub struct Busy {
    /// What was waited for.
    pub gate: QuietGate,
    /// What came of it.
    pub waited: Waited,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "the machine isn't quiet after {} s, so nothing was measured: {} (less than {} % was asked for). Stop them; or wait \
             longer (`--quiet-gate 10m`), allow more (`--quiet-share`), or measure all the same (`--when-busy measure`)",
            self.waited.seconds,
            self.waited.last,
            self.gate.share * 100.0
        )
    }
}

/// Causes are boxed, so that a `Result` stays small.
macro_rules! from_causes {
    ($($variant:ident($cause:ty)),+ $(,)?) => {$(
        impl From<$cause> for StudyError {
            fn from(cause: $cause) -> Self {
                Self::$variant(Box::new(cause))
            }
        }
    )+};
}

from_causes!(
    Target(TargetError),
    PreparedFolder(PreparedFolderError),
    Parameters(StudyParametersError),
    Task(TaskError),
    Setup(SetupError),
    Session(SessionError),
    TokenizerChoice(TokenizerChoiceError),
    Tokenizer(TokenizerError),
    Prompt(PromptError),
    Prepare(PrepareError),
    Engine(EngineError),
    Write(WriteError),
);

impl StudyError {
    /// The error and its causes, in one line.
    pub fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    }
}
