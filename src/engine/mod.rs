//! Runs a prepared variant on ONNX Runtime: prefill, then one token a step, over a cache that's updated
//! in place.

mod adapter;
mod bindings;
mod cache;
mod error;
mod model_file;
mod onnx_runtime;
mod options;

use std::rc::Rc;

use ort::session::IoBinding;
use ort::session::Session;
use ort::value::{DynTensor, Tensor};

pub use adapter::ResidentAdapter;
pub use error::EngineError;
pub use onnx_runtime::OnnxRuntime;
pub use options::{EngineOptions, Provider, WeightsMode};

use crate::measure::timings::Engine;
use crate::prepare::{PreparedVariant, PromptKind};
use crate::weights::{Dtype, widen};
use bindings::{bytes_of, element_type, new_tensor};

/// A session with its cache and bound tensors.
///
/// Fields are dropped in order: bindings and tensors before the session that they belong to.
#[derive(Debug)]
pub struct DecoderEngine {
    binding: IoBinding,
    /// Keys and values of every layer, bound as `past` and as `present`.
    _cache: Vec<DynTensor>,
    logits: DynTensor,
    next_token: Tensor<i64>,
    adapter: Rc<ResidentAdapter>,
    session: Session,
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
    /// Opens a session on `variant` and allocates its cache.
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
        let bytes = model_file::read(&variant.folder, options.max_length)?;
        let session = runtime.open_session(&name, &bytes, options)?;
        let failed = EngineError::runtime(&name);

        let mut binding = session.create_binding().map_err(&failed)?;
        let compute = element_type(manifest.compute);
        let device = options.device_allocator(&session).map_err(&failed)?;
        let device = device.as_ref().unwrap_or(session.allocator());
        let host = session.allocator();

        let cache = cache::bind(&mut binding, host, device, variant, options)?;
        let logits_allocator = if options.logits_on_host { host } else { device };
        let shape = [options.batch_size, 1, manifest.vocab_size];
        let mut logits = DynTensor::new(logits_allocator, compute, shape).map_err(&failed)?;
        binding
            .bind_output("logits", &mut logits)
            .map_err(&failed)?;
        let mut next_token = Tensor::<i64>::new(host, [options.batch_size, 1]).map_err(&failed)?;
        binding
            .bind_output("next_token", &mut next_token)
            .map_err(&failed)?;
        let adapter = ResidentAdapter::read(host, variant)?;
        adapter.bind(&mut binding)?;

        let (prefix, virtual_tokens) = match prompt_kind {
            Some(PromptKind::Prefix(count)) => (count, 0),
            Some(PromptKind::VirtualTokens(count)) => (0, count),
            None => (0, 0),
        };
        Ok(Self {
            binding,
            _cache: cache,
            logits,
            next_token,
            adapter: Rc::new(adapter),
            session,
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

    fn run(&mut self, ids: &[u32], added: usize) -> Result<u32, EngineError> {
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            return Err(EngineError::TokenId {
                id,
                vocab_size: self.vocab_size,
            });
        }
        let total = self.length + added;
        if total > self.max_length {
            return Err(EngineError::TooLong {
                needed: total,
                reserved: self.max_length,
            });
        }
        let failed = EngineError::runtime(&self.name);
        let host = self.session.allocator();
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        // Every sequence of the batch is given the same tokens, and so makes the same ones.
        let batch = self.batch_size;
        let shape = [batch, ids.len()];
        let input = new_tensor(host, &shape, &ids.repeat(batch)).map_err(&failed)?;
        let ones = vec![1_i64; batch * total];
        let mask = new_tensor(host, &[batch, total], &ones).map_err(&failed)?;
        self.binding
            .bind_input("input_ids", &input)
            .map_err(&failed)?;
        self.binding
            .bind_input("attention_mask", &mask)
            .map_err(&failed)?;
        onnx_runtime::run_bound(&self.session, &self.binding).map_err(|message| {
            EngineError::Run {
                name: self.name.clone(),
                message,
            }
        })?;
        self.length = total;
        let next = self.next_tokens()[0];
        u32::try_from(next).map_err(|_| EngineError::Run {
            name: self.name.clone(),
            message: format!("`next_token` is {next}"),
        })
    }

    fn bind_prompt(&mut self, rows: bool) -> Result<(), EngineError> {
        let Some(prompt) = &self.adapter.prompt else {
            return Ok(());
        };
        let failed = EngineError::runtime(&self.name);
        if rows {
            return self
                .binding
                .bind_input(crate::graph::PROMPT_INPUT, prompt.as_ref())
                .map_err(&failed);
        }
        let width = prompt.shape()[1];
        let empty = DynTensor::new(self.session.allocator(), *prompt.data_type(), [0, width]);
        let empty = empty.map_err(&failed)?;
        self.binding
            .bind_input(crate::graph::PROMPT_INPUT, &empty)
            .map_err(&failed)
    }

    /// Reads another adapter for this session, to be bound by [`swap_adapter`](Self::swap_adapter).
    ///
    /// # Errors
    /// If its file can't be read, or it was made for another graph.
    pub fn load_adapter(&self, variant: &PreparedVariant) -> Result<ResidentAdapter, EngineError> {
        let adapter = ResidentAdapter::read(self.session.allocator(), variant)?;
        adapter.check_inputs(&self.adapter)?;
        Ok(adapter)
    }

    /// Binds an adapter in place of the present one. The next prefill runs with it.
    ///
    /// # Errors
    /// If ONNX Runtime refuses a tensor.
    pub fn swap_adapter(&mut self, adapter: &Rc<ResidentAdapter>) -> Result<(), EngineError> {
        adapter.bind(&mut self.binding)?;
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
        self.bind_prompt(true)?;
        let token = self.run(prompt_ids, self.virtual_tokens + prompt_ids.len())?;
        self.bind_prompt(false)?;
        Ok(token)
    }

    fn decode(&mut self, token: u32) -> Result<u32, EngineError> {
        self.run(&[token], 1)
    }
}
