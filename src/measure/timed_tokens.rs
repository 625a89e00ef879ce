//! Do timed runs generate what was checked? The parity check runs in a process of its own, with
//! sessions of its own; what's timed might be something else, or go wrong in the middle.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::protocol::ParityCheck;
use super::record::{RunRecord, SubjectRecord};
use super::subject::Subject;
use crate::prepared::Variant;

/// The tokens of timed runs, compared with those of the parity check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimedTokens {
    /// Runs that were compared: those of the prompts that were checked.
    pub runs: usize,
    /// Tokens that were compared, of all these runs.
    pub tokens: usize,
    /// Runs of which no more tokens were compared from one on that's as likely as another: a tie,
    /// or a variant's own choice.
    pub parted: usize,
    /// Which variants generate something else, one sentence each. Their times are not of what was
    /// checked.
    pub differences: Vec<String>,
    /// Which variants don't generate the same every time, one sentence each.
    pub unsteady: Vec<String>,
}

/// Compares the runs of `records`, which are those of one experiment and of its base.
pub fn timed_tokens<'a>(
    check: &ParityCheck,
    records: impl IntoIterator<Item = &'a SubjectRecord>,
) -> TimedTokens {
    let mut found = TimedTokens::default();
    for record in records {
        found.unsteady.extend(unsteady(record));
        // It runs the same graph with other values, which weren't checked.
        if record.variant != Subject::UnmergedEmpty {
            found.follow(check, record);
        }
    }
    found
}

impl TimedTokens {
    fn follow(&mut self, check: &ParityCheck, record: &SubjectRecord) {
        for prompt in &check.picks {
            let Some(picks) = prompt.picks.get(&Variant::from(record.variant)) else {
                continue;
            };
            let runs = record.runs_of(prompt.group);
            let runs = runs.filter(|run| run.prompt == prompt.index && !run.token_ids.is_empty());
            let (mut count, mut wrong, mut example) = (0, 0, String::new());
            for run in runs {
                count += 1;
                let followed = picks.follow(&run.token_ids);
                if let Some(token) = followed.count(&mut self.tokens, &mut self.parted) {
                    wrong += 1;
                    example = format!(
                        "as new token {}, {} was timed where {} was checked",
                        token.at + 1,
                        token.found,
                        token.expected
                    );
                }
            }
            self.runs += count;
            if wrong > 0 {
                self.differences.push(format!(
                    "{wrong} of {count} timed runs of `{}` generate something else than the parity check, on prompt {} of the \
                     {}: {example}",
                    record.variant,
                    prompt.index,
                    prompt.group.prompts()
                ));
            }
        }
    }
}

/// That runs of the same prompt have different tokens, if they do.
fn unsteady(record: &SubjectRecord) -> Option<String> {
    let with_tokens = || record.runs.iter().filter(|run| !run.token_ids.is_empty());
    let prompt = |run: &RunRecord| (run.group, run.prompt);
    let all: BTreeSet<_> = with_tokens().map(prompt).collect();
    let differ = all.iter().filter(|of| {
        let mut runs = with_tokens().filter(|run| prompt(run) == **of);
        let first = runs.next();
        runs.any(|run| Some(&run.token_ids) != first.map(|first| &first.token_ids))
    });
    let count = differ.count();
    (count > 0).then(|| {
        format!(
            "`{}` doesn't generate the same tokens every time on {count} of {} prompts",
            record.variant,
            all.len()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::measure::prompt_group::PromptGroup;
    use crate::measure::protocol::PromptPicks;
    use crate::measure::record::scripted;
    use crate::prompts::Category;

    /// The check found the tokens 7, 8, 9 likely, and as the third one 5 as well.
    fn check(variant: Variant) -> ParityCheck {
        let step = |fed: u32, near: &[u32]| serde_json::json!({ "fed": fed, "near": near });
        let picks = serde_json::json!([step(7, &[7]), step(8, &[8]), step(9, &[9, 5])]);
        ParityCheck {
            picks: vec![PromptPicks {
                group: PromptGroup::Category(Category::Short),
                index: 0,
                picks: BTreeMap::from([(variant, serde_json::from_value(picks).unwrap())]),
            }],
            ..ParityCheck::default()
        }
    }

    #[test]
    fn runs_that_generate_what_was_checked_raise_nothing() {
        let records = [Subject::Base, Subject::Unmerged].map(|of| scripted(of, 1));
        let found = timed_tokens(&check(Variant::Unmerged), &records);
        // Five runs; the fourth token wasn't checked.
        assert_eq!((found.runs, found.tokens, found.parted), (5, 15, 0));
        assert!(found.differences.is_empty() && found.unsteady.is_empty());
    }

    #[test]
    fn a_tie_is_no_difference_and_another_token_is_one() {
        let mut record = scripted(Subject::Merged, 1);
        record.runs[1].token_ids = vec![7, 8, 5, 1];
        let found = timed_tokens(&check(Variant::Merged), [&record]);
        assert_eq!((found.runs, found.tokens, found.parted), (5, 14, 1));
        assert!(found.differences.is_empty());
        assert_eq!(
            found.unsteady,
            ["`merged` doesn't generate the same tokens every time on 1 of 1 prompts"]
        );

        record.runs[2].token_ids = vec![7, 3, 9, 6];
        let found = timed_tokens(&check(Variant::Merged), [&record]);
        assert_eq!(
            found.differences,
            [
                "1 of 5 timed runs of `merged` generate something else than the parity check, on prompt 0 of the short prompts: \
                 as new token 2, 3 was timed where 8 was checked"
            ]
        );
    }

    #[test]
    fn a_control_is_checked_as_what_it_runs_and_old_records_have_no_tokens() {
        let mut again = scripted(Subject::BaseAgain, 1);
        assert_eq!(timed_tokens(&check(Variant::Base), [&again]).runs, 5);
        let empty = scripted(Subject::UnmergedEmpty, 1);
        assert_eq!(timed_tokens(&check(Variant::Unmerged), [&empty]).runs, 0);
        for run in &mut again.runs {
            run.token_ids.clear();
        }
        assert_eq!(
            timed_tokens(&check(Variant::Base), [&again]),
            TimedTokens::default()
        );
    }
}
