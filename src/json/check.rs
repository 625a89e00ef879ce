//! Helpers for checking this program's own JSON files and for wording the errors.

use serde_json::{Map, Value};

/// The entries of an object, without comments: keys that start with `_`.
pub(crate) fn without_comments(
    object: &Map<String, Value>,
) -> impl Iterator<Item = (&str, &Value)> {
    object
        .iter()
        .filter(|(key, _)| !key.starts_with('_'))
        .map(|(key, value)| (key.as_str(), value))
}

/// The candidate that's most similar to `name`, if any is similar enough to be a typo of it.
pub(crate) fn nearest(name: &str, candidates: &[&str]) -> Option<String> {
    candidates
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| (*candidate).to_owned())
}

/// ` (did you mean …?)`, or an empty string without a suggestion.
pub(crate) fn did_you_mean(suggestion: &Option<String>) -> String {
    match suggestion {
        Some(name) => format!(" (did you mean `{name}`?)"),
        None => String::new(),
    }
}

/// Names in backticks, separated by commas.
pub(crate) fn quoted(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// A JSON value's type, in words.
pub(crate) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_similar_name_is_suggested() {
        let names = ["seed", "num_inference_runs", "num_prompt_samples"];
        assert_eq!(
            nearest("num_inferance_runs", &names).as_deref(),
            Some("num_inference_runs")
        );
        assert_eq!(nearest("sed", &names).as_deref(), Some("seed"));
        assert_eq!(nearest("temperature", &names), None);
    }
}
