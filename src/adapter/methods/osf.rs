//! OSF: trains the smallest singular components of the weight, and keeps the others:
//! `W' = W - U₀ diag(S₀) V₀ + U_low diag(S_low) V_low`.
//!
//! With `k = min(out_features, in_features) - effective_rank`:
//!
//! | tensor | shape |
//! |---|---|
//! | `osf_svd_params.U_low` | `[out_features, k]` |
//! | `osf_svd_params.S_low` | `[k]` |
//! | `osf_svd_params.V_low` | `[k, in_features]` |
//!
//! `U₀`, `S₀`, `V₀` are the `k` smallest components of the base weight in float32, each rounded to
//! the dtype of the base weight in memory. `effective_rank` is a number, or a fraction of the
//! smaller side, by default half. `rank_pattern` changes it for modules whose path contains one of
//! its keys. A trained adapter's `k` is that of its tensors. A fresh one doesn't change the weight.
//!
//! Source: PEFT, `tuners/osf/`.

use fancy_regex::Regex;
use ndarray::Array2;
use serde_json::Value;

use super::{Class, Method};
use crate::adapter::form::Form;
use crate::adapter::targets::defaults::OSF;
use crate::adapter::toolbox::components::{add_components, components, rounded, trailing};
use crate::adapter::toolbox::dense::changed_weight;
use crate::adapter::toolbox::tuner::{Loading, TargetLinear, Tuner};
use crate::adapter::{AdapterError, AdapterTensors, Effects, Init, ModuleAdapter};
use crate::decomposition::Svd;
use crate::json::{ConfigError, JsonObject};
use crate::weights::Dtype;

/// The tensors of one layer.
#[derive(Debug)]
struct Osf {
    path: String,
    /// The number of trained components.
    k: usize,
    /// The trained components; `None` for a fresh adapter's, which are the weight's own.
    trained: Option<Svd>,
    out_features: usize,
    in_features: usize,
    dtype: Dtype,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "OSF",
    class: Class::Weight,
    variants: "effective_rank, rank_pattern",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let base = loading.base;
    let ranks = Ranks::read(config)?;
    let tuner = Tuner::open(loading, OSF, None)?;
    tuner.refuse_reweighted()?;
    tuner.adapt(|tensors, layer| {
        let smaller = layer.in_features.min(layer.out_features);
        let kept = ranks.of(config, layer.path(), smaller)?;
        let k = smaller - kept.min(smaller);
        let trained = trained(tensors, layer, k, smaller)?;
        Ok(Osf {
            path: layer.path().to_owned(),
            k: trained.as_ref().map_or(k, |trained| trained.s.len()),
            trained,
            out_features: layer.out_features,
            in_features: layer.in_features,
            dtype: base.dtype_in_use(&format!("{}.weight", layer.module.source))?,
        })
    })
}

/// The trained components in the file. `k` is their number, unless the file has another.
fn trained(
    tensors: &mut AdapterTensors,
    layer: &TargetLinear,
    k: usize,
    largest: usize,
) -> Result<Option<Svd>, AdapterError> {
    if tensors.is_fresh() {
        return Ok(None);
    }
    let key = |name: &str| layer.key(&format!("osf_svd_params.{name}_low"));
    let k = match tensors.shape(&key("S")).as_deref() {
        Some(&[own]) if own <= largest => own,
        _ => k,
    };
    Ok(Some(Svd {
        u: tensors.matrix(&key("U"), [layer.out_features, k], Init::Zeros)?,
        s: tensors.vector(&key("S"), k, Init::Zeros)?,
        vt: tensors.matrix(&key("V"), [k, layer.in_features], Init::Zeros)?,
    }))
}

/// The number of components that are kept.
#[derive(Debug)]
struct Ranks {
    default: Option<Kept>,
    pattern: Vec<(Regex, Kept)>,
}

