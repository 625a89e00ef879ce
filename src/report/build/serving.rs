//! What serving costs, from what was measured.

use crate::measure::serving;
use crate::measure::serving::cold::ColdTimes;
use crate::measure::serving::mixed::MixedTimes;
use crate::measure::serving::shared_prefix::{PrefixTimes, SharedPrefixTimes, pays_from};
use crate::measure::serving::{Against, ServingResult};
use crate::measure::stats;
use crate::report::model::{
    ColdStarts, ColdStartsFrom, Mixed, MixedBatch, MixedMemory, MixedTokens, Outcome, Over,
    Overhead, PaysFrom, RefusedForm, Reuse, Serving, SharedPrefix, SharedPrefixLength,
    SharedPrefixTokens,
};

/// What was measured, with its figures. `seed` draws the bootstrap.
pub(super) fn serving(found: &serving::Serving, seed: u64) -> Serving {
    Serving {
        mixed: found
            .mixed
            .as_ref()
            .map(|of| outcome(of, |times| mixed(times, seed))),
        cold_start: found
            .cold
            .as_ref()
            .map(|of| outcome(of, |times| cold(times, seed))),
        shared_prefix: found
            .shared_prefix
            .as_ref()
            .map(|of| outcome(of, |times| shared_prefix(times, seed))),
    }
}

fn outcome<T, U>(found: &ServingResult<T>, measured: impl Fn(&T) -> U) -> Outcome<U> {
    match found {
        ServingResult::Absent(reason) => Outcome::Absent {
            absent: reason.clone(),
        },
        ServingResult::Failed(error) => Outcome::Failed {
            error: error.clone(),
        },
        ServingResult::Measured(times) => Outcome::Measured(measured(times)),
    }
}

fn over(found: Against) -> Over {
    Over {
        generation: found.generation.map(Overhead::from),
        first_token: found.first_token.map(Overhead::from),
        decode_step: found.decode_step.map(Overhead::from),
    }
}

fn mixed(times: &MixedTimes, seed: u64) -> Mixed {
    let batches = times.batches.iter().zip(times.figures(seed));
    let batches = batches.map(|(batch, figures)| MixedBatch {
        adapters: batch.adapters,
        form: batch.form,
        time_to_first_token: figures.as_ref().map(|of| of.time_to_first_token),
        decode_step: figures.as_ref().and_then(|of| of.decode_step),
        over_one: figures
            .as_ref()
            .and_then(|of| of.over_one.clone())
            .map(over),
        over_base: figures.and_then(|of| of.over_base).map(over),
        runs: batch.runs.clone(),
    });
    let refused = times.refused.iter().map(|(form, reason)| RefusedForm {
        form: *form,
        reason: reason.clone(),
    });
    let tokens = &times.tokens;
    Mixed {
        rows: times.rows,
        prompt_tokens: times.prompt_tokens,
        new_tokens: times.new_tokens,
        adapters: times.adapters.clone(),
        batches: batches.collect(),
        refused: refused.collect(),
        memory: MixedMemory {
            adapter_bytes: times.memory.adapter_bytes,
            resident_bytes_per_adapter: times.memory.resident_bytes_per_adapter(),
            resident_bytes: times.memory.resident_bytes.clone(),
            anonymous_bytes: times.memory.anonymous_bytes.clone(),
        },
        tokens: MixedTokens {
            same: tokens.differences.is_empty(),
            sequences: tokens.sequences,
            tokens: tokens.tokens,
            parted: tokens.parted,
            distinct: tokens.distinct,
            logits_difference: tokens.logits_difference.map(f64::from),
            nearest_adapters: tokens.nearest_adapters.map(f64::from),
            differences: tokens.differences.clone(),
        },
    }
}

fn cold(times: &ColdTimes, seed: u64) -> ColdStarts {
    let sources = times.sources.iter().zip(times.figures(seed));
    let sources = sources.map(|((source, starts), figures)| {
        let figures = figures.as_ref();
        ColdStartsFrom {
            source: *source,
            cached_share: figures.and_then(|of| of.cached_share),
            load: figures.map(|of| of.load),
            bind: figures.map(|of| of.bind),
            first_token: figures.map(|of| of.first_token),
            total: figures.map(|of| of.total),
            over_memory: figures
                .and_then(|of| of.over_memory.clone())
                .map(Overhead::from),
            starts: starts.clone(),
        }
    });
    ColdStarts {
        adapter_bytes: times.adapter_bytes,
        prompt_tokens: times.prompt_tokens,
        sources: sources.collect(),
    }
}

fn shared_prefix(times: &SharedPrefixTimes, seed: u64) -> SharedPrefix {
    let (mut of_base, mut of_adapter) = (Vec::new(), Vec::new());
    let mut lengths = Vec::with_capacity(times.lengths.len());
    for of in &times.lengths {
        let part = |found: &PrefixTimes, own, all: &mut Vec<(usize, Option<stats::Overhead>)>| {
            let figures = found.figures(seed)?;
            all.push((of.prefix_tokens, figures.over_whole.clone()));
            Some(Reuse {
                own_tokens: own,
                kept_bytes: found.kept_bytes,
                keep: figures.keep,
                whole: figures.whole,
                reused: figures.reused,
                over_whole: figures.over_whole.map(Overhead::from),
                runs: found.runs.clone(),
            })
        };
        let [own_of_base, own_of_adapter] = of.own_tokens;
        let base = of.base.as_ref();
        lengths.push(SharedPrefixLength {
            prefix_tokens: of.prefix_tokens,
            base: base.and_then(|base| part(base, own_of_base, &mut of_base)),
            unmerged: part(&of.unmerged, own_of_adapter, &mut of_adapter),
        });
    }
    let tokens = &times.tokens;
    SharedPrefix {
        prompts: times.prompts,
        cache_of: times.cache_of,
        lengths,
        left_out: times.left_out.clone(),
        pays_from: PaysFrom {
            base: pays_from(&of_base),
            unmerged: pays_from(&of_adapter),
        },
        tokens: SharedPrefixTokens {
            same: tokens.differences.is_empty(),
            sequences: tokens.sequences,
            tokens: tokens.tokens,
            parted: tokens.parted,
            differences: tokens.differences.clone(),
        },
    }
}
