//! Several adapters in one batch: what it costs that the rows of a batch have different adapters.
//!
//! ```text
//! base          the base's graph, one run for all rows
//! 1 adapter     the unmerged graph, one run for all rows
//! 2, 4, …, n    as many adapters over the same rows, grouped or gathered
//! ```
//!
//! All of them generate in turn, in a balanced order. Runs of the same round make the pairs. What
//! each row generates is compared with what its adapter generates by itself.

use serde::{Deserialize, Serialize};

use super::against::{Against, against};
use crate::engine::RowEngine;
use crate::measure::schedule::balanced_order;
use crate::measure::stats::median;
use crate::measure::timings::{Clock, GenerationTimings};
use crate::parity::Picks;

/// How rows with different adapters are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixedForm {
    /// Rows with the same adapter follow each other, and are a run of their own.
    Grouped,
    /// All rows are one run, in which each picks its adapter's tensors.
    Gathered,
}

impl MixedForm {
    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grouped => "grouped",
            Self::Gathered => "gathered",
        }
    }
}

/// A batch that takes part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixedBatch {
    /// Number of different adapters in it; 0 is the base.
    pub adapters: usize,
    /// How they're run; `None` for the base and for a single adapter.
    pub form: Option<MixedForm>,
    /// One generation a round, in the order of the rounds.
    pub runs: Vec<MixedRun>,
}

/// A generation of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixedRun {
    /// The number of the start.
    pub start: usize,
    /// Its times; a decode step makes a token of every row.
    #[serde(flatten)]
    pub timings: GenerationTimings,
}

/// What each further adapter takes in memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixedMemory {
    /// Bytes of one adapter's tensors.
    pub adapter_bytes: u64,
    /// The process's resident set before the first adapter was loaded, and after each, in bytes.
    pub resident_bytes: Vec<u64>,
    /// The part of it that isn't backed by a file.
    pub anonymous_bytes: Vec<Option<u64>>,
}

impl MixedMemory {
    /// By how much the resident set grew with each adapter after the first, in bytes; `None` if
    /// there's none. Memory is taken in pieces, so it's the mean.
    pub fn resident_bytes_per_adapter(&self) -> Option<f64> {
        let (first, last) = (self.resident_bytes.get(1)?, self.resident_bytes.last()?);
        let count = self
            .resident_bytes
            .len()
            .checked_sub(2)
            .filter(|count| *count > 0)?;
        Some((*last as f64 - *first as f64) / count as f64)
    }
}

/// Whether rows generate what their adapters generate by themselves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MixedTokens {
    /// Sequences that were compared: the rows of all generations that have an adapter.
    pub sequences: usize,
    /// Tokens that were compared and are the same.
    pub tokens: usize,
    /// Sequences of which no more tokens were compared from one on that's as likely as another.
    pub parted: usize,
    /// Different sequences among those that the adapters generate by themselves. If it's 1, tokens
    /// can't tell the adapters apart.
    pub distinct: usize,
    /// The largest difference of a row's logits from those of its adapter by itself, over the
    /// largest logit, after the prompt; `None` if logits aren't on the host, or one isn't finite.
    pub logits_difference: Option<f32>,
    /// The difference between the logits of the two adapters that are most alike.
    pub nearest_adapters: Option<f32>,
    /// What's wrong, one sentence each.
    pub differences: Vec<String>,
}

/// All that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixedTimes {
    /// Rows of the batch.
    pub rows: usize,
    /// Number of the prompt's tokens.
    pub prompt_tokens: usize,
    /// New tokens of each row.
    pub new_tokens: usize,
    /// Where the adapters come from, one name each.
    pub adapters: Vec<String>,
    /// The batches.
    pub batches: Vec<MixedBatch>,
    /// Memory of the adapters.
    pub memory: MixedMemory,
    /// The tokens, compared.
    pub tokens: MixedTokens,
    /// Forms that the method doesn't have, with the reason.
    pub refused: Vec<(MixedForm, String)>,
}

