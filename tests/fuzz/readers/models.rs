//! Base models: `config.json`, and the headers of weights, of checkpoints that are quantized too.

use std::path::{Path, PathBuf};

use peft_bench::adapter::AdapterForm;
use peft_bench::model::BaseModel;
use peft_bench::prepare::Preparation;
use peft_bench::prepared::{Precision, Variant};
use peft_bench::weights::Dtype;

use super::{entries, fixture, linked};
use crate::target::{Reader, Seed, Target, told};

pub const CONFIG: Reader = Reader {
    name: "model-config",
    one_of: 1,
    make: config,
};

pub const PREPARED: Reader = Reader {
    name: "model-prepared",
    one_of: 20,
    make: prepared,
};

pub const WEIGHTS: Reader = Reader {
    name: "model-weights",
    one_of: 2,
    make: weights,
};

/// Folders with links to all models and to all quantized checkpoints.
fn all_models(folder: &Path) -> Vec<PathBuf> {
    let models = entries(&fixture("models")).into_iter();
    let all = models.chain(entries(&fixture("stored")));
    let all = all.filter(|path| path.join("config.json").is_file());
    let all = all.map(|path| linked(&path, folder.join(path.file_name().unwrap())));
    all.filter(|model| BaseModel::open_folder(model).is_ok())
        .collect()
}

fn configs(folder: &Path) -> Vec<Seed> {
    let models = all_models(folder).into_iter();
    models
        .map(|model| Seed::at(&model.join("config.json")))
        .collect()
}

fn config(folder: &Path) -> Target {
    Target {
        seeds: configs(folder),
        read: Box::new(|seed| {
            let model = BaseModel::open_folder(seed.folder()).map_err(|error| told(&error))?;
            model.size().map_err(|error| told(&error))?;
            model.surplus_rows();
            Ok(())
        }),
    }
}

fn prepared(folder: &Path) -> Target {
    let export_dir = folder.join("exported");
    Target {
        seeds: configs(folder),
        read: Box::new(move |seed| {
            let base = BaseModel::open_folder(seed.folder()).map_err(|error| told(&error))?;
            let preparation = Preparation {
                base: &base,
                precision: Precision::new(Dtype::Float32, false),
                export_dir: &export_dir,
                seed: 1,
                adapter_form: AdapterForm::Reduced,
                task_id: None,
            };
            let made = preparation.prepare(None, &[Variant::Base]);
            made.map(drop).map_err(|error| told(&error))
        }),
    }
}

fn weights(folder: &Path) -> Target {
    let models = all_models(folder).into_iter();
    let files = models.map(|model| model.join("model.safetensors"));
    Target {
        seeds: files
            .filter(|path| path.is_file())
            .map(|path| Seed::at(&path))
            .collect(),
        read: Box::new(|seed| {
            let model = BaseModel::open_folder(seed.folder()).map_err(|error| told(&error))?;
            model.size().map_err(|error| told(&error))?;
            for module in model.spec.modules() {
                let _ = model.matrix(&format!("{}.weight", module.source));
            }
            Ok(())
        }),
    }
}
