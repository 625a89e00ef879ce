//! Parity: do the variants of a model compute the same?
//!
//! The unmerged variant generates greedily. The others are fed its tokens, so that one different
//! choice doesn't make all later logits differ. One engine is open at a time.
//!
//! If an adapter adds tokens to the vocabulary, its base is fed the tokens up to the first that it
//! doesn't know.

mod continued;
mod divergence;
mod exported;
mod picks;
#[cfg(test)]
mod tests;
mod tolerance;
mod trace;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use continued::Continuation;
pub use divergence::{Divergence, at_each_position};
pub use exported::{ExportedParity, Sides, check_exported};
pub use picks::{Followed, Picks, WrongToken};
pub use tolerance::{Norm, tolerance};
pub use trace::{LogitEngine, Trace, follow, trace};

use crate::prepared::{ADAPTER, PreparedVariant, Variant};
use crate::quantize::Quantization;
use crate::weights::{Dtype, OnnxAdapterFile, SafetensorsFile};

/// The result of comparing a model's variants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parity {
    /// The norm of the differences below.
    #[serde(default)]
    pub norm: Norm,
    /// The difference between merged and unmerged logits; `None` without both, or if it isn't
    /// finite.
    pub merged_vs_unmerged: Option<f32>,
    /// The largest allowed `merged_vs_unmerged`.
    pub allowed: f32,
    /// Number of steps in which merged picks the same token as unmerged.
    pub same_tokens: Option<usize>,
    /// Number of steps that were compared.
    pub of: usize,
    /// The difference between the adapter's logits (unmerged, else merged) and the base's; `None`
    /// as above.
    pub adapter_vs_base: Option<f32>,
    /// How far the adapter's predictions are from the base's; `None` as above.
    #[serde(default)]
    pub effect: Option<Divergence>,
    /// Number of tensors in the unmerged variant's file. Each is an input of its graph, or goes
    /// into its cache.
    pub adapter_tensors: Option<usize>,
    /// Whether there are no `failures`.
    pub passed: bool,
    /// What is wrong, one sentence each.
    pub failures: Vec<String>,
    /// A remark about something that isn't wrong.
    pub note: Option<String>,
    /// The same on the longest prompt; `None` if there was one prompt. What's wrong there is in
    /// `failures` as well.
    #[serde(default)]
    pub longest: Option<OnLongest>,
    /// How a graph that another program exported differs from its reference; `allowed`,
    /// `same_tokens` and `of` are then about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exported: Option<ExportedParity>,
}

/// The result of comparing a model's variants on the longest prompt. Keys are those of [`Parity`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OnLongest {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// The difference between merged and unmerged logits.
    pub merged_vs_unmerged: Option<f32>,
    /// Number of steps in which merged picks the same token as unmerged.
    pub same_tokens: Option<usize>,
    /// Number of steps that were compared.
    pub of: usize,
    /// The difference between the adapter's logits and the base's.
    pub adapter_vs_base: Option<f32>,
}

/// A prompt on which variants are compared.
#[derive(Debug, Clone, Copy)]
pub struct CheckedPrompt<'a> {
    /// Its token ids.
    pub ids: &'a [u32],
    /// Tokens to compare.
    pub count: usize,
}

/// What came of comparing variants.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// Whether they compute the same.
    pub parity: Parity,
    /// For each prompt, what each variant may pick; without those that weren't run on it.
    pub picks: Vec<BTreeMap<Variant, Picks>>,
}

/// Facts about the adapter that the judgement depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expected {
    dtype: Dtype,
    quantization: Option<Quantization>,
    /// Whether a router sends tokens to some of the experts.
    routed: bool,
    /// Whether a manifest describes the adapter; a checkpoint merged by another program has none.
    known: bool,
    fresh: bool,
    /// Whether its vocabulary is larger than its base's.
    brings_tokens: bool,
    /// A token of the prompt that isn't in the base's vocabulary.
    unknown: Option<u32>,
    /// Number of tensors in the unmerged variant's file, and in its manifest.
    tensors: Option<(usize, usize)>,
}

