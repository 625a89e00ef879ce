//! Adapters with a resized vocabulary, in addition to their cases: merged checkpoints, comparisons
//! with the base, unknown rows, and embeddings with more rows than the vocabulary has tokens.

use peft_bench::weights::Dtype;
use serde_json::json;

use crate::common::reference::{Case, check_variant, join};
use crate::common::trial::Trial;
use crate::common::{
    Outcome, TOLERANCE, case, edit_tensors, program, read_checkpoint, read_json, read_tensors,
    relative_difference, run, write_tensors,
};

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

#[track_caller]
fn assert_passed(outcome: &Outcome) {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn merged_checkpoints_have_the_new_vocabulary() {
    for (model_name, case_name, size, tied) in [
        ("llama-tied", "lora-resized-saved", 128, true),
        ("llama-tied", "lora-resized-tokens", 116, true),
        ("llama-tied", "lora-resized-head", 116, false),
        ("llama-tied", "lora-cut", 105, true),
        ("llama-gqa", "lora-resized-tokens-ends", 143, false),
        ("llama-gqa", "lora-cut-head", 133, false),
        ("phi-tied", "lora-resized-saved", 72, true),
    ] {
        let trial = Trial::new(model_name, case_name);
        let written = trial.run("prepare", &["--format", "hf", "--dtype", "float32"]);
        assert_passed(&written);
        assert!(
            written.stderr.contains(&format!("{size} tokens")),
            "{written:?}"
        );
        let checkpoint = trial.prepared("checkpoint-float32");
        let config = read_json(&checkpoint.join("config.json"));
        assert_eq!(
            config["vocab_size"],
            json!(size),
            "{model_name}/{case_name}"
        );
        assert_eq!(
            config["tie_word_embeddings"],
            json!(tied),
            "{model_name}/{case_name}"
        );
        let tensors = read_checkpoint(&checkpoint);
        assert_eq!(
            tensors.contains_key(HEAD),
            !tied,
            "{model_name}/{case_name}"
        );

        let folder = case(model_name, case_name);
        let case = Case::read(&folder);
        let file = trial.root.path().join("merged.safetensors");
        let mut command = program(["generate", "--ep", "cpu", "--threads", "1", "--logits"]);
        command.arg(&file).arg(&checkpoint);
        command.args([
            "--prompt-ids",
            &join(&case.prompt_ids),
            "--max-new-tokens",
            "8",
        ]);
        let again = trial.root.path().join("again");
        assert_passed(&run(command.arg("--export-dir").arg(again)));
        let expected = read_tensors(&folder.join("expected.safetensors"));
        let found = read_tensors(&file).remove("logits").unwrap();
        let difference = relative_difference(&found.values, &expected["merged"].values);
        assert!(
            difference <= TOLERANCE,
            "{model_name}/{case_name}: {difference}"
        );
    }
}

#[test]
fn an_adapter_is_compared_with_its_base_by_the_tokens_that_both_know() {
    for (model_name, case_name) in [
        ("llama-tied", "lora-resized-saved"),
        ("llama-tied", "trainable-tokens-resized"),
        ("llama-tied", "prompt-tuning-resized"),
        ("llama-gqa", "lora-cut-ends"),
    ] {
        let trial = Trial::new(model_name, case_name);
        assert_passed(&trial.run("verify", &[]));
        let quantized = trial.run("verify", &["--quantize", "8bit"]);
        assert_passed(&quantized);
    }
    // Rows of new tokens only.
    let trial = Trial::new("llama-tied", "trainable-tokens-resized");
    let alike = trial.run("verify", &["--max-new-tokens", "1"]);
    assert_passed(&alike);
    assert!(alike.stdout.contains("brings along"), "{alike:?}");
    let new = trial.run("verify", &["--prompt-ids", "3,113,7"]);
    assert_passed(&new);
    assert!(new.stdout.contains("doesn't know token id 113"), "{new:?}");
}

#[test]
fn an_unknown_row_is_refused_with_its_tensor_s_name() {
    let whole = |name: &str| format!("base_model.model.{name}");
    for (model_name, case_name, removed, missing, row) in [
        ("llama-gqa", "lora-resized-saved", whole(HEAD), HEAD, 140),
        (
            "llama-gqa",
            "lora-resized-saved",
            whole(EMBEDDING),
            EMBEDDING,
            140,
        ),
        (
            "llama-tied",
            "lora-resized-embed",
            whole("model.embed_tokens.base_layer.weight"),
            EMBEDDING,
            113,
        ),
        (
            "llama-tied",
            "lora-resized-head",
            whole("lm_head.base_layer.weight"),
            EMBEDDING,
            113,
        ),
    ] {
        let trial = Trial::new(model_name, case_name);
        edit_tensors(&trial.weights(), |tensors| {
            tensors.remove(&removed).unwrap();
        });
        let row = format!("row {row}");
        trial.refused(
            &[],
            &["adapter_model.safetensors", &format!("`{missing}`"), &row],
        );
    }
    // A token between the trained ones and the base's.
    let trial = Trial::new("llama-tied", "trainable-tokens-resized");
    trial.set("token_indices", json!([113, 115, 116]));
    trial.refused(&[], &["row 114", "`model.embed_tokens.weight`"]);
}

#[test]
fn tables_may_have_more_rows_than_the_vocabulary_has_tokens() {
    for model_name in ["llama-gqa", "llama-tied"] {
        let trial = Trial::with_own_model(model_name, "lora");
        let mut tensors = read_checkpoint(&trial.model);
        for name in [EMBEDDING, HEAD] {
            if let Some(table) = tensors.get_mut(name) {
                table.values.extend(vec![9.0; 5 * table.shape[1]]);
                table.shape[0] += 5;
            }
        }
        let file = trial.model.join("model.safetensors");
        write_tensors(&file, &tensors, Dtype::Float32);
        let folder = case(model_name, "lora");
        let case = Case::read(&folder);
        for variant in ["unmerged", "merged"] {
            let exported = trial.root.path().join("exported");
            let mut command = case.generate(&trial.experiment, variant, &exported);
            command.arg("--model").arg(&trial.model);
            check_variant(&case, &folder, variant, &mut command).unwrap();
        }
        let said = trial.run("verify", &[]);
        assert_passed(&said);
        let rows = tensors[EMBEDDING].shape[0];
        assert!(
            said.stderr.contains(&format!("has {rows} rows")),
            "{said:?}"
        );
    }
}

/// Rows that the file lacks may be in a base that has rows for all tokens.
#[test]
fn an_adapter_for_more_tokens_takes_them_from_a_base_that_has_rows_for_them() {
    let trial = Trial::with_own_model("llama-tied", "lora-resized-embed");
    let key = "base_model.model.model.embed_tokens.base_layer.weight";
    let mut table = None;
    edit_tensors(&trial.weights(), |tensors| table = tensors.remove(key));
    let mut tensors = read_checkpoint(&trial.model);
    tensors.insert(EMBEDDING.to_owned(), table.unwrap());
    let file = trial.model.join("model.safetensors");
    write_tensors(&file, &tensors, Dtype::Float32);
    let folder = case("llama-tied", "lora-resized-embed");
    let case = Case::read(&folder);
    for variant in ["unmerged", "merged"] {
        let exported = trial.root.path().join("exported");
        let mut command = case.generate(&trial.experiment, variant, &exported);
        command.arg("--model").arg(&trial.model);
        check_variant(&case, &folder, variant, &mut command).unwrap();
    }
}
