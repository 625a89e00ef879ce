//! The sweep: further batch sizes and context lengths, which show where one variant overtakes
//! another.

use super::record::{PromptPlan, SubjectRecord};
use crate::measure::prompt_group::PromptGroup;

/// The measurement of one batch size.
#[derive(Debug, Clone)]
pub struct SweepRun {
    /// Sequences generated at once.
    pub batch_size: usize,
    /// One record for each subject.
    pub records: Vec<SubjectRecord>,
    /// Whether the base was measured in turn with the others, not taken from the cache.
    pub paired: bool,
}

/// Makes `samples` prompts of exactly `count` tokens each. Their tokens are those of `texts`,
/// concatenated and repeated; each prompt starts at another offset.
///
/// # Panics
/// If `texts` have no tokens.
pub fn synthesised(
    texts: &[Vec<u32>],
    count: usize,
    samples: usize,
    new_tokens: usize,
) -> Vec<PromptPlan> {
    let all = texts.concat();
    assert!(!all.is_empty(), "texts without tokens make no prompt");
    let prompt = |index: usize| PromptPlan {
        group: PromptGroup::Context(count),
        index,
        prompt_ids: all
            .iter()
            .cycle()
            .skip(index * all.len() / samples)
            .take(count)
            .copied()
            .collect(),
        new_tokens,
    };
    (0..samples).map(prompt).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_have_the_exact_number_of_tokens_and_start_at_different_offsets() {
        let texts = [vec![1, 2, 3], vec![4]];
        let plans = synthesised(&texts, 6, 2, 5);
        let ids: Vec<&[u32]> = plans
            .iter()
            .map(|plan| plan.prompt_ids.as_slice())
            .collect();
        assert_eq!(ids, [[1, 2, 3, 4, 1, 2], [3, 4, 1, 2, 3, 4]]);
        assert!(
            plans
                .iter()
                .all(|plan| plan.group == PromptGroup::Context(6))
        );
        assert_eq!((plans[1].index, plans[1].new_tokens), (1, 5));
        assert_eq!(synthesised(&texts, 2, 1, 5)[0].prompt_ids, [1, 2]);
    }
}
