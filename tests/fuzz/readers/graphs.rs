//! Graphs and the manifests beside them: those that this program wrote, and those of others.

use std::path::{Path, PathBuf};

use peft_bench::adapter::AdapterForm;
use peft_bench::engine::Provider;
use peft_bench::experiment::Experiment;
use peft_bench::foreign;
use peft_bench::lowering::{LoweringTarget, WeightsMode, lay_out, lower, model_file};
use peft_bench::model::BaseModel;
use peft_bench::portable::damage;
use peft_bench::prepare::Preparation;
use peft_bench::prepared::{Manifest, Portable, Precision, Variant};
use peft_bench::weights::Dtype;
use serde_json::{Value, json};

use super::{entries, fixture, linked};
use crate::mutate::Form;
use crate::target::{Reader, Seed, Target, told};

pub const MANIFEST: Reader = Reader {
    name: "manifest",
    one_of: 1,
    make: manifest,
};

pub const PREPARED: Reader = Reader {
    name: "prepared-graph",
    one_of: 4,
    make: prepared_graph,
};

pub const FOREIGN: Reader = Reader {
    name: "foreign-graph",
    one_of: 1,
    make: foreign_graph,
};

/// Graphs with more bytes have weights in them, which would be damaged nearly always.
const LARGEST_GRAPH: usize = 40_000;

/// Prepares all variants of some adapters; gives their folders.
fn prepared(folder: &Path) -> Vec<PathBuf> {
    let mut made = Vec::new();
    for (model, case) in [
        ("llama-gqa", "lora"),
        ("mixtral", "lora"),
        ("opt-post", "lora"),
    ] {
        let base = BaseModel::open_folder(&fixture(&format!("models/{model}"))).unwrap();
        let experiment = Experiment::find(&fixture(&format!("cases/{model}/{case}"))).unwrap();
        let preparation = Preparation {
            base: &base,
            precision: Precision::new(Dtype::Float32, false),
            export_dir: folder,
            seed: 1,
            adapter_form: AdapterForm::Reduced,
            task_id: None,
        };
        for variant in Variant::ALL {
            if let Ok(variants) = preparation.prepare(Some(&experiment), &[variant]) {
                made.extend(variants.into_iter().map(|one| one.folder));
            }
        }
    }
    assert!(made.len() >= 6, "{made:?}");
    made
}

/// The manifest in `folder`, as that of a portable folder with an adapter.
fn portable_manifest(folder: &Path) -> Vec<u8> {
    let path = folder.join(Manifest::FILE);
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let sample = json!({
        "prompt_ids": [1, 2], "token_ids": [3], "logits": [0.5], "tolerance": 1e-4,
    });
    let mut adapter = manifest["adapter"].clone();
    if adapter.is_object() {
        adapter["file"] = json!("adapters/a.onnx_adapter");
    }
    let adapters = match adapter {
        Value::Null => json!([]),
        adapter => json!([{ "name": "a", "adapter": adapter, "sample": sample }]),
    };
    manifest["portable"] = json!({
        "files": { "model.onnx": { "bytes": 1, "sha256": "00" }, "adapters/a": { "bytes": 2, "sha256": "0" } },
        "sample": sample, "checks": ["a sentence"], "adapters": adapters,
    });
    manifest.to_string().into_bytes()
}

fn manifest(folder: &Path) -> Target {
    let mut seeds = Vec::new();
    for folder in prepared(folder) {
        let path = folder.join(Manifest::FILE);
        let portable = portable_manifest(&folder);
        let form = Form::of(&path, &portable);
        seeds.push(Seed::at(&path));
        seeds.push(Seed::of(path, portable, form));
    }
    Target {
        seeds,
        read: Box::new(|seed| {
            let manifest = Manifest::read(seed.folder()).map_err(|error| told(&error))?;
            manifest.num_virtual_tokens();
            manifest.invoking(&[1, 2, 3]);
            manifest.quantization().map(|of| of.label());
            manifest.rounding();
            manifest.reads.bytes(7.0);
            for state in &manifest.states {
                state.bytes();
            }
            if let Some(Portable { files, .. }) = &manifest.portable {
                damage(seed.folder(), files).map_err(|error| told(&error))?;
            }
            Ok(())
        }),
    }
}

fn prepared_graph(folder: &Path) -> Target {
    let files = prepared(folder).into_iter();
    Target {
        seeds: files
            .map(|folder| Seed::at(&folder.join("model.onnx")))
            .collect(),
        read: Box::new(|seed| {
            let folder = seed.folder();
            let read = || model_file::read(folder, 64).map_err(|error| told(&error));
            let block = 8;
            let files = lay_out(&read()?, folder, block, &|_| {}).map_err(|error| told(&error));
            let on = |provider, weights, sequences| LoweringTarget {
                provider,
                weights,
                sequences,
            };
            for target in [
                on(Provider::Cpu, WeightsMode::InPlace, 1),
                on(Provider::Cpu, WeightsMode::InPlace, 2),
                on(Provider::Cuda(0), WeightsMode::InPlace, 1),
            ] {
                lower(read()?, target, None).map_err(|error| told(&error))?;
            }
            let files = files?;
            for sequences in [1, 2] {
                let target = on(Provider::Cpu, WeightsMode::Mapped, sequences);
                lower(read()?, target, files.as_ref()).map_err(|error| told(&error))?;
            }
            Ok(())
        }),
    }
}

fn foreign_graph(folder: &Path) -> Target {
    let mut seeds = Vec::new();
    for from in entries(&fixture("foreign")) {
        let own = linked(&from, folder.join(from.file_name().unwrap()));
        let files = entries(&own).into_iter().filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            let is_config = ["config.json", "genai_config.json", "export.json"];
            is_config.contains(&name.as_ref()) || name.ends_with(".onnx")
        });
        seeds.extend(files.map(|path| Seed::at(&path)));
    }
    seeds.retain(|seed| seed.bytes.len() < LARGEST_GRAPH);
    Target {
        seeds,
        read: Box::new(|seed| {
            let found = foreign::read(seed.folder()).map_err(|error| told(&error))?;
            let _ = found.manifest.foreign.map(|of| of.facts.to_string());
            Ok(())
        }),
    }
}
