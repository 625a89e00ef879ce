//! Parity: do two variants of a model compute the same?
//!
//! The unmerged variant generates greedily, and the others are given its tokens, so that a single different choice
//! doesn't set all that follows apart. One engine is open at a time.

mod divergence;

use serde::{Deserialize, Serialize};

pub use divergence::{Divergence, at_each_position};

use crate::engine::DecoderEngine;
use crate::measure::timings::Engine;
use crate::prepare::{ADAPTER, PreparedVariant, Variant};
use crate::quantize::{Format, Quantization};
use crate::weights::{Dtype, SafetensorsFile};

/// An engine that shows the logits of its last token.
pub trait LogitEngine: Engine {
    /// The logits that the last token was picked from, `[vocab_size]`.
    fn logits(&self) -> Vec<f32>;
}

impl LogitEngine for DecoderEngine {
    fn logits(&self) -> Vec<f32> {
        Self::logits(self)
    }
}

/// Tokens, and the logits that each was picked from.
#[derive(Debug, Clone)]
pub struct Trace {
    /// Greedy tokens.
    pub tokens: Vec<u32>,
    /// `[tokens, vocab_size]`
    pub logits: Vec<Vec<f32>>,
}

/// Generates `count` tokens greedily.
///
/// # Errors
/// If the engine fails.
pub fn trace<E: LogitEngine>(
    engine: &mut E,
    prompt_ids: &[u32],
    count: usize,
) -> Result<Trace, E::Error> {
    let mut tokens = vec![engine.prefill(prompt_ids)?];
    let mut logits = vec![engine.logits()];
    while tokens.len() < count {
        tokens.push(engine.decode(tokens[tokens.len() - 1])?);
        logits.push(engine.logits());
    }
    Ok(Trace { tokens, logits })
}

/// The logits of each step where the engine is given `tokens`, whatever it would have picked itself.
///
/// # Errors
/// If the engine fails.
pub fn follow<E: LogitEngine>(
    engine: &mut E,
    prompt_ids: &[u32],
    tokens: &[u32],
) -> Result<Vec<Vec<f32>>, E::Error> {
    engine.prefill(prompt_ids)?;
    let mut logits = vec![engine.logits()];
    for &token in &tokens[..tokens.len().saturating_sub(1)] {
        engine.decode(token)?;
        logits.push(engine.logits());
    }
    Ok(logits)
}

impl Trace {
    /// `max |a - b| / max |a|` over all steps.
    pub fn difference(&self, other: &[Vec<f32>]) -> f32 {
        let pairs = self.logits.iter().flatten().zip(other.iter().flatten());
        let (mut largest, mut difference) = (0.0_f32, 0.0_f32);
        for (a, b) in pairs {
            largest = largest.max(a.abs());
            // A NaN must not pass: `max` would drop it, and so would a quotient of two infinities.
            let step = (a - b).abs();
            if !step.is_finite() {
                return f32::INFINITY;
            }
            difference = difference.max(step);
        }
        difference / largest.max(f32::MIN_POSITIVE)
    }

    /// `rms(a - b) / rms(a)` over all steps: what rounding does to most logits, and not to the one that it hits hardest.
    fn mean_difference(&self, other: &[Vec<f32>]) -> f32 {
        let pairs = self.logits.iter().flatten().zip(other.iter().flatten());
        let (mut size, mut difference) = (0.0_f64, 0.0_f64);
        for (&a, &b) in pairs {
            size += f64::from(a).powi(2);
            difference += (f64::from(a) - f64::from(b)).powi(2);
        }
        let ratio = (difference / size.max(f64::MIN_POSITIVE)).sqrt();
        if ratio.is_finite() {
            ratio as f32
        } else {
            f32::INFINITY
        }
    }

    /// The difference that variants of one model are judged by.
    fn judged(&self, other: &[Vec<f32>], norm: Norm) -> f32 {
        match norm {
            Norm::Largest => self.difference(other),
            Norm::Mean => self.mean_difference(other),
        }
    }

