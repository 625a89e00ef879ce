//! `measure --baseline`

use std::fs;

use crate::common::*;
use crate::workplace::Workplace;

#[test]
fn what_is_measured_is_compared_with_a_result_whose_place_it_takes() {
    let place = Workplace::new(2);
    let target = case("llama-gqa", "lora");
    let outcome = place.measure(&target, &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let written = place.written(&outcome);
    let mut before = read_json(&written);
    // What little such a model needs differs by more than what's allowed.
    let variants = before["generation_info"]["variants"]
        .as_object_mut()
        .unwrap();
    for variant in variants.values_mut() {
        for key in ["peak_ram_memory_mb", "peak_anonymous_memory_mb"] {
            variant["memory"][key] = 1000.into();
        }
    }

    // Two runs tell nothing about times.
    for baseline in [written.as_path(), written.parent().unwrap()] {
        fs::write(&written, before.to_string()).unwrap();
        let options = ["--baseline", baseline.to_str().unwrap(), "--margin", "5%"];
        let outcome = place.measure(&target, &options);
        assert_eq!(outcome.code, Some(3), "{outcome:?}");
        assert_eq!(place.written(&outcome), written);
        let timestamp = before["run_info"]["timestamp"].as_str().unwrap();
        let line = format!("\nOLD      {timestamp}");
        assert!(outcome.stdout.contains(&line), "{}", outcome.stdout);
        assert!(
            outcome
                .stdout
                .contains("can't be told: too few pairs: 2 where 5 are needed"),
            "{}",
            outcome.stdout
        );
        assert!(outcome.stdout.contains("\nmargin of times 5 %"));
    }

    // One that's better in what is exact.
    let mut better = before.clone();
    better["meta_info"]["parameters"]["trainable_params"] = 1.into();
    let path = place.path("better.json");
    fs::write(&path, better.to_string()).unwrap();
    let outcome = place.measure(&target, &["--baseline", path.to_str().unwrap()]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
}

#[test]
fn a_baseline_that_cannot_be_read_is_told_before_anything_is_measured() {
    let place = Workplace::new(1);
    fs::write(place.path("damaged.json"), "{").unwrap();
    for (name, words) in [
        ("absent.json", "cannot read `absent.json`"),
        ("damaged.json", "`damaged.json` is damaged"),
    ] {
        let outcome = place.measure(&case("llama-gqa", "lora"), &["--baseline", name]);
        assert_refused(&outcome, &["there's nothing to compare with: ", words]);
        assert!(!place.path("results").exists());
    }
}
