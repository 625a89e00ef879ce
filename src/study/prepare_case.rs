//! From what a case measures to variants that are ready to run.

use std::path::Path;

use super::observer::Note;
use super::prepared_folder::{PreparedFolder, PreparedFolderError, check_provider};
use super::setup::Setup;
use super::target::TargetError;
use super::{Study, StudyError};
use crate::config::BenchmarkConfig;
use crate::experiment::Experiment;
use crate::foreign::ForeignError;
use crate::model::{BaseModel, ModelId};
use crate::onnxruntime::Provider;
use crate::prepared::{PreparedVariant, Variant, task_of};

/// The base by itself.
pub fn base(
    study: &Study,
    setup: &Setup,
    provider: Provider,
    config: &BenchmarkConfig,
) -> Result<PreparedVariant, StudyError> {
    let base = base_model(study, setup, config, None)?;
    prepare_base(setup, provider, config, &base)
}

/// All variants of an experiment, and why there's no merged one, if there's none.
pub fn experiment(
    study: &Study,
    setup: &Setup,
    provider: Provider,
    experiment: &Experiment,
    config: &BenchmarkConfig,
) -> Result<(Vec<PreparedVariant>, Option<String>), StudyError> {
    let base = base_model(study, setup, config, Some(&experiment.folder))?;
    let preparation = setup.preparation(config, provider, &base)?;
    let (variants, refusal) = preparation.prepare_all(experiment)?;
    setup.note_task(config, task_of(&variants));
    setup.note_adapter_of(&variants);
    setup.note_replaced(&variants);
    Ok((variants, refusal))
}

/// The variants that are in a prepared folder, with the base beside it.
pub fn folder(
    provider: Provider,
    folder: &PreparedFolder,
) -> Result<Vec<PreparedVariant>, PreparedFolderError> {
    let variants = folder.variants();
    let Some(first) = variants.first() else {
        return Err(PreparedFolderError::Empty(folder.folder().to_owned()));
    };
    check_provider(folder.folder(), &first.manifest, provider)?;
    Ok(variants)
}

/// A merged checkpoint against the base of the settings, or by itself where they name none.
pub fn checkpoint(
    study: &Study,
    setup: &Setup,
    provider: Provider,
    id: &ModelId,
    config: &BenchmarkConfig,
) -> Result<Vec<PreparedVariant>, StudyError> {
    let of = |model_id: String| BenchmarkConfig {
        model_id,
        ..config.clone()
    };
    if setup.settings.model.is_none() {
        return Ok(vec![base(study, setup, provider, &of(id.to_string()))?]);
    }
    let base = setup.base_model(config)?;
    let base_variant = prepare_base(setup, provider, config, &base)?;
    let config = of(id.to_string());
    let merged = setup.base_model(&config)?;
    // A merged checkpoint may have its adapter's tokenizer.
    let tokenizer = study.tokenizer.place(&base.folder, Some(&merged.folder))?;
    tokenizer.open()?;
    let mut merged_variant = prepare_base(setup, provider, &config, &merged)?;
    // It was prepared like any model that has no adapter, and is measured as what an adapter was
    // merged into.
    merged_variant.manifest.variant = Variant::Merged;

    let sizes = [&base_variant, &merged_variant].map(|variant| variant.manifest.vocab_size);
    if sizes[0] != sizes[1] {
        setup.note(Note::VocabularySizes {
            merged: id,
            merged_size: sizes[1],
            base_size: sizes[0],
        });
    }
    Ok(vec![base_variant, merged_variant])
}

/// Graphs that are run as they are, with the base of the settings where they name one.
pub fn foreign(
    study: &Study,
    setup: &Setup,
    provider: Provider,
    found: &PreparedVariant,
    config: &BenchmarkConfig,
) -> Result<Vec<PreparedVariant>, StudyError> {
    if provider != Provider::Cpu {
        let refused = ForeignError::Gpu(found.folder.clone());
        return Err(TargetError::from(refused).into());
    }
    let mut variants = Vec::new();
    if setup.settings.model.is_some() {
        variants.push(base(study, setup, provider, config)?);
    }
    variants.push(found.clone());
    Ok(variants)
}

/// Opens the base model for an adapter in the folder `adapter`, if there's one. What prompts are
/// tokenized with has to be there before anything is prepared.
fn base_model(
    study: &Study,
    setup: &Setup,
    config: &BenchmarkConfig,
    adapter: Option<&Path>,
) -> Result<BaseModel, StudyError> {
    let model = setup.base_model(config)?;
    study.tokenizer.place(&model.folder, adapter)?.open()?;
    Ok(model)
}

fn prepare_base(
    setup: &Setup,
    provider: Provider,
    config: &BenchmarkConfig,
    base: &BaseModel,
) -> Result<PreparedVariant, StudyError> {
    let preparation = setup.preparation(config, provider, base)?;
    Ok(preparation.prepare(None, &[Variant::Base])?.remove(0))
}