#[derive(Debug, Clone, Copy)]
enum Kept {
    Count(usize),
    Fraction(f64),
}

impl Ranks {
    fn read(config: &JsonObject) -> Result<Self, ConfigError> {
        const PATTERN: &str = "rank_pattern";
        let expected = "a positive integer, or a fraction above 0 and at most 1.0";
        let default = match config.get("effective_rank") {
            None => None,
            Some(value) => {
                Some(kept(value).ok_or_else(|| config.wrong("effective_rank", expected))?)
            }
        };
        let object = config.optional_object(PATTERN)?;
        let mut pattern = Vec::new();
        for (key, value) in object.iter().filter_map(|o| o.json().as_object()).flatten() {
            let regex = Regex::new(key).map_err(|error| {
                config.refused(PATTERN, &format!("not a regular expression: {error}"))
            })?;
            let kept = kept(value).ok_or_else(|| config.wrong(PATTERN, expected))?;
            pattern.push((regex, kept));
        }
        Ok(Self { default, pattern })
    }

    fn of(&self, config: &JsonObject, path: &str, smaller: usize) -> Result<usize, ConfigError> {
        let mut found = self.default;
        for (regex, kept) in &self.pattern {
            let matches = regex.is_match(path).map_err(|error| {
                let reason = format!("the regular expression fails on `{path}`: {error}");
                config.refused("rank_pattern", &reason)
            })?;
            if matches {
                found = Some(*kept);
                break;
            }
        }
        let rank = match found {
            None => smaller / 2,
            Some(Kept::Count(count)) => count,
            Some(Kept::Fraction(fraction)) => (fraction * smaller as f64) as usize,
        };
        if rank == 0 {
            let expected = format!("a value that keeps at least one component of `{path}`");
            return Err(config.wrong("effective_rank", &expected));
        }
        Ok(rank)
    }
}

fn kept(value: &Value) -> Option<Kept> {
    if let Some(count) = value.as_u64() {
        return (count > 0).then_some(Kept::Count(count as usize));
    }
    let number = value.as_f64().filter(|number| *number > 0.0)?;
    if number <= 1.0 {
        Some(Kept::Fraction(number))
    } else {
        (number.fract() == 0.0).then_some(Kept::Count(number as usize))
    }
}

impl Osf {
    fn change(&self, weight: &mut Array2<f32>) -> Result<(), AdapterError> {
        let Some(trained) = &self.trained else {
            return Ok(());
        };
        let mut own = trailing(&components(weight, &self.path)?, self.k);
        let round = |value: f32| rounded(value, self.dtype);
        own.u.mapv_inplace(round);
        own.s.mapv_inplace(round);
        own.vt.mapv_inplace(round);
        add_components(weight, -1.0, &own);
        add_components(weight, 1.0, trained);
        Ok(())
    }
}

impl ModuleAdapter for Osf {
    fn form(&self) -> Form<'_> {
        // A pair of rank 2 k is larger than the weight, unless nearly all components are kept.
        let shape = [self.out_features, self.in_features];
        Form::Linear(changed_weight(shape, |weight| self.change(weight)))
    }

    fn trainable_params(&self) -> usize {
        self.k * (self.out_features + self.in_features + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn the_smallest_component_is_replaced() {
        let adapter = Osf {
            path: "x".to_owned(),
            k: 1,
            trained: Some(Svd {
                u: array![[0.0], [1.0]],
                s: array![5.0],
                vt: array![[1.0, 0.0]],
            }),
            out_features: 2,
            in_features: 2,
            dtype: Dtype::Float32,
        };
        let mut weight = array![[3.0, 0.0], [0.0, 1.0]];
        adapter.change(&mut weight).unwrap();
        let difference: Array2<f32> = weight - array![[3.0, 0.0], [5.0, 0.0]];
        assert!(difference.iter().all(|value| value.abs() < 1e-6));
        assert_eq!(adapter.trainable_params(), 5);
    }
}
