//! Opening a variant: laid-out weights, sessions, and bound tensors.

use std::collections::BTreeSet;
use std::rc::Rc;

use ort::value::{DynTensor, Tensor};

use super::cuda::{CapturedSteps, check_capturable, open_captured};
use super::session::block_size;
use super::sessions::Sessions;
use super::shared_weights::SharedWeights;
use super::states::States;
use super::tensors::element_type;
use super::{
    DecoderEngine, EngineError, EngineOptions, NotLowered, OnnxRuntime, Provider, ResidentAdapter,
    WeightsMode, cache,
};
use crate::graph::AttentionOperator;
use crate::graph::proto::Model;
use crate::lowering::{lay_out, layers_on_cpu, lower, model_file};
use crate::onnxruntime::cuda::Stream;
use crate::prepared::{Manifest, PreparedVariant, PromptKind};

/// The laid-out weights of a variant exist.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LaidOut {
    /// Seconds that laying out this variant's own weights took, if it was done just now.
    pub own_seconds: Option<f64>,
}

impl DecoderEngine {
    /// Lays out the weights of `variant` if its sessions need that, so that the first opening
    /// doesn't take longer than later ones. Before a file is written, `begin` is called with its
    /// size in bytes. `None` if nothing has to be laid out.
    ///
    /// # Errors
    /// If a file can't be read or written.
    pub fn lay_out(
        variant: &PreparedVariant,
        options: &EngineOptions,
        begin: &dyn Fn(u64),
    ) -> Result<Option<LaidOut>, EngineError> {
        let Some(block) = options
            .block()
            .filter(|_| variant.manifest.foreign.is_none())
        else {
            return Ok(None);
        };
        let model = model_file::read(&variant.folder, 1)?;
        let files = lay_out(&model, &variant.folder, block, begin)?;
        Ok(files.map(|files| LaidOut {
            own_seconds: files.own_seconds,
        }))
    }

    /// Checks that a variant can run `batch_size` sequences at once.
    ///
    /// # Errors
    /// If it can't: ONNX Runtime's `GroupQueryAttention` supports a trained prefix for one sequence
    /// only, and a graph of another program may have a fixed number of sequences.
    pub fn check_batch(manifest: &Manifest, batch_size: usize) -> Result<(), EngineError> {
        if let Some(graphs) = &manifest.foreign
            && let Some(fixed) = graphs.batch.filter(|fixed| *fixed != batch_size)
        {
            return Err(EngineError::FixedBatch {
                name: graphs.prompt.file.display().to_string(),
                fixed,
                batch_size,
            });
        }
        let prompt = manifest.adapter.as_ref().and_then(|adapter| adapter.prompt);
        match (prompt, manifest.attention, batch_size) {
            (Some(PromptKind::Prefix(_)), AttentionOperator::GroupQuery, 2..) => {
                Err(EngineError::PrefixBatch { batch_size })
            }
            _ => Ok(()),
        }
    }

    /// Checks that some layers of a variant can be computed on the CPU and the others on a GPU, if
    /// `options` ask for that.
    ///
    /// # Errors
    /// If they can't: ONNX Runtime's CPU provider has nearly no operators for bfloat16.
    pub fn check_gpu_layers(
        manifest: &Manifest,
        options: &EngineOptions,
    ) -> Result<(), EngineError> {
        match options.gpu_layers.is_none() || layers_on_cpu::takes(manifest.compute) {
            true => Ok(()),
            false => Err(EngineError::LayersInBfloat16),
        }
    }

    /// Opens sessions on `variant` and allocates its cache.
    ///
    /// # Errors
    /// If a file is missing or has changed, or ONNX Runtime can't run the graph as asked.
    pub fn open(
        runtime: &OnnxRuntime,
        variant: &PreparedVariant,
        options: &EngineOptions,
    ) -> Result<Self, EngineError> {
        match options.provider {
            Provider::Cuda(device) if options.cuda_graph => {
                open_captured(runtime, variant, options, device)
            }
            _ => Self::open_on(runtime, variant, options, None),
        }
    }

    /// Opens sessions. With a `stream`, decode steps become a CUDA graph.
    pub(super) fn open_on(
        runtime: &OnnxRuntime,
        variant: &PreparedVariant,
        options: &EngineOptions,
        stream: Option<Stream>,
    ) -> Result<Self, EngineError> {
        Self::check_batch(&variant.manifest, options.batch_size)?;
        Self::check_gpu_layers(&variant.manifest, options)?;
        let model = model_file::read(&variant.folder, options.max_length)?;
        let parts = Parts::open(runtime, variant, model, options, stream)?;
        let host = parts.sessions.step.session.allocator();
        let adapter = Rc::new(ResidentAdapter::read(host, variant)?);
        parts.assemble(variant, options, adapter)
    }
}

/// What an engine is made of, besides its cache and its adapter.
pub(super) struct Parts {
    pub sessions: Sessions,
    /// Laid-out weights, shared by the sessions.
    pub weights: Option<Rc<SharedWeights>>,
    /// The stream that the sessions run on, if decode steps are a CUDA graph.
    pub stream: Option<Stream>,
    /// Inputs of layers that run on the host.
    pub on_host: BTreeSet<String>,
    pub not_lowered: Vec<NotLowered>,
}

