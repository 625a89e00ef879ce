use super::*;
use std::fs;

fn with_overrides(text: &str) -> Result<BenchmarkConfig, ParametersError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("benchmark_params.json");
    fs::write(&path, text).unwrap();
    BenchmarkConfig::load(DefaultsSource::Embedded, Some(&path), &|_| {})
}

fn message(text: &str) -> String {
    let message = with_overrides(text).unwrap_err().to_string();
    assert!(message.contains("benchmark_params.json"), "{message}");
    message
}

#[test]
fn the_embedded_defaults_are_valid_and_complete() {
    let config = BenchmarkConfig::built_in();
    assert_eq!(config.model_id, "synthetic/llama-135m");
    assert_eq!(config.dtype.to_string(), "float32");
    assert_eq!(config.seed, 42);
    assert_eq!(config.num_inference_runs, 5);
    let new_tokens = Category::ALL.map(|category| config.max_new_tokens_for(category));
    assert_eq!(new_tokens, [20, 30, 40]);
}

#[test]
fn an_override_of_max_new_tokens_alone_applies_to_every_category() {
    let config = with_overrides(r#"{"max_new_tokens": 7}"#).unwrap();
    let new_tokens = Category::ALL.map(|category| config.max_new_tokens_for(category));
    assert_eq!(new_tokens, [7, 7, 7]);
    let json = config.to_json();
    assert_eq!(
        json["category_generation_params"]["long"]["max_new_tokens"],
        7
    );
}

#[test]
fn category_values_of_the_override_win_over_its_max_new_tokens() {
    let config = with_overrides(
        r#"{"category_generation_params": {"long": {"max_new_tokens": 9}}, "max_new_tokens": 7}"#,
    )
    .unwrap();
    let new_tokens = Category::ALL.map(|category| config.max_new_tokens_for(category));
    assert_eq!(new_tokens, [7, 7, 9]);
}

#[test]
fn a_nested_override_leaves_the_other_categories_alone() {
    let config =
        with_overrides(r#"{"category_generation_params": {"medium": {"max_new_tokens": 9}}}"#)
            .unwrap();
    let new_tokens = Category::ALL.map(|category| config.max_new_tokens_for(category));
    assert_eq!(new_tokens, [20, 9, 40]);
}

#[test]
fn keys_that_start_with_an_underscore_are_comments_at_every_level() {
    let config = with_overrides(
        r#"{"_why": 1, "seed": 3, "category_generation_params": {"_a": 0, "short": {"_b": []}}}"#,
    )
    .unwrap();
    assert_eq!(config.seed, 3);
    assert_eq!(config.max_new_tokens_for(Category::Short), 20);
}

#[test]
fn a_misspelt_key_is_an_error_that_suggests_the_right_one() {
    let message = message(r#"{"num_inference_run": 2}"#);
    assert!(
        message.contains("unknown key `num_inference_run`"),
        "{message}"
    );
    assert!(
        message.contains("did you mean `num_inference_runs`, "),
        "{message}"
    );
}

#[test]
fn three_keys_are_named_and_not_all() {
    let message = message(r#"{"max_tokens": 2}"#);
    assert!(
        message.contains("did you mean `max_new_tokens`, "),
        "{message}"
    );
    assert!(message.contains("docs/configuration.md"), "{message}");
    assert_eq!(message.matches('`').count(), 2 * (1 + 3), "{message}");
}

#[test]
fn a_misspelt_category_is_an_error_that_names_the_whole_path() {
    let message = message(r#"{"category_generation_params": {"shrot": {"max_new_tokens": 2}}}"#);
    assert!(
        message.contains("`category_generation_params.shrot`"),
        "{message}"
    );
    assert!(message.contains("did you mean `short`, "), "{message}");
}

#[test]
fn values_out_of_range_or_of_a_wrong_type_are_errors_that_tell_the_range() {
    for (text, part) in [
        (
            r#"{"num_inference_runs": 0}"#,
            "is `0`, expected an integer from 1 to 1000",
        ),
        (r#"{"num_prompt_samples": 101}"#, "an integer from 1 to 100"),
        (
            r#"{"max_new_tokens": 100001}"#,
            "an integer from 1 to 100000",
        ),
        (r#"{"max_new_tokens": 20.5}"#, "is `20.5`"),
        (
            r#"{"seed": -1}"#,
            "an integer from 0 to 18446744073709551615",
        ),
        (r#"{"seed": "42"}"#, r#"is `"42"`"#),
        (
            r#"{"dtype": "float64"}"#,
            "`float32`, `float16`, `bfloat16`",
        ),
        (r#"{"model_id": ""}"#, "not empty"),
        (r#"{"use_4bit": 0}"#, "`use_4bit`"),
        (
            r#"{"category_generation_params": {"long": 5}}"#,
            "`max_new_tokens`",
        ),
        (
            r#"{"category_generation_params": {"long": {"top_p": 5}}}"#,
            "long.top_p",
        ),
    ] {
        let message = message(text);
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn keys_on_quantization_come_to_formats() {
    let quantization = |text: &str| with_overrides(text).unwrap().quantization();
    assert_eq!(quantization("{}").unwrap(), None);
    let four = Quantization::new(Format::Int4);
    assert_eq!(quantization(r#"{"use_4bit": true}"#).unwrap(), Some(four));
    assert_eq!(
        quantization(r#"{"use_8bit": true, "quantization_head": "float"}"#).unwrap(),
        Some(Quantization {
            head: None,
            ..Quantization::new(Format::Int8)
        })
    );
    assert_eq!(
        quantization(r#"{"use_4bit": true, "quantization_embedding": "8bit"}"#).unwrap(),
        Some(Quantization {
            embedding: Some(Format::Int8),
            ..four
        })
    );
    assert_eq!(
        quantization(r#"{"use_4bit": true, "quantization_scheme": "nf4"}"#).unwrap(),
        Some(Quantization::new(Format::Nf4))
    );
    for (text, part) in [
        (r#"{"use_4bit": true, "use_8bit": true}"#, "both"),
        (
            r#"{"use_8bit": true, "quantization_scheme": "nf4"}"#,
            "4 bits",
        ),
        (r#"{"quantization_scheme": "nf4"}"#, "does nothing"),
        (r#"{"quantization_head": "8bit"}"#, "does nothing"),
        (r#"{"quantization_embedding": "8bit"}"#, "does nothing"),
        (r#"{"quantization_accuracy_level": 1}"#, "does nothing"),
        (
            r#"{"use_4bit": true, "quantization_scheme": "nf4", "quantization_accuracy_level": 4}"#,
            "no accuracy level",
        ),
    ] {
        let message = quantization(text).unwrap_err().to_string();
        assert!(message.contains(part), "{text}: {message}");
    }
    for (text, part) in [
        (r#"{"quantization_scheme": "gptq"}"#, "one of `rtn`, "),
        (r#"{"quantization_accuracy_level": 2}"#, "1 (float32) or 4"),
        (r#"{"quantization_head": true}"#, "`float`"),
        (r#"{"quantization_embedding": "nf4"}"#, "one of `4bit`, "),
    ] {
        let message = message(text);
        assert!(message.contains(part), "{text}: {message}");
    }
}

/// PEFT's own `default_benchmark_params.json`, of its text generation benchmark.
const PEFTS_DEFAULTS: &str = r#"{
    "model_id": "meta-llama/Llama-3.2-3B",
    "dtype": "float16",
    "seed": 42,
    "num_inference_runs": 10,
    "max_new_tokens": 20,
    "category_generation_params": {
        "short": {"max_new_tokens": 20},
        "medium": {"max_new_tokens": 50},
        "long": {"max_new_tokens": 100}
    }
}"#;

/// Loads a file of defaults; returns the configuration and the notes on it.
fn defaults(text: &str) -> (BenchmarkConfig, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("defaults.json");
    fs::write(&path, text).unwrap();
    let notes = std::cell::RefCell::new(Vec::new());
    let note = |text: &str| notes.borrow_mut().push(text.to_owned());
    let config = BenchmarkConfig::load(DefaultsSource::File(&path), None, &note).unwrap();
    (config, notes.into_inner())
}

#[test]
fn peft_s_own_defaults_are_taken_as_they_are() {
    let (config, notes) = defaults(PEFTS_DEFAULTS);
    assert_eq!(config.model_id, "meta-llama/Llama-3.2-3B");
    assert_eq!(config.dtype, Dtype::Float16);
    assert_eq!((config.seed, config.num_inference_runs), (42, 10));
    let new_tokens = Category::ALL.map(|category| config.max_new_tokens_for(category));
    assert_eq!(new_tokens, [20, 50, 100]);
    assert_eq!(
        config.num_prompt_samples,
        BenchmarkConfig::built_in().num_prompt_samples
    );
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn what_a_file_of_defaults_does_not_have_is_built_in() {
    assert_eq!(defaults("{}").0, BenchmarkConfig::built_in());
    let (config, _) = defaults(r#"{"max_new_tokens": 7, "category_generation_params": null}"#);
    let new_tokens = Category::ALL.map(|category| config.max_new_tokens_for(category));
    assert_eq!(new_tokens, [7; 3], "not the built-in categories'");
}

#[test]
fn keys_of_peft_s_suite_that_mean_nothing_here_are_said() {
    let (config, notes) = defaults(r#"{"reserve_output_tokens": 50, "train_steps": 9, "seed": 1}"#);
    assert_eq!(config.seed, 1);
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(
        notes[0].contains("`reserve_output_tokens` in "),
        "{notes:?}"
    );
    assert!(notes[0].contains("no prompt is shortened"), "{notes:?}");
}

#[test]
fn a_file_that_is_not_an_object_is_an_error() {
    assert!(message("[1]").contains("an array"));
    assert!(message("{").contains("not valid JSON"));
}

#[test]
fn the_resolved_configuration_is_itself_a_valid_file_of_defaults() {
    let config = with_overrides(r#"{"max_new_tokens": 7, "dtype": "bfloat16"}"#).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolved.json");
    fs::write(&path, config.to_json().to_string()).unwrap();
    let again = BenchmarkConfig::load(DefaultsSource::File(&path), None, &|_| {}).unwrap();
    assert_eq!(again.to_json(), config.to_json());
}

#[test]
fn a_batch_size_is_a_number_or_a_list_of_different_ones() {
    let sizes = |text: &str| with_overrides(text).unwrap().batch_sizes;
    assert_eq!(sizes("{}"), [1]);
    assert_eq!(sizes(r#"{"batch_size": 4}"#), [4]);
    assert_eq!(sizes(r#"{"batch_size": [8, 1]}"#), [8, 1]);
    let config = with_overrides(r#"{"batch_size": [8, 1]}"#).unwrap();
    assert_eq!(config.to_json()["batch_size"], serde_json::json!([8, 1]));
    for wrong in ["0", "1025", "[]", "[1, 1]", "[2, \"4\"]", "1.5"] {
        let message = message(&format!(r#"{{"batch_size": {wrong}}}"#));
        assert!(message.contains("`batch_size`"), "{message}");
        assert!(message.contains("an integer from 1 to 1024"), "{message}");
    }
}

#[test]
fn a_task_is_a_number_from_zero_on_or_none_in_particular() {
    for (text, expected) in [
        ("{}", None),
        (r#"{"task_id": null}"#, None),
        (r#"{"task_id": 0}"#, Some(0)),
    ] {
        let config = with_overrides(text).unwrap();
        assert_eq!(config.task_id, expected);
        assert_eq!(config.to_json()["task_id"], serde_json::json!(expected));
    }
    for wrong in ["-1", "1.5", r#""1""#, "[1]", "4294967296"] {
        let message = message(&format!(r#"{{"task_id": {wrong}}}"#));
        assert!(message.contains("`task_id`"), "{message}");
    }
}
