//! Portable folders: they stand alone, wherever they are, and run in a plain loop of ONNX Runtime.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use peft_bench::engine::OnnxRuntime;
use peft_bench::graph::proto::{Model, Node, Tensor};
use peft_bench::graph::{for_one_length, for_unequal_lengths};
use peft_bench::model::BaseModel;
use peft_bench::onnxruntime::install::locate_or_install;
use peft_bench::portable::PlainSession;
use peft_bench::prepared::Manifest;
use peft_bench::weights::OnnxAdapterFile;
use prost::Message;
use tempfile::TempDir;

use crate::common::reference::{Bench, Case, Generated, join, try_generate};
use crate::common::{
    Outcome, TOLERANCE, assert_refused, case, copy_folder, model, names, program, read_json,
    read_tensors, relative_difference, run, trained_adapter,
};

/// ONNX Runtime, which a process can load only once.
static RUNTIME: LazyLock<OnnxRuntime> =
    LazyLock::new(|| OnnxRuntime::load(&locate_or_install(false, &|_| {}).unwrap()).unwrap());

/// A portable folder that was moved. Everything that it was made from is gone.
struct Moved {
    case: Case,
    expected: PathBuf,
    folder: PathBuf,
    _root: TempDir,
}

impl Moved {
    fn new(model_name: &str, case_name: &str, options: &[&str]) -> Self {
        let made = Self::try_new(model_name, &case(model_name, case_name), options);
        made.unwrap_or_else(|outcome| panic!("{model_name}: {outcome:?}"))
    }

    /// Of the adapter, or the base, in the folder `expected` of a case.
    fn try_new(model_name: &str, expected: &Path, options: &[&str]) -> Result<Self, Outcome> {
        let root = tempfile::tempdir().unwrap();
        let place = |name: &str| root.path().join(name);
        let (base, adapter, made) = (place("base"), place("adapter"), place("made"));
        copy_folder(&model(model_name), &base);
        let mut command = program(["prepare", "--ep", "cpu", "--threads", "1"]);
        copy_folder(expected, &adapter);
        if !expected.ends_with("base") {
            command.arg(&adapter);
        }
        command.arg("--model").arg(&base);
        command.arg("--export-dir").arg(place("exported"));
        let outcome = run(command.arg("--portable").arg(&made).args(options));
        if outcome.code != Some(0) {
            return Err(outcome);
        }
        for gone in [base, adapter, place("exported")] {
            fs::remove_dir_all(gone).unwrap();
        }
        let folder = place("elsewhere/moved");
        fs::create_dir(place("elsewhere")).unwrap();
        fs::rename(made, &folder).unwrap();
        Ok(Self {
            case: Case::read(expected),
            expected: expected.join("expected.safetensors"),
            folder,
            _root: root,
        })
    }

    /// Checks that the folder gives the logits that PEFT gives for `variant`.
    #[track_caller]
    fn assert_gives(&self, variant: &str) {
        let expected = &read_tensors(&self.expected)[variant].values;
        let elsewhere = tempfile::tempdir().unwrap();
        let mut command = self.case.generate(&self.folder, variant, elsewhere.path());
        let generated: Generated = try_generate(&mut command).unwrap();
        assert_near(&generated.logits.values, expected, "generate");

        let manifest = Manifest::read(&self.folder).unwrap();
        let mut session = PlainSession::open(&RUNTIME, &self.folder, &manifest, 1).unwrap();
        let prompt: &[u32] = &self.case.prompt_ids;
        let pad = read_json(&self.folder.join("genai_config.json"))["model"]["pad_token_id"]
            .as_u64()
            .unwrap();
        let pad = u32::try_from(pad).unwrap();
        let count = self.case.max_new_tokens;
        // The prompt in a batch with shorter ones, and each of these alone.
        let prompts = [&prompt[..1], prompt, &prompt[..prompt.len() / 2]];
        let together = session.generate(&prompts, pad, count).unwrap();
        assert_near(&together[1].logits.concat(), expected, "in a batch");
        for (prompt, batch) in prompts.iter().zip(&together) {
            let alone = session.generate(&[prompt], pad, count).unwrap().remove(0);
            assert_near(&batch.logits.concat(), &alone.logits.concat(), "alone");
            assert_eq!(batch.tokens, alone.tokens);
        }
    }
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    let difference = relative_difference(found, expected);
    assert!(difference <= TOLERANCE, "{what}: off by {difference:e}");
}

