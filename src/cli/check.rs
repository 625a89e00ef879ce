//! `peft-bench check`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Error, Result, bail};
use clap::Args;

use super::options::CommonOptions;
use super::output::line;
use super::progress::message;
use super::terminal::Terminal;
use crate::adapter::AdapterError;
use crate::adapter::folder::CONFIG;
use crate::advice::shell_word;
use crate::experiment::check::{Fit, experiments_below, fit, look_at};
use crate::experiment::{EXPERIMENTS, Experiment, built_in, folder_of};
use crate::model::{BaseModel, ModelId, synthetic};
use crate::study::Setup;

/// `check`
#[derive(Debug, Args)]
pub struct Check {
    /// Experiments: folders with an `adapter_config.json`, or `<method>/<name>` below
    /// `experiments/` or built in [default: all of `experiments/`; without one, all built-in ones].
    experiments: Vec<PathBuf>,
}

/// What was found of one experiment.
#[derive(Debug, Default)]
pub struct Report {
    /// What must be mended.
    pub faults: Vec<String>,
    /// What's remarkable.
    pub notes: Vec<String>,
    /// The base that it fits, if that isn't the one that it would be used with.
    pub other_base: Option<String>,
    /// What it is, in words.
    what: Vec<String>,
}

/// Base models that were opened, by name.
#[derive(Debug, Default)]
pub struct Bases(BTreeMap<String, Option<BaseModel>>);

impl Check {
    /// Runs the command.
    pub fn run(&self, common: &CommonOptions) -> Result<()> {
        let folders = match self.experiments.as_slice() {
            [] => all_experiments(),
            named => named.to_vec(),
        };
        let names: Vec<String> = folders.iter().map(|folder| name_of(folder)).collect();
        let width = names.iter().map(|name| name.chars().count()).max();
        let width = width.unwrap_or_default();
        let settings = common.settings();
        let mut terminal = Terminal::new(common.verbose);
        let setup = Setup::new(&settings, &mut terminal);
        let mut bases = Bases::default();
        let mut wrong = 0;
        let mut model = common.model.clone();
        for (folder, name) in folders.iter().zip(&names) {
            let report = match folder_of(folder) {
                Ok(Some(folder)) => Report::of(&setup, &mut bases, &folder),
                Ok(None) | Err(_) => Report::absent(&setup, folder),
            };
            let word = match report.faults.is_empty() {
                true => "ok",
                false => "wrong",
            };
            wrong += usize::from(!report.faults.is_empty());
            line(&format!("{word:<5}  {name:<width$}  {}", report.text()))?;
            model = model.or(report.other_base);
        }
        match (wrong, names.as_slice()) {
            (0, [one]) => message(&format!("next: `{}`", measuring(&[one], model.as_deref()))),
            (0, all) => {
                let next = match self.experiments.is_empty() {
                    true => "peft-bench measure NAME…".to_owned(),
                    false => measuring(all, model.as_deref()),
                };
                let count = all.len();
                message(&format!("{count} experiments are in order; next: `{next}`"));
            }
            (wrong, all) => bail!(
                "{wrong} of {} experiments can't be used as they are",
                all.len()
            ),
        }
        Ok(())
    }
}

/// The experiments of `experiments/`; if there are none, those that are built in.
fn all_experiments() -> Vec<PathBuf> {
    let here = experiments_below(Path::new(EXPERIMENTS));
    if !here.is_empty() {
        return here;
    }
    message(&format!(
        "there are no experiments in `{EXPERIMENTS}/` here, so the built-in ones are checked; \
         `peft-bench init lora --rank 16` makes one, and `peft-bench check FOLDER` checks an adapter elsewhere"
    ));
    built_in::names().into_iter().map(PathBuf::from).collect()
}

/// The command that measures the experiments `names`, on `model` if it isn't their own.
pub fn measuring(names: &[impl AsRef<Path>], model: Option<&str>) -> String {
    let names = names.iter().map(|name| shell_word(name.as_ref()));
    let names: Vec<String> = names.collect();
    let option = model.map(|model| format!(" --model {}", shell_word(Path::new(model))));
    format!(
        "peft-bench measure {}{}",
        names.join(" "),
        option.unwrap_or_default()
    )
}

