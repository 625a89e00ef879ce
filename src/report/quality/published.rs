//! Results that PEFT's method comparison published, and what's published of a measured one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::configuration::Configuration;
use super::peft_result::{Trained, trained_in};
use super::plain::{PlainError, lines};
use super::{Qualities, Quality};
use crate::files::{is_special, text_named};
use crate::json::check::quoted;
use crate::report::comparable::condition_named;
use crate::report::model::Report;

/// How many keys may differ for a published result to be named as near.
const NEAR: usize = 4;

/// Published quality that can't be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QualityError {
    /// The system doesn't let it be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file, or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It isn't a result of PEFT's method comparison.
    #[error("`{}` is not a result of PEFT's method comparison", path.display())]
    NotAResult {
        /// The file.
        path: PathBuf,
        /// What's wrong.
        source: serde_json::Error,
    },
    /// A configuration in it doesn't name a method.
    #[error("`{}`: the `peft_config` of `{experiment}` has no `peft_type`", path.display())]
    NoMethod {
        /// The file.
        path: PathBuf,
        /// The experiment.
        experiment: String,
    },
    /// It has no such metric.
    #[error("`{}` has no metric `{metric}`; it has {has}", path.display())]
    NoMetric {
        /// The file.
        path: PathBuf,
        /// The metric.
        metric: String,
        /// Those that it has.
        has: String,
    },
    /// It's a table that can't be read.
    #[error("`{}`", path.display())]
    Plain {
        /// The file.
        path: PathBuf,
        /// Where, and why.
        source: PlainError,
    },
    /// It has several metrics, and none was chosen.
    #[error("`{}` has several metrics, {has}: choose one with `--quality-metric`", path.display())]
    SeveralMetrics {
        /// The file.
        path: PathBuf,
        /// Those that it has.
        has: String,
    },
    /// A folder without anything to read.
    #[error("there are no results of PEFT's method comparison in `{}`", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
}

/// Published values.
#[derive(Debug, Default)]
pub struct Published {
    trained: Vec<Trained>,
    by_name: Vec<ByName>,
    /// The model whose results stand for those of any.
    stand_in: Option<String>,
}

/// A line of a table.
#[derive(Debug)]
struct ByName {
    experiment: String,
    metric: String,
    value: f64,
}

impl Published {
    /// Takes results of the model `name` for those of every measured model.
    pub fn stand_in(&mut self, name: String) {
        self.stand_in = Some(name);
    }

    /// Adds what's in `path`: a result of PEFT's method comparison, several, a folder of those, or a table
    /// `experiment,metric,value`. `metric` names the value to take.
    ///
    /// # Errors
    /// If something can't be read, or has no such metric.
    pub fn add(&mut self, path: &Path, metric: Option<&str>) -> Result<(), QualityError> {
        if path.is_dir() {
            return self.add_folder(path, metric);
        }
        let text = text_named(path).map_err(|source| QualityError::Read {
            path: path.to_owned(),
            source,
        })?;
        match path.extension().is_some_and(|ending| ending == "csv") {
            true => self.add_table(path, &text, metric),
            false => self.add_results(path, &text, metric),
        }
    }

    fn add_folder(&mut self, folder: &Path, metric: Option<&str>) -> Result<(), QualityError> {
        let unreadable = |source| QualityError::Read {
            path: folder.to_owned(),
            source,
        };
        let entries = fs::read_dir(folder).map_err(unreadable)?;
        let mut files = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<PathBuf>>>()
            .map_err(unreadable)?;
        files.retain(|path| {
            path.extension().is_some_and(|ending| ending == "json") && !is_special(path)
        });
        files.sort();
        for file in &files {
            self.add(file, metric)?;
        }
        match files.is_empty() {
            false => Ok(()),
            true => Err(QualityError::Empty {
                path: folder.to_owned(),
            }),
        }
    }

    /// Of several runs of the same experiment it's the newest that counts.
    fn add_results(
        &mut self,
        path: &Path,
        text: &str,
        metric: Option<&str>,
    ) -> Result<(), QualityError> {
        for new in trained_in(path, text, metric)? {
            let is_same = |old: &&mut Trained| old.name == new.name && old.model == new.model;
            match self.trained.iter_mut().find(is_same) {
                Some(old) if old.at <= new.at => *old = new,
                Some(_) => {}
                None => self.trained.push(new),
            }
        }
        Ok(())
    }

    fn add_table(
        &mut self,
        path: &Path,
        text: &str,
        metric: Option<&str>,
    ) -> Result<(), QualityError> {
        let lines = lines(text).map_err(|source| QualityError::Plain {
            path: path.to_owned(),
            source,
        })?;
        let mut metrics: Vec<&str> = lines.iter().map(|(_, metric, _)| metric.as_str()).collect();
        metrics.sort_unstable();
        metrics.dedup();
        let has = quoted(&metrics);
        let path = path.to_owned();
        match (metric, metrics.as_slice()) {
            (Some(metric), all) if !all.contains(&metric) => {
                let metric = metric.to_owned();
                return Err(QualityError::NoMetric { path, metric, has });
            }
            (None, [_, _, ..]) => return Err(QualityError::SeveralMetrics { path, has }),
            _ => {}
        }
        let chosen = lines
            .into_iter()
            .filter(|(_, found, _)| metric.is_none_or(|metric| metric == found));
        self.by_name
            .extend(chosen.map(|(experiment, metric, value)| ByName {
                experiment,
                metric,
                value,
            }));
        Ok(())
    }

