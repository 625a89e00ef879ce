//! `peft-bench prepare --portable`

mod adapters;
mod checked;

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::prepare::Prepare;
use super::progress::message;
use crate::adapter::AdapterForm;
use crate::advice::shell_word;
use crate::config::BenchmarkConfig;
use crate::engine::{OnnxRuntime, Provider};
use crate::experiment::Experiment;
use crate::machine::physical_cores;
use crate::model::{BaseModel, ModelId};
use crate::portable::{Checked, Surroundings, Weights, check_place, check_states, write};
use crate::prepare::Preparation;
use crate::prepared::{Manifest, PreparedVariant, Variant, task_of};
use crate::study::{ProviderChoice, Setup, Target};
use checked::Checking;

/// A portable graph is made for the CPU.
const PROVIDER: Provider = Provider::Cpu;

/// What is made portable.
struct Model {
    experiment: Option<Experiment>,
    /// The base, where it's named itself.
    id: Option<ModelId>,
}

impl Prepare {
    /// Writes a portable folder.
    pub(super) fn run_portable(&self, setup: &Setup, folder: &Path) -> Result<()> {
        if setup.settings.provider == ProviderChoice::Cuda {
            bail!("a portable folder's graph is made for the CPU; leave out `--ep cuda`");
        }
        if setup.settings.adapter_form == AdapterForm::Native {
            bail!("a portable folder has the cheapest form; leave out `--adapter-form native`");
        }
        let manifest = match &self.adapters[..] {
            [] => self.write_one(setup, folder)?,
            named => self.write_adapters(setup, folder, named)?,
        };
        report(folder, &manifest);
        Ok(())
    }

    /// Writes a folder of one variant.
    fn write_one(&self, setup: &Setup, folder: &Path) -> Result<Manifest> {
        let model = self.portable_model(setup)?;
        let wanted = self.portable_variant(model.experiment.as_ref())?;
        if let (Variant::Unmerged, Some(experiment)) = (wanted, &model.experiment) {
            return self.write_adapters(setup, folder, std::slice::from_ref(&experiment.folder));
        }
        let experiment = model.experiment.as_ref();
        if let Some(experiment) = experiment {
            setup.note_fresh(experiment);
        }
        let mut config = setup.parameters(experiment)?;
        if let Some(id) = &model.id {
            config.model_id = id.to_string();
        }
        let base = self.open_base(setup, &mut config, folder, experiment.into_iter())?;
        let preparation = setup.preparation(&config, PROVIDER, &base)?;
        let (variants, variant) = self.portable_variants(&preparation, experiment, wanted)?;
        setup.note_task(&config, task_of(&variants));
        setup.note_adapter_of(&variants);

        let adapter = experiment.map(|one| one.folder.as_path());
        let place = self.tokenizer.choice().place(&base.folder, adapter)?;
        let runtime = setup.onnx_runtime(PROVIDER)?;
        let mut checked = Checked::default();
        if !self.no_check {
            let checking = Checking::new(setup, &runtime, &variants)?;
            checked.parity = checking.parity(&variants)?;
            checked.expected = Some(checking.expected(&variant)?);
        }
        let surroundings = self.surroundings(setup, &base, &place.folder, &runtime);
        let manifest = write(surroundings, &variant, &checked, folder)?;
        place.note_copied(setup);
        Ok(manifest)
    }

