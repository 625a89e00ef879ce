//! Checkpoints whose weights are already quantized, by GPTQ, AWQ, bitsandbytes, compressed-tensors,
//! in blocks of float8, or as MXFP4.
//!
//! Which weights are quantized is decided by the names of the tensors, not by the configuration's
//! lists of modules: `X.qweight`, say, holds `X.weight`. Each such weight is made available in the
//! store under its usual name, with values that are computed when they're read. How a graph uses it
//! is decided by [`StoredWeight::form`]: with the stored codes where ONNX Runtime has an operator
//! for them, otherwise dequantized once.
//!
//! The scheme's own rounding of activations (`input_activations`, `activation_scheme`) isn't
//! reproduced: products are computed from the dequantized weights.

mod awq;
mod bits;
mod bitsandbytes;
mod compressed_tensors;
mod form;
mod fp8;
mod gptq;
mod mxfp4;
mod requantize;
mod scales;
mod tables;
mod weight;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use thiserror::Error;

pub use form::{BaseCodes, CodesForm, Form, KeptBase};
pub use weight::{Parts, StoredWeight};

use crate::json::{ConfigError, JsonObject};
use crate::weights::{TensorHandle, TensorStore, WeightsError};

/// The key of `config.json`, at its top or in `text_config`.
const KEY: &str = "quantization_config";

/// The file that older GPTQ checkpoints have beside `config.json`.
const OLD_GPTQ: &str = "quantize_config.json";

/// Why a quantized checkpoint can't be used.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum StoredError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// A way of storing quantized weights.
struct Method {
    /// `quant_method`
    name: &'static str,
    /// Its name for readers.
    title: &'static str,
    /// Finds the weights of a checkpoint. Arguments: the configuration, and the tensors.
    find: fn(&JsonObject, &TensorStore) -> Result<Vec<StoredWeight>, StoredError>,
}

const METHODS: [Method; 6] = [
    Method {
        name: "gptq",
        title: "GPTQ",
        find: gptq::find,
    },
    Method {
        name: "awq",
        title: "AWQ",
        find: awq::find,
    },
    Method {
        name: "bitsandbytes",
        title: "bitsandbytes",
        find: bitsandbytes::find,
    },
    Method {
        name: "compressed-tensors",
        title: "compressed-tensors",
        find: compressed_tensors::find,
    },
    Method {
        name: "fp8",
        title: "FP8",
        find: fp8::find,
    },
    Method {
        name: "mxfp4",
        title: "MXFP4",
        find: mxfp4::find,
    },
];

/// The quantized weights of a checkpoint.
#[derive(Debug, Clone)]
pub struct StoredWeights {
    /// `quant_method`
    pub method: &'static str,
    /// The scheme for readers: `GPTQ 4 bits, groups of 128`.
    pub label: String,
    /// Each weight by its name.
    pub weights: BTreeMap<String, Arc<StoredWeight>>,
}

impl StoredWeights {
    /// Whether the tensor `name` holds a part of a quantized weight: its codes under another name,
    /// its scales, or the like.
    pub fn has_part(&self, name: &str) -> bool {
        if self.weights.contains_key(name) {
            return false;
        }
        let of_module = |module: &str| self.weights.contains_key(&format!("{module}.weight"));
        // `X.weight` has its parts below `X` or `X.weight`; a stack's have its name in front.
        let mut module = name;
        while let Some(at) = module.rfind('.') {
            module = &module[..at];
            if of_module(module) && !name.ends_with(".bias") {
                return true;
            }
        }
        ["_scale_inv", "_blocks", "_scales"].iter().any(|end| {
            let stack = name.strip_suffix(end);
            stack.is_some_and(|stack| {
                let first_expert = stack.rfind('.').map(|at| format!("{}.0.", &stack[..at]));
                let has = |first: &String| {
                    let mut after = self.weights.range(first.clone()..);
                    after
                        .next()
                        .is_some_and(|(known, _)| known.starts_with(first))
                };
                self.weights.contains_key(stack) || first_expert.as_ref().is_some_and(has)
            })
        })
    }
}

