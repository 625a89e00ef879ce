//! The worker's side of a mixed batch: opens the engines, and lets them take turns.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::rc::Rc;

use super::mixed::{
    MixedForm, MixedMemory, MixedTimes, ReadyBatch, Rounds, counts, of_rows, time_batches,
};
use super::request::{MixedPlan, ServingRequest};
use crate::engine::logits::difference;
use crate::engine::{DecoderEngine, EngineOptions, OnnxRuntime, ResidentAdapter, RowEngine, Rows};
use crate::measure::memory::ProcessMemory;
use crate::measure::timings::SystemClock;
use crate::onnxruntime::Provider;
use crate::parity::{Picks, Trace, trace};
use crate::prepared::PreparedVariant;

type Failure = Box<dyn Error + Send + Sync>;

/// Forms that a method doesn't have, with the reason.
type Refused = Vec<(MixedForm, String)>;

/// What the engines are made from.
struct Stage<'a> {
    runtime: OnnxRuntime,
    request: &'a ServingRequest,
    plan: &'a MixedPlan,
    /// One a size of groups; groups of a size are beside it.
    by_size: BTreeMap<usize, DecoderEngine>,
    adapters: Vec<Rc<ResidentAdapter>>,
}

/// Measures several adapters in one batch.
pub(super) fn mixed(request: &ServingRequest, plan: &MixedPlan) -> Result<MixedTimes, Failure> {
    let runtime = OnnxRuntime::load(&request.library)?;
    let mut stage = Stage {
        runtime,
        request,
        plan,
        by_size: BTreeMap::new(),
        adapters: Vec::new(),
    };
    let alone = EngineOptions {
        logits_on_host: true,
        ..stage.options(1)
    };
    let mut reference = DecoderEngine::open(&stage.runtime, &request.unmerged, &alone)?;
    let memory = stage.load(&reference)?;
    let traces = stage.traces(&mut reference)?;
    let dtype = request.unmerged.manifest.dtype;
    let picks: Vec<Picks> = traces.iter().map(|trace| trace.picks(dtype)).collect();

    let (mut batches, refused) = stage.batches()?;
    let rounds = Rounds {
        prompt_ids: &request.prompt_ids,
        new_tokens: request.new_tokens,
        count: request.rounds,
        seed: request.seed,
    };
    let logits_difference = stage.logits_difference(&mut batches, &traces)?;
    let (found, mut tokens) = time_batches(&mut batches, &SystemClock::new(), rounds, &picks)?;
    let mut sequences: Vec<&[u32]> = traces.iter().map(|trace| trace.tokens.as_slice()).collect();
    sequences.sort_unstable();
    sequences.dedup();
    tokens.distinct = sequences.len();
    tokens.logits_difference = logits_difference.filter(|found| found.is_finite());
    tokens.nearest_adapters = nearest(&traces);
    Ok(MixedTimes {
        rows: plan.rows,
        prompt_tokens: request.prompt_ids.len(),
        new_tokens: request.new_tokens,
        adapters: plan.names.clone(),
        batches: found,
        memory,
        tokens,
        refused,
    })
}

/// The difference between the logits of the two adapters that are most alike.
fn nearest(traces: &[Trace]) -> Option<f32> {
    let first = |trace: &Trace| trace.logits[..1].to_vec();
    let mut least: Option<f32> = None;
    for (index, one) in traces.iter().enumerate() {
        for other in &traces[..index] {
            let found = difference(&first(one), &first(other));
            least = Some(least.map_or(found, |least| least.min(found)));
        }
    }
    least.filter(|least| least.is_finite())
}