/// Compares the variants on one prompt for `count` tokens; `None` if there are no variants. `open`
/// is called for one variant after another, and must keep logits on the host.
///
/// # Errors
/// If an engine can't be opened or fails.
pub fn check<E: LogitEngine>(
    variants: &[PreparedVariant],
    prompt_ids: &[u32],
    count: usize,
    open: impl Fn(&PreparedVariant) -> Result<E, E::Error>,
) -> Result<Option<Parity>, E::Error> {
    let prompt = CheckedPrompt {
        ids: prompt_ids,
        count,
    };
    let checked = check_prompts(variants, &[prompt], open)?;
    Ok(checked.map(|checked| checked.parity))
}

/// Compares the variants on `prompts`, of which the first is the shortest and the last the longest;
/// `None` if there are no variants, or no prompts. `open` is called for one variant after another,
/// and must keep logits on the host.
///
/// # Errors
/// If an engine can't be opened or fails.
pub fn check_prompts<E: LogitEngine>(
    variants: &[PreparedVariant],
    prompts: &[CheckedPrompt],
    open: impl Fn(&PreparedVariant) -> Result<E, E::Error>,
) -> Result<Option<Checked>, E::Error> {
    let find = |variant| {
        let mut all = variants.iter();
        all.find(|prepared| prepared.manifest.variant == variant)
    };
    let order = [Variant::Unmerged, Variant::Merged, Variant::Base];
    let mut present = order
        .into_iter()
        .filter_map(|variant| Some((variant, find(variant)?)));
    let (Some((leader, first)), false) = (present.next(), prompts.is_empty()) else {
        return Ok(None);
    };
    let mut leads = Vec::new();
    {
        let mut engine = open(first)?;
        for prompt in prompts {
            leads.push(trace(&mut engine, prompt.ids, prompt.count)?);
        }
    }
    let mut followers: Vec<Followers> = vec![Followers::default(); prompts.len()];
    for (variant, prepared) in present {
        let known = |id: &&u32| (**id as usize) < prepared.manifest.vocab_size;
        let mut engine = None;
        for ((prompt, lead), found) in prompts.iter().zip(&leads).zip(&mut followers) {
            found.unknown = prompt.ids.iter().find(|id| !known(id)).copied();
            if found.unknown.is_some() {
                continue;
            }
            // The logits of the last token's step don't depend on that token.
            let count = lead.tokens.iter().take_while(known).count() + 1;
            let tokens = &lead.tokens[..count.min(lead.tokens.len())];
            let engine = match &mut engine {
                Some(engine) => engine,
                None => engine.insert(open(prepared)?),
            };
            let logits = follow(engine, prompt.ids, tokens)?;
            found.logits.push((variant, logits));
        }
    }
    let adapter = first.manifest.adapter.as_ref();
    let expected = Expected {
        dtype: first.manifest.dtype,
        quantization: variants.iter().find_map(|one| one.manifest.rounding()),
        routed: first.manifest.routed,
        known: adapter.is_some(),
        fresh: adapter.is_some_and(|adapter| adapter.fresh),
        brings_tokens: find(Variant::Base)
            .is_some_and(|base| base.manifest.vocab_size < first.manifest.vocab_size),
        unknown: None,
        tensors: find(Variant::Unmerged).and_then(count_tensors),
    };
    let judged = leads.iter().zip(&followers).map(|(lead, found)| {
        let unknown = found.unknown;
        judge(
            leader,
            lead,
            &found.logits,
            Expected {
                unknown,
                ..expected
            },
        )
    });
    let judged: Vec<Parity> = judged.collect();
    let picks = leads.iter().zip(&followers).map(|(lead, found)| {
        let own = (
            leader,
            Picks::new(&lead.tokens, &lead.logits, expected.dtype),
        );
        let others = found.logits.iter().map(|(variant, logits)| {
            let picks = Picks::new(&lead.tokens, logits, expected.dtype);
            (*variant, picks)
        });
        std::iter::once(own).chain(others).collect()
    });
    let picks = picks.collect();
    Ok(Parity::of_all(prompts, judged).map(|parity| Checked { parity, picks }))
}

