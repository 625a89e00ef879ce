//! Adapters that mix experts: where experts are found, and that their files count for a prepared
//! folder.

use std::fs;

use crate::common::trial::{CONFIG, Trial, WEIGHTS};
use crate::common::{edit_tensors, relative_difference};

#[test]
fn experts_next_to_a_router_s_folder_are_found_as_peft_saves_them() {
    let inside = Trial::new("llama-gqa", "lora-arrow").logits_of("unmerged");
    let mut trial = Trial::new("llama-gqa", "lora-arrow");
    let router = trial.experiment.join("arrow_router");
    fs::create_dir(&router).unwrap();
    for name in [CONFIG, WEIGHTS] {
        fs::rename(trial.experiment.join(name), router.join(name)).unwrap();
    }
    trial.experiment = router;
    assert_eq!(trial.logits_of("unmerged"), inside);
}

#[test]
fn an_expert_s_file_counts_among_what_a_prepared_folder_is_made_from() {
    for (case_name, expert) in [("lora-arrow", "task_1"), ("xlora", "expert_1")] {
        let trial = Trial::new("llama-gqa", case_name);
        let before = trial.logits_of("unmerged");
        edit_tensors(&trial.file(expert, WEIGHTS), |tensors| {
            for tensor in tensors.values_mut() {
                tensor.values.iter_mut().for_each(|value| *value *= -1.5);
                tensor.values[0] += 0.5;
            }
        });
        let after = trial.logits_of("unmerged");
        assert!(relative_difference(&after, &before) > 1e-3);
    }
}
