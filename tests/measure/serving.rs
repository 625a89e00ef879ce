//! What serving costs: `--mixed`, `--cold-start` and `--shared-prefix`.

use serde_json::{Value, json};

use crate::common::*;
use crate::workplace::Workplace;

fn serving(place: &Workplace, stem: &str, part: &str) -> Value {
    let result = place.result(stem);
    let problems = schema::problems(&result);
    assert!(problems.is_empty(), "{problems:#?}");
    result["generation_info"]["serving"][part].clone()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn rows_with_different_adapters_generate_what_these_do_by_themselves() {
    // LoRA, a method with a scale, and one whose magnitude scales outputs.
    for (name, stem) in [
        ("lora", "lora--lora"),
        ("dora", "lora--dora"),
        ("ia3-regex", "ia3--ia3-regex"),
    ] {
        let place = Workplace::new(2);
        let more = ["--mixed", "3", "--mixed-form", "grouped,gathered"];
        let outcome = place.measure(&case("llama-gqa", name), &more);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        assert!(
            outcome.stdout.contains("generate what their adapters do"),
            "{}",
            outcome.stdout
        );
        let mixed = serving(&place, stem, "mixed");
        assert_eq!(mixed["refused"], json!([]), "{name}");
        assert_eq!(mixed["rows"], 3);
        let batches = mixed["batches"].as_array().unwrap();
        let what: Vec<String> = batches
            .iter()
            .map(|batch| format!("{} {}", batch["adapters"], batch["form"]))
            .collect();
        assert_eq!(
            what,
            [
                "0 null",
                "1 null",
                "2 \"grouped\"",
                "3 \"grouped\"",
                "2 \"gathered\"",
                "3 \"gathered\""
            ]
        );
        for batch in batches {
            assert_eq!(batch["runs"].as_array().unwrap().len(), 2);
            assert!(number(&batch["time_to_first_token"]) > 0.0);
            let count = batch["adapters"].as_u64().unwrap();
            assert_eq!(batch["over_one"].is_null(), count < 2);
            assert_eq!(batch["over_base"].is_null(), count < 1);
        }
        let names = mixed["adapters"].as_array().unwrap();
        assert_eq!(names[0], stem);
        assert_eq!(names[2], format!("{stem}, other values 2"));
        // Rows of all rounds and of the warm-up, but not the base's.
        let tokens = &mixed["tokens"];
        assert_eq!(
            (&tokens["same"], &tokens["sequences"]),
            (&json!(true), &json!(45))
        );
        // The comparison would see another adapter in a row.
        let difference = number(&tokens["logits_difference"]);
        let nearest = number(&tokens["nearest_adapters"]);
        assert!(
            difference < 1e-5 && nearest > 100.0 * difference,
            "{name}: {tokens}"
        );
        assert!(mixed["memory"]["adapter_bytes"].as_u64().unwrap() > 100);
        assert_eq!(
            mixed["memory"]["resident_bytes"].as_array().unwrap().len(),
            4
        );
    }
}

#[test]
fn experiments_that_fit_share_a_batch_and_the_others_are_measured_by_themselves() {
    let place = Workplace::new(1);
    let [first, second, dora] = ["lora-f16", "lora", "dora"].map(|name| case("llama-gqa", name));
    let more = ["--mixed", "3", "--batch-size", "4", "--restarts", "2"];
    let outcome = place.measure_all(&[&first, &second, &dora], &more);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let mixed = serving(&place, "lora--lora-f16", "mixed");
    assert_eq!(
        mixed["adapters"],
        json!([
            "lora--lora-f16",
            "lora--lora",
            "lora--lora-f16, other values 1"
        ])
    );
    assert_eq!(mixed["rows"], 4);
    assert_eq!(mixed["tokens"]["same"], true);
    let runs = mixed["batches"][1]["runs"].as_array().unwrap();
    let starts: Vec<&Value> = runs.iter().map(|run| &run["start"]).collect();
    assert_eq!(starts, [0, 1]);
    let told = "its adapter is in the batches of `lora-f16`";
    assert!(outcome.stdout.contains(told), "{}", outcome.stdout);
    // It has other inputs, so its batches are its own.
    let own = serving(&place, "lora--dora", "mixed");
    assert_eq!(own["adapters"][1], "lora--dora, other values 1");
}

#[test]
fn methods_without_a_form_are_refused_by_name_and_the_other_form_is_measured() {
    let place = Workplace::new(1);
    let forms = ["--mixed", "2", "--mixed-form", "gathered,grouped"];
    for (name, stem, input) in [
        ("lora-embed", "lora--lora-embed", "embed_tokens"),
        ("oft", "oft--oft", "oft"),
        (
            "prompt-tuning",
            "prompt_tuning--prompt-tuning",
            "prompt_embeddings",
        ),
    ] {
        let outcome = place.measure(&case("llama-gqa", name), &forms);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let mixed = serving(&place, stem, "mixed");
        let refused = &mixed["refused"][0];
        assert_eq!(refused["form"], "gathered");
        let reason = refused["reason"].as_str().unwrap();
        assert!(
            reason.contains(input) && reason.contains("--mixed-form grouped"),
            "{reason}"
        );
        assert!(
            outcome.stdout.contains("gathered isn't available"),
            "{}",
            outcome.stdout
        );
        assert_eq!(mixed["batches"].as_array().unwrap().len(), 3);
        assert_eq!(mixed["tokens"]["same"], true, "{name}");
    }
    let outcome = place.measure(&case("llama-gqa", "prefix-tuning"), &forms);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let absent = &serving(&place, "prefix_tuning--prefix-tuning", "mixed")["absent"];
    assert!(absent.as_str().unwrap().contains("cache"), "{absent}");
    for wrong in [
        ["--mixed", "1"],
        ["--mixed-form", "gathered"],
        ["--shared-prefix=0", "--aa"],
    ] {
        let outcome = place.measure(&case("llama-gqa", "lora"), &wrong);
        assert_eq!(outcome.code, Some(2), "{wrong:?}");
    }
}

#[test]
fn an_adapter_starts_from_disk_from_the_page_cache_and_from_memory() {
    let place = Workplace::new(5);
    let outcome = place.measure(&case("llama-gqa", "lora"), &["--cold-start"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("page cache"), "{}", outcome.stdout);
    let cold = serving(&place, "lora--lora", "cold_start");
    let sources = cold["sources"].as_array().unwrap();
    let names: Vec<&Value> = sources.iter().map(|of| &of["source"]).collect();
    assert_eq!(names, ["memory", "page_cache", "disk"]);
    for (of, is_file) in sources.iter().zip([false, true, true]) {
        assert_eq!(of["starts"].as_array().unwrap().len(), 5);
        assert_eq!(number(&of["load"]) > 0.0, is_file);
        assert_eq!(of["over_memory"].is_null(), !is_file);
        assert!(number(&of["first_token"]) > 0.0);
    }
    assert!(sources[0]["cached_share"].is_null());
    if cfg!(target_os = "linux") {
        assert_eq!(sources[1]["cached_share"], 1.0);
        assert!(sources[2]["cached_share"].is_f64());
    }
    let outcome = place.measure(&case("llama-gqa", "prefix-tuning"), &["--cold-start"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let absent = &serving(&place, "prefix_tuning--prefix-tuning", "cold_start")["absent"];
    assert!(absent.as_str().unwrap().contains("cache"), "{absent}");
}

#[test]
fn prompts_with_a_common_prefix_go_on_the_same_way_from_a_kept_cache() {
    let place = Workplace::new(2);
    for (name, stem, cache_of) in [
        ("lora-alora", "lora--lora-alora", "base"),
        ("lora", "lora--lora", "adapter"),
        ("prompt-tuning", "prompt_tuning--prompt-tuning", "adapter"),
        ("prefix-tuning", "prefix_tuning--prefix-tuning", "adapter"),
    ] {
        let more = ["--shared-prefix=24,8,100000"];
        let outcome = place.measure(&case("llama-gqa", name), &more);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let found = serving(&place, stem, "shared_prefix");
        assert_eq!(found["cache_of"], cache_of, "{name}");
        assert_eq!(found["left_out"], json!([100_000]));
        let tokens = &found["tokens"];
        assert_eq!(tokens["same"], true, "{name}");
        // Both sides, both lengths, four prompts: a whole generation, and two first tokens a round.
        assert_eq!(tokens["sequences"], 2 * 2 * 4 * (1 + 2 * 2));
        let lengths = found["lengths"].as_array().unwrap();
        assert_eq!(
            [&lengths[0]["prefix_tokens"], &lengths[1]["prefix_tokens"]],
            [8, 24]
        );
        for side in ["base", "unmerged"] {
            let reuse = &lengths[1][side];
            assert_eq!(reuse["runs"].as_array().unwrap().len(), 2 * 4);
            assert_eq!(reuse["over_whole"]["pairs"], 2 * 4);
            assert!(number(&reuse["kept_bytes"]) > number(&lengths[0][side]["kept_bytes"]));
        }
    }
    let outcome = place.measure(&case("llama-gqa", "lily"), &["--shared-prefix=8"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let absent = &serving(&place, "lily--lily", "shared_prefix")["absent"];
    let absent = absent.as_str().unwrap();
    assert!(
        absent.contains("LILY") && absent.contains("together"),
        "{absent}"
    );
}