/// What variants computed that were fed the leader's tokens.
#[derive(Debug, Clone, Default)]
struct Followers {
    logits: Vec<(Variant, Vec<Vec<f32>>)>,
    /// A token of the prompt that isn't in a variant's vocabulary.
    unknown: Option<u32>,
}

/// Number of tensors in the unmerged variant's file, and in its manifest.
fn count_tensors(unmerged: &PreparedVariant) -> Option<(usize, usize)> {
    let adapter = unmerged.manifest.adapter.as_ref()?;
    if let Some(file) = &adapter.file {
        let file = OnnxAdapterFile::open(&unmerged.folder.join(file));
        let found = file.map_or(0, |file| file.tensors().count());
        return Some((found, adapter.inputs.len()));
    }
    let file = SafetensorsFile::open(&unmerged.folder.join(ADAPTER));
    let found = file.map_or(0, |file| file.names().len());
    Some((found, adapter.inputs.len()))
}

/// Judges the logits. `lead` is the trace of the variant `leader`; the others were fed its tokens.
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
    let effect = of(Variant::Base).map(|base| Divergence::between(base, &lead.logits));
    // Matrix products with output heads of different sizes may sum up in another order.
    let nothing = match expected.brings_tokens {
        true => allowed,
        false => 0.0,
    };
    if adapter_vs_base.is_some_and(|found| found <= nothing) {
        if expected.fresh {
            note = Some(
                "a fresh adapter of this method is the identity, so it changes nothing yet"
                    .to_owned(),
            );
        } else if expected.brings_tokens {
            note = Some(
                "apart from the tokens that it brings along, the adapter changes the base's logits no more than rounding may"
                    .to_owned(),
            );
        } else if expected.known {
            failures.push("the adapter changes nothing: its logits are the base's".to_owned());
        } else {
            note = Some("the checkpoint computes what the base computes".to_owned());
        }
    }
    if let Some(id) = expected.unknown {
        note = Some(format!(
            "the base doesn't know token id {id} of the prompt, so the adapter isn't compared with it"
        ));
    }
    if note.is_none()
        && expected.quantization.is_some()
        && let (Some(effect), Some(_)) = (adapter_vs_base, merged_vs_unmerged)
        && effect <= allowed
    {
        note = Some(format!(
            "the adapter changes logits by {effect:.1e}, no more than requantizing may, so this check can't tell a wrong merge; `verify` also compares the unquantized variants"
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
        effect: effect.filter(|effect| effect.mean_kl.is_finite()),
        adapter_tensors: expected.tensors.map(|(found, _)| found),
        passed: failures.is_empty(),
        failures,
        note,
        longest: None,
        exported: None,
    }
}

impl Parity {
    /// That of the first of `prompts`, with what the last one adds; `None` without any.
    fn of_all(prompts: &[CheckedPrompt], judged: Vec<Self>) -> Option<Self> {
        let mut judged = judged.into_iter();
        let mut first = judged.next()?;
        if let (Some(last), Some(prompt)) = (judged.next_back(), prompts.last()) {
            let prompt_tokens = prompt.ids.len();
            for failure in last.failures {
                // That it changes nothing, or has a tensor too many, needs to be said once.
                if !first.failures.contains(&failure) {
                    let text = format!("on the longest prompt ({prompt_tokens} tokens), {failure}");
                    first.failures.push(text);
                }
            }
            first.passed = first.failures.is_empty();
            first.longest = Some(OnLongest {
                prompt_tokens,
                merged_vs_unmerged: last.merged_vs_unmerged,
                same_tokens: last.same_tokens,
                of: last.of,
                adapter_vs_base: last.adapter_vs_base,
            });
        }
        Some(first)
    }

    /// A failed check that couldn't be run, with the reason.
    pub fn impossible(reason: String) -> Self {
        Self {
            norm: Norm::default(),
            merged_vs_unmerged: None,
            allowed: 0.0,
            same_tokens: None,
            of: 0,
            adapter_vs_base: None,
            effect: None,
            adapter_tensors: None,
            passed: false,
            failures: vec![format!("it could not be checked: {reason}")],
            note: None,
            longest: None,
            exported: None,
        }
    }
}