impl Stage<'_> {
    /// How a session for this number of rows is opened.
    fn options(&self, rows: usize) -> EngineOptions {
        let request = self.request;
        let virtual_tokens = self.variants().map(|one| one.manifest.num_virtual_tokens());
        EngineOptions {
            batch_size: rows,
            max_length: virtual_tokens.max().unwrap_or(0)
                + request.prompt_ids.len()
                + request.new_tokens,
            logits_on_host: request.options.provider == Provider::Cpu,
            cuda_graph: false,
            ..request.options.clone()
        }
    }

    /// The variants of all adapters.
    fn variants(&self) -> impl Iterator<Item = &PreparedVariant> {
        std::iter::once(&self.request.unmerged).chain(&self.plan.others)
    }

    /// Loads all adapters, one after the other.
    fn load(&mut self, engine: &DecoderEngine) -> Result<MixedMemory, Failure> {
        let before = ProcessMemory::read()?;
        let mut readings = vec![before];
        let mut adapters = Vec::new();
        for variant in self.variants() {
            adapters.push(Rc::new(engine.load_adapter(variant)?));
            readings.push(ProcessMemory::read()?);
        }
        self.adapters = adapters;
        Ok(MixedMemory {
            adapter_bytes: self.adapters.first().map_or(0, |adapter| adapter.bytes()),
            resident_bytes: readings.iter().map(|reading| reading.rss_bytes).collect(),
            anonymous_bytes: readings
                .iter()
                .map(|reading| reading.anonymous_bytes)
                .collect(),
        })
    }

    /// What each adapter generates by itself, in a single sequence.
    fn traces(&self, engine: &mut DecoderEngine) -> Result<Vec<Trace>, Failure> {
        let mut traces = Vec::with_capacity(self.adapters.len());
        for adapter in &self.adapters {
            engine.swap_adapter(adapter)?;
            traces.push(trace(
                engine,
                &self.request.prompt_ids,
                self.request.new_tokens,
            )?);
        }
        Ok(traces)
    }

    /// Everything that takes turns, and the forms that the method doesn't have.
    fn batches(&mut self) -> Result<(Vec<ReadyBatch<Rows>>, Refused), Failure> {
        let (rows, most) = (self.plan.rows, self.adapters.len());
        let mut batches = Vec::new();
        if let Some(base) = &self.request.base {
            let engine = DecoderEngine::open(&self.runtime, base, &self.options(rows))?;
            batches.push(ReadyBatch {
                adapters: 0,
                form: None,
                of_rows: Vec::new(),
                engine: Rows::Grouped(vec![engine]),
            });
        }
        batches.push(ReadyBatch {
            adapters: 1,
            form: None,
            of_rows: vec![0; rows],
            engine: self.grouped(&vec![0; rows])?,
        });
        let mut refused = Vec::new();
        for &form in &self.plan.forms {
            let gathered = match form {
                MixedForm::Grouped => None,
                MixedForm::Gathered => match DecoderEngine::not_gathered(&self.request.unmerged)? {
                    None => Some(self.gathered()?),
                    Some(reason) => {
                        refused.push((form, reason.to_string()));
                        continue;
                    }
                },
            };
            for count in counts(most).into_iter().filter(|count| *count > 1) {
                let of_rows = of_rows(rows, count);
                batches.push(ReadyBatch {
                    adapters: count,
                    form: Some(form),
                    engine: match &gathered {
                        Some(engine) => Rows::Gathered(Rc::clone(engine), of_rows.clone()),
                        None => self.grouped(&of_rows)?,
                    },
                    of_rows,
                });
            }
        }
        Ok((batches, refused))
    }

    /// An engine for each group of rows with the same adapter.
    fn grouped(&mut self, of_rows: &[usize]) -> Result<Rows, Failure> {
        let mut groups = Vec::new();
        for group in of_rows.chunk_by(|one, other| one == other) {
            let (size, adapter) = (group.len(), group[0]);
            let options = self.options(size);
            let variant = &self.request.unmerged;
            if !self.by_size.contains_key(&size) {
                let engine = DecoderEngine::open(&self.runtime, variant, &options)?;
                self.by_size.insert(size, engine);
            }
            let engine = &self.by_size[&size];
            groups.push(engine.beside(variant, &options, &self.adapters[adapter])?);
        }
        Ok(Rows::Grouped(groups))
    }

    /// One engine for all adapters.
    fn gathered(&self) -> Result<Rc<RefCell<DecoderEngine>>, Failure> {
        let variants: Vec<PreparedVariant> = self.variants().cloned().collect();
        let options = self.options(self.plan.rows);
        let engine = DecoderEngine::open_gathered(&self.runtime, &variants, &options)?;
        Ok(Rc::new(RefCell::new(engine)))
    }

    /// The largest difference of a row's logits after the prompt from those of its adapter by
    /// itself; `None` if logits aren't on the host.
    fn logits_difference(
        &self,
        batches: &mut [ReadyBatch<Rows>],
        traces: &[Trace],
    ) -> Result<Option<f32>, Failure> {
        if self.request.options.provider != Provider::Cpu {
            return Ok(None);
        }
        let mut largest = None;
        for batch in batches {
            if batch.of_rows.is_empty() {
                continue;
            }
            batch.engine.prefill_rows(&self.request.prompt_ids)?;
            for (row, &adapter) in batch.of_rows.iter().enumerate() {
                let own = [batch.engine.logits_of(row)];
                let found = difference(&traces[adapter].logits[..1], &own);
                largest = Some(largest.map_or(found, |largest: f32| largest.max(found)));
            }
        }
        Ok(largest)
    }
}
