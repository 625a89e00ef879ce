//! Latent attention with a compressed cache (`--mla compressed`), against the reference and against
//! an expanded one.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::cases::check_case_with;
use crate::common::reference::{
    Bench, Generated, assert_apart, assert_close, generate, join, try_generate,
};
use crate::common::{
    case, copy_folder, model, names, program, read_json, relative_difference, set_key,
};

/// Models with latent attention: queries from a short vector and not, values that are wider than
/// keys, YaRN, both kinds of pairs.
const MODELS: [&str; 3] = ["deepseek-v2", "deepseek-v3", "glm4-moe-lite"];

const COMPRESSED: [&str; 2] = ["--mla", "compressed"];

#[test]
fn it_gives_the_reference_s_logits() {
    let mut failures = Vec::new();
    for model in MODELS {
        for name in names(&case(model, "")) {
            failures.extend(check_case_with(model, &name, &COMPRESSED));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A fresh experiment on the layer that's absorbed, and on another one.
fn experiment(folder: &Path, config: &Value) {
    let mut config = config.clone();
    config["target_modules"] = json!(["kv_b_proj", "o_proj"]);
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
}

fn run(
    bench: &Bench,
    experiment: &Path,
    variant: &str,
    options: &[&str],
) -> Result<Generated, String> {
    let exported = bench.exported.path();
    let mut command = bench.case.generate(experiment, variant, exported);
    try_generate(command.arg("--model").arg(&bench.model).args(options))
}

/// Every stage of a form that can be absorbed: low-rank pairs, gains, factors of inputs, replaced
/// weights and biases.
#[test]
fn an_unmerged_adapter_of_the_absorbed_layer_gives_the_merged_logits() {
    for (name, config) in [
        (
            "lora",
            json!({ "peft_type": "LORA", "r": 3, "init_lora_weights": false }),
        ),
        (
            "lora-bias",
            json!({ "peft_type": "LORA", "r": 2, "init_lora_weights": false, "lora_bias": true }),
        ),
        (
            "dora",
            json!({ "peft_type": "LORA", "r": 2, "init_lora_weights": false, "use_dora": true }),
        ),
        (
            "ia3",
            json!({ "peft_type": "IA3", "feedforward_modules": [], "init_ia3_weights": false }),
        ),
        (
            "ia3-inputs",
            json!({ "peft_type": "IA3", "feedforward_modules": ["kv_b_proj"], "init_ia3_weights": false }),
        ),
        (
            "loha",
            json!({ "peft_type": "LOHA", "r": 2, "init_weights": false }),
        ),
        (
            "c3a",
            json!({ "peft_type": "C3A", "block_size": 4, "init_weights": "gaussian" }),
        ),
        (
            "vera",
            json!({ "peft_type": "VERA", "r": 4, "init_weights": false }),
        ),
    ] {
        for model in ["deepseek-v2", "deepseek-v3"] {
            let bench = Bench::new(model, "lora");
            let folder = tempfile::tempdir().unwrap();
            let place = folder.path().join(name);
            experiment(&place, &config);
            let run = |variant, options: &[&str]| {
                run(&bench, &place, variant, options)
                    .unwrap_or_else(|message| panic!("{model}, {name}, {variant}: {message}"))
            };
            let expected = run("merged", &[]);
            println!("{model}, {name}");
            assert_close(&run("unmerged", &COMPRESSED), &expected);
            assert_close(&run("merged", &COMPRESSED), &expected);
            assert_apart(&expected, &run("base", &COMPRESSED));
        }
    }
}

#[test]
fn an_adapter_that_cannot_be_absorbed_is_refused_with_the_way_out() {
    for (name, config) in [
        (
            "OFT",
            json!({ "peft_type": "OFT", "oft_block_size": 4, "r": 0 }),
        ),
        (
            "LOKR",
            json!({ "peft_type": "LOKR", "r": 2, "init_weights": false }),
        ),
        (
            "MISS",
            json!({ "peft_type": "MISS", "r": 4, "init_weights": false }),
        ),
    ] {
        let bench = Bench::new("deepseek-v2", "lora");
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("own");
        experiment(&place, &config);
        let message = run(&bench, &place, "unmerged", &COMPRESSED).unwrap_err();
        for part in [name, "kv_b_proj", "`--mla expanded`", "merged"] {
            assert!(message.contains(part), "{message}");
        }
        let merged = run(&bench, &place, "merged", &COMPRESSED).unwrap();
        assert_close(&merged, &run(&bench, &place, "unmerged", &[]).unwrap());
    }
}

/// A prompt that goes through the engine in several chunks.
#[test]
fn a_prompt_in_chunks_gives_what_an_expanded_cache_gives() {
    let folder = tempfile::tempdir().unwrap();
    for name in MODELS {
        let base = copy_folder(&model(name), &folder.path().join(name));
        set_key(
            &base.join("config.json"),
            "max_position_embeddings",
            700.into(),
        );
        let ids: Vec<u32> = (0..600_u32)
            .map(|place| (place * 13 + place / 7) % 67)
            .collect();
        let run = |options: &[&str]| {
            let mut command = program(["generate", "--ep", "cpu", "--threads", "1", "--json"]);
            command.arg(&base).args(["--max-new-tokens", "5"]);
            command.args(["--prompt-ids", &join(&ids)]).args(options);
            generate(
                command
                    .arg("--export-dir")
                    .arg(folder.path().join("exported")),
            )
        };
        assert_close(&run(&COMPRESSED), &run(&[]));
    }
}

#[test]
fn the_manifest_counts_what_is_cached() {
    let bench = Bench::new("deepseek-v2", "lora");
    let bytes = |options: &[&str]| {
        bench.generate("unmerged", options);
        let folders = names(bench.exported.path());
        let is_asked = |name: &&String| name.ends_with("-mla-compressed") != options.is_empty();
        let name = folders.iter().find(is_asked).unwrap();
        let manifest = bench.exported.path().join(name).join("base/manifest.json");
        let folder = manifest.parent().unwrap().parent().unwrap();
        let experiment = names(folder)
            .into_iter()
            .find(|name| name.contains("lora"))
            .unwrap();
        let manifest = read_json(&folder.join(experiment).join("unmerged/manifest.json"));
        (
            manifest["mla"].as_str().unwrap().to_owned(),
            manifest["cache"][0].clone(),
            manifest["reads"]["cache_bytes_per_position"]
                .as_u64()
                .unwrap(),
        )
    };
    // 2 layers with 4 heads, keys of 8 + 4 numbers, padded to 16, and as many for values; a short
    // vector of 12 and a rotated key of 4.
    assert_eq!(
        bytes(&[]),
        ("expanded".to_owned(), json!([4, 16]), 4 * 2 * 2 * 4 * 16)
    );
    assert_eq!(
        bytes(&COMPRESSED),
        ("compressed".to_owned(), json!([1, 8]), 4 * 2 * 2 * 8)
    );
}

/// What's absorbed stays float.
#[test]
fn a_quantized_base_keeps_what_is_absorbed_in_float() {
    for name in MODELS {
        let bench = Bench::new(name, "lora");
        let quantized = ["--quantize", "8bit", "--quantize-accuracy", "1"];
        let compressed = bench.generate("unmerged", &[&quantized[..], &COMPRESSED].concat());
        // 8 bits move logits by less than this. Later tokens may differ.
        let expanded = bench.generate("unmerged", &quantized);
        let first = |of: &Generated| of.logits.values[..of.logits.shape[1]].to_vec();
        let off = relative_difference(&first(&compressed), &first(&expanded));
        assert!(off < 0.05, "{name}: {off}");
        let folders = names(bench.exported.path());
        let folder = folders
            .iter()
            .find(|name| name.ends_with("-mla-compressed"));
        let folder = bench.exported.path().join(folder.unwrap());
        let experiment = names(&folder)
            .into_iter()
            .find(|name| name.contains("lora"));
        let manifest = folder
            .join(experiment.unwrap())
            .join("unmerged/manifest.json");
        let float = read_json(&manifest)["quantization"]["float"].clone();
        assert!(
            float.as_array().unwrap().contains(&json!("kv_b_proj")),
            "{float}"
        );
    }
}