    /// What a reader should know of the values as a whole, in a sentence.
    pub fn note(&self) -> Option<String> {
        let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let known = self.trained.iter().filter(|of| !of.peft_version.is_empty());
        for of in known {
            let names = versions.entry(&of.peft_version).or_default();
            names.push(&of.name);
        }
        let mut versions: Vec<_> = versions.into_iter().collect();
        versions.sort_by_key(|(_, names)| names.len());
        let (_, others) = versions.split_last()?;
        let others = others
            .iter()
            .map(|(version, names)| match names.as_slice() {
                [name] => format!("{name} with {version}"),
                names => format!("{} with {version}", names.len()),
            });
        let others: Vec<String> = others.collect();
        (!others.is_empty()).then(|| {
            format!(
                "not all published results were made with the same version of PEFT ({}); those of different versions \
                 may differ by more than their intervals",
                others.join(", ")
            )
        })
    }

    /// What's published of `report`, which is called `<method>--<name>`.
    pub fn of(&self, name: &str, report: &Report) -> Qualities {
        let adapter = self.by_name(name);
        Qualities {
            adapter: adapter.or_else(|| self.by_configuration(report)),
            base: self.of_whole(report),
        }
    }

    /// That of the model that was trained as a whole. It computes what the base does.
    fn of_whole(&self, report: &Report) -> Option<Quality> {
        let model = condition_named(report, "model").unwrap_or_default();
        let whole = self.trained.iter().filter(|of| of.configuration.is_none());
        let mut same = whole.filter(|of| self.is_of(of, &model));
        let best = same
            .by_ref()
            .max_by(|one, other| one.value.total_cmp(&other.value))?;
        Some(Quality {
            metric: best.metric.clone(),
            value: Some(best.value),
            interval: best.interval,
            matched: format!(
                "{}, all of the model trained, which costs what the base does{}",
                best.name,
                self.origin(best)
            ),
        })
    }

    /// By the name of the experiment, with the method before it or without.
    fn by_name(&self, name: &str) -> Option<Quality> {
        let whole = name.replacen("--", "/", 1);
        let short = whole
            .split_once('/')
            .map_or(whole.as_str(), |(_, name)| name);
        let find = |name: &str| self.by_name.iter().find(|line| line.experiment == name);
        let found = find(&whole).or_else(|| find(short))?;
        Some(Quality {
            metric: found.metric.clone(),
            value: Some(found.value),
            interval: None,
            matched: format!("{}, by name", found.experiment),
        })
    }

    /// By method, hyper-parameters and model. Of several equal ones, which were trained in
    /// different ways, it's the best.
    fn by_configuration(&self, report: &Report) -> Option<Quality> {
        let own = Configuration::read(report.run_info.peft_config.as_ref()?)?;
        let model = condition_named(report, "model").unwrap_or_default();
        let candidates = self.trained.iter().filter_map(|other| {
            let configuration = other.configuration.as_ref()?;
            Some((configuration, other)).filter(|(of, _)| of.method == own.method)
        });
        let mut candidates: Vec<(Vec<String>, &Trained)> = candidates
            .map(|(configuration, other)| {
                let mut differences = own.differences(configuration);
                if !self.is_of(other, &model) {
                    let wanted = self.stand_in.as_deref().unwrap_or(&model);
                    differences.push(format!("model ({wanted} instead of {})", other.model));
                }
                (differences, other)
            })
            .collect();
        candidates.sort_by(|(one, of), (other, of_other)| {
            let fewest = one.len().cmp(&other.len());
            fewest.then(of_other.value.total_cmp(&of.value))
        });
        let (differences, best) = candidates.first()?;
        if differences.len() > NEAR {
            return None;
        }
        let metric = best.metric.clone();
        if !differences.is_empty() {
            let differences = differences.join(", ");
            return Some(Quality {
                metric,
                value: None,
                interval: None,
                matched: format!(
                    "none; near is {} ({:.4}), but: {differences}",
                    best.name, best.value
                ),
            });
        }
        let equal = candidates[1..]
            .iter()
            .take_while(|(differences, _)| differences.is_empty());
        let equal: Vec<String> = equal
            .map(|(_, other)| format!("{} ({:.4})", other.name, other.value))
            .collect();
        let others = match equal.is_empty() {
            true => String::new(),
            false => format!(", the best of this and {}", equal.join(", ")),
        };
        Some(Quality {
            metric,
            value: Some(best.value),
            interval: best.interval,
            matched: format!(
                "{}, configuration equal{others}{}",
                best.name,
                self.origin(best)
            ),
        })
    }

    /// Whether `of` is taken for a result of the measured `model`.
    fn is_of(&self, of: &Trained, model: &str) -> bool {
        is_same_model(self.stand_in.as_deref().unwrap_or(model), &of.model)
    }

    /// Which model it's of, where that isn't the measured one, and when it was trained.
    fn origin(&self, of: &Trained) -> String {
        let model = match self.stand_in {
            None => String::new(),
            Some(_) => format!(", of {}", of.model),
        };
        let day = of.at.split('T').next().filter(|day| !day.is_empty());
        model + &day.map_or_else(String::new, |day| format!(", {day}"))
    }
}

/// Whether the last part of the names is the same: `synthetic/llama-3.2-3b` has the shape of
/// `meta-llama/Llama-3.2-3B`.
fn is_same_model(one: &str, other: &str) -> bool {
    let last = |name: &str| {
        let last = name.rsplit('/').next().unwrap_or(name);
        last.to_lowercase()
    };
    last(one) == last(other)
}
