//! `peft-bench prepare --portable DIR --adapters A B C`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::checked::Checking;
use super::{PROVIDER, Prepare};
use crate::adapter::AdapterSet;
use crate::experiment::Experiment;
use crate::portable::{AdapterSource, Member, write_adapters};
use crate::prepare::Preparation;
use crate::prepared::{Manifest, PreparedVariant, Variant, task_of};
use crate::study::{Setup, Target};

impl Prepare {
    /// Writes a folder with one graph and the adapters that were `named`.
    pub(super) fn write_adapters(
        &self,
        setup: &Setup,
        folder: &Path,
        named: &[PathBuf],
    ) -> Result<Manifest> {
        let mut experiments = Vec::with_capacity(named.len());
        for name in named {
            let experiment = Target::find(setup, name)?.into_experiment(name)?;
            setup.note_fresh(&experiment);
            experiments.push(experiment);
        }
        let mut config = setup.parameters(experiments.first())?;
        for experiment in &experiments[1..] {
            let other = setup.parameters(Some(experiment))?.model_id;
            if other != config.model_id {
                bail!(
                    "`{}` has the base `{}`, `{}` has `{other}`; `--model` names one for all",
                    experiments[0].folder.display(),
                    config.model_id,
                    experiment.folder.display()
                );
            }
        }
        let base = self.open_base(setup, &mut config, folder, experiments.iter())?;
        let preparation = setup.preparation(&config, PROVIDER, &base)?;
        let names = distinct_names(&experiments);

        // Whether they fit one graph is known before anything of a weight's size is made.
        let all: Vec<&Experiment> = experiments.iter().collect();
        let (seen, adapters) = preparation.load_unmerged(&all)?;
        let members: Vec<_> = names.iter().map(String::as_str).zip(&adapters).collect();
        let set = AdapterSet::new(&members)?;

        let runtime = setup.onnx_runtime(PROVIDER)?;
        let mut members = Vec::with_capacity(all.len());
        let mut base_expected = None;
        for (experiment, name) in experiments.iter().zip(&names) {
            let variants = self.variants_of(&preparation, experiment)?;
            setup.note_task(&config, task_of(&variants));
            setup.note_adapter_of(&variants);
            setup.note_replaced(&variants);
            let unmerged = of(&variants, Variant::Unmerged).context("it was prepared")?;
            if unmerged.manifest.has_residuals {
                bail!(
                    "`{name}` takes a part out of the quantized weights, so its base isn't that of others; leave out \
                     `--quantize`, or merge it"
                );
            }
            let mut member = Member {
                name: name.clone(),
                variant: unmerged.clone(),
                parity: None,
                expected: None,
            };
            if !self.no_check {
                let checking = Checking::new(setup, &runtime, &variants)?;
                member.parity = checking.parity(&variants)?;
                member.expected = Some(checking.expected(unmerged)?);
                if let (None, Some(base)) = (&base_expected, of(&variants, Variant::Base)) {
                    base_expected = Some(checking.expected(base)?);
                }
            }
            members.push(member);
        }
        let layers = adapters[0].spec.layers.len();
        if layers != base.spec.layers.len() {
            // With nothing active, the graph is the base with more layers.
            base_expected = None;
        }
        let place_of = experiments[0].folder.as_path();
        let place = self
            .tokenizer
            .choice()
            .place(&base.folder, Some(place_of))?;
        let from = std::fs::canonicalize(&members[0].variant.folder)?;
        let source = AdapterSource {
            seen: &seen,
            set: &set,
            model: preparation.shared_graph(&set, &from)?,
            folder: from,
            members: &members,
            layout: self.adapter_layout.into(),
            base_expected: base_expected.as_ref(),
        };
        let surroundings = self.surroundings(setup, &base, &place.folder, &runtime);
        let manifest = write_adapters(surroundings, source, folder)?;
        place.note_copied(setup);
        Ok(manifest)
    }

    /// The variants of one adapter, all that it has if they're checked.
    fn variants_of(
        &self,
        preparation: &Preparation,
        experiment: &Experiment,
    ) -> Result<Vec<PreparedVariant>> {
        Ok(match self.no_check {
            true => preparation.prepare(Some(experiment), &[Variant::Unmerged])?,
            false => preparation.prepare_all(experiment)?.0,
        })
    }
}

fn of(variants: &[PreparedVariant], wanted: Variant) -> Option<&PreparedVariant> {
    variants.iter().find(|one| one.manifest.variant == wanted)
}

/// The experiments' names; those that are the same get a number.
fn distinct_names(experiments: &[Experiment]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(experiments.len());
    for experiment in experiments {
        let mut name = experiment.name.clone();
        let mut number = 2;
        while names.contains(&name) {
            name = format!("{}-{number}", experiment.name);
            number += 1;
        }
        names.push(name);
    }
    names
}