/// Finds the quantized weights of the checkpoint in `folder`, and makes their values available in
/// `store`. `None` if it isn't quantized.
///
/// # Errors
/// If the scheme isn't supported, or a tensor is missing or has another form.
pub fn find(
    config: &JsonObject,
    folder: &Path,
    store: &mut TensorStore,
) -> Result<Option<StoredWeights>, StoredError> {
    let Some(own) = configuration(config, folder)? else {
        return Ok(None);
    };
    let method = method_of(&own)?;
    let found = (method.find)(&own, store)?;
    if found.is_empty() {
        return Err(own
            .refused(
                "quant_method",
                &format!(
                    "it says `{}`, but no tensor of the checkpoint is stored that way; if its \
                     weights are floats, remove `{KEY}` from the configuration",
                    method.name
                ),
            )
            .into());
    }
    let weights: BTreeMap<String, Arc<StoredWeight>> = found
        .into_iter()
        .map(|weight| (weight.name().to_owned(), Arc::new(weight)))
        .collect();
    for (name, weight) in &weights {
        store.add_packed(name.clone(), Arc::clone(weight) as _);
    }
    Ok(Some(StoredWeights {
        method: method.name,
        label: label(method.title, &weights),
        weights,
    }))
}

/// The scheme's configuration, if the checkpoint has one.
fn configuration(config: &JsonObject, folder: &Path) -> Result<Option<JsonObject>, ConfigError> {
    if let Some(found) = config.optional_object(KEY)? {
        return Ok(Some(found));
    }
    if let Some(text) = config.optional_object("text_config")?
        && let Some(found) = text.optional_object(KEY)?
    {
        return Ok(Some(found));
    }
    let old = folder.join(OLD_GPTQ);
    match old.is_file() {
        true => Ok(Some(
            JsonObject::read(&old)?.with("quant_method", "gptq".into()),
        )),
        false => Ok(None),
    }
}

fn method_of(config: &JsonObject) -> Result<&'static Method, ConfigError> {
    let named = config.optional_text("quant_method")?;
    // bitsandbytes' configurations had no name at first.
    let is_bitsandbytes = ["load_in_8bit", "load_in_4bit"]
        .iter()
        .any(|key| config.get(key) == Some(&Value::Bool(true)));
    let name = match named {
        Some(name) => name,
        None if is_bitsandbytes => "bitsandbytes",
        None => return Err(config.missing("quant_method", "the scheme's name")),
    };
    METHODS
        .iter()
        .find(|method| method.name == name)
        .ok_or_else(|| {
            let known = METHODS.map(|method| format!("`{}`", method.name));
            config.refused(
                "quant_method",
                &format!(
                    "it's `{name}`; supported are {}. {WAY_OUT}",
                    known.join(", ")
                ),
            )
        })
}

/// What to do about a scheme that isn't supported.
pub(super) const WAY_OUT: &str = "Use the 16-bit model that this one was quantized from as the base; \
     `--quantize 4bit` makes it as small";

/// The weights' bits and groups, in few words.
fn label(title: &str, weights: &BTreeMap<String, Arc<StoredWeight>>) -> String {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for weight in weights.values() {
        *kinds.entry(weight.kind()).or_default() += 1;
    }
    let mut kinds: Vec<(String, usize)> = kinds.into_iter().collect();
    // The most frequent one first.
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let names: Vec<String> = kinds.into_iter().map(|(kind, _)| kind).collect();
    match &names[..] {
        [one] if one == title => title.to_owned(),
        [one] => format!("{title} {one}"),
        [first, rest @ ..] => format!("{title} {first} (and {})", rest.join("; ")),
        [] => title.to_owned(),
    }
}

/// The tensor `name`.
///
/// # Errors
/// If the checkpoint lacks it.
fn needed(store: &TensorStore, name: &str) -> Result<TensorHandle, WeightsError> {
    store.handle(name).ok_or_else(|| WeightsError::Missing {
        name: name.to_owned(),
        path: store.path().to_owned(),
    })
}

/// The error for a tensor that doesn't fit its scheme.
fn misshapen(tensor: &TensorHandle, message: &str) -> WeightsError {
    let view = tensor.view();
    WeightsError::Layout {
        path: view.path.to_owned(),
        message: format!(
            "tensor `{}` ({:?} {:?}) {message}",
            view.name, view.stored, view.shape
        ),
    }
}

/// Checks the element type and shape of `tensor`.
///
/// # Errors
/// If it has another.
fn check(
    tensor: &TensorHandle,
    stored: safetensors::Dtype,
    shape: &[usize],
) -> Result<(), WeightsError> {
    let view = tensor.view();
    match view.stored == stored && view.shape == shape {
        true => Ok(()),
        false => Err(misshapen(
            tensor,
            &format!("doesn't fit, expected {stored:?} {shape:?}"),
        )),
    }
}
