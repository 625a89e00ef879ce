//! Checkpoints that are merged right, and in every wrong way, must all be named right.

mod families;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::distr::Distribution;
use rand::rngs::ChaCha12Rng;
use rand_distr::StandardNormal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::merges::{ONCE, Way, merged};
use super::*;
use crate::adapter::{Adapter, ValuesFrom};
use crate::prepare::{CheckpointForm, write_checkpoint};
use crate::weights::{SafetensorsWriter, TensorPlan, round_to};

/// A tensor's shape and values.
type Tensor = (Vec<usize>, Vec<f32>);
type Tensors = BTreeMap<String, Tensor>;

const DTYPES: [Dtype; 3] = [Dtype::Float32, Dtype::Float16, Dtype::BFloat16];

const HIDDEN: usize = 128;
const INNER: usize = 256;
const LAYERS: usize = 2;
const VOCABULARY: usize = 160;

struct Random(ChaCha12Rng);

impl Random {
    fn of(seed: u64) -> Self {
        Self(ChaCha12Rng::seed_from_u64(seed))
    }

    fn normal(&mut self, count: usize, spread: f32) -> Vec<f32> {
        let mut draw = || -> f32 { StandardNormal.sample(&mut self.0) };
        (0..count).map(|_| spread * draw()).collect()
    }

    fn tensor(&mut self, shape: &[usize], spread: f32) -> Tensor {
        (shape.to_vec(), self.normal(shape.iter().product(), spread))
    }
}

fn write(path: &Path, tensors: &Tensors, dtype: Dtype) {
    let plans: Vec<TensorPlan> = tensors
        .iter()
        .map(|(name, (shape, _))| TensorPlan {
            name: name.clone(),
            dtype,
            shape: shape.clone(),
        })
        .collect();
    let writer = SafetensorsWriter::create(path, &plans).unwrap();
    for (name, (_, values)) in tensors {
        writer.write(name, values).unwrap();
    }
    writer.finish().unwrap();
}

fn rounded(values: &[f32], dtype: Dtype) -> Vec<f32> {
    values.iter().map(|value| round_to(*value, dtype)).collect()
}

/// The linear layers: path, rows, columns.
fn linears() -> Vec<(String, usize, usize)> {
    let kv = HIDDEN / 2;
    let of_layer = |layer: usize| {
        [
            ("self_attn.q_proj", HIDDEN, HIDDEN),
            ("self_attn.k_proj", kv, HIDDEN),
            ("self_attn.v_proj", kv, HIDDEN),
            ("self_attn.o_proj", HIDDEN, HIDDEN),
            ("mlp.gate_proj", INNER, HIDDEN),
            ("mlp.up_proj", INNER, HIDDEN),
            ("mlp.down_proj", HIDDEN, INNER),
        ]
        .map(|(name, rows, columns)| (format!("model.layers.{layer}.{name}"), rows, columns))
    };
    (0..LAYERS).flat_map(of_layer).collect()
}

/// Modules that the made adapters change.
fn targets() -> Vec<(String, usize, usize)> {
    let mut all = linears();
    all.retain(|(path, ..)| {
        path.contains("q_proj") || path.contains("v_proj") || path.contains("down_proj")
    });
    all
}

/// A small Llama with weights as large models have them.
fn base(folder: &Path) -> PathBuf {
    let folder = folder.join("base");
    fs::create_dir(&folder).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": false,
        "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut random = Random::of(1);
    let mut tensors = Tensors::new();
    for (path, rows, columns) in linears() {
        tensors.insert(
            format!("{path}.weight"),
            random.tensor(&[rows, columns], 0.08),
        );
    }
    for path in ["model.embed_tokens", "lm_head"] {
        tensors.insert(
            format!("{path}.weight"),
            random.tensor(&[VOCABULARY, HIDDEN], 0.1),
        );
    }
    let norms = (0..LAYERS).flat_map(|layer| {
        ["input_layernorm", "post_attention_layernorm"]
            .map(|name| format!("model.layers.{layer}.{name}"))
    });
    for path in norms.chain(["model.norm".to_owned()]) {
        let (shape, values) = random.tensor(&[HIDDEN], 0.2);
        let values = values.iter().map(|value| 1.0 + value).collect();
        tensors.insert(format!("{path}.weight"), (shape, values));
    }
    write(&folder.join("model.safetensors"), &tensors, Dtype::BFloat16);
    folder
}

