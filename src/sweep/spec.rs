//! What a sweep measures: lists whose cross product, without exclusions, are its jobs.
//!
//! ```toml
//! experiments = ["lora/lora_r8", "adapters/*"]
//! models = ["synthetic/llama-57m", "synthetic/llama-135m"]
//! dtypes = ["float32"]
//! quantizations = ["none", "4bit"]
//! batch_sizes = [1, 8]
//! exclude = [{ model = "synthetic/llama-57m", batch_size = 8 }]
//! options = ["--restarts", "3"]          # of every `peft-bench measure`
//! ```
//!
//! An empty list leaves the choice to the experiment's parameters. A text may hold `*`, for any
//! characters but `/`; in `experiments` it stands in the last part of a path.

use std::collections::{BTreeSet, HashSet};
use std::hash::Hash;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::adapter::folder::{CONFIG, names};
use crate::experiment::{EXPERIMENTS, built_in};
use crate::files::text_named;

/// Combinations that a sweep may have, excluded ones too. Each is looked at before one is measured.
const MOST: usize = 100_000;
/// How often a combination and an exclusion may be compared.
const MOST_COMPARED: usize = 10_000_000;

/// A specification that can't be used.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum SpecError {
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{key}` of `{}` is wrong: {problem}", path.display())]
    Json {
        path: PathBuf,
        key: String,
        problem: String,
    },
    #[error("`{}` is wrong: {problem}", path.display())]
    Toml { path: PathBuf, problem: String },
    #[error("`{}` is neither `.toml` nor `.json`, and a specification is one of them", .0.display())]
    Ending(PathBuf),
    #[error(
        "the sweep has no experiments: name them in the specification (`experiments`) or with `--experiments`"
    )]
    NoExperiments,
    #[error("`{pattern}` matches no experiment: no folder there has an `{CONFIG}`")]
    NoMatch { pattern: String },
    #[error("`*` of `{0}` must be in its last part, as in `adapters/*`")]
    Star(String),
    #[error(
        "`{0}` is no exclusion: it's a list such as `model=synthetic/llama-57m,dtype=float16`, of the keys experiment, \
         model, dtype, quantization and batch_size"
    )]
    Exclusion(String),
    #[error("the exclusion `{0}` matches none of the combinations")]
    Idle(String),
    #[error("the lists have more than {MOST} combinations: divide the sweep")]
    TooMany,
    #[error("there are too many exclusions for so many combinations: divide the sweep")]
    TooManyExclusions,
}

/// What a sweep measures.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spec {
    /// Experiments, as `measure` takes them.
    pub experiments: Vec<String>,
    /// Base models.
    pub models: Vec<String>,
    /// Dtypes.
    pub dtypes: Vec<String>,
    /// Formats of quantized weights; `none` for none.
    pub quantizations: Vec<String>,
    /// Batch sizes.
    pub batch_sizes: Vec<usize>,
    /// Combinations that are left out.
    pub exclude: Vec<Exclusion>,
    /// Further options of `measure`.
    pub options: Vec<String>,
}

/// A combination that's left out: all of the values that it has must match.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exclusion {
    experiment: Option<String>,
    model: Option<String>,
    dtype: Option<String>,
    quantization: Option<String>,
    batch_size: Option<usize>,
}

/// One combination. What's absent is left to the experiment's parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Combination {
    /// The experiment.
    pub experiment: String,
    /// The base model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The dtype.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// The format of quantized weights, or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// The batch size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
}

impl Spec {
    /// Reads a `.toml` or `.json` file.
    ///
    /// # Errors
    /// If it can't be read, or has unknown keys or values of another type.
    pub fn read(path: &Path) -> Result<Self, SpecError> {
        let text = text_named(path).map_err(|source| SpecError::Read {
            path: path.to_owned(),
            source,
        })?;
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("toml") => toml::from_str(&text).map_err(|error| SpecError::Toml {
                path: path.to_owned(),
                problem: error.to_string().trim_end().replace('\n', "; "),
            }),
            Some("json") => {
                let mut reader = serde_json::Deserializer::from_str(&text);
                serde_path_to_error::deserialize(&mut reader).map_err(|error| SpecError::Json {
                    path: path.to_owned(),
                    key: error.path().to_string(),
                    problem: error.inner().to_string(),
                })
            }
            _ => Err(SpecError::Ending(path.to_owned())),
        }
    }

    /// All combinations that aren't excluded, each once: experiments slowest, batch sizes fastest.
    ///
    /// # Errors
    /// If there are no experiments, a pattern matches none, or an exclusion matches nothing.
    pub fn combinations(&self) -> Result<Vec<Combination>, SpecError> {
        let mut experiments = Vec::new();
        for pattern in &self.experiments {
            experiments.extend(expanded(pattern)?);
        }
        if experiments.is_empty() {
            return Err(SpecError::NoExperiments);
        }
        let experiments = distinct(experiments);
        let [models, dtypes] = [&self.models, &self.dtypes].map(|values| choices(values));
        let quantizations = choices(&self.quantizations);
        let batch_sizes = choices(&self.batch_sizes);
        let lengths = [
            experiments.len(),
            models.len(),
            dtypes.len(),
            quantizations.len(),
            batch_sizes.len(),
        ];
        let count = lengths
            .iter()
            .try_fold(1_usize, |product, &length| product.checked_mul(length));
        let count = count.filter(|&count| count <= MOST);
        let count = count.ok_or(SpecError::TooMany)?;
        if count.saturating_mul(self.exclude.len()) > MOST_COMPARED {
            return Err(SpecError::TooManyExclusions);
        }
        let mut used = vec![false; self.exclude.len()];
        let mut found = Vec::new();
        for model in &models {
            for dtype in &dtypes {
                for quantization in &quantizations {
                    for experiment in &experiments {
                        for &batch_size in &batch_sizes {
                            let one = Combination {
                                experiment: experiment.clone(),
                                model: model.clone(),
                                dtype: dtype.clone(),
                                quantization: quantization.clone(),
                                batch_size,
                            };
                            let mut excluded = false;
                            for (exclusion, used) in self.exclude.iter().zip(&mut used) {
                                if exclusion.matches(&one) {
                                    (excluded, *used) = (true, true);
                                }
                            }
                            if !excluded {
                                found.push(one);
                            }
                        }
                    }
                }
            }
        }
        match used.iter().position(|used| !used) {
            Some(idle) => Err(SpecError::Idle(self.exclude[idle].to_string())),
            None => Ok(found),
        }
    }
}

impl Exclusion {
    /// Parses `key=value,…`.
    ///
    /// # Errors
    /// If it's something else.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let wrong = || SpecError::Exclusion(text.to_owned());
        let mut found = Self::default();
        for part in text.split(',') {
            let (key, value) = part.split_once('=').ok_or_else(wrong)?;
            let value = value.trim();
            let place = match key.trim() {
                "experiment" => &mut found.experiment,
                "model" => &mut found.model,
                "dtype" => &mut found.dtype,
                "quantization" => &mut found.quantization,
                "batch_size" => {
                    found.batch_size = Some(value.parse().map_err(|_| wrong())?);
                    continue;
                }
                _ => return Err(wrong()),
            };
            *place = Some(value.to_owned());
        }
        Ok(found)
    }

    fn matches(&self, one: &Combination) -> bool {
        let text = |wanted: &Option<String>, found: Option<&String>| {
            wanted
                .as_ref()
                .is_none_or(|wanted| found.is_some_and(|found| is_like(wanted, found)))
        };
        *self != Self::default()
            && text(&self.experiment, Some(&one.experiment))
            && text(&self.model, one.model.as_ref())
            && text(&self.dtype, one.dtype.as_ref())
            && text(&self.quantization, one.quantization.as_ref())
            && self
                .batch_size
                .is_none_or(|size| one.batch_size == Some(size))
    }
}

impl std::fmt::Display for Exclusion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = self.batch_size.map(|size| size.to_string());
        let parts = [
            ("experiment", &self.experiment),
            ("model", &self.model),
            ("dtype", &self.dtype),
            ("quantization", &self.quantization),
            ("batch_size", &size),
        ];
        let parts = parts
            .iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?)));
        f.write_str(&parts.collect::<Vec<_>>().join(","))
    }
}

/// The values of an axis; none is a single one, which is absent.
fn choices<T: Clone + Eq + Hash>(values: &[T]) -> Vec<Option<T>> {
    match values {
        [] => vec![None],
        values => distinct(values.to_vec()).into_iter().map(Some).collect(),
    }
}

fn distinct<T: Clone + Eq + Hash>(mut values: Vec<T>) -> Vec<T> {
    let mut seen = HashSet::new();
    values.retain(|value| seen.insert(value.clone()));
    values
}

/// The experiments that `pattern` stands for, in order of their names.
fn expanded(pattern: &str) -> Result<Vec<String>, SpecError> {
    if !pattern.contains('*') {
        return Ok(vec![pattern.to_owned()]);
    }
    let (folder, last) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    if folder.contains('*') {
        return Err(SpecError::Star(pattern.to_owned()));
    }
    let named = |name: &str| match folder {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    };
    let here = |place: &Path| {
        let matching = names(place).into_iter().filter(|name| is_like(last, name));
        let found: BTreeSet<String> = matching
            .filter(|name| place.join(name).join(CONFIG).is_file())
            .map(|name| named(&name))
            .collect();
        found
    };
    let mut found = here(Path::new(folder));
    found.extend(here(&Path::new(EXPERIMENTS).join(folder)));
    if found.is_empty() {
        let all = built_in::names().into_iter();
        found.extend(all.filter(|name| is_like(pattern, name)));
    }
    match found.is_empty() {
        true => Err(SpecError::NoMatch {
            pattern: pattern.to_owned(),
        }),
        false => Ok(found.into_iter().collect()),
    }
}

/// Whether `text` is `pattern`, in which each `*` stands for any characters but `/`.
///
/// What lies between two stars is looked for as early as it can be: a later place would leave less
/// for what follows. So no place is tried twice.
fn is_like(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let inner = text
        .strip_prefix(first)
        .and_then(|text| text.strip_suffix(last));
    let Some(mut left) = inner else {
        return false;
    };
    for part in middle.split('*') {
        let Some(at) = left.find(part) else {
            return false;
        };
        if left[..at].contains('/') {
            return false;
        }
        left = &left[at + part.len()..];
    }
    !left.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(values: &[&str]) -> Vec<String> {
        values.iter().map(|&value| value.to_owned()).collect()
    }

    #[test]
    fn combinations_are_the_cross_product_without_exclusions() {
        let spec = Spec {
            experiments: texts(&["a", "b", "a"]),
            models: texts(&["m", "n"]),
            batch_sizes: vec![1, 8],
            exclude: vec![Exclusion::parse("model=n, batch_size=8").unwrap()],
            ..Spec::default()
        };
        let found = spec.combinations().unwrap();
        assert_eq!(found.len(), 2 * 2 * 2 - 2);
        assert!(found.iter().all(|one| one.dtype.is_none()));
        assert_eq!(found[1].batch_size, Some(8));
        assert_eq!(
            (found[4].experiment.as_str(), found[4].batch_size),
            ("a", Some(1))
        );
    }

    #[test]
    fn an_exclusion_that_matches_nothing_is_an_error_that_names_it() {
        let spec = Spec {
            experiments: texts(&["a"]),
            exclude: vec![Exclusion::parse("dtype=float61").unwrap()],
            ..Spec::default()
        };
        let error = spec.combinations().unwrap_err().to_string();
        assert!(error.contains("`dtype=float61`"), "{error}");
        assert!(Exclusion::parse("kind=x").is_err() && Exclusion::parse("batch_size=x").is_err());
    }

    #[test]
    fn a_sweep_that_could_never_end_is_refused_at_once() {
        let spec = Spec {
            experiments: texts(&["a"]),
            models: (0..1000).map(|number| number.to_string()).collect(),
            batch_sizes: (1..=1000).collect(),
            ..Spec::default()
        };
        assert!(matches!(spec.combinations(), Err(SpecError::TooMany)));
        let stars = "*a".repeat(5000);
        assert!(!is_like(&(stars.clone() + "b"), &"a".repeat(20_000)));
        assert!(is_like(&stars, &"a".repeat(5000)));
    }

    #[test]
    fn a_star_stands_for_anything_within_a_part() {
        assert!(
            is_like("lora/*_r8", "lora/lora_r8") && is_like("*", "") && is_like("a*b*", "axbx")
        );
        assert!(!is_like("*", "lora/r8") && !is_like("a*b", "axc") && !is_like("*b", "é"));
        assert!(is_like("a*/b*", "ax/by") && is_like("*a*b*c", "1a2b3bc") && is_like("a*a", "aa"));
        assert!(!is_like("a*a", "a") && !is_like("*a*", "b/a") && !is_like("a*b", "a/b"));
        assert!(
            expanded("lora/lora_r*")
                .unwrap()
                .contains(&"lora/lora_r8".to_owned())
        );
        assert!(matches!(expanded("*/r8"), Err(SpecError::Star(_))));
        assert!(matches!(
            expanded("lora/*zz"),
            Err(SpecError::NoMatch { .. })
        ));
    }

    #[test]
    fn both_formats_say_the_same_and_a_misspelt_key_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            Spec::read(&path)
        };
        let toml = "experiments = [\"a\"]\nbatch_sizes = [2]\nexclude = [{ model = \"m\" }]\n";
        let json = r#"{"experiments": ["a"], "batch_sizes": [2], "exclude": [{"model": "m"}]}"#;
        assert_eq!(
            write("s.toml", toml).unwrap(),
            write("s.json", json).unwrap()
        );
        let error = write("t.toml", "experiment = [\"a\"]")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`experiment`") && error.contains("t.toml"),
            "{error}"
        );
        let error = write("t.json", r#"{"batch_sizes": ["x"]}"#).unwrap_err();
        assert!(error.to_string().contains("`batch_sizes[0]`"), "{error}");
        assert!(matches!(write("s.yaml", ""), Err(SpecError::Ending(_))));
    }
}
