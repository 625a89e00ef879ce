//! Parameters that an adapter replaces: biases, whole modules, norms.
//!
//! - `bias: all | lora_only`: the file holds new biases, not deltas; `<module>.base_layer.bias` for
//!   a targeted module, `<module>.bias` for others.
//! - `modules_to_save`: copies of whole modules, under the modules' own names; for experts, the
//!   tensors that hold all of a layer's.
//!
//! Source: PEFT, `utils/save_and_load.py`.

use std::collections::BTreeSet;

use super::toolbox::stacked::{StackedWeight, stacked_weights};
use super::vocabulary::WHOLE_TENSOR_INFIXES;
use super::{AdapterError, AdapterTensors, Effects, tensors};
use crate::arch::{DecoderSpec, Linear, Module, ModuleKind};
use crate::json::{ConfigError, JsonObject};
use crate::model::BaseModel;

/// A parameter of the base that an adapter replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// The adapter's key, without PEFT's prefix.
    pub key: String,
    /// The key as the file has it; also the name of the unmerged graph's input.
    pub input: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Where the values are.
    pub origin: Origin,
    /// Whether PEFT counts it as trained.
    pub trainable: bool,
    /// Whether PEFT keeps the original as well, so that this adds to the total.
    pub is_copy: bool,
}

/// Where a replacement's values come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The adapter's tensor.
    Adapter,
    /// A part of the adapter's tensor, from this element on.
    Slice(usize),
    /// The base's tensor of this name: a fresh adapter starts with copies.
    Base(String),
    /// The rows of the base's tensor of this name, padded with zeros for the rows that the adapter
    /// has.
    Rows(String),
    /// All zeros.
    Zeros,
}

