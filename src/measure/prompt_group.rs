//! Prompt groups. A group is a stratum in the statistics, a stage of the memory record, and rows of
//! the table.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::prompts::Category;

/// Prompts that are summarised together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum PromptGroup {
    /// The prompts of a category.
    Category(Category),
    /// Prompts of exactly this number of tokens.
    Context(usize),
}

/// Follows the number in the name of a [`PromptGroup::Context`].
const TOKENS: &str = " tokens";

impl PromptGroup {
    /// The group called `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let context = || Some(Self::Context(name.strip_suffix(TOKENS)?.parse().ok()?));
        Category::from_name(name)
            .map(Self::Category)
            .or_else(context)
    }

    /// The group's prompts, for messages.
    #[must_use]
    pub fn prompts(self) -> String {
        match self {
            Self::Category(category) => format!("{category} prompts"),
            Self::Context(count) => format!("prompts of {count} tokens"),
        }
    }
}

impl fmt::Display for PromptGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Category(category) => category.fmt(f),
            Self::Context(count) => f.pad(&format!("{count}{TOKENS}")),
        }
    }
}

impl From<PromptGroup> for String {
    fn from(group: PromptGroup) -> Self {
        group.to_string()
    }
}

impl TryFrom<String> for PromptGroup {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::from_name(&name).ok_or_else(|| format!("`{name}` is no group of prompts"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_name() {
        for group in [
            PromptGroup::Category(Category::Long),
            PromptGroup::Context(64),
        ] {
            let name = group.to_string();
            assert_eq!(PromptGroup::from_name(&name), Some(group));
            let json = serde_json::to_string(&group).unwrap();
            assert_eq!(serde_json::from_str::<PromptGroup>(&json).unwrap(), group);
        }
        for stage in ["start", "session_loaded", "tokens", "-1 tokens"] {
            assert_eq!(PromptGroup::from_name(stage), None);
        }
    }
}