/// The figures of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct MixedFigures {
    /// Median time to the first token of all rows, in seconds.
    pub time_to_first_token: f64,
    /// Median decode step, in seconds; a step makes a token of every row.
    pub decode_step: Option<f64>,
    /// What it takes more than one adapter for all rows; `None` for that one itself.
    pub over_one: Option<Against>,
    /// What it takes more than the base; `None` for the base, and without one.
    pub over_base: Option<Against>,
}

impl MixedTimes {
    /// The figures of each batch, in their order.
    pub fn figures(&self, seed: u64) -> Vec<Option<MixedFigures>> {
        let find = |count| self.batches.iter().find(|batch| batch.adapters == count);
        let (base, one) = (find(0), find(1));
        let figures = |batch: &MixedBatch| {
            let over = |other: Option<&MixedBatch>, least: usize| {
                let other = other.filter(|_| batch.adapters > least)?;
                Some(against(&other.runs, &batch.runs, seed))
            };
            let first = |run: &MixedRun| run.timings.time_to_first_token.as_secs_f64();
            let firsts: Vec<f64> = batch.runs.iter().map(first).collect();
            let steps = batch.runs.iter().flat_map(|run| &run.timings.decode_steps);
            let steps: Vec<f64> = steps.map(std::time::Duration::as_secs_f64).collect();
            Some(MixedFigures {
                time_to_first_token: median(&firsts)?,
                decode_step: median(&steps),
                over_one: over(one, 1),
                over_base: over(base, 0),
            })
        };
        self.batches.iter().map(figures).collect()
    }

    /// Adds what a further start measured of the same.
    pub fn add(&mut self, other: Self, start: usize) {
        for (own, others) in self.batches.iter_mut().zip(other.batches) {
            own.runs
                .extend(others.runs.into_iter().map(|run| MixedRun { start, ..run }));
        }
        let (own, others) = (&mut self.tokens, other.tokens);
        own.sequences += others.sequences;
        own.tokens += others.tokens;
        own.parted += others.parted;
        own.logits_difference = own
            .logits_difference
            .zip(others.logits_difference)
            .map(|(own, other)| own.max(other));
        own.differences.extend(others.differences);
    }
}

/// A batch that's ready to generate.
#[derive(Debug)]
pub struct ReadyBatch<E> {
    /// Number of different adapters; 0 is the base.
    pub adapters: usize,
    /// How they're run.
    pub form: Option<MixedForm>,
    /// The number of each row's adapter; empty for the base.
    pub of_rows: Vec<usize>,
    /// What runs it.
    pub engine: E,
}

/// The number of each row's adapter, where `adapters` share `rows`: all get as many, or one more.
pub fn of_rows(rows: usize, adapters: usize) -> Vec<usize> {
    (0..rows).map(|row| row * adapters / rows).collect()
}

/// How many adapters are in a batch: 1, 2, 4, … and `most`.
pub fn counts(most: usize) -> Vec<usize> {
    let doubled = std::iter::successors(Some(1_usize), |count| count.checked_mul(2));
    let mut counts: Vec<usize> = doubled.take_while(|count| *count < most).collect();
    counts.push(most);
    counts
}

/// Generates once with every row of a batch. Returns each row's tokens.
///
/// # Errors
/// The engine's error.
pub fn time_rows<E: RowEngine>(
    engine: &mut E,
    clock: &impl Clock,
    prompt_ids: &[u32],
    new_tokens: usize,
) -> Result<(Vec<Vec<u32>>, GenerationTimings), E::Error> {
    let start = clock.now();
    let mut tokens = engine.prefill_rows(prompt_ids)?;
    let mut step_start = clock.now();
    let time_to_first_token = step_start.saturating_sub(start);
    let mut rows: Vec<Vec<u32>> = tokens.iter().map(|&token| vec![token]).collect();
    let mut decode_steps = Vec::with_capacity(new_tokens.saturating_sub(1));
    for _ in 1..new_tokens {
        tokens = engine.decode_rows(&tokens)?;
        let step_end = clock.now();
        decode_steps.push(step_end.saturating_sub(step_start));
        step_start = step_end;
        for (row, token) in rows.iter_mut().zip(&tokens) {
            row.push(*token);
        }
    }
    let timings = GenerationTimings {
        time_to_first_token,
        decode_steps,
    };
    Ok((rows, timings))
}