/// A method's configuration, and the tensors of a module. Changes are about a hundredth of the
/// weights, as trained ones are.
fn made_adapter(folder: &Path, method: &str, base: &BaseModel, seed: u64) -> PathBuf {
    let folder = folder.join(method);
    fs::create_dir(&folder).unwrap();
    let mut random = Random::of(seed);
    let mut tensors = Tensors::new();
    let r = 4;
    let (peft_type, options) = match method {
        "lora" | "dora" => (
            "LORA",
            json!({"r": r, "lora_alpha": 8, "use_dora": method == "dora"}),
        ),
        "loha" => ("LOHA", json!({"r": r, "alpha": 8})),
        "ia3" => ("IA3", json!({"feedforward_modules": ["down_proj"]})),
        "oft" => (
            "OFT",
            json!({"r": 0, "oft_block_size": 16, "use_cayley_neumann": false}),
        ),
        _ => unreachable!(),
    };
    for (path, rows, columns) in targets() {
        let mut add = |name: &str, tensor: Tensor| {
            tensors.insert(format!("base_model.model.{path}.{name}"), tensor);
        };
        match method {
            "lora" | "dora" => {
                add("lora_A.weight", random.tensor(&[r, columns], 0.02));
                add("lora_B.weight", random.tensor(&[rows, r], 0.01));
                if method == "dora" {
                    let weight = base.matrix(&format!("{path}.weight")).unwrap();
                    let norms = weight.outer_iter().map(|row| row.dot(&row).sqrt());
                    let factors = random.normal(rows, 0.01);
                    let magnitudes = norms
                        .zip(factors)
                        .map(|(norm, factor)| norm * (1.0 + factor));
                    add("lora_magnitude_vector", (vec![rows], magnitudes.collect()));
                }
            }
            "loha" => {
                for number in [1, 2] {
                    add(
                        &format!("hada_w{number}_a"),
                        random.tensor(&[rows, r], 0.08),
                    );
                    add(
                        &format!("hada_w{number}_b"),
                        random.tensor(&[r, columns], 0.08),
                    );
                }
            }
            "ia3" => {
                let shape = if path.contains("down_proj") {
                    [1, columns]
                } else {
                    [rows, 1]
                };
                let (_, values) = random.tensor(&shape, 0.03);
                add(
                    "ia3_l",
                    (
                        shape.to_vec(),
                        values.iter().map(|value| 1.0 + value).collect(),
                    ),
                );
            }
            _ => {
                let blocks = columns / 16;
                add("oft_R.weight", random.tensor(&[blocks, 120], 0.003));
            }
        }
    }
    let mut config = json!({
        "peft_type": peft_type, "task_type": "CAUSAL_LM", "inference_mode": true,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
    });
    for (key, value) in options.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    write(
        &folder.join("adapter_model.safetensors"),
        &tensors,
        Dtype::Float32,
    );
    folder
}

/// A base, an adapter, and the tensors of base and merge.
struct Case {
    root: TempDir,
    folder: PathBuf,
    base: BaseModel,
    adapter: Adapter,
    plain: Tensors,
    merged: Tensors,
    /// Names of the tensors that the adapter changes.
    changed: Vec<String>,
}

impl Case {
    fn of(method: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let base = BaseModel::open_folder(&base(root.path())).unwrap();
        let folder = made_adapter(root.path(), method, &base, 7);
        let adapter = Adapter::load(&folder, &base, 0).unwrap();
        let mut plain = Tensors::new();
        for name in base.store.names() {
            let tensor = base.store.get(name).unwrap();
            plain.insert(
                name.to_owned(),
                (tensor.shape.clone(), tensor.to_f32().unwrap()),
            );
        }
        let merged = by(&adapter, &base, &plain, ONCE);
        let changed = merged.keys().filter(|name| plain[*name] != merged[*name]);
        let changed = changed.cloned().collect();
        Self {
            root,
            folder,
            base,
            adapter,
            plain,
            merged,
            changed,
        }
    }

