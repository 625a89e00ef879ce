//! The prompts, by category: the built-in `prompts/prompts.json` (`{category: [text, …]}`), or
//! another file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::files::text_named;
use crate::json::check::{did_you_mean, json_type, nearest, quoted, without_comments};

const EMBEDDED: &str = include_str!("../prompts/prompts.json");

/// The name of the built-in prompts in errors.
const EMBEDDED_NAME: &str = "prompts.json (built in)";

/// A category of prompts, by length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    /// One or two sentences.
    Short,
    /// A paragraph.
    Medium,
    /// Several paragraphs.
    Long,
}

impl Category {
    /// All categories, shortest first.
    pub const ALL: [Self; 3] = [Self::Short, Self::Medium, Self::Long];

    /// The name in prompt files, parameters and results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Medium => "medium",
            Self::Long => "long",
        }
    }

    /// The category named `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|category| category.name() == name)
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Prompts by category. Each category has at least one prompt, and no prompt is blank.
#[derive(Debug, Clone)]
pub struct Prompts {
    file: String,
    by_category: BTreeMap<Category, Vec<String>>,
}

/// Why the prompts can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PromptsError {
    /// The file can't be read.
    #[error("cannot read prompts {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },

    /// The file isn't JSON.
    #[error("{file} is not valid JSON")]
    Json {
        /// The file.
        file: String,
        /// The cause, with line and column.
        source: serde_json::Error,
    },

    /// The file's top level isn't an object.
    #[error("{file} holds {found}, expected an object of lists of prompts by category")]
    NotAnObject {
        /// The file.
        file: String,
        /// The JSON type found.
        found: &'static str,
    },

    /// A category name that doesn't exist.
    #[error(
        "unknown category `{category}` in {file}{}; allowed: {allowed}",
        did_you_mean(suggestion)
    )]
    UnknownCategory {
        /// The file.
        file: String,
        /// The name found.
        category: String,
        /// The most similar category, if one is similar.
        suggestion: Option<String>,
        /// All categories.
        allowed: String,
    },

    /// The file has no prompts of a category.
    #[error("{file} has no prompts of category `{category}`")]
    MissingCategory {
        /// The file.
        file: String,
        /// The category.
        category: Category,
    },

    /// A category isn't a list.
    #[error("`{category}` in {file} is {found}, expected a list of strings")]
    NotAList {
        /// The file.
        file: String,
        /// The category.
        category: Category,
        /// The JSON type found.
        found: &'static str,
    },

    /// A prompt isn't a string, or is blank.
    #[error("`{category}[{index}]` in {file} is {found}, expected a string that is not blank")]
    Prompt {
        /// The file.
        file: String,
        /// The category.
        category: Category,
        /// The prompt's index in its list, from 0.
        index: usize,
        /// The JSON type found, or `blank`.
        found: &'static str,
    },

    /// A category has fewer prompts than requested.
    #[error(
        "{file} has {available} prompts of category `{category}`, but `num_prompt_samples` is {wanted}"
    )]
    TooFew {
        /// The file.
        file: String,
        /// The category.
        category: Category,
        /// Number of prompts in the file.
        available: usize,
        /// Number of prompts requested.
        wanted: usize,
    },
}

impl Prompts {
    /// Reads the prompts of the file `path`, or the built-in ones.
    ///
    /// # Errors
    /// If the file can't be read, lacks a category or has an unknown one, or if a prompt isn't a
    /// string or is blank.
    pub fn load(path: Option<&Path>) -> Result<Self, PromptsError> {
        let Some(path) = path else {
            return Self::parse(EMBEDDED_NAME, EMBEDDED);
        };
        let text = text_named(path).map_err(|source| PromptsError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// The first `count` prompts of a category.
    ///
    /// # Errors
    /// If the category has fewer.
    pub fn select(&self, category: Category, count: usize) -> Result<&[String], PromptsError> {
        let prompts = &self.by_category[&category];
        prompts.get(..count).ok_or_else(|| PromptsError::TooFew {
            file: self.file.clone(),
            category,
            available: prompts.len(),
            wanted: count,
        })
    }

    /// All prompts, by category.
    pub fn by_category(&self) -> &BTreeMap<Category, Vec<String>> {
        &self.by_category
    }

    /// All prompts, the short ones first.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.by_category.values().flatten().map(String::as_str)
    }

    fn parse(file: &str, text: &str) -> Result<Self, PromptsError> {
        let file = file.to_owned();
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(source) => return Err(PromptsError::Json { file, source }),
        };
        let Value::Object(object) = &value else {
            let found = json_type(&value);
            return Err(PromptsError::NotAnObject { file, found });
        };

        let mut by_category = BTreeMap::new();
        for (name, value) in without_comments(object) {
            let category = Category::from_name(name).ok_or_else(|| {
                let names = Category::ALL.map(Category::name);
                PromptsError::UnknownCategory {
                    file: file.clone(),
                    category: name.to_owned(),
                    suggestion: nearest(name, &names),
                    allowed: quoted(&names),
                }
            })?;
            by_category.insert(category, texts(&file, category, value)?);
        }
        for category in Category::ALL {
            if by_category.get(&category).is_none_or(Vec::is_empty) {
                return Err(PromptsError::MissingCategory { file, category });
            }
        }
        Ok(Self { file, by_category })
    }
}