impl Parts {
    /// Opens sessions on `model`, the graph of `variant`.
    pub fn open(
        runtime: &OnnxRuntime,
        variant: &PreparedVariant,
        model: Model,
        options: &EngineOptions,
        stream: Option<Stream>,
    ) -> Result<Self, EngineError> {
        let manifest = &variant.manifest;
        let name = variant.folder.display().to_string();
        let block = options
            .block()
            .filter(|&block| block_size(runtime) == Some(block));
        let files = match block {
            Some(block) => lay_out(&model, &variant.folder, block, &|_| {})?,
            None => None,
        };
        let mut lowered = lower(model, options.lowering_target(), files.as_ref())?;
        let on_host = match options.gpu_layers {
            Some(layers) => layers_on_cpu::place(&mut lowered.step, layers),
            None => BTreeSet::new(),
        };
        if stream.is_some() {
            check_capturable(&lowered.step).map_err(|message| EngineError::Run {
                name: name.clone(),
                message,
            })?;
        }
        let weights = match &files {
            Some(files) if options.weights == WeightsMode::Resident => {
                Some(SharedWeights::read(lowered.models(), &|path| {
                    files.has(path)
                })?)
            }
            Some(files) => Some(SharedWeights::map(files.paths())?),
            None => None,
        };
        let adapter = manifest.adapter.as_ref();
        let whole = manifest.whole_prompts || adapter.is_some_and(|adapter| adapter.whole_calls);
        let sessions = Sessions::open(
            runtime,
            &name,
            &lowered,
            options,
            whole,
            weights.as_ref(),
            stream.as_ref(),
        )?;
        Ok(Self {
            sessions,
            weights: weights.map(Rc::new),
            stream,
            on_host,
            not_lowered: lowered.not_lowered,
        })
    }

    /// An engine for `variant` with `adapter`: allocates its cache, and binds everything.
    pub fn assemble(
        self,
        variant: &PreparedVariant,
        options: &EngineOptions,
        adapter: Rc<ResidentAdapter>,
    ) -> Result<DecoderEngine, EngineError> {
        let Self {
            mut sessions,
            weights,
            stream,
            on_host,
            not_lowered,
        } = self;
        let manifest = &variant.manifest;
        let name = variant.folder.display().to_string();
        let failed = EngineError::runtime(&name);
        let compute = element_type(manifest.compute);
        let device = options
            .device_allocator(&sessions.step.session)
            .map_err(&failed)?;
        let device = device.as_ref().unwrap_or(sessions.step.session.allocator());
        let host = sessions.step.session.allocator();
        let logits_allocator = if options.logits_on_host { host } else { device };
        let shape = [options.batch_size, 1, manifest.vocab_size];
        let mut logits = DynTensor::new(logits_allocator, compute, shape).map_err(&failed)?;
        let mut next_token = Tensor::<i64>::new(host, [options.batch_size, 1]).map_err(&failed)?;
        let mut cache = cache::allocate(host, device, variant, options, &on_host)?;
        let mut states = States::allocate(host, device, variant, options, &on_host)?;
        let mut captured = None;
        if stream.is_some() {
            let refused = |message| EngineError::Run {
                name: name.clone(),
                message,
            };
            let logits = DynTensor::new(device, compute, shape).map_err(&failed)?;
            let session = &sessions.step.session;
            let mut steps =
                CapturedSteps::new(session, device, options, logits).map_err(refused)?;
            adapter.bind(&mut steps.binding)?;
            cache::bind(&mut cache, &mut steps.binding, &name)?;
            states.bind(&mut steps.binding, &name)?;
            captured = Some(steps);
        }
        for bound in sessions.iter_mut() {
            bound
                .bind_outputs(&mut logits, &mut next_token)
                .map_err(&failed)?;
            adapter.bind(&mut bound.binding)?;
            cache::bind(&mut cache, &mut bound.binding, &name)?;
            states.bind(&mut bound.binding, &name)?;
        }

        let arenas = sessions
            .iter()
            .filter_map(|bound| options.arena(&bound.session))
            .collect();
        let prompt_kind = manifest.adapter.as_ref().and_then(|adapter| adapter.prompt);
        let prefix = match prompt_kind {
            Some(PromptKind::Prefix(count)) => count,
            _ => 0,
        };
        Ok(DecoderEngine {
            cache,
            states,
            logits,
            next_token,
            virtual_tokens: adapter.virtual_tokens(),
            adapter,
            arenas,
            captured,
            step_graph: None,
            sessions,
            stream,
            weights,
            name,
            compute: manifest.compute,
            vocab_size: manifest.vocab_size,
            prefix,
            keys_change_beyond: manifest.frequencies_change_beyond,
            history: Vec::new(),
            length: prefix,
            max_length: options.max_length,
            batch_size: options.batch_size,
            logits_on_host: options.logits_on_host,
            on_host,
            not_lowered,
        })
    }
}
