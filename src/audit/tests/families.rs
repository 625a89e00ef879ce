//! Wrong merges of models with experts, routers and states, each of which must be named.

use super::*;

/// Models and cases of the fixtures: changes of experts and routers, of mixers with a state, and of
/// layers beside them.
const CASES: [(&str, &str); 16] = [
    ("mixtral", "lora-experts"),
    ("mixtral", "lora-parameters"),
    ("qwen3-moe", "lora-all-linear"),
    ("olmoe", "lora-save-experts"),
    ("gpt-oss", "lora-experts"),
    ("llama4", "lora-experts"),
    ("lfm2-moe", "lora-experts"),
    ("deepseek-v3", "lora"),
    ("granite-hybrid-moe", "lora"),
    ("qwen3-5-moe", "lora"),
    ("qwen3-next", "lora"),
    ("falcon-h1", "lora"),
    ("nemotron-h", "lora"),
    ("mamba2", "lora"),
    ("bamba", "lora"),
    ("gemma3n", "lora"),
];

/// A case of the fixtures with its checkpoints' tensors in float32.
struct Fixture {
    root: TempDir,
    folder: PathBuf,
    base: BaseModel,
    adapter: Adapter,
    plain: Tensors,
    merged: Tensors,
}

impl Fixture {
    fn of(model: &str, case: &str) -> Self {
        let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let root = tempfile::tempdir().unwrap();
        let base = BaseModel::open_folder(&all.join("models").join(model)).unwrap();
        let folder = all.join("cases").join(model).join(case);
        let adapter = Adapter::load(&folder, &base, 0).unwrap();
        let tensors = |adapter: Option<&Adapter>, name: &str| {
            let folder = root.path().join(name);
            let form = CheckpointForm {
                dtype: Some(Dtype::Float32),
                ..CheckpointForm::default()
            };
            write_checkpoint(&base, adapter, form, &base.folder, &folder).unwrap();
            let written = BaseModel::open_folder(&folder).unwrap();
            let names = written.store.names();
            let stored = names.filter(|name| written.store.slice(name).is_none());
            let read = |name: &str| {
                let tensor = written.store.get(name).unwrap();
                (
                    name.to_owned(),
                    (tensor.shape.clone(), tensor.to_f32().unwrap()),
                )
            };
            stored.map(read).collect()
        };
        Self {
            plain: tensors(None, "plain"),
            merged: tensors(Some(&adapter), "merged"),
            root,
            folder,
            base,
            adapter,
        }
    }

    /// Names of the tensors that the adapter changes.
    fn changed(&self) -> Vec<&String> {
        let names = self.merged.keys();
        names
            .filter(|name| self.plain.get(*name) != Some(&self.merged[*name]))
            .collect()
    }

    /// What's wrong of a checkpoint with these tensors: names and verdicts.
    fn wrong(&self, tensors: &Tensors, dtype: Dtype) -> Vec<(String, Verdict)> {
        let folder = self.root.path().join("theirs");
        fs::create_dir_all(&folder).unwrap();
        let config = self.root.path().join("merged/config.json");
        fs::copy(config, folder.join("config.json")).unwrap();
        write(&folder.join("model.safetensors"), tensors, dtype);
        let ingredients = Ingredients {
            base: self.adapter.base(&self.base),
            adapter: &self.adapter,
            folder: &self.folder,
            values: ValuesFrom::default(),
            seed: 0,
            task_id: None,
        };
        let found = audit(ingredients, &BaseModel::open_folder(&folder).unwrap()).unwrap();
        let wrong = found.wrong();
        wrong
            .map(|finding| (finding.tensor.clone(), finding.verdict))
            .collect()
    }

    /// The right tensors, but for `name`, which `make` makes of its base and its merge.
    fn spoilt(&self, name: &str, make: &dyn Fn(f32, f32) -> f32) -> Tensors {
        let mut all = self.merged.clone();
        let (_, values) = all.get_mut(name).unwrap();
        let own = self.plain[name].1.iter().zip(values.iter_mut());
        own.for_each(|(base, merged)| *merged = make(*base, *merged));
        all
    }
}

/// Whether a finding of `tensor` is one of the stored tensor `name`. The matrices of a stack of
/// experts are judged one by one.
fn is_of(tensor: &str, name: &str) -> bool {
    let layer = |name: &str| name.split('.').take(3).collect::<Vec<_>>().join(".");
    tensor == name || (tensor.contains(".experts.") && layer(tensor) == layer(name))
}

/// The right tensors with one element of `name` changed.
fn nudged(right: &Tensors, name: &str) -> Tensors {
    let mut all = right.clone();
    let values = &mut all.get_mut(name).unwrap().1;
    let largest = (0..values.len()).max_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs()));
    let value = &mut values[largest.unwrap()];
    *value = if *value == 0.0 { 0.5 } else { *value * 1.05 };
    all
}

#[test]
fn wrong_merges_of_experts_routers_and_states_are_named() {
    let mut wrong = Vec::new();
    let mut judged = 0;
    for (number, (model, case)) in CASES.into_iter().enumerate() {
        let fixture = Fixture::of(model, case);
        let dtype = DTYPES[number % DTYPES.len()];
        let mut check = |kind: &str, name: &str, tensors: &Tensors, expected: Option<Verdict>| {
            judged += 1;
            let found = fixture.wrong(tensors, dtype);
            let named = |(tensor, verdict): &(String, Verdict)| match expected {
                Some(expected) => is_of(tensor, name) && is_name(*verdict, expected),
                None => false,
            };
            if found.is_empty() != expected.is_none() || !found.iter().all(named) {
                wrong.push(format!("{model}/{case}, {dtype}, {kind} {name}: {found:?}"));
            }
        };
        check("right", "", &fixture.merged, None);
        for name in fixture.merged.keys() {
            let is_changed = fixture.changed().contains(&name);
            if !is_changed {
                check(
                    "nudged",
                    name,
                    &nudged(&fixture.merged, name),
                    Some(Verdict::Changed),
                );
                continue;
            }
            if !fixture.plain.contains_key(name) {
                continue;
            }
            let half = Verdict::Scaled { factor: 0.5 };
            // The part of the change that's there.
            for (kind, part, expected) in [
                ("not applied", 0.0, Verdict::NotApplied),
                ("half", 0.5, half),
                ("subtracted", -1.0, Verdict::Subtracted),
            ] {
                let made = |base: f32, merged: f32| base + part * (merged - base);
                check(kind, name, &fixture.spoilt(name, &made), Some(expected));
            }
        }
    }
    assert!(judged > 500, "{judged}");
    assert!(
        wrong.is_empty(),
        "{} of {judged}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
