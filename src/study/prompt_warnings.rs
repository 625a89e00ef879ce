//! Reasons to distrust prompts: categories that aren't what their names say, and prompts that are
//! given twice.

use std::collections::BTreeMap;
use std::fmt;

use crate::measure::prompt_group::PromptGroup;
use crate::measure::record::PromptPlan;
use crate::prompts::Category;

/// A reason to distrust prompts.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum PromptWarning {
    /// A category's prompts are no longer than those of the category before it.
    NotLonger {
        /// The category that should be the shorter one, and its mean number of tokens.
        shorter: (Category, f64),
        /// The category that should be the longer one, and its mean number of tokens.
        longer: (Category, f64),
    },
    /// Prompts that are the same to the model, each group of them by their places.
    Repeated(Vec<String>),
}

/// What there is to caveat about `plans`.
pub fn prompt_warnings(plans: &[PromptPlan]) -> Vec<PromptWarning> {
    let mut caveats = not_longer(plans);
    caveats.extend(repeated(plans));
    caveats
}

fn not_longer(plans: &[PromptPlan]) -> Vec<PromptWarning> {
    let mean = |category: Category| {
        let group = PromptGroup::Category(category);
        let own = plans.iter().filter(|plan| plan.group == group);
        let lengths: Vec<usize> = own.map(|plan| plan.prompt_ids.len()).collect();
        let count = lengths.len();
        (count > 0).then(|| lengths.iter().sum::<usize>() as f64 / count as f64)
    };
    let means: Vec<(Category, f64)> = Category::ALL
        .into_iter()
        .filter_map(|category| Some((category, mean(category)?)))
        .collect();
    let pairs = means.windows(2);
    let wrong = pairs.filter(|pair| pair[1].1 <= pair[0].1);
    let caveat = |pair: &[(Category, f64)]| PromptWarning::NotLonger {
        shorter: pair[0],
        longer: pair[1],
    };
    wrong.map(caveat).collect()
}

fn repeated(plans: &[PromptPlan]) -> Option<PromptWarning> {
    let mut places: BTreeMap<&[u32], Vec<String>> = BTreeMap::new();
    for plan in plans {
        let place = format!("{} {}", plan.group, plan.index + 1);
        places.entry(&plan.prompt_ids).or_default().push(place);
    }
    let mut several: Vec<String> = places
        .into_values()
        .filter(|places| places.len() > 1)
        .map(|places| places.join(" = "))
        .collect();
    several.sort();
    (!several.is_empty()).then_some(PromptWarning::Repeated(several))
}

impl fmt::Display for PromptWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLonger {
                shorter: (shorter, fewer),
                longer: (longer, more),
            } => write!(
                f,
                "the prompts of `{longer}` have {more:.0} tokens on average, no more than those of `{shorter}` ({fewer:.0})"
            ),
            Self::Repeated(places) => write!(
                f,
                "some prompts have the same token ids, so they count several times: {}",
                places.join("; ")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(category: Category, index: usize, prompt_ids: &[u32]) -> PromptPlan {
        PromptPlan {
            group: PromptGroup::Category(category),
            index,
            prompt_ids: prompt_ids.to_vec(),
            new_tokens: 1,
        }
    }

    #[test]
    fn categories_that_grow_and_prompts_that_differ_are_not_doubted() {
        let plans = [
            plan(Category::Short, 0, &[1]),
            plan(Category::Short, 1, &[2, 3, 4]),
            plan(Category::Medium, 0, &[1, 2, 3]),
            plan(Category::Long, 0, &[1, 2, 3, 4]),
        ];
        assert_eq!(prompt_warnings(&plans), []);
    }

    #[test]
    fn categories_out_of_order_and_prompts_given_twice_are_named() {
        let plans = [
            plan(Category::Short, 0, &[1, 2, 3]),
            plan(Category::Short, 1, &[1, 2, 3]),
            plan(Category::Medium, 0, &[1, 2, 3]),
            plan(Category::Long, 0, &[9, 9]),
        ];
        let caveats = prompt_warnings(&plans);
        let caveats: Vec<String> = caveats.iter().map(PromptWarning::to_string).collect();
        assert_eq!(
            caveats,
            [
                "the prompts of `medium` have 3 tokens on average, no more than those of `short` (3)",
                "the prompts of `long` have 2 tokens on average, no more than those of `medium` (3)",
                "some prompts have the same token ids, so they count several times: short 1 = short 2 = medium 1",
            ]
        );
    }
}