/// What is generated, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Rounds<'a> {
    /// The prompt of every row.
    pub prompt_ids: &'a [u32],
    /// New tokens of each row.
    pub new_tokens: usize,
    /// Number of rounds. One more before them warms up.
    pub count: usize,
    /// Draws the order.
    pub seed: u64,
}

/// Lets all `batches` generate in turn, and compares what they generate with `picks`, those of each
/// adapter.
///
/// # Errors
/// An engine's error.
pub fn time_batches<E: RowEngine>(
    batches: &mut [ReadyBatch<E>],
    clock: &impl Clock,
    rounds: Rounds,
    picks: &[Picks],
) -> Result<(Vec<MixedBatch>, MixedTokens), E::Error> {
    let empty = |batch: &ReadyBatch<E>| MixedBatch {
        adapters: batch.adapters,
        form: batch.form,
        runs: Vec::with_capacity(rounds.count),
    };
    let mut found: Vec<MixedBatch> = batches.iter().map(empty).collect();
    let mut compared = MixedTokens::default();
    let orders = balanced_order(batches.len(), rounds.count + 1, rounds.seed);
    for (round, order) in orders.into_iter().enumerate() {
        for index in order {
            let batch = &mut batches[index];
            let (rows, timings) = time_rows(
                &mut batch.engine,
                clock,
                rounds.prompt_ids,
                rounds.new_tokens,
            )?;
            compared.compare(batch, &rows, picks);
            if round > 0 {
                found[index].runs.push(MixedRun { start: 0, timings });
            }
        }
    }
    Ok((found, compared))
}