    fn ingredients(&self) -> Ingredients<'_> {
        Ingredients {
            base: &self.base,
            adapter: &self.adapter,
            folder: &self.folder,
            values: ValuesFrom::default(),
            seed: 0,
            task_id: None,
        }
    }

    /// The findings for a checkpoint with these tensors.
    fn found(&self, tensors: &Tensors, dtype: Dtype) -> Audit {
        let folder = self.root.path().join("merged");
        fs::create_dir_all(&folder).unwrap();
        fs::copy(
            self.base.folder.join("config.json"),
            folder.join("config.json"),
        )
        .unwrap();
        write(&folder.join("model.safetensors"), tensors, dtype);
        audit(
            self.ingredients(),
            &BaseModel::open_folder(&folder).unwrap(),
        )
        .unwrap()
    }

    /// The base's tensors with those that change made by `make`, from the base's values, the merged
    /// ones, and the number of columns.
    fn spoilt(&self, make: impl Fn(&[f32], &[f32], usize) -> Vec<f32>) -> Tensors {
        let mut spoilt = self.plain.clone();
        for name in &self.changed {
            let (shape, merged) = &self.merged[name];
            let values = make(&self.plain[name].1, merged, shape[1]);
            spoilt.insert(name.clone(), (shape.clone(), values));
        }
        spoilt
    }
}

/// The tensors `plain` with those merged that the adapter changes.
fn by(adapter: &Adapter, base: &BaseModel, plain: &Tensors, way: Way) -> Tensors {
    let mut all = plain.clone();
    let modules = adapter.spec.modules();
    for change in changes(adapter, &modules).unwrap() {
        let values = merged(&change, base, adapter, way).unwrap();
        for ((name, shape), values) in change.parameters().into_iter().zip(values) {
            all.insert(name, (shape, values));
        }
    }
    all
}

fn quantized(values: &[f32], block: usize, steps: f32) -> Vec<f32> {
    let of_block = |block: &[f32]| {
        let largest = block.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
        let step = largest / steps;
        block
            .iter()
            .map(|value| (value / step).round() * step)
            .collect::<Vec<f32>>()
    };
    values.chunks(block).flat_map(of_block).collect()
}

/// Every kind of merge: its name, the tensors, and what shall be found of those that are changed.
fn kinds(case: &Case, dtype: Dtype) -> Vec<(&'static str, Tensors, Verdict)> {
    let linear = |factor: f32| {
        case.spoilt(|base, merged, _| {
            let pairs = base.iter().zip(merged);
            pairs
                .map(|(base, merged)| base + factor * (merged - base))
                .collect()
        })
    };
    let on_other = |other: &dyn Fn(&[f32], usize) -> Vec<f32>| {
        case.spoilt(|base, merged, columns| {
            let other = other(base, columns);
            let all = other.iter().zip(base.iter().zip(merged));
            all.map(|(other, (base, merged))| other + (merged - base))
                .collect()
        })
    };
    let scaled = |factor: f32| Verdict::Scaled {
        factor: f64::from(factor),
    };
    let twice = Way { times: 2, ..ONCE };
    let mut all = vec![
        ("right", case.merged.clone(), Verdict::Equal),
        (
            "change rounded first",
            case.spoilt(|base, merged, _| {
                let pairs = base.iter().zip(merged);
                pairs
                    .map(|(base, merged)| base + round_to(merged - base, dtype))
                    .collect()
            }),
            Verdict::Rounding,
        ),
        ("not applied", case.plain.clone(), Verdict::NotApplied),
        (
            "twice",
            by(&case.adapter, &case.base, &case.plain, twice),
            Verdict::Twice,
        ),
        ("half", linear(0.5), scaled(0.5)),
        ("three quarters", linear(0.75), scaled(0.75)),
        ("nine tenths", linear(0.9), scaled(0.9)),
        ("four times", linear(4.0), scaled(4.0)),
        ("subtracted", linear(-1.0), Verdict::Subtracted),
        (
            "another module's",
            case.spoilt(|base, merged, columns| {
                let rows = base.len() / columns;
                let change = |index: usize| {
                    // The same change in other places.
                    let (row, column) = (index / columns, index % columns);
                    let from = (row + rows / 2) % rows * columns + (column + columns / 3) % columns;
                    merged[from] - base[from]
                };
                (0..base.len())
                    .map(|index| base[index] + change(index))
                    .collect()
            }),
            Verdict::OtherChange,
        ),
        (
            "4-bit base",
            on_other(&|base, _| quantized(base, 32, 7.0)),
            Verdict::QuantizedBase { bits: 4 },
        ),
        (
            "8-bit base",
            on_other(&|base, columns| quantized(base, columns, 127.0)),
            Verdict::QuantizedBase { bits: 8 },
        ),
        (
            "other base",
            on_other(&|base, _| {
                let noise = Random::of(5).normal(base.len(), 0.008);
                base.iter()
                    .zip(noise)
                    .map(|(base, noise)| base + noise)
                    .collect()
            }),
            Verdict::OtherBase,
        ),
        (
            "some elements",
            case.spoilt(|_, merged, _| {
                let mut values = merged.to_vec();
                values[10] += 0.01;
                values[1000] = 0.0;
                values
            }),
            Verdict::SomeElements { count: 2 },
        ),
    ];
    if let Some(plain) = Alternatives::of(case.ingredients()).without_magnitudes() {
        let tensors = by(plain, &case.base, &case.plain, ONCE);
        all.push(("without magnitudes", tensors, Verdict::WithoutMagnitudes));
    }
    for narrow in Alternatives::of(case.ingredients()).rounded() {
        let tensors = by(narrow, &case.base, &case.plain, ONCE);
        all.push(("adapter in 16 bits", tensors, Verdict::AdapterRounded));
    }
    all
}

