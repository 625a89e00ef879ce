//! Prompts that begin alike: the cache of their common prefix is computed once, kept, and copied for
//! each of them, instead of computing every prompt as a whole.
//!
//! The base's prompts take the base's cache. An adapter's take the base's too where the adapter
//! leaves the prefix as it is, because it acts from its invocation tokens on (aLoRA). Any other
//! adapter's take the cache that was computed with that adapter.
//!
//! For each length of the prefix, whole and reused take turns in a balanced order. The first tokens
//! of the same round and prompt make the pairs.

use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::measure::schedule::balanced_order;
use crate::measure::stats::{Overhead, Pair, median, paired_overhead};
use crate::measure::timings::Clock;
use crate::parity::Picks;

/// Whose cache is reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheOf {
    /// The base's.
    Base,
    /// The one that was computed with the adapter itself.
    Adapter,
}

/// An engine that keeps prefixes.
pub trait PrefixEngine: Engine {
    /// What it keeps of a prefix.
    type Kept;

    /// Runs a prefix and keeps what came of it.
    ///
    /// # Errors
    /// If the model can't be run on it.
    fn keep(&mut self, prefix: &[u32]) -> Result<Self::Kept, Self::Error>;

    /// Starts a new sequence whose prompt begins with a prefix that was kept, and returns the first
    /// new token.
    ///
    /// # Errors
    /// If the prompt doesn't fit, or the model can't be run.
    fn after(&mut self, kept: &Self::Kept, prompt: &[u32]) -> Result<u32, Self::Error>;
}

/// First tokens of a prompt, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PrefixRun {
    /// The number of the start of all processes.
    pub start: usize,
    /// With the whole prompt computed.
    pub whole: f64,
    /// With the prefix's cache copied, and the rest computed.
    pub reused: f64,
}

/// All that was measured of one engine and one length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrefixTimes {
    /// Computing the prefix and keeping its cache, once a round, in seconds.
    pub keep: Vec<f64>,
    /// Bytes that are kept, and copied for each prompt.
    pub kept_bytes: u64,
    /// The first tokens.
    pub runs: Vec<PrefixRun>,
}

/// A length of the prefix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrefixLength {
    /// Tokens of the prefix.
    pub prefix_tokens: usize,
    /// Tokens of the base's prompts, and of the adapter's, behind it.
    pub own_tokens: [usize; 2],
    /// The base's prompts; `None` if there's no base.
    pub base: Option<PrefixTimes>,
    /// The adapter's.
    pub unmerged: PrefixTimes,
}

/// Whether prompts go on the same way from a reused cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixTokens {
    /// Generations that were compared.
    pub sequences: usize,
    /// Tokens that were compared and are the same.
    pub tokens: usize,
    /// Generations of which no more tokens were compared from one on that's as likely as another.
    pub parted: usize,
    /// What's wrong, one sentence each.
    pub differences: Vec<String>,
}

/// All that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SharedPrefixTimes {
    /// Prompts that have each prefix in common.
    pub prompts: usize,
    /// Whose cache the adapter's prompts take.
    pub cache_of: CacheOf,
    /// By length, in ascending order.
    pub lengths: Vec<PrefixLength>,
    /// Lengths that the model has no positions for.
    pub left_out: Vec<usize>,
    /// The tokens, compared.
    pub tokens: PrefixTokens,
}

/// The figures of one engine and one length, in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct PrefixFigures {
    /// Computing and keeping the prefix.
    pub keep: Option<f64>,
    /// The first token with the whole prompt computed.
    pub whole: f64,
    /// The first token with the prefix's cache copied.
    pub reused: f64,
    /// What reusing takes more; below zero, it pays.
    pub over_whole: Option<Overhead>,
}

impl PrefixTimes {
    /// The medians; `None` without a run.
    pub fn figures(&self, seed: u64) -> Option<PrefixFigures> {
        let of =
            |part: fn(&PrefixRun) -> f64| median(&self.runs.iter().map(part).collect::<Vec<f64>>());
        let pairs = self.runs.iter().map(|run| Pair {
            base: run.whole,
            variant: run.reused,
            start: run.start,
        });
        Some(PrefixFigures {
            keep: median(&self.keep),
            whole: of(|run| run.whole)?,
            reused: of(|run| run.reused)?,
            over_whole: paired_overhead(&[pairs.collect::<Vec<Pair>>()], seed).ok(),
        })
    }