fn texts(file: &str, category: Category, value: &Value) -> Result<Vec<String>, PromptsError> {
    let Value::Array(values) = value else {
        return Err(PromptsError::NotAList {
            file: file.to_owned(),
            category,
            found: json_type(value),
        });
    };
    let text = |(index, value): (usize, &Value)| match value {
        Value::String(text) if !text.trim().is_empty() => Ok(text.clone()),
        _ => Err(PromptsError::Prompt {
            file: file.to_owned(),
            category,
            index,
            found: if value.is_string() {
                "blank"
            } else {
                json_type(value)
            },
        }),
    };
    values.iter().enumerate().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        Prompts::parse("p.json", text).unwrap_err().to_string()
    }

    #[test]
    fn the_built_in_prompts_are_five_of_each_category_and_grow_in_length() {
        let prompts = Prompts::load(None).unwrap();
        let words = |category| -> Vec<usize> {
            let texts = prompts.select(category, 5).unwrap();
            texts
                .iter()
                .map(|text| text.split_whitespace().count())
                .collect()
        };
        assert!(
            words(Category::Short)
                .iter()
                .all(|words| (8..=30).contains(words))
        );
        assert!(
            words(Category::Medium)
                .iter()
                .all(|words| (70..=110).contains(words))
        );
        assert!(
            words(Category::Long)
                .iter()
                .all(|words| (300..=420).contains(words))
        );
        assert_eq!(prompts.texts().count(), 15);
    }

    #[test]
    fn the_long_prompts_have_several_paragraphs_and_the_others_one() {
        let prompts = Prompts::load(None).unwrap();
        for category in Category::ALL {
            for text in prompts.select(category, 5).unwrap() {
                assert_eq!(text.contains("\n\n"), category == Category::Long, "{text}");
            }
        }
    }

    #[test]
    fn requesting_more_prompts_than_exist_is_an_error() {
        let prompts = Prompts::load(None).unwrap();
        let message = prompts.select(Category::Long, 6).unwrap_err().to_string();
        assert!(
            message.contains("5 prompts") && message.contains("is 6"),
            "{message}"
        );
    }

    #[test]
    fn a_file_replaces_the_built_in_prompts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.json");
        let text = r#"{"_from": "me", "short": ["a", "b"], "medium": ["c"], "long": ["d"]}"#;
        std::fs::write(&path, text).unwrap();
        let prompts = Prompts::load(Some(&path)).unwrap();
        assert_eq!(prompts.select(Category::Short, 2).unwrap(), ["a", "b"]);
        let missing = Prompts::load(Some(&folder.path().join("no.json"))).unwrap_err();
        assert!(missing.to_string().contains("no.json"), "{missing}");
    }

    #[test]
    fn an_unknown_or_missing_category_is_an_error() {
        let unknown = message(r#"{"lnog": ["a"]}"#);
        assert!(unknown.contains("did you mean `long`?"), "{unknown}");
        let missing = message(r#"{"short": ["a"], "long": ["b"]}"#);
        assert!(missing.contains("`medium`"), "{missing}");
        let empty = message(r#"{"short": [], "medium": ["a"], "long": ["b"]}"#);
        assert!(empty.contains("`short`"), "{empty}");
    }

    #[test]
    fn a_blank_prompt_or_non_string_is_an_error_that_names_its_index() {
        let blank = message(r#"{"short": ["a", " \n"]}"#);
        assert!(blank.contains("`short[1]` in p.json is blank"), "{blank}");
        let number = message(r#"{"short": [3]}"#);
        assert!(
            number.contains("`short[0]` in p.json is a number"),
            "{number}"
        );
        let list = message(r#"{"short": "a"}"#);
        assert!(list.contains("`short` in p.json is a string"), "{list}");
        assert!(message("3").contains("a number"));
        assert!(message("{").contains("not valid JSON"));
    }
}