    /// Opens the base, once the folder is known to be free.
    fn open_base<'e>(
        &self,
        setup: &Setup,
        config: &mut BenchmarkConfig,
        folder: &Path,
        experiments: impl Iterator<Item = &'e Experiment>,
    ) -> Result<BaseModel> {
        config.task_id = self.task.id().or(config.task_id);
        let base = setup.base_model(config)?;
        let adapters = experiments.map(|experiment| experiment.folder.as_path());
        let sources: Vec<&Path> = adapters.chain([base.folder.as_path()]).collect();
        check_states(&base)?;
        check_place(folder, &sources)?;
        Ok(base)
    }

    fn surroundings<'a>(
        &self,
        setup: &Setup,
        base: &'a BaseModel,
        tokenizer: &'a Path,
        runtime: &'a OnnxRuntime,
    ) -> Surroundings<'a> {
        Surroundings {
            base,
            tokenizer,
            weights: match self.links {
                true => Weights::Linked,
                false => Weights::Copied,
            },
            runtime,
            threads: setup.settings.threads.unwrap_or_else(physical_cores),
        }
    }

    /// What the command line names.
    fn portable_model(&self, setup: &Setup) -> Result<Model> {
        let Some(named) = &self.experiment else {
            if setup.settings.model.is_none() {
                bail!("name an adapter or a checkpoint, or the base alone with `--model`");
            }
            return Ok(Model {
                experiment: None,
                id: None,
            });
        };
        match Target::find(setup, named)? {
            Target::Experiment(experiment) => Ok(Model {
                experiment: Some(experiment),
                id: None,
            }),
            Target::Checkpoint(id) => {
                if setup.settings.model.is_some() {
                    bail!("`--model` goes with an adapter, and `{id}` is a model itself");
                }
                Ok(Model {
                    experiment: None,
                    id: Some(id),
                })
            }
            Target::Prepared(_) | Target::Foreign(_) => bail!(
                "`{}` is exported already; name the adapter or the checkpoint that it was made from",
                named.display()
            ),
        }
    }

    /// The variant that was asked for, else the usual one.
    fn portable_variant(&self, experiment: Option<&Experiment>) -> Result<Variant> {
        let variants: Vec<Variant> = self.variants.iter().map(|&choice| choice.into()).collect();
        match (&variants[..], experiment) {
            ([], Some(_)) => Ok(Variant::Merged),
            ([] | [Variant::Base], None) => Ok(Variant::Base),
            (&[one], Some(_)) => Ok(one),
            ([other], None) => bail!("a model without an adapter has no variant `{other}`"),
            _ => bail!("a portable folder holds one variant; give `--variant` once"),
        }
    }

    /// All variants that are compared with each other, and the one that's written.
    fn portable_variants(
        &self,
        preparation: &Preparation,
        experiment: Option<&Experiment>,
        wanted: Variant,
    ) -> Result<(Vec<PreparedVariant>, PreparedVariant)> {
        let variants = match experiment {
            Some(experiment) if wanted != Variant::Base && !self.no_check => {
                let (variants, refusal) = preparation.prepare_all(experiment)?;
                if let (Variant::Merged, Some(reason)) = (wanted, refusal) {
                    bail!("there is no `merged` variant: {reason}; see `--variant unmerged`");
                }
                variants
            }
            _ => preparation.prepare(experiment, &[wanted])?,
        };
        let found = variants
            .iter()
            .find(|one| one.manifest.variant == wanted)
            .cloned();
        let variant = found.context("the variant was prepared")?;
        Ok((variants, variant))
    }
}

/// Says what was written.
fn report(folder: &Path, manifest: &Manifest) {
    let portable = manifest.portable.clone().unwrap_or_default();
    for sentence in &portable.checks {
        message(&format!("checked   {sentence}"));
    }
    if portable.checks.is_empty() {
        message("checked   nothing (`--no-check`)");
    }
    let bytes: u64 = portable.files.values().map(|file| file.bytes).sum();
    message(&format!(
        "portable  {} ({}, {} files, {})",
        folder.display(),
        manifest.variant,
        portable.files.len() + 1,
        indicatif::HumanBytes(bytes)
    ));
    let next = match portable.adapters.first() {
        Some(own) => folder.join(own.adapter.file.as_deref().unwrap_or(Path::new(""))),
        None => folder.to_owned(),
    };
    message(&format!("next: `peft-bench measure {}`", shell_word(&next)));
}