    fn add(&mut self, other: Self, start: usize) {
        self.keep.extend(other.keep);
        let runs = other.runs.into_iter();
        self.runs.extend(runs.map(|run| PrefixRun { start, ..run }));
    }
}

/// The smallest of `lengths` from which on all found overheads say that reusing is faster; `None` if
/// the largest doesn't.
pub fn pays_from(lengths: &[(usize, Option<Overhead>)]) -> Option<usize> {
    let pays = |over: &Option<Overhead>| {
        let over = over.as_ref();
        over.is_some_and(|over| over.detected && over.pct < 0.0)
    };
    let from_the_end = lengths.iter().rev().take_while(|(_, over)| pays(over));
    from_the_end.last().map(|(length, _)| *length)
}

impl SharedPrefixTimes {
    /// Adds what a further start measured of the same.
    pub fn add(&mut self, other: Self, start: usize) {
        for (own, others) in self.lengths.iter_mut().zip(other.lengths) {
            own.unmerged.add(others.unmerged, start);
            if let (Some(own), Some(others)) = (&mut own.base, others.base) {
                own.add(others, start);
            }
        }
        let (own, others) = (&mut self.tokens, other.tokens);
        own.sequences += others.sequences;
        own.tokens += others.tokens;
        own.parted += others.parted;
        own.differences.extend(others.differences);
    }
}

/// Prompts of one engine that begin alike.
#[derive(Debug)]
pub struct PrefixPrompts<'a> {
    /// What they have in common.
    pub prefix: &'a [u32],
    /// The whole prompts.
    pub prompts: &'a [Vec<u32>],
    /// What each may pick when it's computed as a whole.
    pub picks: &'a [Picks],
    /// New tokens that are compared once for each prompt.
    pub new_tokens: usize,
}

/// How often it's done, and in what order.
#[derive(Debug, Clone, Copy)]
pub struct PrefixRounds {
    /// Rounds that are measured.
    pub count: usize,
    /// Draws the order.
    pub seed: u64,
}

/// Lets whole prompts and reused prefixes take turns. `keep` computes the prefix, with this engine
/// or with another one whose cache is reused.
///
/// # Errors
/// The engine's error.
pub fn time_prefix<E, K>(
    engine: &mut E,
    mut keep: K,
    clock: &impl Clock,
    asked: &PrefixPrompts,
    rounds: PrefixRounds,
    tokens: &mut PrefixTokens,
) -> Result<PrefixTimes, E::Error>
where
    E: PrefixEngine,
    K: FnMut(&mut E, &[u32]) -> Result<E::Kept, E::Error>,
{
    // Untimed: whole generations behind a reused prefix.
    let kept = keep(engine, asked.prefix)?;
    for (prompt, picks) in asked.prompts.iter().zip(asked.picks) {
        let mut generated = vec![engine.after(&kept, prompt)?];
        while generated.len() < asked.new_tokens {
            generated.push(engine.decode(generated[generated.len() - 1])?);
        }
        tokens.compare(asked.prefix.len(), picks, &generated);
    }
    let pairs = rounds.count * asked.prompts.len();
    let mut times = PrefixTimes {
        keep: Vec::with_capacity(rounds.count),
        kept_bytes: 0,
        runs: Vec::with_capacity(pairs),
    };
    let seconds = |from: std::time::Duration| clock.now().saturating_sub(from).as_secs_f64();
    let mut orders = balanced_order(2, pairs, rounds.seed).into_iter();
    for _ in 0..rounds.count {
        let begin = clock.now();
        let kept = keep(engine, asked.prefix)?;
        times.keep.push(seconds(begin));
        for (prompt, picks) in asked.prompts.iter().zip(asked.picks) {
            let mut run = PrefixRun {
                start: 0,
                whole: 0.0,
                reused: 0.0,
            };
            for which in orders.next().into_iter().flatten() {
                let begin = clock.now();
                let first = match which {
                    0 => engine.prefill(prompt)?,
                    _ => engine.after(&kept, prompt)?,
                };
                match which {
                    0 => run.whole = seconds(begin),
                    _ => run.reused = seconds(begin),
                }
                tokens.compare(asked.prefix.len(), picks, &[first]);
            }
            times.runs.push(run);
        }
    }
    Ok(times)
}