/// `<method>/<name>` for a folder below `experiments/`, else its path.
pub fn name_of(folder: &Path) -> String {
    let shipped = folder.strip_prefix(EXPERIMENTS);
    shipped.unwrap_or(folder).display().to_string()
}

impl Report {
    /// Checks the experiment in `folder`.
    pub fn of(setup: &Setup<'_>, bases: &mut Bases, folder: &Path) -> Self {
        let findings = look_at(folder, setup.settings.values);
        let mut report = Self {
            faults: findings.faults,
            notes: findings.notes,
            ..Self::default()
        };
        let adapter = Experiment::at(folder, setup.settings.values);
        let Some(experiment) = report.kept(adapter.map_err(Error::from)) else {
            return report;
        };
        let Some(method) = findings.method else {
            return report;
        };
        let values = if experiment.fresh { "fresh" } else { "trained" };
        report.what = vec![method.to_owned(), values.to_owned()];
        let used = report.fit(setup, bases, &experiment);
        report.kept(used);
        // Every line begins with the folder.
        let file = format!("`{}`: ", folder.join(CONFIG).display());
        for fault in &mut report.faults {
            *fault = fault.replace(&file, "");
        }
        report
    }

    /// A folder that isn't there, or a built-in one that can't be written.
    fn absent(setup: &Setup<'_>, folder: &Path) -> Self {
        let mut report = Self::default();
        report.kept(Experiment::find_with(folder, setup.settings.values).map_err(Error::from));
        report
    }

    /// Compares the adapter with the base that it would be used with.
    fn fit(&mut self, setup: &Setup<'_>, bases: &mut Bases, experiment: &Experiment) -> Result<()> {
        let config = setup.parameters(Some(experiment))?;
        let name = &config.model_id;
        let Some(base) = bases.get(name)? else {
            self.notes.push(format!(
                "targets and shapes not checked: the base `{name}` isn't here, and `check` downloads nothing"
            ));
            return Ok(());
        };
        let (fits, fit) = match fit(experiment, base, config.task_id) {
            Ok(fit) => (name.clone(), fit),
            // The default base is one of many that an experiment without a base may be for.
            Err(error @ AdapterError::Targets { .. }) if setup.has_default_base(experiment)? => {
                match bases.other_that_fits(experiment, config.task_id) {
                    Some((other, fit)) => {
                        self.notes.push(format!(
                            "it's for another base than `{name}`: `--model {other}`"
                        ));
                        self.other_base = Some(other.clone());
                        (other, fit)
                    }
                    None => bail!("{error}; `--model` names another base than `{name}`"),
                }
            }
            Err(error) => return Err(error.into()),
        };
        if fit.modules > 0 {
            self.what.push(format!("{} modules", fit.modules));
        }
        self.what
            .push(format!("{} parameters", fit.trainable_params));
        self.what.push(format!("fits {fits}"));
        self.notes.extend(fit.notes);
        Ok(())
    }

    /// The value of a result; its error is kept as a fault.
    fn kept<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.faults.push(format!("{error:#}"));
                None
            }
        }
    }

    /// Faults if there are some, else what it is and what's remarkable.
    fn text(&self) -> String {
        match self.faults.as_slice() {
            [] => {
                let notes = self.notes.iter().map(|note| format!("; note: {note}"));
                self.what.join(", ") + &notes.collect::<String>()
            }
            faults => faults.join("; "),
        }
    }
}

impl Bases {
    /// A synthetic model that `experiment` fits.
    fn other_that_fits(
        &mut self,
        experiment: &Experiment,
        task_id: Option<usize>,
    ) -> Option<(String, Fit)> {
        synthetic::shapes().find_map(|shape| {
            let name = format!("synthetic/{}", shape.name);
            let base = self.get(&name).ok().flatten()?;
            Some((name, fit(experiment, base, task_id).ok()?))
        })
    }

    /// The model `name`; `None` if it would have to be downloaded.
    fn get(&mut self, name: &str) -> Result<Option<&BaseModel>> {
        if !self.0.contains_key(name) {
            let model = BaseModel::at_hand(&ModelId::parse(name)?)?;
            self.0.insert(name.to_owned(), model);
        }
        Ok(self.0.get(name).and_then(Option::as_ref))
    }
}
