//! What sessions need: ONNX Runtime, their options, and weights that are laid out for the
//! processor.

use std::path::PathBuf;

use thiserror::Error;

use super::observer::{Event, Note};
use super::settings::GpuLayers;
use super::setup::Setup;
use crate::engine::{
    DecoderEngine, EngineError, EngineOptions, OnnxRuntime, Provider, StepGraph, WeightsMode,
};
use crate::machine::physical_cores;
use crate::onnxruntime::RuntimeError;
use crate::onnxruntime::install::{self, locate_or_install};
use crate::onnxruntime::library::Library;
use crate::onnxruntime::locate::{LocateError, locate};
use crate::prepared::{Manifest, PreparedVariant};

/// Sessions that can't be opened.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum SessionError {
    #[error(
        "ONNX Runtime is not on this machine, and `--offline` forbids to fetch it; run \
         `peft-bench runtime install`, or name a library in `ORT_DYLIB_PATH`"
    )]
    Offline,
    #[error(transparent)]
    Locate(#[from] LocateError),
    #[error(transparent)]
    Install(#[from] install::RuntimeError),
    #[error(transparent)]
    Load(#[from] RuntimeError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("cannot write `{}`", path.display())]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
}

impl Setup<'_> {
    /// Finds ONNX Runtime, or fetches it.
    ///
    /// # Errors
    /// If it can't be had.
    pub fn library(&self, provider: Provider) -> Result<Library, SessionError> {
        let cuda = matches!(provider, Provider::Cuda(_));
        if self.settings.offline {
            return locate(cuda)?.ok_or(SessionError::Offline);
        }
        let library = locate_or_install(cuda, &|event| self.tell(Event::Install(event)));
        self.tell(Event::BytesEnded);
        let library = library?;
        self.tell(Event::LibraryFound {
            library: &library,
            provider,
        });
        Ok(library)
    }

    /// Finds or fetches ONNX Runtime, and loads it.
    ///
    /// # Errors
    /// If it can't be had or loaded.
    pub fn onnx_runtime(&self, provider: Provider) -> Result<OnnxRuntime, SessionError> {
        Ok(OnnxRuntime::load(&self.library(provider)?)?)
    }

    /// How sessions are opened, for a cache of `max_length` rows; `weights` unless the settings say
    /// otherwise.
    pub fn engine_options(
        &self,
        provider: Provider,
        max_length: usize,
        weights: WeightsMode,
    ) -> EngineOptions {
        EngineOptions {
            provider,
            threads: self.settings.threads.unwrap_or_else(physical_cores),
            weights: self.settings.weights.unwrap_or(weights),
            batch_size: 1,
            max_length,
            logits_on_host: false,
            gpu_layers: match self.settings.gpu_layers {
                GpuLayers::First(layers) => Some(layers),
                GpuLayers::Auto | GpuLayers::All => None,
            },
            cuda_graph: self.settings.cuda_graph,
            profile: None,
        }
    }

    /// Opens sessions on `variant`, and notes if its decode steps aren't the CUDA graph that was
    /// asked for.
    ///
    /// # Errors
    /// If they can't be opened.
    pub fn open_engine(
        &self,
        runtime: &OnnxRuntime,
        variant: &PreparedVariant,
        options: &EngineOptions,
    ) -> Result<DecoderEngine, EngineError> {
        let engine = DecoderEngine::open(runtime, variant, options)?;
        if let Some(StepGraph::Refused(reason)) = engine.step_graph() {
            self.note(Note::NoCudaGraph {
                variant: variant.manifest.variant,
                reason,
            });
        }
        Ok(engine)
    }

    /// Makes the copy of the weights that's laid out for the processor, where sessions will use
    /// one, and records in the manifest what that took.
    ///
    /// # Errors
    /// If a file can't be read or written.
    pub fn lay_out(
        &self,
        prepared: &mut PreparedVariant,
        options: &EngineOptions,
    ) -> Result<(), SessionError> {
        let ready = DecoderEngine::lay_out(prepared, options, &|bytes| {
            self.tell(Event::LayingOut { bytes });
        })?;
        let manifest = &mut prepared.manifest;
        match ready {
            // Made at another time, perhaps; these sessions do without.
            None => manifest.lay_out_seconds = None,
            Some(ready) if ready.own_seconds.is_some() => {
                manifest.lay_out_seconds = ready.own_seconds;
                let folder = &prepared.folder;
                manifest
                    .write(folder)
                    .map_err(|source| SessionError::Write {
                        path: folder.join(Manifest::FILE),
                        source,
                    })?;
            }
            Some(_) => {}
        }
        Ok(())
    }
}