    /// Steps in which `other` has its largest logit at the same token.
    pub fn agreeing_tokens(&self, other: &[Vec<f32>]) -> usize {
        let steps = self.tokens.iter().zip(other);
        steps
            .filter(|(token, row)| **token as usize == argmax(row))
            .count()
    }
}

/// The place of the largest value, the first of several.
fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    best
}

/// What a difference of logits is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// The largest, over the largest logit.
    #[default]
    Largest,
    /// The root of the mean square, over that of the logits.
    Mean,
}

impl Norm {
    /// Of variants that are quantized otherwise only the mean is alike.
    fn of(quantization: Option<Quantization>) -> Self {
        match quantization {
            Some(_) => Self::Mean,
            None => Self::Largest,
        }
    }

    /// What a difference is a part of.
    pub fn of_what(self) -> &'static str {
        match self {
            Self::Largest => "of the largest logit",
            Self::Mean => "in the root mean square",
        }
    }
}

/// How far apart the logits of the same arithmetic may lie, by the [`Norm`] that goes with it. The merged weights
/// of a 16-bit model are rounded once more than the unmerged ones.
///
/// Merged weights are quantized after the merge, and the unmerged adapter stands beside the base's quantized ones: the two
/// are rounded differently, and may differ by what rounding does to a model with random weights. A merge that's wrong by
/// less than that isn't found here: `verify` compares the same variants unquantized for that. Where tokens are `routed`, a
/// small difference sends some to other experts.
pub fn tolerance(dtype: Dtype, quantization: Option<Quantization>, routed: bool) -> f32 {
    let rounded = match dtype {
        Dtype::Float32 => 1e-4,
        Dtype::Float16 => 1e-2,
        Dtype::BFloat16 => 8e-2,
    };
    let requantized = quantization.map_or(0.0, |quantization| match quantization.weights {
        Format::Int8 if routed => 3e-1,
        Format::Int8 => 1e-1,
        Format::Int4 | Format::Nf4 if routed => 1.0,
        Format::Int4 | Format::Nf4 => 7.5e-1,
    });
    f32::max(rounded, requantized)
}

/// What the variants of a model were found to compute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parity {
    /// How differences are taken.
    #[serde(default)]
    pub norm: Norm,
    /// The difference of merged and unmerged logits; absent without both, or where it isn't finite.
    pub merged_vs_unmerged: Option<f32>,
    /// The most that `merged_vs_unmerged` may be.
    pub allowed: f32,
    /// Steps in which merged picks the token that unmerged picked.
    pub same_tokens: Option<usize>,
    /// Steps that were compared.
    pub of: usize,
    /// The same difference of the adapter (unmerged, or merged where that's all there is) against the base.
    pub adapter_vs_base: Option<f32>,
    /// Tensors that the unmerged variant is given; every one is an input of its graph, or ends in its cache.
    pub adapter_tensors: Option<usize>,
    /// Nothing was found wrong.
    pub passed: bool,
    /// What was found wrong.
    pub failures: Vec<String>,
    /// What is remarkable, and not wrong.
    pub note: Option<String>,
}

/// What's known of the adapter before its variants are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expected {
    dtype: Dtype,
    quantization: Option<Quantization>,
    /// Tokens go through some of many experts.
    routed: bool,
    /// There is a manifest that describes the adapter; a checkpoint that others merged has none.
    known: bool,
    fresh: bool,
    /// Tensors in the file of the unmerged variant, and in its manifest.
    tensors: Option<(usize, usize)>,
}

