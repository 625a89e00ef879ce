//! The generation loop, which times every token.
//!
//! It depends on neither ONNX Runtime nor the machine's clock: an [`Engine`] makes tokens and a
//! [`Clock`] gives the time, so tests script both. The clock is read once between two steps, and
//! each step lasts from one reading to the next. The steps therefore add up to the whole time.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::stats;
use crate::engine::Engine;

/// A monotonic clock.
pub trait Clock {
    /// The time since the clock's start.
    fn now(&self) -> Duration;
}

/// The operating system's monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock that starts at zero.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Timings of one generation. In JSON, all of them are seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationTimings {
    /// From the prompt's token ids to the first new token's id. Tokenizing isn't in it.
    #[serde(with = "seconds")]
    pub time_to_first_token: Duration,
    /// One entry a decode step: `new_tokens - 1`, since prefill gives the first token.
    #[serde(with = "seconds_list")]
    pub decode_steps: Vec<Duration>,
}

impl GenerationTimings {
    /// Number of generated tokens, the first included.
    pub fn new_tokens(&self) -> usize {
        self.decode_steps.len() + 1
    }

    /// From the prompt's token ids to the last new token's id.
    pub fn total(&self) -> Duration {
        self.time_to_first_token + self.decode_steps.iter().sum::<Duration>()
    }

    /// [`total`](Self::total) divided by [`new_tokens`](Self::new_tokens), in seconds. It includes
    /// prefill, as PEFT's benchmark suite does.
    pub fn time_per_token(&self) -> f64 {
        self.total().as_secs_f64() / self.new_tokens() as f64
    }

    /// The median decode step in seconds; `None` if there's only one token.
    pub fn decode_time_per_token_median(&self) -> Option<f64> {
        stats::median(&self.decode_seconds())
    }

    /// The mean decode step in seconds; `None` if there's only one token.
    pub fn decode_time_per_token_mean(&self) -> Option<f64> {
        stats::mean(&self.decode_seconds())
    }

    fn decode_seconds(&self) -> Vec<f64> {
        self.decode_steps
            .iter()
            .map(Duration::as_secs_f64)
            .collect()
    }
}

/// Generates exactly `new_tokens` tokens after the prompt. An end-of-text token doesn't end the
/// generation.
///
/// # Errors
/// The engine's error, from the step that failed.
///
/// # Panics
/// If `new_tokens` is 0: prefill already gives one token.
pub fn time_generation<E: Engine>(
    engine: &mut E,
    clock: &impl Clock,
    prompt_ids: &[u32],
    new_tokens: usize,
) -> Result<(Vec<u32>, GenerationTimings), E::Error> {
    assert!(new_tokens > 0, "a generation makes at least one token");
    let mut token_ids = Vec::with_capacity(new_tokens);
    let mut decode_steps = Vec::with_capacity(new_tokens - 1);

    let start = clock.now();
    let mut token = engine.prefill(prompt_ids)?;
    let mut step_start = clock.now();
    let time_to_first_token = step_start.saturating_sub(start);
    token_ids.push(token);

    while token_ids.len() < new_tokens {
        token = engine.decode(token)?;
        let step_end = clock.now();
        decode_steps.push(step_end.saturating_sub(step_start));
        token_ids.push(token);
        step_start = step_end;
    }
    Ok((
        token_ids,
        GenerationTimings {
            time_to_first_token,
            decode_steps,
        },
    ))
}

