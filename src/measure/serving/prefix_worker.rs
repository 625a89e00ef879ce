//! The worker's side of shared prefixes.

use std::cell::RefCell;
use std::error::Error;

use super::request::{PrefixPlan, ServingRequest};
use super::shared_prefix::{
    CacheOf, PrefixEngine, PrefixLength, PrefixPrompts, PrefixRounds, PrefixTimes, PrefixTokens,
    SharedPrefixTimes, time_prefix,
};
use crate::engine::{DecoderEngine, EngineError, EngineOptions, KeptPrefix, OnnxRuntime};
use crate::measure::timings::SystemClock;
use crate::parity::{Picks, trace};
use crate::prepared::PreparedVariant;
use crate::weights::Dtype;

type Failure = Box<dyn Error + Send + Sync>;

impl PrefixEngine for DecoderEngine {
    type Kept = KeptPrefix;

    fn keep(&mut self, prefix: &[u32]) -> Result<KeptPrefix, EngineError> {
        self.keep_prefix(prefix)
    }

    fn after(&mut self, kept: &KeptPrefix, prompt: &[u32]) -> Result<u32, EngineError> {
        self.prefill_after(kept, prompt)
    }
}

/// An engine, and what's asked of it.
struct Side<'a> {
    engine: &'a RefCell<DecoderEngine>,
    /// The engine whose cache is reused; `None` if it's the same.
    keeper: Option<&'a RefCell<DecoderEngine>>,
    dtype: Dtype,
}

/// Measures prompts that begin alike.
pub(super) fn shared_prefix(
    request: &ServingRequest,
    plan: &PrefixPlan,
) -> Result<SharedPrefixTimes, Failure> {
    let runtime = OnnxRuntime::load(&request.library)?;
    let prompts = plan
        .lengths
        .iter()
        .flat_map(|of| of.base.iter().chain(&of.unmerged));
    let longest = prompts.map(Vec::len).max().unwrap_or(0);
    let variants = request.base.iter().chain([&request.unmerged]);
    let virtual_tokens = variants.map(|one| one.manifest.num_virtual_tokens()).max();
    let options = EngineOptions {
        batch_size: 1,
        // The same for all, as a cache is copied from one to the other.
        max_length: virtual_tokens.unwrap_or(0) + longest + request.new_tokens,
        logits_on_host: true,
        cuda_graph: false,
        ..request.options.clone()
    };
    let open = |variant: &PreparedVariant| {
        DecoderEngine::open(&runtime, variant, &options).map(RefCell::new)
    };
    let base = request.base.as_ref().map(&open).transpose()?;
    let unmerged = open(&request.unmerged)?;
    let dtype = request.unmerged.manifest.dtype;
    let mut tokens = PrefixTokens::default();
    let mut lengths = Vec::with_capacity(plan.lengths.len());
    for of in &plan.lengths {
        let prefix = of.prefix.as_slice();
        let mut side = |side: &Side, prompts: &[Vec<u32>]| {
            measured(request, side, prefix, prompts, &mut tokens)
        };
        let of_base = match &base {
            Some(engine) => {
                let own = Side {
                    engine,
                    keeper: None,
                    dtype,
                };
                Some(side(&own, &of.base)?)
            }
            None => None,
        };
        let own = Side {
            engine: &unmerged,
            keeper: base.as_ref().filter(|_| plan.cache_of == CacheOf::Base),
            dtype,
        };
        let of_adapter = side(&own, &of.unmerged)?;
        let own_tokens = [&of.base, &of.unmerged].map(|prompts| {
            let first = prompts.first().map_or(0, Vec::len);
            first.saturating_sub(prefix.len())
        });
        lengths.push(PrefixLength {
            prefix_tokens: prefix.len(),
            own_tokens,
            base: of_base,
            unmerged: of_adapter,
        });
    }
    Ok(SharedPrefixTimes {
        prompts: plan.lengths.first().map_or(0, |of| of.unmerged.len()),
        cache_of: plan.cache_of,
        lengths,
        left_out: plan.left_out.clone(),
        tokens,
    })
}

fn measured(
    request: &ServingRequest,
    side: &Side,
    prefix: &[u32],
    prompts: &[Vec<u32>],
    tokens: &mut PrefixTokens,
) -> Result<PrefixTimes, Failure> {
    let mut engine = side.engine.borrow_mut();
    let mut picks: Vec<Picks> = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let whole = trace(&mut *engine, prompt, request.new_tokens)?;
        picks.push(whole.picks(side.dtype));
    }
    let mut kept_bytes = 0;
    let keep = |own: &mut DecoderEngine, prefix: &[u32]| {
        let kept = match side.keeper {
            Some(keeper) => keeper.borrow_mut().keep_prefix(prefix)?,
            None => own.keep_prefix(prefix)?,
        };
        kept_bytes = kept.bytes();
        Ok::<_, EngineError>(kept)
    };
    let asked = PrefixPrompts {
        prefix,
        prompts,
        picks: &picks,
        new_tokens: request.new_tokens,
    };
    let rounds = PrefixRounds {
        count: request.rounds,
        seed: request.seed,
    };
    let clock = SystemClock::new();
    let times = time_prefix(&mut *engine, keep, &clock, &asked, rounds, tokens)?;
    Ok(PrefixTimes {
        kept_bytes,
        ..times
    })
}