impl Replacement {
    /// Number of elements.
    #[expect(clippy::len_without_is_empty, reason = "no parameter is empty")]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Replaces `module`'s parameter `name` by the tensor `key`.
///
/// # Errors
/// If the file lacks the tensor, or it has another shape.
pub fn replace(
    effects: &mut Effects,
    tensors: &mut AdapterTensors,
    module: &Module,
    (name, shape): (&str, &[usize]),
    key: String,
    is_copy: bool,
) -> Result<(), AdapterError> {
    tensors.claim(&key, shape)?;
    let origin = if tensors.is_fresh() {
        Origin::Base(module.tensor(name))
    } else {
        Origin::Adapter
    };
    let replacement = Replacement {
        input: tensors.full_key(&key),
        key,
        shape: shape.to_owned(),
        origin,
        trainable: true,
        is_copy,
    };
    let path = format!("{}.{name}", module.path);
    effects.replaced.insert(path, replacement);
    Ok(())
}

/// Replaces biases as the option `bias` says. `own` is the method's own value of it, such as
/// `lora_only`.
///
/// # Errors
/// If `bias` has another value, or a bias is missing in the file or has another shape.
pub fn replace_biases(
    effects: &mut Effects,
    tensors: &mut AdapterTensors,
    config: &JsonObject,
    own: &str,
    modules: &[Module],
    targets: &[Module],
) -> Result<(), AdapterError> {
    let all = match config.optional_text("bias")? {
        None | Some("none") => return Ok(()),
        Some("all") => true,
        // PEFT accepts any method's value in all methods.
        Some(value) if value.ends_with("_only") => false,
        Some(_) => return Err(wrong_bias(config, own).into()),
    };
    // A layer and its replicas share one bias.
    let mut sources = BTreeSet::new();
    for module in modules {
        let targeted = targets.iter().any(|target| target.path == module.path);
        if !all && !targeted {
            continue;
        }
        // A module that's replaced as a whole includes its bias.
        if effects
            .replaced
            .contains_key(&format!("{}.bias", module.path))
        {
            continue;
        }
        for (name, shape) in module.parameters() {
            if name == "bias" {
                let infix = if targeted { ".base_layer" } else { "" };
                let key = format!("{}{infix}.bias", module.path);
                replace(effects, tensors, module, (name, &shape), key, false)?;
                let path = format!("{}.{name}", module.path);
                if let Some(replacement) = effects.replaced.get_mut(&path) {
                    replacement.trainable = sources.insert(&module.source);
                }
            }
        }
    }
    Ok(())
}

fn wrong_bias(config: &JsonObject, own: &str) -> ConfigError {
    config.wrong("bias", &format!("one of `none`, `all`, `{own}`"))
}

/// Replaces the modules of `modules_to_save`.
///
/// # Errors
/// If a tensor is missing in the file, or has another shape.
pub fn replace_modules(
    effects: &mut Effects,
    tensors: &mut AdapterTensors,
    spec: &DecoderSpec,
    saved: &[Module],
) -> Result<(), AdapterError> {
    if saved.is_empty() {
        return Ok(());
    }
    let stacked = stacked_weights(spec);
    for module in saved {
        if let Some(weight) = stacked.get(&module.path) {
            replace_expert(effects, tensors, module, weight)?;
            continue;
        }
        for (name, shape) in module.parameters() {
            let key = format!("{}.{name}", module.path);
            replace(effects, tensors, module, (name, &shape), key, true)?;
            claim_copies(tensors, module, name, &shape)?;
        }
    }
    Ok(())
}

/// Replaces an expert's weight by its part of the tensor that holds all experts' weights.
fn replace_expert(
    effects: &mut Effects,
    tensors: &mut AdapterTensors,
    module: &Module,
    weight: &StackedWeight,
) -> Result<(), AdapterError> {
    tensors.claim(&weight.name, &weight.shape)?;
    let (name, shape) = module.parameters().swap_remove(0);
    let path = format!("{}.{name}", module.path);
    let replacement = Replacement {
        key: weight.name.clone(),
        input: format!("{}{path}", tensors::PREFIX),
        shape,
        origin: match tensors.is_fresh() {
            true => Origin::Base(module.tensor(name)),
            false => Origin::Slice(weight.first),
        },
        trainable: true,
        is_copy: true,
    };
    effects.replaced.insert(path, replacement);
    Ok(())
}

/// Marks further copies of a saved module's parameter `name` as used. `save_embedding_layers` and
/// `bias: all` store it again under an enclosing module's name. The base's original isn't needed.
fn claim_copies(
    tensors: &mut AdapterTensors,
    module: &Module,
    name: &str,
    shape: &[usize],
) -> Result<(), AdapterError> {
    let whole = format!("{}.{name}", module.path);
    let places = whole.match_indices('.').map(|(at, _)| whole.split_at(at));
    for (saved, rest) in places {
        for infix in [
            "modules_to_save",
            "modules_to_save.default",
            "original_module",
        ] {
            let again = format!("{saved}.{infix}{rest}");
            if tensors.has(&again) {
                tensors.claim(&again, shape)?;
            }
        }
    }
    Ok(())
}

/// Drops the bias of `layer`, if it has one: some of PEFT's wrappers of a head compute without it.
pub fn leave_out_bias(effects: &mut Effects, layer: &Linear) {
    if !layer.bias {
        return;
    }
    let name = format!("{}.bias", layer.path);
    // PEFT still counts a trained bias.
    let trained = effects.replaced.get(&name).filter(|found| found.trainable);
    let none = Replacement {
        key: name.clone(),
        input: format!("{}{name}", tensors::PREFIX),
        shape: vec![layer.out_features],
        origin: Origin::Zeros,
        trainable: trained.is_some(),
        is_copy: false,
    };
    effects.replaced.insert(name, none);
}

/// Replaces the weight of a targeted embedding or head by the one saved with it
/// (`<module>.base_layer.weight`), as PEFT does. Nothing is replaced if both are equal bit for bit.
///
/// # Errors
/// If the tensor has another shape, or it or the base's can't be read.
pub fn replace_base_layer(
    effects: &mut Effects,
    tensors: &mut AdapterTensors,
    base: &BaseModel,
    module: &Module,
) -> Result<(), AdapterError> {
    let key = format!("{}.base_layer.weight", module.path);
    if let (true, ModuleKind::Linear { .. } | ModuleKind::Embedding { .. }) =
        (tensors.has(&key), &module.kind)
    {
        let (name, shape) = module.parameters().swap_remove(0);
        replace_frozen(effects, tensors, base, module, (name, &shape), &key)?;
    }
    Ok(())
}

/// Replaces the embedding and the head by the ones in the file, as PEFT does.
/// `save_embedding_layers`, or a resized vocabulary, adds them there, whatever the method.
///
/// # Errors
/// If a tensor has another shape, or it or the base's can't be read.
pub fn replace_saved_embeddings(
    effects: &mut Effects,
    tensors: &mut AdapterTensors,
    base: &BaseModel,
    modules: &[Module],
) -> Result<(), AdapterError> {
    let pair = [&base.spec.embed_tokens.path, &base.spec.lm_head.path];
    for module in modules {
        if !pair.contains(&&module.path) {
            continue;
        }
        for (name, shape) in module.parameters() {
            // For prompt learning PEFT adds one wrapper less, and no wrappers around modules.
            for infix in WHOLE_TENSOR_INFIXES {
                let plain = format!("{}{infix}.{name}", module.path);
                let around = format!("{}{plain}", tensors::SHARED);
                for key in match tensors.has_exactly(&around) {
                    true => vec![around, plain],
                    false => vec![plain],
                } {
                    if tensors.has(&key) && !tensors.is_used(&key) {
                        replace_frozen(effects, tensors, base, module, (name, &shape), &key)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Whether a tied embedding and head are replaced by the same tensor and not adapted; then they
/// stay tied.
pub fn replaces_pair(effects: &Effects, spec: &DecoderSpec) -> bool {
    let ends = [&spec.embed_tokens.path, &spec.lm_head.path];
    let adapted = ends.iter().any(|path| effects.modules.contains_key(*path));
    let [embedding, head] = ends.map(|path| effects.replaced.get(&format!("{path}.weight")));
    let (true, false, Some(embedding), Some(head)) = (spec.tied(), adapted, embedding, head) else {
        return false;
    };
    match (&embedding.origin, &head.origin) {
        (Origin::Adapter, Origin::Adapter) => embedding.key == head.key,
        (Origin::Rows(embedding), Origin::Rows(head)) => embedding == head,
        _ => false,
    }
}

/// Replaces `module`'s parameter `name` by the tensor `key`, which isn't trained. Nothing is
/// replaced if that equals the base's.
fn replace_frozen(
    effects: &mut Effects,
    tensors: &mut AdapterTensors,
    base: &BaseModel,
    module: &Module,
    (name, shape): (&str, &[usize]),
    key: &str,
) -> Result<(), AdapterError> {
    tensors.claim(key, shape)?;
    let own = base.tensor(&module.tensor(name))?.to_f32()?;
    if tensors.read(key)? == own {
        return Ok(());
    }
    // A tied weight belongs to both modules. The head's bias doesn't.
    let pair = [base.spec.embed_tokens.module(), base.spec.lm_head.module()];
    let other = |other: &&Module| {
        name == "weight" && other.source == module.source && other.path != module.path
    };
    for module in [module].into_iter().chain(pair.iter().filter(other)) {
        let path = format!("{}.{name}", module.path);
        if effects.replaced.contains_key(&path) {
            continue;
        }
        replace(
            effects,
            tensors,
            module,
            (name, shape),
            key.to_owned(),
            false,
        )?;
        if let Some(replacement) = effects.replaced.get_mut(&path) {
            replacement.trainable = false;
            replacement.input = format!("{}{path}", tensors::PREFIX);
        }
    }
    Ok(())
}
