//! Runs a prepared variant on ONNX Runtime: prefill, then one token a step, over a cache that's updated
//! in place.

mod adapter;
mod allocator;
mod bindings;
mod bound;
mod cache;
mod cuda;
mod error;
pub mod layout;
mod lengths;
mod model_file;
mod onnx_runtime;
mod options;
mod sessions;
mod shared_weights;

use std::path::Path;
use std::rc::Rc;

use ort::memory::Allocator;
use ort::value::{DynTensor, Tensor};

pub use adapter::ResidentAdapter;
pub use allocator::ArenaBytes;
pub use cuda::StepGraph;
pub use error::EngineError;
pub use onnx_runtime::OnnxRuntime;
pub use options::{EngineOptions, Provider, TF32, WeightsMode};

use crate::graph::proto::Model;
use crate::graph::{ACTIVE_FROM_INPUT, AttentionOperator};
use crate::measure::swap::SwapEngine;
use crate::measure::timings::Engine;
use crate::prepare::{Manifest, PreparedVariant, PromptKind};
use crate::runtime::cuda::Stream;
use crate::weights::{Dtype, widen};
use bindings::{bytes_of, element_type, new_tensor};
use cuda::CapturedSteps;
use layout::host::largest;
use layout::layouts;
use layout::pack::LaidOutFiles;
use layout::quantized::is_quantized;
use sessions::Sessions;
use shared_weights::SharedWeights;

/// What a variant's sessions need beside its folder is there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MadeReady {
    /// What laying out this variant's own weights took, in seconds, if it was done now.
    pub own_seconds: Option<f64>,
}

/// Sessions with their cache and bound tensors.
///
/// Fields are dropped in order: sessions after the tensors that they allocated.
#[derive(Debug)]
pub struct DecoderEngine {
    /// Keys and values of every layer, bound as `past` and as `present`.
    _cache: Vec<DynTensor>,
    logits: DynTensor,
    next_token: Tensor<i64>,
    adapter: Rc<ResidentAdapter>,
    /// The sessions' arenas, of which only statistics are wanted.
    arenas: Vec<Allocator>,
    /// Decode steps as a CUDA graph.
    captured: Option<CapturedSteps>,
    step_graph: Option<StepGraph>,
    sessions: Sessions,
    /// That the sessions run on, if decode steps are a CUDA graph.
    stream: Option<Stream>,
    /// Laid-out weights, which the sessions share.
    _weights: Option<SharedWeights>,
    name: String,
    compute: Dtype,
    vocab_size: usize,
    /// Rows of the cache that a generation starts with.
    prefix: usize,
    virtual_tokens: usize,
    /// Rows of the cache in use.
    length: usize,
    max_length: usize,
    batch_size: usize,
    logits_on_host: bool,
}

impl DecoderEngine {
    /// Makes what opening `variant` needs beside its folder, so that opening it takes no longer the first time. `begin`
    /// is told the bytes of a file that has to be written. `None` where nothing is needed.
    ///
    /// # Errors
    /// If a file can't be read or written.
    pub fn make_ready(
        variant: &PreparedVariant,
        options: &EngineOptions,
        begin: &dyn Fn(u64),
    ) -> Result<Option<MadeReady>, EngineError> {
        let Some(block) = options.block() else {
            return Ok(None);
        };
        let model = model_file::read(&variant.folder, 1)?;
        let files = laid_out(&model, &variant.folder, block, begin)?;
        Ok(files.map(|files| MadeReady {
            own_seconds: files.own_seconds,
        }))
    }

