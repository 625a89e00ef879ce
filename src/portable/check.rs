//! Checks what was written: the graph is run as it is, and compared with the prepared variant that
//! it was made from.

use super::PortableError;
use super::plain::PlainSession;
use crate::engine::logits::{difference, mean_difference};
use crate::parity::{Parity, Trace};
use crate::prepared::{Manifest, Sample, Variant};

/// New tokens that are compared.
pub const TOKENS: usize = 16;

/// The largest allowed difference between two runs of the same graph, relative to the largest
/// logit: sums are taken in another order.
const ALLOWED: f32 = 1e-4;

/// The same for quantized weights, in the root mean square: inputs are rounded to 8 bits, and
/// another order of a sum may round one to its neighbour. SmolLM2-135M, with its 30 layers, differs
/// by 2e-2 in blocks of 128.
const ALLOWED_QUANTIZED: f32 = 1e-1;

/// The same for a sample on another machine, relative to the largest logit.
const ALLOWED_ELSEWHERE: f32 = 1e-3;
const ALLOWED_ELSEWHERE_QUANTIZED: f32 = 2e-1;

/// A prompt, and what a prepared variant generates after it.
pub type Expected = (Vec<u32>, Trace);

/// What was found of a prepared variant.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// The parity of the variants, if there's more than one.
    pub parity: Option<Parity>,
    /// What the variant gives; `None` if the written graph shall not be run.
    pub expected: Option<Expected>,
}

/// What running the written graph gave.
#[derive(Debug)]
pub struct Ran {
    /// For the manifest.
    pub sample: Sample,
    steps: usize,
    difference: f32,
    in_batch: f32,
    of: &'static str,
}

/// Runs the graph of `session`: one prompt, and then three of unequal lengths at once.
///
/// # Errors
/// If it can't be run, or the logits aren't those of the prepared variant.
pub fn run(
    session: &mut PlainSession,
    manifest: &Manifest,
    (prompt_ids, expected): &Expected,
    pad: u32,
) -> Result<Ran, PortableError> {
    let count = expected.tokens.len();
    let alone = session.generate(&[prompt_ids], pad, count)?.remove(0);
    let (steps, found, of) = agree(
        manifest,
        expected,
        &alone,
        "the written graph's logits differ from those of the prepared variant",
    )?;
    let prompts: Vec<&[u32]> = [prompt_ids.len(), 1, prompt_ids.len() / 2 + 1]
        .map(|length| &prompt_ids[..length.min(prompt_ids.len())])
        .to_vec();
    let together = session.generate(&prompts, pad, count)?;
    let mut largest = 0.0_f32;
    for (prompt, batch) in prompts.iter().zip(&together) {
        let single = session.generate(&[prompt], pad, count)?.remove(0);
        let what = "a prompt's logits in a batch of unequal ones differ from those alone";
        largest = largest.max(agree(manifest, &single, batch, what)?.1);
    }
    let sample = Sample {
        prompt_ids: prompt_ids.clone(),
        token_ids: alone.tokens.clone(),
        logits: logits_of(&alone),
        tolerance: match manifest.quantization {
            Some(_) => ALLOWED_ELSEWHERE_QUANTIZED,
            None => ALLOWED_ELSEWHERE,
        },
    };
    Ok(Ran {
        sample,
        steps,
        difference: found,
        in_batch: largest,
        of,
    })
}

/// Checks that two generations agree until they choose different tokens, after which nothing can be
/// compared. Returns the number of steps, their difference, and relative to what it is.
fn agree(
    manifest: &Manifest,
    a: &Trace,
    b: &Trace,
    what: &'static str,
) -> Result<(usize, f32, &'static str), PortableError> {
    let same = a.tokens.iter().zip(&b.tokens);
    let same = same.take_while(|(a, b)| a == b).count();
    let steps = (same + 1).min(a.tokens.len());
    let (first, second) = (&a.logits[..steps], &b.logits[..steps]);
    let (found, of) = match manifest.quantization {
        Some(_) => (mean_difference(first, second), "in the root mean square"),
        None => (difference(first, second), "of the largest logit"),
    };
    let allowed = allowed(manifest);
    match found > allowed {
        true => Err(PortableError::Differs {
            what,
            found,
            of,
            allowed,
        }),
        false => Ok((steps, found, of)),
    }
}

fn allowed(manifest: &Manifest) -> f32 {
    match manifest.quantization {
        Some(_) => ALLOWED_QUANTIZED,
        None => ALLOWED,
    }
}

impl Ran {
    /// What was found, in sentences; `variant` is what the graph was compared with.
    pub fn sentences(&self, variant: &str) -> Vec<String> {
        let Self {
            steps,
            difference,
            in_batch,
            of,
            ..
        } = self;
        vec![
            format!(
                "The graph as it is in this folder, in a plain loop of ONNX Runtime, gives the logits of {variant}: {steps} \
                 steps, a difference of {difference:.1e} {of}."
            ),
            format!(
                "Three prompts of unequal lengths at once, padded on the right, give the logits of one at a time: a \
                 difference of {in_batch:.1e} {of}."
            ),
        ]
    }
}

/// The logits of the tokens that were picked.
fn logits_of(trace: &Trace) -> Vec<f32> {
    let steps = trace.tokens.iter().zip(&trace.logits);
    steps.map(|(&token, row)| row[token as usize]).collect()
}

/// Generates a sample again. Returns the largest difference of a logit, relative to the largest, over
/// the steps before the first other token, and the number of the same tokens.
///
/// # Errors
/// If the graph can't be run.
pub fn repeat(session: &mut PlainSession, sample: &Sample) -> Result<(f32, usize), PortableError> {
    let count = sample.token_ids.len();
    let trace = session.generate(&[&sample.prompt_ids], 0, count)?.remove(0);
    let same = trace.tokens.iter().zip(&sample.token_ids);
    let same = same.take_while(|(a, b)| a == b).count();
    let found = logits_of(&trace);
    let largest = sample
        .logits
        .iter()
        .fold(f32::MIN_POSITIVE, |a, b| a.max(b.abs()));
    let until = (same + 1).min(count);
    let pairs = found[..until].iter().zip(&sample.logits);
    let differences = pairs.map(|(a, b)| (a - b).abs() / largest);
    // `f32::max` would drop a NaN.
    let worse = |a: f32, b: f32| {
        if b.is_finite() {
            a.max(b)
        } else {
            f32::INFINITY
        }
    };
    Ok((differences.fold(0.0, worse), same))
}

/// What `parity` found, in sentences.
pub fn of_parity(parity: &Parity, variant: Variant) -> Vec<String> {
    let of = parity.norm.of_what();
    let mut sentences = Vec::new();
    if let Some(difference) = parity.merged_vs_unmerged {
        sentences.push(format!(
            "Merged into the weights and kept beside them, the adapter gives the same: logits differ by {difference:.1e} \
             {of}, {allowed:.0e} is allowed; {same} of {count} greedy tokens are the same.",
            allowed = parity.allowed,
            same = parity.same_tokens.unwrap_or(0),
            count = parity.of
        ));
    }
    if let (Some(effect), true) = (parity.adapter_vs_base, variant != Variant::Base) {
        sentences.push(format!(
            "The adapter changes the base's logits by {effect:.1e} {of}."
        ));
    }
    sentences.extend(parity.note.iter().map(|note| format!("Note: {note}.")));
    sentences
}
