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

/// Bytes of a name that are compared with candidates: how long a comparison takes grows with the
/// square of it.
const COMPARED: usize = 200;

fn beginning(name: &str) -> &str {
    &name[..name.floor_char_boundary(COMPARED)]
}

/// The candidate that's most similar to `name`, if any is similar enough to be a typo of it.
pub(crate) fn nearest(name: &str, candidates: &[&str]) -> Option<String> {
    let name = beginning(name);
    candidates
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| (*candidate).to_owned())
}

/// The three candidates that are most similar to `name`, in words: `a`, `b` or `c`.
pub(crate) fn nearest_three(name: &str, candidates: &[&str]) -> String {
    let name = beginning(name);
    let mut ranked: Vec<&&str> = candidates.iter().collect();
    ranked.sort_by(|a, b| similarity(name, b).total_cmp(&similarity(name, a)));
    let names: Vec<String> = ranked
        .iter()
        .take(3)
        .map(|name| format!("`{name}`"))
        .collect();
    match names.as_slice() {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => names.concat(),
    }
}

/// How similar two names are. A name inside the other one, and the last parts of two paths, count
/// as well.
fn similarity(name: &str, candidate: &str) -> f64 {
    const INSIDE: f64 = 0.85;
    let (name, candidate) = (name.to_lowercase(), candidate.to_lowercase());
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let whole = strsim::jaro_winkler(&name, &candidate);
    let end = strsim::jaro_winkler(&last(&name), &last(&candidate));
    let is_inside = name.contains(&candidate) || candidate.contains(&name);
    let inside = if is_inside { INSIDE } else { 0.0 };
    whole.max(end).max(inside)
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
        assert_eq!(nearest(&"é".repeat(1_000_000), &names), None);
    }

    #[test]
    fn three_names_are_told_the_most_similar_first() {
        let names = ["LORA", "LOHA", "LOKR", "IA3", "OFT", "VERA"];
        assert_eq!(nearest_three("lorra", &names), "`LORA`, `LOHA` or `LOKR`");
        assert_eq!(nearest_three("x", &["a"]), "`a`");
        assert_eq!(nearest_three("x", &[]), "");
        let paths = [
            "ia3/default",
            "lora/lora_r16",
            "lora/lora_r8",
            "lora/lora_r8_dora",
        ];
        let found = nearest_three("lora_r9", &paths);
        assert_eq!(
            found,
            "`lora/lora_r8`, `lora/lora_r16` or `lora/lora_r8_dora`"
        );
        let options = ["alpha", "alpha_pattern", "r", "rank_pattern"];
        assert!(nearest_three("lora_alpha", &options).starts_with("`alpha`"));
    }
}
