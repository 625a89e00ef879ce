//! Runs a prepared variant on ONNX Runtime: prefill, then one token a step, over a cache that's updated
//! in place.

mod adapter;
mod bindings;
mod bound;
mod cache;
mod error;
pub mod layout;
mod model_file;
mod onnx_runtime;
mod options;

use std::path::Path;
use std::rc::Rc;

use ort::value::{DynTensor, Tensor};

pub use adapter::ResidentAdapter;
pub use error::EngineError;
pub use layout::{PACKED_CHUNK, PROMPT_CHUNK};
pub use onnx_runtime::OnnxRuntime;
pub use options::{EngineOptions, Provider, WeightsMode};

use crate::graph::proto::Model;
use crate::measure::timings::Engine;
use crate::prepare::{PreparedVariant, PromptKind};
use crate::weights::{Dtype, widen};
use bindings::{bytes_of, element_type};
use bound::BoundSession;
use layout::layouts;
use layout::pack::PanelFiles;

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
    /// For runs of several tokens, where they have a session of their own.
    prompt: Option<BoundSession>,
    step: BoundSession,
    chunks: Chunks,
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

/// How a prompt is cut.
#[derive(Debug, Clone, Copy)]
struct Chunks {
    /// Tokens, virtual ones included, that the session for prompts takes at once.
    prompt: usize,
    /// Tokens that the session for steps takes at once.
    step: usize,
}

impl DecoderEngine {
    /// Makes what opening `variant` needs beside its folder, so that opening it takes no longer the first time. `begin`
    /// is told the bytes of a file that has to be written.
    ///
    /// # Errors
    /// If a file can't be read or written.
    pub fn make_ready(
        variant: &PreparedVariant,
        options: &EngineOptions,
        begin: &dyn Fn(u64),
    ) -> Result<(), EngineError> {
        if options.wants_panels() {
            let model = model_file::read(&variant.folder, 1)?;
            panels(&model, &variant.folder, options, begin)?;
        }
        Ok(())
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
        let manifest = &variant.manifest;
        let name = variant.folder.display().to_string();
        let prompt_kind = manifest.adapter.as_ref().and_then(|adapter| adapter.prompt);
        if let (Some(PromptKind::Prefix(_)), batch_size @ 2..) = (prompt_kind, options.batch_size) {
            return Err(EngineError::PrefixBatch { batch_size });
        }
        let failed = EngineError::runtime(&name);
        let model = model_file::read(&variant.folder, options.max_length)?;
        let panels = panels(&model, &variant.folder, options, &|_| {})?;
        let layouts = layouts(model, options, &panels)?;
        let packs = options.weights == WeightsMode::Resident;
        let step = runtime.open_session(&name, &layouts.step, options, packs)?;
        let mut step = BoundSession::new(step).map_err(&failed)?;
        let mut prompt = match &layouts.prompt {
            Some(model) => {
                let session = runtime.open_session(&name, model, options, false)?;
                Some(BoundSession::new(session).map_err(&failed)?)
            }
            None => None,
        };
        let chunks = Chunks::of(&layouts, options);

        let compute = element_type(manifest.compute);
        let device = options.device_allocator(&step.session).map_err(&failed)?;
        let device = device.as_ref().unwrap_or(step.session.allocator());
        let host = step.session.allocator();
        let logits_allocator = if options.logits_on_host { host } else { device };
        let shape = [options.batch_size, 1, manifest.vocab_size];
        let mut logits = DynTensor::new(logits_allocator, compute, shape).map_err(&failed)?;
        let mut next_token = Tensor::<i64>::new(host, [options.batch_size, 1]).map_err(&failed)?;
        let adapter = ResidentAdapter::read(host, variant)?;
        let mut cache = cache::allocate(host, device, variant, options)?;
        for bound in prompt.iter_mut().chain([&mut step]) {
            bound
                .bind_outputs(&mut logits, &mut next_token)
                .map_err(&failed)?;
            adapter.bind(&mut bound.binding)?;
            cache::bind(&mut cache, bound, &name)?;
        }

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
            prompt,
            step,
            chunks,
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

    /// Runs `ids` behind `before` virtual tokens, and brings the next token back.
    fn run(&mut self, ids: &[u32], before: usize) -> Result<u32, EngineError> {
        let added = before + ids.len();
        let total = self.length + added;
        let bound = match &mut self.prompt {
            Some(prompt) if added > 1 && added <= self.chunks.prompt => prompt,
            _ => &mut self.step,
        };
        bound.run(&self.name, ids, self.batch_size, total)?;
        self.length = total;
        let next = self.next_tokens()[0];
        u32::try_from(next).map_err(|_| EngineError::Run {
            name: self.name.clone(),
            message: format!("`next_token` is {next}"),
        })
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
        let host = self.step.session.allocator();
        let none = DynTensor::new(host, *prompt.data_type(), [0, width]).map_err(&failed)?;
        let value = if rows { prompt.as_ref() } else { &none };
        for bound in self.prompt.iter_mut().chain([&mut self.step]) {
            let binding = &mut bound.binding;
            binding
                .bind_input(crate::graph::PROMPT_INPUT, value)
                .map_err(&failed)?;
        }
        Ok(())
    }

    /// Reads another adapter for this session, to be bound by [`swap_adapter`](Self::swap_adapter).
    ///
    /// # Errors
    /// If its file can't be read, or it was made for another graph.
    pub fn load_adapter(&self, variant: &PreparedVariant) -> Result<ResidentAdapter, EngineError> {
        let adapter = ResidentAdapter::read(self.step.session.allocator(), variant)?;
        adapter.check_inputs(&self.adapter)?;
        Ok(adapter)
    }

    /// Binds an adapter in place of the present one. The next prefill runs with it.
    ///
    /// # Errors
    /// If ONNX Runtime refuses a tensor.
    pub fn swap_adapter(&mut self, adapter: &Rc<ResidentAdapter>) -> Result<(), EngineError> {
        for bound in self.prompt.iter_mut().chain([&mut self.step]) {
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
        loop {
            // Virtual tokens go with the first chunk, and with one token at least.
            let size = self.chunks.size(before + rest.len());
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
        self.run(&[token], 0)
    }
}

impl Chunks {
    fn of(layouts: &layout::Layouts, options: &EngineOptions) -> Self {
        let prompt = if layouts.prompt.is_some() {
            PROMPT_CHUNK
        } else {
            0
        };
        let step = match (options.provider, options.batch_size) {
            _ if !layouts.step_takes_prompts => 1,
            // ONNX Runtime's attention takes a prompt behind a filled cache for one sequence only; and on a GPU more rows
            // are always better.
            (Provider::Cuda(_), _) | (_, 2..) => usize::MAX,
            (Provider::Cpu, _) => PACKED_CHUNK,
        };
        Self { prompt, step }
    }

    /// How many of `left` tokens go next.
    fn size(self, left: usize) -> usize {
        if left <= self.prompt {
            left
        } else {
            left.min(self.prompt.max(self.step))
        }
    }
}

/// Makes and opens the panels, where sessions that are opened with `options` use them.
fn panels(
    model: &Model,
    folder: &Path,
    options: &EngineOptions,
    begin: &dyn Fn(u64),
) -> Result<PanelFiles, EngineError> {
    match options.wants_panels() {
        true => Ok(PanelFiles::make_ready(model, folder, begin)?),
        false => Ok(PanelFiles::default()),
    }
}
