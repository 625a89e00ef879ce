//! Results that PEFT's method comparison published, and what's published of a measured one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;

use super::Quality;
use super::configuration::Configuration;
use super::plain::{PlainError, lines};
use crate::json::check::quoted;
use crate::report::comparable::condition_named;
use crate::report::model::Report;

/// Metrics that are looked for if none is named.
const USUAL: &str = "test ";

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
    by_configuration: Vec<ByConfiguration>,
    by_name: Vec<ByName>,
}

/// A result of PEFT's method comparison.
#[derive(Debug)]
struct ByConfiguration {
    /// `lora/llama-3.2-3B-rank32`
    name: String,
    model: String,
    configuration: Configuration,
    metric: String,
    value: f64,
}

/// A line of a table.
#[derive(Debug)]
struct ByName {
    experiment: String,
    metric: String,
    value: f64,
}

/// What's read of a result of PEFT's method comparison.
#[derive(Deserialize)]
struct PeftResult {
    run_info: PeftRun,
    train_info: PeftTraining,
}

#[derive(Deserialize)]
struct PeftRun {
    experiment_name: String,
    /// Null where the whole model was trained.
    peft_config: Option<Value>,
    train_config: PeftTrainConfig,
}

#[derive(Deserialize)]
struct PeftTrainConfig {
    model_id: String,
}

#[derive(Deserialize)]
struct PeftTraining {
    /// Of each evaluation, the test the last.
    metrics: Vec<Map<String, Value>>,
}

impl Published {
    /// Adds what's in `path`: a result of PEFT's method comparison, a folder of those, or a table
    /// `experiment,metric,value`. `metric` names the value to take.
    ///
    /// # Errors
    /// If something can't be read, or has no such metric.
    pub fn add(&mut self, path: &Path, metric: Option<&str>) -> Result<(), QualityError> {
        if path.is_dir() {
            return self.add_folder(path, metric);
        }
        let text = fs::read_to_string(path).map_err(|source| QualityError::Read {
            path: path.to_owned(),
            source,
        })?;
        match path.extension().is_some_and(|ending| ending == "csv") {
            true => self.add_table(path, &text, metric),
            false => self.add_result(path, &text, metric),
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
        files.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
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

    fn add_result(
        &mut self,
        path: &Path,
        text: &str,
        metric: Option<&str>,
    ) -> Result<(), QualityError> {
        let result: PeftResult =
            serde_json::from_str(text).map_err(|source| QualityError::NotAResult {
                path: path.to_owned(),
                source,
            })?;
        let values = result.train_info.metrics.last();
        let mut found = values.into_iter().flatten().filter_map(|(key, value)| {
            let is_it = metric.map_or_else(|| key.starts_with(USUAL), |metric| key == metric);
            Some((key.clone(), value.as_f64()?)).filter(|_| is_it)
        });
        let Some((metric, value)) = found.find(|(key, _)| metric.is_some() || key != "test loss")
        else {
            let has: Vec<&str> = values
                .into_iter()
                .flatten()
                .map(|(key, _)| key.as_str())
                .collect();
            return Err(QualityError::NoMetric {
                path: path.to_owned(),
                metric: metric.unwrap_or("test …").to_owned(),
                has: quoted(&has),
            });
        };
        let run = result.run_info;
        if let Some(configuration) = run.peft_config.as_ref().and_then(Configuration::read) {
            self.by_configuration.push(ByConfiguration {
                name: run.experiment_name,
                model: run.train_config.model_id,
                configuration,
                metric,
                value,
            });
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

    /// What's published of `report`, which is called `<method>--<name>`.
    pub fn of(&self, name: &str, report: &Report) -> Option<Quality> {
        self.by_name(name).or_else(|| self.by_configuration(report))
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
            matched: format!("{}, by name", found.experiment),
        })
    }

    /// By method, hyper-parameters and model. Of several equal ones, which were trained in
    /// different ways, it's the best.
    fn by_configuration(&self, report: &Report) -> Option<Quality> {
        let own = Configuration::read(report.run_info.peft_config.as_ref()?)?;
        let model = condition_named(report, "model").unwrap_or_default();
        let all = self.by_configuration.iter();
        let candidates = all.filter(|other| other.configuration.method == own.method);
        let mut candidates: Vec<(Vec<String>, &ByConfiguration)> = candidates
            .map(|other| {
                let mut differences = own.differences(&other.configuration);
                if !is_same_model(&model, &other.model) {
                    differences.push(format!("model ({model} instead of {})", other.model));
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
        Some(Quality {
            metric,
            value: Some(best.value),
            matched: match equal.is_empty() {
                true => format!("{}, configuration equal", best.name),
                false => format!(
                    "{}, configuration equal, the best of this and {}",
                    best.name,
                    equal.join(", ")
                ),
            },
        })
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