/// Compares the variants on one prompt for `count` tokens. `open` opens one engine after another, each with its
/// logits on the host.
///
/// # Errors
/// If an engine can't be opened or fails.
pub fn check<E: LogitEngine>(
    variants: &[PreparedVariant],
    prompt_ids: &[u32],
    count: usize,
    open: impl Fn(&PreparedVariant) -> Result<E, E::Error>,
) -> Result<Option<Parity>, E::Error> {
    let find = |variant| {
        let mut all = variants.iter();
        all.find(|prepared| prepared.manifest.variant == variant)
    };
    let order = [Variant::Unmerged, Variant::Merged, Variant::Base];
    let mut present = order
        .into_iter()
        .filter_map(|variant| Some((variant, find(variant)?)));
    let Some((leader, first)) = present.next() else {
        return Ok(None);
    };
    let lead = trace(&mut open(first)?, prompt_ids, count)?;
    let mut followers = Vec::new();
    for (variant, prepared) in present {
        let logits = follow(&mut open(prepared)?, prompt_ids, &lead.tokens)?;
        followers.push((variant, logits));
    }
    let adapter = first.manifest.adapter.as_ref();
    let expected = Expected {
        dtype: first.manifest.dtype,
        quantization: first.manifest.quantization(),
        routed: first.manifest.routed,
        known: adapter.is_some(),
        fresh: adapter.is_some_and(|adapter| adapter.fresh),
        tensors: find(Variant::Unmerged).and_then(count_tensors),
    };
    Ok(Some(judge(leader, &lead, &followers, expected)))
}

/// Tensors in the unmerged variant's file, and in its manifest.
fn count_tensors(unmerged: &PreparedVariant) -> Option<(usize, usize)> {
    let adapter = unmerged.manifest.adapter.as_ref()?;
    let file = SafetensorsFile::open(&unmerged.folder.join(ADAPTER));
    let found = file.map_or(0, |file| file.names().len());
    Some((found, adapter.inputs.len()))
}

/// Decides what the logits say. `lead` is of the variant `leader`, and the others followed its tokens.
fn judge(
    leader: Variant,
    lead: &Trace,
    followers: &[(Variant, Vec<Vec<f32>>)],
    expected: Expected,
) -> Parity {
    let of = |variant| {
        let mut all = followers.iter();
        all.find(|(other, _)| *other == variant)
            .map(|(_, logits)| logits)
    };
    let allowed = tolerance(expected.dtype, expected.quantization, expected.routed);
    let norm = Norm::of(expected.quantization);
    let mut failures = Vec::new();
    let mut note = None;

    let all = std::iter::once((leader, &lead.logits));
    for (variant, logits) in all.chain(followers.iter().map(|(name, logits)| (*name, logits))) {
        if !logits.iter().flatten().all(|value| value.is_finite()) {
            failures.push(format!("logits of `{variant}` are not finite"));
        }
    }
    let merged = of(Variant::Merged);
    let merged_vs_unmerged = merged.map(|merged| lead.judged(merged, norm));
    if let Some(difference) = merged_vs_unmerged
        && difference > allowed
    {
        failures.push(format!(
            "merged and unmerged disagree: their logits differ by {difference:.1e} {}, {allowed:.0e} is allowed in {}{}",
            norm.of_what(),
            expected.dtype,
            expected
                .quantization
                .map_or(String::new(), |q| format!(", {}", q.label()))
        ));
    }
    let adapter_vs_base = of(Variant::Base).map(|base| lead.judged(base, norm));
    if adapter_vs_base == Some(0.0) {
        if expected.fresh {
            note = Some(
                "a fresh adapter of this method is the identity, so it changes nothing yet"
                    .to_owned(),
            );
        } else if expected.known {
            failures.push("the adapter changes nothing: its logits are the base's".to_owned());
        } else {
            note = Some("the checkpoint computes what the base computes".to_owned());
        }
    }
    if note.is_none()
        && expected.quantization.is_some()
        && let (Some(effect), Some(_)) = (adapter_vs_base, merged_vs_unmerged)
        && effect <= allowed
    {
        note = Some(format!(
            "the adapter changes logits by {effect:.1e}, no more than quantizing anew may, so this can't tell a wrong \
             merge; `verify` compares the unquantized ones too"
        ));
    }
    if let Some((found, listed)) = expected.tensors
        && found != listed
    {
        failures.push(format!(
            "`{ADAPTER}` has {found} tensors, its manifest lists {listed}"
        ));
    }
    let finite = |difference: Option<f32>| difference.filter(|value| value.is_finite());
    Parity {
        norm,
        merged_vs_unmerged: finite(merged_vs_unmerged),
        allowed,
        same_tokens: merged.map(|merged| lead.agreeing_tokens(merged)),
        of: lead.tokens.len(),
        adapter_vs_base: finite(adapter_vs_base),
        adapter_tensors: expected.tensors.map(|(found, _)| found),
        passed: failures.is_empty(),
        failures,
        note,
    }
}