#[test]
fn a_moved_folder_runs_without_what_it_was_made_from() {
    let moved = Moved::new("llama-gqa", "lora", &[]);
    moved.assert_gives("merged");
    let outcome = run(program(["verify"]).arg(&moved.folder));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.contains("hashes are the manifest's"));
    let found = names(&moved.folder);
    for name in [
        "README.md",
        "config.json",
        "genai_config.json",
        "tokenizer.json",
    ] {
        assert!(found.iter().any(|file| file == name), "{name}: {found:?}");
    }
    let text = fs::read_to_string(moved.folder.join("manifest.json")).unwrap();
    let card = fs::read_to_string(moved.folder.join("README.md")).unwrap();
    let root = moved._root.path().display().to_string();
    assert!(card.contains("plain loop of ONNX Runtime") && !card.contains(&root));
    assert!(text.contains("\"model_folder\": \".\""), "{text}");
}

#[test]
fn learned_positions_alibi_and_unusual_heads_are_right_in_a_batch_too() {
    // Positions from a table, as a bias on scores, and a rotary embedding outside of attention.
    for model in ["opt-pre", "bloom", "gptj-tied", "gemma3"] {
        let cases = names(case(model, "lora").parent().unwrap());
        assert!(cases.contains(&"lora".to_owned()), "{model}: {cases:?}");
        Moved::new(model, "lora", &[]).assert_gives("merged");
    }
}

/// Every family either runs in a batch of unequal prompts, or is refused with a reason.
#[test]
fn every_family_is_right_in_a_batch_of_unequal_prompts_or_says_why_not() {
    let (mut refused, mut ran) = (Vec::new(), 0);
    for name in names(&model("")) {
        let base = BaseModel::open_folder(&model(&name)).unwrap();
        let adapter = trained_adapter(&name);
        let made = Moved::try_new(&name, &adapter, &[]);
        match made {
            Ok(moved) => {
                assert!(!base.spec.has_states(), "{name}");
                moved.assert_gives("merged");
                ran += 1;
            }
            Err(outcome) => {
                assert!(base.spec.has_states(), "{name}: {outcome:?}");
                let why = [
                    &base.spec.model_type,
                    "its layers have states",
                    "`prepare` without",
                ];
                assert_refused(&outcome, &why);
                refused.push(name);
            }
        }
    }
    assert!(ran > 70 && refused.len() > 10, "{ran}, {refused:?}");
}

/// A graph that writes to a buffer of fixed length becomes one that any caller can run.
#[test]
fn a_compressed_cache_of_latent_attention_is_portable() {
    for model in ["deepseek-v2", "deepseek-v3", "glm4-moe-lite"] {
        let moved = Moved::new(model, "lora", &["--mla", "compressed"]);
        moved.assert_gives("merged");
        let config = read_json(&moved.folder.join("genai_config.json"));
        let decoder = &config["model"]["decoder"];
        assert_eq!(
            (&decoder["num_key_value_heads"], &decoder["head_size"]),
            (&1.into(), &8.into())
        );
    }
}

#[test]
fn weights_in_16_bits_give_what_the_prepared_variant_gives() {
    for dtype in ["float16", "bfloat16"] {
        let options = ["--dtype", dtype];
        let bench = Bench::new("llama-gqa", "lora");
        let moved = Moved::new("llama-gqa", "lora", &options);
        let expected = bench.generate("merged", &options);
        let found = session_of(&moved.folder)
            .generate(&[&bench.case.prompt_ids], 0, bench.case.max_new_tokens)
            .unwrap();
        assert_near(&found[0].logits.concat(), &expected.logits.values, dtype);
    }
}

