//! Fresh adapters with routers, mixtures, gates or a side network.

use serde_json::json;

use crate::common::trial::{CONFIG, Trial};
use crate::common::{make_fresh, relative_difference, set_key};

#[test]
fn a_fresh_one_starts_as_the_base() {
    for (model_name, case_name) in [
        ("llama-gqa", "adamss"),
        ("llama-gqa", "lily"),
        ("llama-gqa", "lora-alora"),
        ("llama-gqa", "lora-arrow-general"),
        ("llama-gqa", "shadow"),
        ("llama-gqa", "xlora-top-softmax"),
        ("llama-bias", "shadow-narrow"),
        ("llama-bias", "xlora-layerwise"),
        ("opt-pre", "adamss"),
        ("opt-pre", "lily"),
        ("opt-pre", "shadow"),
        ("opt-pre", "xlora"),
    ] {
        let trial = Trial::new(model_name, case_name);
        make_fresh(&trial.experiment);
        let base = trial.logits_of("base");
        let unmerged = trial.logits_of("unmerged");
        let difference = relative_difference(&unmerged, &base);
        assert!(difference < 1e-5, "{model_name}/{case_name}: {difference}");
    }
}

#[test]
fn experts_without_tensors_are_drawn_apart() {
    let trial = Trial::new("llama-gqa", "lora-arrow");
    make_fresh(&trial.experiment);
    for expert in ["task_0", "task_1", "task_2"] {
        set_key(
            &trial.file(expert, CONFIG),
            "init_lora_weights",
            json!(false),
        );
    }
    let base = trial.logits_of("base");
    let unmerged = trial.logits_of("unmerged");
    assert!(relative_difference(&unmerged, &base) > 1e-3);
    // One expert alone gives another result than all of them.
    trial.set_arrow("top_k", json!(1));
    let one = trial.logits_of("unmerged");
    assert!(relative_difference(&unmerged, &one) > 1e-4);
}