    /// Whether a variant runs so many sequences at once.
    ///
    /// # Errors
    /// If it doesn't.
    pub fn check_batch(manifest: &Manifest, batch_size: usize) -> Result<(), EngineError> {
        let prompt = manifest.adapter.as_ref().and_then(|adapter| adapter.prompt);
        match (prompt, manifest.attention, batch_size) {
            (Some(PromptKind::Prefix(_)), AttentionOperator::GroupQuery, 2..) => {
                Err(EngineError::PrefixBatch { batch_size })
            }
            _ => Ok(()),
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
                cuda::open_captured(runtime, variant, options, device)
            }
            _ => Self::open_on(runtime, variant, options, None),
        }
    }

    /// The same on a stream, if decode steps shall be a CUDA graph.
    fn open_on(
        runtime: &OnnxRuntime,
        variant: &PreparedVariant,
        options: &EngineOptions,
        stream: Option<Stream>,
    ) -> Result<Self, EngineError> {
        let manifest = &variant.manifest;
        let name = variant.folder.display().to_string();
        let prompt_kind = manifest.adapter.as_ref().and_then(|adapter| adapter.prompt);
        Self::check_batch(manifest, options.batch_size)?;
        let failed = EngineError::runtime(&name);
        let model = model_file::read(&variant.folder, options.max_length)?;
        let block = options
            .block()
            .filter(|&block| runtime.block_size() == Some(block));
        let files = match block {
            Some(block) => laid_out(&model, &variant.folder, block, &|_| {})?,
            None => None,
        };
        let layouts = layouts(model, options, files.as_ref())?;
        let weights = match &files {
            Some(files) if options.weights == WeightsMode::Resident => {
                Some(SharedWeights::read(layouts.models(), &|file| {
                    files.has(file)
                })?)
            }
            Some(files) => Some(SharedWeights::map(files.locations())?),
            None => None,
        };
        let adapter = manifest.adapter.as_ref();
        let whole = adapter.is_some_and(|adapter| adapter.whole_calls);
        let mut sessions = Sessions::open(
            runtime,
            &name,
            &layouts,
            options,
            whole,
            weights.as_ref(),
            stream.as_ref(),
        )?;

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
        let adapter = ResidentAdapter::read(host, variant)?;
        let mut cache = cache::allocate(host, device, variant, options)?;
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
            captured = Some(steps);
        }
        for bound in sessions.iter_mut() {
            bound
                .bind_outputs(&mut logits, &mut next_token)
                .map_err(&failed)?;
            adapter.bind(&mut bound.binding)?;
            cache::bind(&mut cache, &mut bound.binding, &name)?;
        }

        let arenas = sessions
            .iter()
            .filter_map(|bound| options.arena(&bound.session))
            .collect();
        let (prefix, virtual_tokens) = match prompt_kind {
            Some(PromptKind::Prefix(count)) => (count, 0),
            Some(PromptKind::VirtualTokens(count)) => (0, count),
            None => (0, 0),
        };
        Ok(Self {
            _cache: cache,
            logits,
            next_token,
            adapter: Rc::new(adapter),
            arenas,
            captured,
            step_graph: None,
            sessions,
            stream,
            _weights: weights,
            name,
            compute: manifest.compute,
            vocab_size: manifest.vocab_size,
            prefix,
            virtual_tokens,
            length: prefix,
            max_length: options.max_length,
            batch_size: options.batch_size,
            logits_on_host: options.logits_on_host,
        })
    }

    /// The logits that the last token was picked from, `[vocab_size]`, of the batch's first sequence.
    ///
    /// # Panics
    /// If the engine was opened without `logits_on_host`.
    pub fn logits(&self) -> Vec<f32> {
        assert!(self.logits_on_host, "logits are on the device");
        let count = self.vocab_size;
        widen(
            bytes_of(&self.logits, count * self.compute.size()),
            self.compute,
        )
    }

    /// The last token of every sequence of the batch.
    pub fn next_tokens(&self) -> &[i64] {
        self.next_token.extract_tensor().1
    }

    /// How decode steps are started, where a CUDA graph was asked for.
    pub fn step_graph(&self) -> Option<&StepGraph> {
        self.step_graph.as_ref()
    }

    /// What the arenas of ONNX Runtime's sessions hold together, on the GPU where they run there; `None` where they keep
    /// no statistics.
    pub fn arena_bytes(&self) -> Option<ArenaBytes> {
        let found: Option<Vec<ArenaBytes>> =
            self.arenas.iter().map(allocator::arena_bytes).collect();
        found?.into_iter().reduce(ArenaBytes::plus)
    }

    /// Runs `ids` behind `before` virtual tokens, and brings the next token back.
    fn run(&mut self, ids: &[u32], before: usize) -> Result<u32, EngineError> {
        let added = before + ids.len();
        let total = self.length + added;
        let bound = self.sessions.for_tokens(added);
        bound.run(&self.name, ids, self.batch_size, self.length..total)?;
        if !bound.picks {
            self.pick();
        }
        self.length = total;
        self.first_next_token()
    }

    fn first_next_token(&self) -> Result<u32, EngineError> {
        let next = self.next_tokens()[0];
        u32::try_from(next).map_err(|_| EngineError::Run {
            name: self.name.clone(),
            message: format!("`next_token` is {next}"),
        })
    }

    /// Picks the next token of every sequence from logits in float32, on the host.
    fn pick(&mut self) {
        let (_, logits) = self
            .logits
            .try_extract_tensor::<f32>()
            .expect("sessions that give logits alone give float32");
        let rows = logits.chunks_exact(self.vocab_size);
        let (_, next) = self.next_token.extract_tensor_mut();
        for (row, next) in rows.zip(next) {
            *next = largest(row) as i64;
        }
    }

    /// Whether `ids` are tokens of the model, and there's room for `added` positions.
    fn check(&self, ids: &[u32], added: usize) -> Result<(), EngineError> {
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            return Err(EngineError::TokenId {
                id,
                vocab_size: self.vocab_size,
            });
        }
        let needed = self.length + added;
        if needed > self.max_length {
            return Err(EngineError::TooLong {
                needed,
                reserved: self.max_length,
            });
        }
        Ok(())
    }

    /// Binds the virtual tokens, or none, to every session.
    fn bind_prompt(&mut self, rows: bool) -> Result<(), EngineError> {
        let Some(prompt) = &self.adapter.prompt else {
            return Ok(());
        };
        let failed = EngineError::runtime(&self.name);
        let width = prompt.shape()[1];
        let host = self.sessions.step.session.allocator();
        let none = DynTensor::new(host, *prompt.data_type(), [0, width]).map_err(&failed)?;
        let value = if rows { prompt.as_ref() } else { &none };
        for bound in self.sessions.iter_mut() {
            let binding = &mut bound.binding;
            binding
                .bind_input(crate::graph::PROMPT_INPUT, value)
                .map_err(&failed)?;
        }
        Ok(())
    }

    /// Tells an adapter that the prompt has to invoke where it begins to act: in all chunks, and in decode steps.
    fn bind_active_from(&mut self, prompt_ids: &[u32]) -> Result<(), EngineError> {
        let Some(start) = self.adapter.active_from(prompt_ids) else {
            return Ok(());
        };
        let failed = EngineError::runtime(&self.name);
        let host = self.sessions.step.session.allocator();
        let starts = vec![start; self.batch_size];
        let starts = new_tensor(host, &[self.batch_size, 1], &starts).map_err(&failed)?;
        for bound in self.sessions.iter_mut() {
            let binding = &mut bound.binding;
            binding
                .bind_input(ACTIVE_FROM_INPUT, &starts)
                .map_err(&failed)?;
        }
        Ok(())
    }

    /// Reads another adapter for this session, to be bound by [`swap_adapter`](Self::swap_adapter).
    ///
    /// # Errors
    /// If its file can't be read, or it was made for another graph.
    pub fn load_adapter(&self, variant: &PreparedVariant) -> Result<ResidentAdapter, EngineError> {
        let adapter = ResidentAdapter::read(self.sessions.step.session.allocator(), variant)?;
        adapter.check_inputs(&self.adapter)?;
        Ok(adapter)
    }

    /// Binds an adapter in place of the present one. The next prefill runs with it.
    ///
    /// # Errors
    /// If ONNX Runtime refuses a tensor.
    pub fn swap_adapter(&mut self, adapter: &Rc<ResidentAdapter>) -> Result<(), EngineError> {
        // It has the first adapter's places in memory.
        if self.captured.take().is_some() {
            let reason = "another adapter has been bound since it was recorded";
            self.step_graph = Some(StepGraph::Refused(reason.to_owned()));
        }
        for bound in self.sessions.iter_mut() {
            adapter.bind(&mut bound.binding)?;
        }
        self.adapter = Rc::clone(adapter);
        let prompt = self.adapter.prompt.as_ref();
        self.virtual_tokens = prompt.map_or(0, |prompt| prompt.shape()[0] as usize);
        Ok(())
    }
}