impl MixedTokens {
    /// Compares the rows of a generation of `batch` with what its adapters may pick.
    fn compare<E>(&mut self, batch: &ReadyBatch<E>, rows: &[Vec<u32>], picks: &[Picks]) {
        let with_adapters = rows.iter().zip(&batch.of_rows).enumerate();
        for (row, (tokens, &adapter)) in with_adapters {
            let Some(picks) = picks.get(adapter) else {
                continue;
            };
            self.sequences += 1;
            let followed = picks.follow(tokens);
            let Some(token) = followed.count(&mut self.tokens, &mut self.parted) else {
                continue;
            };
            let form = batch.form.map_or("", MixedForm::name);
            let text = format!(
                "of {} adapters in a batch, {form}: row {row} generates {} as new token {}, and its adapter ({}) by \
                 itself {}",
                batch.adapters,
                token.found,
                token.at + 1,
                adapter + 1,
                token.expected
            );
            if !self.differences.contains(&text) {
                self.differences.push(text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::scripted_clock::ScriptedClock;
    use crate::parity::Trace;
    use crate::weights::Dtype;

    /// Rows whose adapter generates its own number; `wrong` is the row that doesn't.
    struct Scripted {
        clock: ScriptedClock,
        of_rows: Vec<usize>,
        step_ms: u64,
        wrong: Option<usize>,
    }

    impl RowEngine for Scripted {
        type Error = ();

        fn prefill_rows(&mut self, prompt_ids: &[u32]) -> Result<Vec<u32>, ()> {
            assert_eq!(prompt_ids, [7]);
            self.clock.advance_ms(10 * self.step_ms);
            Ok(self.of_rows.iter().map(|&number| number as u32).collect())
        }

        fn decode_rows(&mut self, tokens: &[u32]) -> Result<Vec<u32>, ()> {
            self.clock.advance_ms(self.step_ms);
            let token = |(row, &token)| if self.wrong == Some(row) { 5 } else { token };
            Ok(tokens.iter().enumerate().map(token).collect())
        }
    }

    fn ready(clock: &ScriptedClock, adapters: usize, wrong: Option<usize>) -> ReadyBatch<Scripted> {
        let of_rows = of_rows(4, adapters.max(1));
        ReadyBatch {
            adapters,
            form: (adapters > 1).then_some(MixedForm::Grouped),
            engine: Scripted {
                clock: clock.clone(),
                of_rows: of_rows.clone(),
                step_ms: 10 + 5 * adapters as u64,
                wrong,
            },
            of_rows: if adapters == 0 { Vec::new() } else { of_rows },
        }
    }

    /// Two adapters, which generate 0 and 1 alone.
    fn picks() -> Vec<Picks> {
        let of = |token: u32| {
            let mut row = vec![0.0; 6];
            row[token as usize] = 9.0;
            let trace = Trace {
                tokens: vec![token; 3],
                logits: vec![row; 3],
            };
            trace.picks(Dtype::Float32)
        };
        vec![of(0), of(1)]
    }

    fn rounds() -> Rounds<'static> {
        Rounds {
            prompt_ids: &[7],
            new_tokens: 3,
            count: 6,
            seed: 1,
        }
    }

    #[test]
    fn batches_take_turns_and_overheads_are_over_one_adapter_and_the_base() {
        let clock = ScriptedClock::default();
        let mut batches = [0, 1, 2].map(|adapters| ready(&clock, adapters, None));
        let (found, tokens) = time_batches(&mut batches, &clock, rounds(), &picks()).unwrap();
        // Warm-ups are compared as well; the base has no adapter to compare with.
        assert_eq!(
            (tokens.sequences, tokens.tokens),
            (2 * 7 * 4, 2 * 7 * 4 * 3)
        );
        assert!(tokens.differences.is_empty());
        let times = MixedTimes {
            rows: 4,
            prompt_tokens: 1,
            new_tokens: 3,
            adapters: Vec::new(),
            batches: found,
            memory: MixedMemory {
                adapter_bytes: 1,
                resident_bytes: vec![10, 30, 34, 36],
                anonymous_bytes: Vec::new(),
            },
            tokens,
            refused: Vec::new(),
        };
        let figures: Vec<MixedFigures> = times.figures(1).into_iter().flatten().collect();
        let over = |index: usize, over: fn(&MixedFigures) -> &Option<Against>| {
            let found = over(&figures[index]).as_ref()?;
            let pct = |part: &Option<crate::measure::stats::Overhead>| part.as_ref().unwrap().pct;
            Some([
                pct(&found.generation),
                pct(&found.first_token),
                pct(&found.decode_step),
            ])
        };
        assert_eq!(over(0, |of| &of.over_base), None);
        assert_eq!(over(1, |of| &of.over_one), None);
        for pct in over(1, |of| &of.over_base).unwrap() {
            assert!((pct - 50.0).abs() < 1e-6, "{pct}");
        }
        for pct in over(2, |of| &of.over_one).unwrap() {
            assert!((pct - 100.0 / 3.0).abs() < 1e-6, "{pct}");
        }
        assert!((figures[2].decode_step.unwrap() - 0.02).abs() < 1e-9);
        // The first adapter isn't a further one.
        assert_eq!(times.memory.resident_bytes_per_adapter(), Some(3.0));
    }

    #[test]
    fn a_row_that_generates_something_else_is_named() {
        let clock = ScriptedClock::default();
        let mut batches = [ready(&clock, 2, Some(3))];
        let (_, tokens) = time_batches(&mut batches, &clock, rounds(), &picks()).unwrap();
        let [text] = tokens.differences.as_slice() else {
            panic!("{tokens:?}")
        };
        assert!(text.contains("row 3 generates 5 as new token 2"), "{text}");
        assert!(text.contains("(2) by itself 1"), "{text}");
    }

    #[test]
    fn rows_are_shared_evenly_and_counts_double() {
        assert_eq!(of_rows(4, 2), [0, 0, 1, 1]);
        assert_eq!(of_rows(5, 3), [0, 0, 1, 1, 2]);
        assert_eq!(of_rows(3, 3), [0, 1, 2]);
        assert_eq!(counts(16), [1, 2, 4, 8, 16]);
        assert_eq!(counts(6), [1, 2, 4, 6]);
        assert_eq!(counts(2), [1, 2]);
    }
}