#[test]
fn adapters_beside_weights_in_fewer_bits_give_what_the_prepared_variants_give() {
    for options in [
        ["--dtype", "float16"],
        ["--dtype", "bfloat16"],
        ["--quantize", "4bit"],
        ["--quantize", "nf4"],
    ] {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("both");
        let cases = ["lora", "dora"];
        let outcome = prepare_adapters(&folder, &cases, &options);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let portable = Manifest::read(&folder).unwrap().portable.unwrap();
        let mut session = session_of(&folder);
        let check = |session: &mut PlainSession, case: &str, variant: &str| {
            let bench = Bench::new("llama-gqa", case);
            let expected = bench.generate(variant, &options);
            let count = expected.token_ids.len();
            let found = session
                .generate(&[&bench.case.prompt_ids], 0, count)
                .unwrap();
            let found = found[0].logits.concat();
            match options[0] {
                "--dtype" => assert_near(&found, &expected.logits.values, case),
                // Inputs are rounded to 8 bits, and another sum may be rounded to another step.
                _ => {
                    let off = mean_difference(&found, &expected.logits.values);
                    assert!(off <= 2e-2, "{options:?} {case}: off by {off:e}");
                }
            }
        };
        check(&mut session, "lora", "base");
        for own in &portable.adapters {
            let file = folder.join(own.adapter.file.as_ref().unwrap());
            let file = OnnxAdapterFile::open(&file).unwrap();
            session.activate(&file, &own.adapter).unwrap();
            check(&mut session, &own.name, "unmerged");
        }
    }
}

/// The root mean square of the difference, relative to that of `expected`.
fn mean_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let square =
        |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>();
    let off = square(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    (off / square(&mut expected.iter().copied())).sqrt()
}

fn session_of(folder: &Path) -> PlainSession {
    let manifest = Manifest::read(folder).unwrap();
    PlainSession::open(&RUNTIME, folder, &manifest, 1).unwrap()
}

#[test]
fn linked_weights_and_the_base_alone_are_portable_too() {
    let linked = Moved::new("llama-tied", "lora", &["--links"]);
    linked.assert_gives("merged");
    let found = names(&linked.folder);
    assert!(
        found.contains(&"weights-1.safetensors".to_owned()),
        "{found:?}"
    );
    Moved::new("llama-gqa", "base", &[]).assert_gives("base");
}

#[test]
fn a_changed_file_is_found() {
    let moved = Moved::new("llama-gqa", "lora", &["--no-check"]);
    let card = fs::read_to_string(moved.folder.join("README.md")).unwrap();
    assert!(card.contains("Nothing was checked"), "{card}");
    let verify = || run(program(["verify"]).arg(&moved.folder));
    assert_eq!(verify().code, Some(0));
    let path = moved.folder.join("model.onnx.data");
    let mut bytes = fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_refused(
        &verify(),
        &["`model.onnx.data` was changed", "copy it again"],
    );
    fs::write(&path, &bytes[..2000]).unwrap();
    assert_refused(&verify(), &["`model.onnx.data` has 2000 bytes"]);
}

#[test]
fn another_folder_is_not_replaced() {
    let root = tempfile::tempdir().unwrap();
    let other = root.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("mine.txt"), "mine").unwrap();
    let prepare = |folder: &Path| {
        let mut command = program(["prepare", "--ep", "cpu"]);
        command.arg("--model").arg(model("llama-gqa"));
        command
            .arg("--export-dir")
            .arg(root.path().join("exported"));
        run(command.arg("--portable").arg(folder))
    };
    assert_refused(&prepare(&other), &["neither empty nor a portable folder"]);
    assert_eq!(names(&other), ["mine.txt"]);
    let folder = root.path().join("portable");
    assert_eq!(prepare(&folder).code, Some(0));
    assert_eq!(prepare(&folder).code, Some(0), "its own is replaced");
}

