//! Does a graph that was exported elsewhere compute what its reference computes? The same tokens don't
//! prove it: a wrong rotation can leave them all as they are, and changes logits by a fifth.

use serde::{Deserialize, Serialize};

use super::Parity;
use super::tolerance::{Norm, tolerance};
use super::trace::{LogitEngine, follow, trace};
use crate::engine::logits::{difference, mean_difference};
use crate::prepared::{Manifest, PreparedVariant};
use crate::quantize::Format;

/// How a graph that was exported elsewhere differs from its reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExportedParity {
    /// What the reference is called.
    pub reference: String,
    /// The difference of the logits in the norm of the check; null where it isn't finite.
    pub difference: Option<f32>,
    /// The largest difference over the largest logit, whatever the norm of the check is.
    pub largest_difference: Option<f32>,
}

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub struct Sides<'a> {
    /// What the reference is called.
    pub name: &'a str,
    /// What's right.
    pub reference: &'a PreparedVariant,
    /// What's compared with it.
    pub exported: &'a PreparedVariant,
}

/// Lets the reference generate `count` tokens, and feeds them to the exported graph. `open` is called
/// for one after the other, and must keep logits on the host.
///
/// # Errors
/// If an engine can't be opened or fails.
pub fn check_exported<E: LogitEngine>(
    sides: Sides,
    prompt_ids: &[u32],
    count: usize,
    open: impl Fn(&PreparedVariant) -> Result<E, E::Error>,
) -> Result<Parity, E::Error> {
    let [reference, exported] = [sides.reference, sides.exported].map(|side| &side.manifest);
    let lead = trace(&mut open(sides.reference)?, prompt_ids, count)?;
    // The logits of the last token's step don't depend on that token.
    let known = |id: &&u32| (**id as usize) < exported.vocab_size;
    let count = lead.tokens.iter().take_while(known).count() + 1;
    let tokens = &lead.tokens[..count.min(lead.tokens.len())];
    let logits = follow(&mut open(sides.exported)?, prompt_ids, tokens)?;
    let is_quantized = [reference, exported]
        .into_iter()
        .any(|side| quantized_bits(side).is_some());
    let (norm, found) = match is_quantized {
        true => (Norm::Mean, mean_difference(&lead.logits, &logits)),
        false => (Norm::Largest, difference(&lead.logits, &logits)),
    };
    let allowed = f32::max(allowed(reference), allowed(exported));
    let mut failures = Vec::new();
    if !logits.iter().flatten().all(|value| value.is_finite()) {
        failures.push("its logits are not finite".to_owned());
    } else if found > allowed {
        failures.push(format!(
            "its logits differ from those of {} by {found:.1e} {}, {allowed:.0e} is allowed",
            sides.name,
            norm.of_what()
        ));
    }
    let sizes = [reference, exported].map(|side| side.vocab_size);
    let note = (sizes[0] != sizes[1]).then(|| {
        format!(
            "it gives logits of {} tokens and {} of {}; only those that both have were compared",
            sizes[1], sides.name, sizes[0]
        )
    });
    let finite = |found: f32| Some(found).filter(|found| found.is_finite());
    Ok(Parity {
        norm,
        merged_vs_unmerged: None,
        allowed,
        same_tokens: Some(lead.agreeing_tokens(&logits)),
        of: tokens.len(),
        adapter_vs_base: None,
        effect: None,
        adapter_tensors: None,
        passed: failures.is_empty(),
        failures,
        note,
        longest: None,
        exported: Some(ExportedParity {
            reference: sides.name.to_owned(),
            difference: finite(found),
            largest_difference: finite(difference(&lead.logits, &logits)),
        }),
    })
}

/// By how much rounding alone may change the logits of a model with this manifest.
fn allowed(manifest: &Manifest) -> f32 {
    let own = tolerance(manifest.dtype, manifest.rounding(), manifest.routed);
    let foreign = quantized_bits(manifest).map_or(0.0, |bits| {
        let format = if bits < 8 {
            Format::Int4Blocks32
        } else {
            Format::Int8Blocks32
        };
        let tolerance = format.tolerance();
        if manifest.routed {
            tolerance.routed
        } else {
            tolerance.dense
        }
    });
    f32::max(own, foreign)
}

/// Bits of the codes of quantized weights; `None` if none are quantized.
fn quantized_bits(manifest: &Manifest) -> Option<u8> {
    let own = manifest.quantization.as_ref().map(|found| found.bits as u8);
    own.or(manifest
        .foreign
        .as_ref()
        .and_then(|graphs| graphs.facts.quantized_bits))
}
