use super::*;
use crate::engine::Engine;
use crate::quantize::Format;

const TRAINED: Expected = Expected {
    dtype: Dtype::Float32,
    quantization: None,
    routed: false,
    known: true,
    fresh: false,
    brings_tokens: false,
    unknown: None,
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
        quantization: Some(Quantization::uniform(format)),
        ..TRAINED
    };
    assert!(!compare(1.1, 9.0, TRAINED).passed);
    assert!(compare(1.1, 9.0, quantized(Format::Int8Blocks32)).passed);
    let wrong = compare(2.0, 9.0, quantized(Format::Int8Blocks32));
    assert!(
        !wrong.passed && wrong.failures[0].contains("8bit"),
        "{wrong:?}"
    );
    let coarse = compare(1.3, 9.0, quantized(Format::Int4Blocks32));
    assert!(coarse.passed && coarse.note.is_none());
    assert!(!compare(6.0, 9.0, quantized(Format::Nf4)).passed);
    let routed = Expected {
        routed: true,
        ..quantized(Format::Int8Blocks32)
    };
    assert!(compare(1.6, 9.0, routed).passed && !compare(3.0, 9.0, routed).passed);
    assert!(!compare(1.6, 9.0, quantized(Format::Int8Blocks32)).passed);
    // An adapter with less effect than rounding can't be told from none.
    let small = compare(1.0, 1.5, quantized(Format::Int4Blocks32));
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
fn tokens_that_an_adapter_brings_along_are_left_out_of_what_is_compared_with_its_base() {
    let resized = Expected {
        brings_tokens: true,
        ..TRAINED
    };
    let lead = trace_of(vec![vec![1.0, 4.0, 9.0], vec![0.0, 2.0, -9.0]]);
    let against = |base: Vec<Vec<f32>>| {
        let followers = [
            (Variant::Merged, lead.logits.clone()),
            (Variant::Base, base),
        ];
        judge(Variant::Unmerged, &lead, &followers, resized)
    };
    let alike = against(vec![vec![1.0, 4.0], vec![0.0, 2.0]]);
    assert!(alike.passed && alike.note.unwrap().contains("brings along"));
    // A base that knows none of the generated tokens.
    let other = against(vec![vec![1.0, 3.0]]);
    assert!(other.passed && other.note.is_none());
    assert_eq!(other.adapter_vs_base, Some(0.25));
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

/// An engine whose logits are `[value, 4]`, and which counts the open engines.
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
    let all = [Variant::Base, Variant::Unmerged, Variant::Merged].map(crate::prepared::stand_in);
    let prompt = |ids, count| CheckedPrompt { ids, count };
    let checked = check_prompts(&all, &[prompt(&[1, 0], 8)], open)
        .unwrap()
        .unwrap();
    assert_eq!(checked.picks[0].len(), 3);
    let parity = checked.parity;
    assert!(parity.passed && parity.longest.is_none());
    assert_eq!((parity.same_tokens, parity.of), (Some(8), 8));
    assert_eq!(parity.merged_vs_unmerged, Some(0.0));
    assert_eq!(parity.adapter_vs_base, Some(0.25));
    let base = check_prompts(&all[..1], &[prompt(&[1, 2], 3)], open);
    let base = base.unwrap().unwrap().parity;
    assert!(base.passed && base.merged_vs_unmerged.is_none());
    assert_eq!(check_prompts(&[], &[prompt(&[1], 3)], open), Ok(None));
    assert_eq!(check_prompts(&all, &[], open), Ok(None));

    let both = [prompt(&[1, 0], 8), prompt(&[1, 0, 1, 0, 1], 4)];
    let checked = check_prompts(&all, &both, open).unwrap().unwrap();
    let longest = checked.parity.longest.unwrap();
    assert_eq!((longest.prompt_tokens, longest.of), (5, 4));
    assert_eq!(longest.same_tokens, Some(4));
    assert_eq!(checked.picks.len(), 2);
}

#[test]
fn what_goes_wrong_on_the_longest_prompt_only_is_a_failure() {
    let prompts = [&[1][..], &[1, 2, 3]].map(|ids| CheckedPrompt { ids, count: 2 });
    let both = |short, long| {
        let judged = vec![compare(short, 1.5, TRAINED), compare(long, 1.5, TRAINED)];
        Parity::of_all(&prompts, judged).unwrap()
    };
    assert!(both(1.0, 1.0).passed);
    let parity = both(1.0, 1.01);
    assert!(!parity.passed && parity.merged_vs_unmerged == Some(0.0));
    assert!(
        parity.failures[0].starts_with("on the longest prompt (3 tokens), merged and unmerged")
    );
    let difference = parity.longest.unwrap().merged_vs_unmerged.unwrap();
    assert!((difference - 0.0025).abs() < 1e-4);
    let nothing = vec![compare(1.0, 1.0, TRAINED), compare(1.0, 1.0, TRAINED)];
    let parity = Parity::of_all(&prompts, nothing).unwrap();
    assert_eq!(parity.failures.len(), 1);
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
