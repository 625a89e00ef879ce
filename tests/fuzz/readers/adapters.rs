//! Adapters: `adapter_config.json` of trained and of fresh ones, and the headers of their weights.

use std::fs;
use std::path::{Path, PathBuf};

use peft_bench::adapter::{Adapter, ValuesFrom};
use peft_bench::experiment::Experiment;
use peft_bench::experiment::check::{fit, look_at};
use peft_bench::model::BaseModel;

use super::{entries, fixture, in_project, linked};
use crate::target::{Outcome, Reader, Seed, Target, told};

pub const CONFIG: Reader = Reader {
    name: "adapter-config",
    one_of: 1,
    make: config,
};

pub const FRESH: Reader = Reader {
    name: "adapter-fresh",
    one_of: 1,
    make: fresh,
};

pub const WEIGHTS: Reader = Reader {
    name: "adapter-weights",
    one_of: 1,
    make: weights,
};

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";

fn base() -> BaseModel {
    BaseModel::open_folder(&fixture("models/llama-gqa")).unwrap()
}

/// Folders with links to all adapters of one model.
fn cases(folder: &Path) -> Vec<PathBuf> {
    let all = entries(&fixture("cases/llama-gqa")).into_iter();
    let all = all.filter(|path| path.join(CONFIG_FILE).is_file());
    let base = base();
    let all = all.map(|path| linked(&path, folder.join(path.file_name().unwrap())));
    // Some are there to be refused.
    all.filter(|case| load(case, &base).is_ok()).collect()
}

/// Everything that's done with an adapter before its graph is made.
fn load(folder: &Path, base: &BaseModel) -> Outcome {
    look_at(folder, ValuesFrom::AsFound);
    let experiment = Experiment::at(folder, ValuesFrom::AsFound).map_err(|error| told(&error))?;
    experiment.file_name();
    let fits = fit(&experiment, base, None).map_err(|error| told(&error));
    let adapter = Adapter::load(folder, base, 1).map_err(|error| told(&error))?;
    fits?;
    adapter.trainable_params();
    adapter.stored_bytes();
    adapter.merge_refusal();
    for (path, _) in adapter.modules() {
        adapter.unmerged_form(path);
    }
    Ok(())
}

fn config(folder: &Path) -> Target {
    let base = base();
    let cases = cases(folder).into_iter();
    Target {
        seeds: cases
            .map(|case| Seed::at(&case.join(CONFIG_FILE)))
            .collect(),
        read: Box::new(move |seed| load(seed.folder(), &base)),
    }
}

fn fresh(folder: &Path) -> Target {
    let base = base();
    let mut seeds = Vec::new();
    for method in entries(&in_project("experiments")) {
        for experiment in entries(&method) {
            let path = experiment.join(CONFIG_FILE);
            if !path.is_file() {
                continue;
            }
            let own = folder.join(seeds.len().to_string());
            fs::create_dir(&own).unwrap();
            let seed = Seed {
                path: own.join(CONFIG_FILE),
                ..Seed::at(&path)
            };
            seed.put(&seed.bytes);
            // Not every one of them fits so small a model.
            if load(&own, &base).is_ok() {
                seeds.push(seed);
            } else {
                fs::remove_dir_all(own).unwrap();
            }
        }
    }
    Target {
        seeds,
        read: Box::new(move |seed| {
            let of_shapes = Adapter::without_values(seed.folder(), &base);
            of_shapes.map_err(|error| told(&error))?;
            load(seed.folder(), &base)
        }),
    }
}

fn weights(folder: &Path) -> Target {
    let base = base();
    let files = cases(folder)
        .into_iter()
        .map(|case| case.join(WEIGHTS_FILE));
    Target {
        seeds: files
            .filter(|path| path.is_file())
            .map(|path| Seed::at(&path))
            .collect(),
        read: Box::new(move |seed| load(seed.folder(), &base)),
    }
}