impl PrefixTokens {
    fn compare(&mut self, prefix: usize, picks: &Picks, generated: &[u32]) {
        self.sequences += 1;
        let followed = picks.follow(generated);
        let Some(token) = followed.count(&mut self.tokens, &mut self.parted) else {
            return;
        };
        let text = format!(
            "behind a prefix of {prefix} tokens, {} is generated as new token {}, where the whole prompt gives {}",
            token.found,
            token.at + 1,
            token.expected
        );
        if !self.differences.contains(&text) {
            self.differences.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::scripted_clock::ScriptedClock;
    use crate::parity::Trace;
    use crate::weights::Dtype;

    /// A token takes a millisecond, and copying a kept prefix two. It generates token 1, after a kept
    /// prefix `then`.
    struct Scripted {
        clock: ScriptedClock,
        then: u32,
    }

    impl Scripted {
        fn run(&self, tokens: usize) {
            self.clock.advance_ms(tokens as u64);
        }
    }

    impl Engine for Scripted {
        type Error = ();

        fn prefill(&mut self, prompt: &[u32]) -> Result<u32, ()> {
            self.run(prompt.len());
            Ok(1)
        }

        fn decode(&mut self, _: u32) -> Result<u32, ()> {
            self.run(1);
            Ok(1)
        }
    }

    impl PrefixEngine for Scripted {
        type Kept = usize;

        fn keep(&mut self, prefix: &[u32]) -> Result<usize, ()> {
            self.run(prefix.len());
            Ok(prefix.len())
        }

        fn after(&mut self, kept: &usize, prompt: &[u32]) -> Result<u32, ()> {
            self.run(2 + prompt.len() - kept);
            Ok(self.then)
        }
    }

    fn measured(then: u32) -> (PrefixTimes, PrefixTokens) {
        let clock = ScriptedClock::default();
        let mut engine = Scripted {
            clock: clock.clone(),
            then,
        };
        let prompts = [vec![0; 10], vec![0; 10]];
        let trace = Trace {
            tokens: vec![1; 3],
            logits: vec![vec![0.0, 9.0, 1.0]; 3],
        };
        let asked = PrefixPrompts {
            prefix: &[0; 6],
            prompts: &prompts,
            picks: &[trace.picks(Dtype::Float32), trace.picks(Dtype::Float32)],
            new_tokens: 3,
        };
        let rounds = PrefixRounds { count: 5, seed: 1 };
        let mut tokens = PrefixTokens::default();
        let keep = |engine: &mut Scripted, prefix: &[u32]| engine.keep(prefix);
        let times = time_prefix(&mut engine, keep, &clock, &asked, rounds, &mut tokens);
        (times.unwrap(), tokens)
    }

    #[test]
    fn whole_prompts_and_reused_prefixes_make_pairs() {
        let (times, tokens) = measured(1);
        assert_eq!((times.keep.len(), times.runs.len()), (5, 10));
        let figures = times.figures(1).unwrap();
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9);
        close(figures.whole, 0.010);
        close(figures.reused, 0.006);
        close(figures.keep.unwrap(), 0.006);
        let over = figures.over_whole.unwrap();
        assert!((over.pct + 40.0).abs() < 1e-6 && over.detected && over.pairs == 10);
        // Two whole generations of three tokens, then the first tokens of 2 × 10 timed runs.
        assert_eq!((tokens.sequences, tokens.tokens), (22, 26));
        assert!(tokens.differences.is_empty());
    }

    #[test]
    fn another_token_behind_a_kept_prefix_is_a_difference() {
        let (_, tokens) = measured(2);
        let [text] = tokens.differences.as_slice() else {
            panic!("{tokens:?}")
        };
        assert!(
            text.contains("a prefix of 6 tokens, 2 is generated"),
            "{text}"
        );
    }

    #[test]
    fn it_pays_from_the_length_on_after_which_all_say_so() {
        let over = |pct: f64| {
            let pairs = [Pair {
                base: 1.0,
                variant: 1.0 + pct / 100.0,
                start: 0,
            }; 5];
            paired_overhead(&[pairs], 1).ok()
        };
        let lengths = [16, 64, 256, 1024];
        let of = |pcts: [f64; 4]| {
            let all: Vec<_> = lengths.into_iter().zip(pcts.map(over)).collect();
            pays_from(&all)
        };
        assert_eq!(of([5.0, -3.0, -20.0, -60.0]), Some(64));
        assert_eq!(of([-5.0, 3.0, -20.0, -60.0]), Some(256));
        assert_eq!(of([-5.0, -3.0, -20.0, 1.0]), None);
        assert_eq!(pays_from(&[(16, None)]), None);
    }
}