/// The engine lowers what was prepared, whether it comes from a portable folder or not.
#[test]
fn a_graph_for_unequal_lengths_becomes_the_prepared_one_again() {
    let all = fs::read_dir(model("llama-gqa").parent().unwrap()).unwrap();
    for entry in all {
        let base = entry.unwrap().path();
        let exported = tempfile::tempdir().unwrap();
        let mut command = program(["generate", "--ep", "cpu", "--max-new-tokens", "1"]);
        command.arg(&base).args(["--prompt-ids", &join(&[1, 2])]);
        let outcome = run(command.arg("--export-dir").arg(exported.path()));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let folder = exported
            .path()
            .join(&names(exported.path())[0])
            .join("base");
        let bytes = fs::read(folder.join("model.onnx")).unwrap();
        let prepared = Model::decode(bytes.as_slice()).unwrap();
        let mut model = prepared.clone();
        for_unequal_lengths(&mut model, Manifest::read(&folder).unwrap().vocab_size);
        assert_ne!(model, prepared);
        for_one_length(&mut model);
        assert_eq!(sorted(model), sorted(prepared), "{}", base.display());
    }
}

/// A graph's nodes and initializers, by name.
fn sorted(model: Model) -> (Vec<Node>, Vec<Tensor>) {
    let graph = model.graph.unwrap();
    let (mut nodes, mut tensors) = (graph.node, graph.initializer);
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    (nodes, tensors)
}

/// Runs `prepare --portable --adapters` for cases of `llama-gqa`.
fn prepare_adapters(folder: &Path, cases: &[&str], options: &[&str]) -> Outcome {
    let exported = tempfile::tempdir().unwrap();
    let mut command = program(["prepare", "--ep", "cpu", "--threads", "1", "--portable"]);
    command.arg(folder).arg("--model").arg(model("llama-gqa"));
    command.arg("--export-dir").arg(exported.path());
    command.args(options).arg("--adapters");
    run(command.args(cases.iter().map(|name| case("llama-gqa", name))))
}

#[test]
fn adapters_of_different_forms_share_a_graph_that_is_the_base_without_them() {
    for options in [&[][..], &["--adapter-layout", "olive"]] {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("both");
        let outcome = prepare_adapters(&folder, &["lora", "dora", "lora-patterns"], options);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let manifest = Manifest::read(&folder).unwrap();
        let mut session = PlainSession::open(&RUNTIME, &folder, &manifest, 1).unwrap();
        let mut check = |adapter: Option<&str>, reference: &str, variant: &str| {
            session.deactivate();
            if let Some(name) = adapter {
                let portable = manifest.portable.as_ref().unwrap();
                let own = portable
                    .adapters
                    .iter()
                    .find(|own| own.name == name)
                    .unwrap();
                let path = folder.join(own.adapter.file.as_ref().unwrap());
                let file = OnnxAdapterFile::open(&path).unwrap();
                session.activate(&file, &own.adapter).unwrap();
                // The engine binds the same file.
                let known = Case::read(&case("llama-gqa", reference));
                let mut command = known.generate(&path, variant, root.path());
                let generated = try_generate(&mut command).unwrap();
                let expected = read_tensors(&expected_of(reference));
                assert_near(&generated.logits.values, &expected[variant].values, name);
            }
            let known = Case::read(&case("llama-gqa", reference));
            let expected = read_tensors(&expected_of(reference));
            let found = session
                .generate(&[&known.prompt_ids], 0, known.max_new_tokens)
                .unwrap();
            assert_near(
                &found[0].logits.concat(),
                &expected[variant].values,
                reference,
            );
        };
        for name in ["lora", "dora", "lora-patterns", "lora"] {
            check(Some(name), name, "unmerged");
        }
        check(None, "base", "base");
        assert_eq!(run(program(["verify"]).arg(&folder)).code, Some(0));
    }
}

fn expected_of(name: &str) -> PathBuf {
    case("llama-gqa", name).join("expected.safetensors")
}

#[test]
fn what_would_silently_be_wrong_beside_a_graph_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("folder");
    for (cases, words) in [
        (&["prefix-tuning"][..], "silently run the base"),
        (&["prompt-tuning"], "virtual tokens"),
        (&["lily"], "depends on all tokens of a call"),
        (&["lora", "loha"], "don't fit one graph"),
        (
            &["trainable-tokens", "lora-replication"],
            "different layers",
        ),
    ] {
        assert_refused(&prepare_adapters(&folder, cases, &[]), &[words]);
        assert!(!folder.exists());
    }
}