impl Engine for DecoderEngine {
    type Error = EngineError;

    fn prefill(&mut self, prompt_ids: &[u32]) -> Result<u32, EngineError> {
        if prompt_ids.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        self.length = self.prefix;
        self.check(prompt_ids, self.virtual_tokens + prompt_ids.len())?;
        let mut before = self.virtual_tokens;
        let mut rest = prompt_ids;
        self.bind_prompt(true)?;
        self.bind_active_from(prompt_ids)?;
        loop {
            // Virtual tokens go with the first chunk, and with one token at least.
            let size = self.sessions.next_chunk(before + rest.len());
            let (chunk, others) = rest.split_at(size.saturating_sub(before).clamp(1, rest.len()));
            let token = self.run(chunk, before)?;
            if before > 0 {
                before = 0;
                self.bind_prompt(false)?;
            }
            if others.is_empty() {
                return Ok(token);
            }
            rest = others;
        }
    }

    fn decode(&mut self, token: u32) -> Result<u32, EngineError> {
        self.check(&[token], 1)?;
        match self.captured {
            Some(_) => self.run_captured(token),
            None => self.run(&[token], 0),
        }
    }
}

/// Makes and opens what `model`'s sessions take in blocks of so many rows. A quantized model has no such weights.
fn laid_out(
    model: &Model,
    folder: &Path,
    block: usize,
    begin: &dyn Fn(u64),
) -> Result<Option<LaidOutFiles>, EngineError> {
    if is_quantized(model) {
        return Ok(None);
    }
    Ok(Some(LaidOutFiles::make_ready(model, folder, block, begin)?))
}

impl SwapEngine for DecoderEngine {
    type Adapter = Rc<ResidentAdapter>;

    fn swap(&mut self, adapter: &Rc<ResidentAdapter>) -> Result<(), EngineError> {
        self.swap_adapter(adapter)
    }
}