/// A duration as a number of seconds.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(time.as_secs_f64())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Durations as numbers of seconds.
mod seconds_list {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(times: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(times.iter().map(Duration::as_secs_f64))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Duration>, D::Error> {
        Vec::<f64>::deserialize(deserializer)?
            .into_iter()
            .map(|seconds| Duration::try_from_secs_f64(seconds).map_err(D::Error::custom))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::scripted_clock::ScriptedClock;

    const END_OF_TEXT: u32 = 0;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Returns the tokens of `script`, one per call. Prefill takes 40 ms, and the `n`-th decode
    /// step `n` times 5 ms.
    struct ScriptedEngine {
        clock: ScriptedClock,
        script: Vec<u32>,
        calls: Vec<Vec<u32>>,
    }

    impl ScriptedEngine {
        fn new(script: &[u32]) -> Self {
            let clock = ScriptedClock::default();
            clock.advance(ms(1_000));
            Self {
                clock,
                script: script.to_vec(),
                calls: Vec::new(),
            }
        }

        fn answer(&mut self, input: &[u32], time: Duration) -> Result<u32, String> {
            self.clock.advance(time);
            self.calls.push(input.to_vec());
            self.script
                .get(self.calls.len() - 1)
                .copied()
                .ok_or_else(|| "the script is over".to_string())
        }
    }

    impl Engine for ScriptedEngine {
        type Error = String;

        fn prefill(&mut self, prompt_ids: &[u32]) -> Result<u32, String> {
            self.answer(prompt_ids, ms(40))
        }

        fn decode(&mut self, token: u32) -> Result<u32, String> {
            self.answer(&[token], ms(5) * self.calls.len() as u32)
        }
    }

    fn generate(
        engine: &mut ScriptedEngine,
        new_tokens: usize,
    ) -> Result<(Vec<u32>, GenerationTimings), String> {
        let clock = engine.clock.clone();
        time_generation(engine, &clock, &[1, 2, 3], new_tokens)
    }

    #[test]
    fn the_first_token_is_prefill_and_not_a_decode_step() {
        let (_, timings) = generate(&mut ScriptedEngine::new(&[7, 8, 9, 6]), 4).unwrap();
        assert_eq!(timings.time_to_first_token, ms(40));
        assert_eq!(timings.decode_steps, [ms(5), ms(10), ms(15)]);
    }

    #[test]
    fn each_token_goes_back_in_and_the_last_one_does_not() {
        let mut engine = ScriptedEngine::new(&[7, 8, 9]);
        let (token_ids, _) = generate(&mut engine, 3).unwrap();
        assert_eq!(token_ids, [7, 8, 9]);
        assert_eq!(engine.calls, [vec![1, 2, 3], vec![7], vec![8]]);
    }

    #[test]
    fn the_end_of_text_token_does_not_stop_it() {
        let mut engine = ScriptedEngine::new(&[5, END_OF_TEXT, END_OF_TEXT, 4]);
        let (token_ids, timings) = generate(&mut engine, 4).unwrap();
        assert_eq!(token_ids, [5, END_OF_TEXT, END_OF_TEXT, 4]);
        assert_eq!(timings.new_tokens(), 4);
    }

    #[test]
    fn the_steps_add_up_to_the_clocks_whole_time() {
        let mut engine = ScriptedEngine::new(&[7, 8, 9, 6]);
        let (_, timings) = generate(&mut engine, 4).unwrap();
        assert_eq!(timings.total(), engine.clock.now() - ms(1_000));
        assert_eq!(timings.total(), ms(70));
        assert_eq!(timings.time_per_token(), 0.0175);
    }

    #[test]
    fn decode_figures_leave_prefill_out() {
        let timings = GenerationTimings {
            time_to_first_token: ms(900),
            decode_steps: vec![ms(4), ms(5), ms(30)],
        };
        assert_eq!(timings.decode_time_per_token_median(), Some(0.005));
        assert_eq!(timings.decode_time_per_token_mean(), Some(0.013));
    }

    #[test]
    fn a_single_token_has_no_decode_figures() {
        let mut engine = ScriptedEngine::new(&[7]);
        let (token_ids, timings) = generate(&mut engine, 1).unwrap();
        assert_eq!((token_ids, timings.total()), (vec![7], ms(40)));
        assert_eq!(engine.calls.len(), 1);
        assert_eq!(timings.decode_time_per_token_median(), None);
        assert_eq!(timings.decode_time_per_token_mean(), None);
    }

    #[test]
    fn a_failing_step_ends_it_with_its_error() {
        assert_eq!(
            generate(&mut ScriptedEngine::new(&[7, 8]), 3),
            Err("the script is over".to_string())
        );
        assert_eq!(
            generate(&mut ScriptedEngine::new(&[]), 1),
            Err("the script is over".to_string())
        );
    }

    #[test]
    fn json_has_seconds_and_loses_nothing() {
        let timings = GenerationTimings {
            time_to_first_token: ms(40),
            decode_steps: vec![Duration::from_nanos(5_123_457), ms(1_500)],
        };
        let json = serde_json::to_value(&timings).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"time_to_first_token": 0.04, "decode_steps": [0.005123457, 1.5]})
        );
        assert_eq!(
            serde_json::from_value::<GenerationTimings>(json).unwrap(),
            timings
        );
        for negative in [
            r#"{"time_to_first_token": -1, "decode_steps": []}"#,
            r#"{"time_to_first_token": 1, "decode_steps": [-1]}"#,
        ] {
            assert!(serde_json::from_str::<GenerationTimings>(negative).is_err());
        }
    }

    #[test]
    fn the_system_clock_never_goes_back() {
        let clock = SystemClock::new();
        let readings: Vec<Duration> = (0..1_000).map(|_| clock.now()).collect();
        assert!(readings.is_sorted());
        assert_ne!(readings[0], readings[999]);
    }
}