/// Whether `found` is a right name where `expected` is.
fn is_name(found: Verdict, expected: Verdict) -> bool {
    match (found, expected) {
        (Verdict::Scaled { factor }, Verdict::Scaled { factor: expected }) => {
            (factor / expected - 1.0).abs() < 0.03
        }
        // How much of a rounding shows depends on the dtype.
        (found, expected) if expected.is_right() => found.is_right(),
        (found, expected) => found == expected,
    }
}

#[test]
fn merges_of_every_kind_are_named_in_every_dtype_for_every_method() {
    let mut wrong = Vec::new();
    let mut judged = 0;
    for method in ["lora", "dora", "loha", "ia3", "oft"] {
        let case = Case::of(method);
        assert_eq!(case.changed.len(), targets().len(), "{method}");
        for dtype in DTYPES {
            for (kind, tensors, expected) in kinds(&case, dtype) {
                judged += 1;
                let found = case.found(&tensors, dtype);
                for finding in &found.tensors {
                    let expected = match finding.adapted {
                        true => expected,
                        false => Verdict::Equal,
                    };
                    if !is_name(finding.verdict, expected) {
                        wrong.push(format!("{method}, {dtype}, {kind}: {finding:?}"));
                        break;
                    }
                }
            }
        }
    }
    assert!(judged >= 200, "{judged}");
    assert!(
        wrong.is_empty(),
        "{} of {judged}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn one_module_that_was_left_out_is_found_among_all() {
    let case = Case::of("lora");
    for dtype in DTYPES {
        for name in &case.changed {
            let mut tensors = case.merged.clone();
            tensors.insert(name.clone(), case.plain[name].clone());
            let found = case.found(&tensors, dtype);
            let wrong: Vec<(&str, Verdict)> = found
                .wrong()
                .map(|finding| (finding.tensor.as_str(), finding.verdict))
                .collect();
            assert_eq!(wrong, [(name.as_str(), Verdict::NotApplied)], "{dtype}");
        }
    }
}

#[test]
fn tensors_that_are_changed_missing_or_too_many_are_named() {
    let case = Case::of("lora");
    let (norm, linear) = (
        "model.layers.1.input_layernorm.weight",
        "model.layers.0.mlp.up_proj.weight",
    );
    for dtype in DTYPES {
        let check = |spoil: &dyn Fn(&mut Tensors), expected: &[(&str, Verdict)]| {
            let mut tensors = case.merged.clone();
            spoil(&mut tensors);
            let found = case.found(&tensors, dtype);
            let wrong: Vec<(&str, Verdict)> = found
                .wrong()
                .map(|finding| (finding.tensor.as_str(), finding.verdict))
                .collect();
            assert_eq!(wrong, expected, "{dtype}");
        };
        check(
            &|all| all.get_mut(norm).unwrap().1[3] *= 1.05,
            &[(norm, Verdict::Changed)],
        );
        check(
            &|all| {
                let values = &mut all.get_mut(linear).unwrap().1;
                *values = quantized(values, 64, 7.0);
            },
            &[(linear, Verdict::QuantizedBase { bits: 4 })],
        );
        check(&|all| _ = all.remove(norm), &[(norm, Verdict::Missing)]);
        let extra = "model.layers.0.self_attn.q_proj.lora_A.weight";
        check(
            &|all| _ = all.insert(extra.to_owned(), (vec![4, HIDDEN], vec![0.5; 4 * HIDDEN])),
            &[(extra, Verdict::Extra)],
        );
        check(
            &|all| _ = all.insert(norm.to_owned(), (vec![HIDDEN + 1], vec![1.0; HIDDEN + 1])),
            &[(norm, Verdict::Shape)],
        );
        // A buffer that older releases stored is nobody's mistake.
        check(
            &|all| {
                let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
                all.insert(name.to_owned(), (vec![16], vec![0.5; 16]));
            },
            &[],
        );
    }
    let mut tensors = case.merged.clone();
    tensors.get_mut(&case.changed[0]).unwrap().1[5] = 7.0;
    let found = case.found(&tensors, Dtype::Float32);
    assert_eq!(found.wrong().count(), 1);
}

#[test]
fn a_merge_in_16_bits_that_is_stored_wider_is_right() {
    let case = Case::of("lora");
    for narrow in [Dtype::BFloat16, Dtype::Float16] {
        let tensors = case.spoilt(|_, merged, _| rounded(merged, narrow));
        assert!(case.found(&tensors, Dtype::Float32).is_right(), "{narrow}");
    }
}

/// Cases of the fixtures, as (model, case).
fn fixtures() -> Vec<(String, String)> {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases");
    let names = |folder: &Path| {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let mut all = Vec::new();
    for model in names(&cases) {
        for case in names(&cases.join(&model)) {
            if case != "base" {
                all.push((model.clone(), case));
            }
        }
    }
    all
}

/// Our own merged checkpoints of all fixtures are right, whatever the method and the family: tied
/// tables, separate heads, stacked experts, biases, replicated layers, multimodal wrappers. The
/// base in their place isn't.
#[test]
fn checkpoints_of_all_fixtures_are_right_and_their_bases_are_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut wrong = Vec::new();
    let mut judged = 0;
    let mut unlike_base = 0;
    for (number, (model, case)) in fixtures().into_iter().enumerate() {
        let base = BaseModel::open_folder(&root.join("models").join(&model)).unwrap();
        let folder = root.join("cases").join(&model).join(&case);
        let Ok(adapter) = Adapter::load(&folder, &base, 0) else {
            continue;
        };
        let target = tempfile::tempdir().unwrap();
        let checkpoint = target.path().join("merged");
        let dtype = DTYPES[number % DTYPES.len()];
        let form = CheckpointForm {
            dtype: Some(dtype),
            ..CheckpointForm::default()
        };
        let written = write_checkpoint(&base, Some(&adapter), form, &base.folder, &checkpoint);
        if written.is_err() {
            continue;
        }
        let ingredients = Ingredients {
            base: adapter.base(&base),
            adapter: &adapter,
            folder: &folder,
            values: ValuesFrom::default(),
            seed: 0,
            task_id: None,
        };
        judged += 1;
        let found = audit(ingredients, &BaseModel::open_folder(&checkpoint).unwrap()).unwrap();
        let first = found.wrong().next();
        if let Some(first) = first {
            wrong.push(format!("{model}/{case}, {dtype}: {first:?}"));
        }
        let found = audit(ingredients, &base).unwrap();
        unlike_base += usize::from(!found.is_right());
    }
    assert!(judged > 200, "{judged}");
    assert!(unlike_base + 5 > judged, "{unlike_base} of {judged}");
    assert!(
        wrong.is_empty(),
        "{} of {judged}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Names begin with other prefixes, shards are several files, and a tied head may have a copy.
#[test]
fn names_and_files_of_other_programs_are_found() {
    let case = Case::of("lora");
    let mut renamed = Tensors::new();
    for (name, tensor) in &case.merged {
        let name = name.strip_prefix("model.").unwrap_or(name);
        renamed.insert(name.to_owned(), tensor.clone());
    }
    let found = case.found(&renamed, Dtype::BFloat16);
    assert!(found.is_right(), "{:?}", found.wrong().next());

    let folder = case.root.path().join("merged");
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let mut map = BTreeMap::new();
    for (number, (name, tensor)) in case.merged.iter().enumerate() {
        let file = format!("model-{number}.safetensors");
        let one = Tensors::from([(name.clone(), tensor.clone())]);
        write(&folder.join(&file), &one, Dtype::Float16);
        map.insert(name.clone(), Value::from(file));
    }
    let index = json!({ "weight_map": map });
    fs::write(
        folder.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    let theirs = BaseModel::open_folder(&folder).unwrap();
    assert!(audit(case.ingredients(), &theirs).unwrap().is_right());
}