impl Parity {
    /// The record of a check that couldn't be made.
    pub fn impossible(reason: String) -> Self {
        Self {
            norm: Norm::default(),
            merged_vs_unmerged: None,
            allowed: 0.0,
            same_tokens: None,
            of: 0,
            adapter_vs_base: None,
            adapter_tensors: None,
            passed: false,
            failures: vec![format!("it could not be checked: {reason}")],
            note: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAINED: Expected = Expected {
        dtype: Dtype::Float32,
        quantization: None,
        routed: false,
        known: true,
        fresh: false,
        tensors: Some((4, 4)),
    };

    fn logits(value: f32) -> Vec<Vec<f32>> {
        vec![vec![value, 4.0], vec![0.0, 2.0]]
    }

    fn compare(merged: f32, base: f32, expected: Expected) -> Parity {
        let followers = [
            (Variant::Merged, logits(merged)),
            (Variant::Base, logits(base)),
        ];
        judge(
            Variant::Unmerged,
            &trace_of(logits(1.0)),
            &followers,
            expected,
        )
    }

    #[test]
    fn variants_that_agree_and_differ_from_the_base_pass() {
        let parity = compare(1.0001, 1.5, TRAINED);
        assert!(parity.passed && parity.failures.is_empty() && parity.note.is_none());
        assert_eq!((parity.adapter_vs_base, parity.of), (Some(0.125), 2));
        assert_eq!(parity.adapter_tensors, Some(4));
    }

    #[test]
    fn a_merge_that_went_wrong_fails() {
        let parity = compare(1.01, 1.5, TRAINED);
        assert!(!parity.passed && parity.failures[0].contains("disagree"));
        let half = Expected {
            dtype: Dtype::Float16,
            ..TRAINED
        };
        assert!(compare(1.01, 1.5, half).passed);
    }

    #[test]
    fn merged_weights_may_be_quantized_otherwise_but_not_be_others() {
        let quantized = |format| Expected {
            quantization: Some(Quantization::new(format)),
            ..TRAINED
        };
        assert!(!compare(1.1, 9.0, TRAINED).passed);
        assert!(compare(1.1, 9.0, quantized(Format::Int8)).passed);
        let wrong = compare(2.0, 9.0, quantized(Format::Int8));
        assert!(
            !wrong.passed && wrong.failures[0].contains("8bit"),
            "{wrong:?}"
        );
        let coarse = compare(1.3, 9.0, quantized(Format::Int4));
        assert!(coarse.passed && coarse.note.is_none());
        assert!(!compare(6.0, 9.0, quantized(Format::Nf4)).passed);
        let routed = Expected {
            routed: true,
            ..quantized(Format::Int8)
        };
        assert!(compare(1.6, 9.0, routed).passed && !compare(3.0, 9.0, routed).passed);
        assert!(!compare(1.6, 9.0, quantized(Format::Int8)).passed);
        // An adapter that does less than rounding does can't be told from none.
        let small = compare(1.0, 1.5, quantized(Format::Int4));
        assert!(small.passed && small.note.unwrap().contains("can't tell"));
    }

    #[test]
    fn a_trained_adapter_that_changes_nothing_fails_and_a_fresh_one_is_noted() {
        let parity = compare(1.0, 1.0, TRAINED);
        assert!(!parity.passed && parity.failures[0].contains("changes nothing"));
        for (known, fresh) in [(true, true), (false, false)] {
            let parity = compare(
                1.0,
                1.0,
                Expected {
                    known,
                    fresh,
                    ..TRAINED
                },
            );
            assert!(parity.passed && parity.note.is_some());
        }
    }

    #[test]
    fn logits_that_are_not_finite_fail_and_name_the_variant() {
        let parity = compare(1.0, f32::NAN, TRAINED);
        assert!(!parity.passed && parity.failures[0].contains("`base`"));
        assert_eq!(parity.adapter_vs_base, None);
        let alone = judge(Variant::Base, &trace_of(logits(f32::NAN)), &[], TRAINED);
        assert!(!alone.passed);
    }

    #[test]
    fn a_tensor_too_many_or_too_few_fails() {
        let fewer = Expected {
            tensors: Some((3, 4)),
            ..TRAINED
        };
        assert!(!compare(1.0, 1.5, fewer).passed);
    }

    /// Says its variant's number as every logit, and counts how many engines are open.
    struct Scripted {
        value: f32,
        open: std::rc::Rc<std::cell::Cell<usize>>,
    }

    impl Engine for Scripted {
        type Error = String;
        fn prefill(&mut self, _: &[u32]) -> Result<u32, String> {
            Ok(1)
        }
        fn decode(&mut self, _: u32) -> Result<u32, String> {
            Ok(1)
        }
    }

    impl LogitEngine for Scripted {
        fn logits(&self) -> Vec<f32> {
            vec![self.value, 4.0]
        }
    }

    impl Drop for Scripted {
        fn drop(&mut self) {
            self.open.set(self.open.get() - 1);
        }
    }

    #[test]
    fn one_engine_is_open_at_a_time() {
        let count = std::rc::Rc::new(std::cell::Cell::new(0));
        let open = |variant: &PreparedVariant| {
            assert_eq!(count.get(), 0, "another engine is open");
            count.set(1);
            Ok(Scripted {
                value: if variant.manifest.variant == Variant::Base {
                    2.0
                } else {
                    1.0
                },
                open: count.clone(),
            })
        };
        let all = [Variant::Base, Variant::Unmerged, Variant::Merged].map(crate::prepare::stand_in);
        let parity = check(&all, &[1, 2], 8, open).unwrap().unwrap();
        assert!(parity.passed);
        assert_eq!((parity.same_tokens, parity.of), (Some(8), 8));
        assert_eq!(parity.merged_vs_unmerged, Some(0.0));
        assert_eq!(parity.adapter_vs_base, Some(0.25));
        let base = check(&all[..1], &[1, 2], 3, open).unwrap().unwrap();
        assert!(base.passed && base.merged_vs_unmerged.is_none());
        assert_eq!(check(&[], &[1], 3, open), Ok(None));
    }

    fn trace_of(logits: Vec<Vec<f32>>) -> Trace {
        Trace {
            tokens: vec![1; logits.len()],
            logits,
        }
    }

    #[test]
    fn differences_are_relative_to_the_largest_logit() {
        let trace = trace_of(vec![vec![1.0, 4.0], vec![0.0, 2.0]]);
        assert_eq!(trace.difference(&[vec![1.0, 4.0], vec![1.0, 2.0]]), 0.25);
        assert_eq!(trace.agreeing_tokens(&[vec![9.0, 4.0], vec![1.0, 2.0]]), 1);
    }

    #[test]
    fn a_nan_is_a_difference() {
        let trace = trace_of(vec![vec![1.0, 4.0]]);
        assert_eq!(trace.difference(&[vec![f32::NAN, 4.0]]), f32::INFINITY);
        let trace = trace_of(vec![vec![f32::INFINITY, 4.0]]);
        assert_eq!(trace.difference(&trace.logits), f32::INFINITY);
    }
}
