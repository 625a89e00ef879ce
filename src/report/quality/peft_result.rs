//! Results of PEFT's method comparison.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::QualityError;
use super::configuration::Configuration;
use super::interval::interval;
use crate::json::check::quoted;

/// Metrics that are looked for if none is named.
const USUAL: &str = "test ";

/// What's taken of a published result.
#[derive(Debug)]
pub(super) struct Trained {
    /// `lora/llama-3.2-3B-rank32`
    pub name: String,
    /// The base model.
    pub model: String,
    /// When it was trained, RFC 3339, and with which PEFT; empty if it isn't said.
    pub at: String,
    pub peft_version: String,
    /// `None` where the whole model was trained.
    pub configuration: Option<Configuration>,
    pub metric: String,
    pub value: f64,
    pub interval: Option<[f64; 2]>,
}

/// A file that has several results, each as PEFT writes it.
#[derive(Deserialize)]
struct Several {
    results: Vec<PeftResult>,
}

/// What's read of a result.
#[derive(Deserialize)]
struct PeftResult {
    run_info: Run,
    train_info: Training,
    #[serde(default)]
    meta_info: Meta,
}

#[derive(Deserialize)]
struct Run {
    experiment_name: String,
    #[serde(default)]
    created_at: String,
    /// Null where the whole model was trained.
    peft_config: Option<Value>,
    train_config: TrainConfig,
}

#[derive(Deserialize)]
struct TrainConfig {
    model_id: String,
}

#[derive(Deserialize)]
struct Training {
    /// Of each evaluation, the test the last.
    metrics: Vec<Map<String, Value>>,
}

#[derive(Default, Deserialize)]
struct Meta {
    #[serde(default)]
    package_info: Packages,
}

#[derive(Default, Deserialize)]
struct Packages {
    #[serde(rename = "peft-version", default)]
    peft: String,
}

/// The results in the file at `path`: one, or an object whose `results` are several. `metric` names
/// the value to take.
pub(super) fn trained_in(
    path: &Path,
    text: &str,
    metric: Option<&str>,
) -> Result<Vec<Trained>, QualityError> {
    let not_a_result = |source| QualityError::NotAResult {
        path: path.to_owned(),
        source,
    };
    let file: Value = serde_json::from_str(text).map_err(not_a_result)?;
    let results = match file.get("results") {
        Some(_) => Several::deserialize(file).map_err(not_a_result)?.results,
        None => vec![PeftResult::deserialize(file).map_err(not_a_result)?],
    };
    let results = results.into_iter();
    results.map(|of| trained(path, of, metric)).collect()
}

fn trained(path: &Path, of: PeftResult, metric: Option<&str>) -> Result<Trained, QualityError> {
    let test = of.train_info.metrics.last();
    let mut found = test.into_iter().flatten().filter_map(|(key, value)| {
        let is_it = metric.map_or_else(|| key.starts_with(USUAL), |metric| key == metric);
        Some((key.clone(), value.as_f64()?)).filter(|_| is_it)
    });
    let Some((metric, value)) = found.find(|(key, _)| metric.is_some() || key != "test loss")
    else {
        let has: Vec<&str> = test
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
    let run = of.run_info;
    let not_a_method = || QualityError::NoMethod {
        path: path.to_owned(),
        experiment: run.experiment_name.clone(),
    };
    let configuration = match &run.peft_config {
        None => None,
        Some(config) => Some(Configuration::read(config).ok_or_else(not_a_method)?),
    };
    Ok(Trained {
        interval: interval(&metric, value),
        model: run.train_config.model_id,
        at: run.created_at,
        peft_version: of.meta_info.package_info.peft,
        name: run.experiment_name,
        configuration,
        metric,
        value,
    })
}
