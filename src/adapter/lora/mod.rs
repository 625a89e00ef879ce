//! LoRA: `W' = W + scaling * B A`.
//!
//! | tensor | shape |
//! |---|---|
//! | `lora_A.weight` | `[r, in_features]` |
//! | `lora_B.weight` | `[out_features, r]` |
//! | `lora_B.bias` (`lora_bias`) | `[out_features]` |
//! | `lora_embedding_A`, `lora_embedding_B` | `[r, num_embeddings]`, `[embedding_dim, r]` |
//! | `lora_magnitude_vector` (`use_dora`) | `[out_features]`, of an embedding `[embedding_dim]` |
//!
//! `scaling` is `lora_alpha / r`, or `lora_alpha / sqrt(r)` with `use_rslora`, after `rank_pattern` and
//! `alpha_pattern`. Sums are taken in float32. `fan_in_fan_out` says how a layer stores its weight, which
//! the architecture knows better: PEFT corrects it too.
//!
//! With DoRA, `V = W + scaling * B A` and `W' = diag(m / |V|) V`, `|V|` the norm of each row (of an
//! embedding: of each column); the bias isn't scaled.
//!
//! Sources: Hu et al., arXiv:2106.09685; Liu et al., arXiv:2402.09353 (DoRA); PEFT, `tuners/lora/`.

mod config;
mod embedding;
mod linear;

use std::collections::BTreeSet;

use ndarray::{Array1, Array2};

use self::config::LoraConfig;
use self::embedding::LoraEmbedding;
use self::linear::LoraLinear;
use super::replaced::{replace_base_layer, replace_biases, replace_modules};
use super::replication::replicate;
use super::targets::Targets;
use super::token_rows::TokenRows;
use super::{AdapterError, AdapterTensors, Effects, ModuleAdapter, ModuleWeights};
use crate::arch::{DecoderSpec, Module, ModuleKind};
use crate::json_object::JsonObject;
use crate::model::BaseModel;

/// Targets where the configuration gives none, by model type.
fn default_targets(model_type: &str) -> Option<&'static [&'static str]> {
    match model_type {
        "llama" | "opt" => Some(&["q_proj", "v_proj"]),
        _ => None,
    }
}

/// Reads the adapter.
pub fn load(
    config: &JsonObject,
    base: &BaseModel,
    tensors: &mut AdapterTensors,
) -> Result<(DecoderSpec, Effects), AdapterError> {
    let lora = LoraConfig::read(config, tensors.is_fresh())?;
    let spec = replicate(config, &base.spec)?;
    let modules = spec.modules();
    let model_type = spec.model_type.as_str();
    let targets = Targets::read(config, model_type, default_targets(model_type))?;
    let mut selected = targets.select(config, &modules)?;
    let mut saved = targets.saved(config, &modules)?;
    let mut effects = Effects::default();

    if lora.ensure_weight_tying && spec.tied() {
        effects.keeps_tie |= tie(&mut selected, &modules, &spec);
        effects.keeps_tie |= tie(&mut saved, &modules, &spec);
    }
    replace_modules(&mut effects, tensors, &saved)?;
    if effects.keeps_tie
        && let Some(head) = effects
            .replaced
            .get_mut(&format!("{}.weight", spec.lm_head.path))
    {
        // The pair's one copy is counted at the embedding.
        head.trainable = false;
    }
    replace_biases(
        &mut effects,
        tensors,
        config,
        "lora_only",
        &modules,
        &selected,
    )?;
    for module in &selected {
        replace_base_layer(&mut effects, tensors, base, module)?;
        let adapter = module_adapter(config, &lora, base, tensors, module)?;
        effects.modules.insert(module.path.clone(), adapter);
    }
    token_rows(config, base, tensors, &spec, &mut effects)?;
    Ok((spec, effects))
}

/// With `ensure_weight_tying`, who adapts the embedding of a tied model adapts its head, and the
/// reverse. Returns whether one of them is adapted.
fn tie(selected: &mut Vec<Module>, modules: &[Module], spec: &DecoderSpec) -> bool {
    let pair = [&spec.embed_tokens.path, &spec.lm_head.path];
    if !selected.iter().any(|module| pair.contains(&&module.path)) {
        return false;
    }
    for path in pair {
        if !selected.iter().any(|module| module.path == *path) {
            selected.extend(modules.iter().find(|module| module.path == *path).cloned());
        }
    }
    true
}

fn module_adapter(
    config: &JsonObject,
    lora: &LoraConfig,
    base: &BaseModel,
    tensors: &mut AdapterTensors,
    module: &Module,
) -> Result<Box<dyn ModuleAdapter>, AdapterError> {
    let path = &module.path;
    let (r, scaling) = lora.rank_and_scaling(config, path)?;
    match module.kind {
        ModuleKind::Linear {
            in_features,
            out_features,
            ..
        } => {
            let keys = [
                "lora_A.weight",
                "lora_B.weight",
                "lora_B.bias",
                "lora_magnitude_vector",
            ]
            .map(|name| format!("{path}.{name}"));
            let (a, b) =
                lora.init
                    .linear(tensors, [&keys[0], &keys[1]], r, in_features, out_features)?;
            let bias = match lora.lora_bias {
                true => Some(tensors.vector(&keys[2], out_features, lora.init.bias(r))?),
                false => None,
            };
            let mut adapter = LoraLinear {
                inputs: keys.each_ref().map(|key| tensors.full_key(key)),
                path: path.clone(),
                a,
                b,
                bias,
                scaling,
                magnitude: None,
            };
            if lora.use_dora {
                adapter.magnitude = Some(magnitude(base, tensors, module, &keys[3], |weight| {
                    linear::row_norms(&adapter.updated(weight))
                })?);
            }
            Ok(Box::new(adapter))
        }
        ModuleKind::Embedding {
            num_embeddings,
            embedding_dim,
        } if *path == base.spec.embed_tokens.path => {
            let keys = [
                "lora_embedding_A",
                "lora_embedding_B",
                "lora_magnitude_vector",
            ]
            .map(|name| format!("{path}.{name}"));
            let [init_a, init_b] = lora.init.embedding();
            let mut adapter = LoraEmbedding {
                inputs: keys.each_ref().map(|key| tensors.full_key(key)),
                path: path.clone(),
                a: tensors.matrix(&keys[0], [r, num_embeddings], init_a)?,
                b: tensors.matrix(&keys[1], [embedding_dim, r], init_b)?,
                scaling,
                magnitude: None,
            };
            if lora.use_dora {
                adapter.magnitude = Some(magnitude(base, tensors, module, &keys[2], |weight| {
                    embedding::column_norms(&adapter.updated(weight))
                })?);
            }
            Ok(Box::new(adapter))
        }
        _ => Err(AdapterError::Targets {
            path: config.path().to_owned(),
            message: format!(
                "`target_modules` selects `{path}`, which LoRA can't adapt; only linear layers and the \
                 token embedding are supported"
            ),
        }),
    }
}

/// DoRA's magnitude; fresh, the norms of the weight that the adapter starts with.
fn magnitude(
    base: &BaseModel,
    tensors: &mut AdapterTensors,
    module: &Module,
    key: &str,
    norms: impl Fn(Array2<f32>) -> Array1<f32>,
) -> Result<Array1<f32>, AdapterError> {
    let length = match module.kind {
        ModuleKind::Embedding { embedding_dim, .. } => embedding_dim,
        ModuleKind::Linear { out_features, .. } => out_features,
        ModuleKind::Norm { size, .. } => size,
    };
    // Releases before 0.12 wrote it as a module's weight.
    let older = format!("{key}.weight");
    let key = if tensors.has(&older) {
        older.as_str()
    } else {
        key
    };
    let values = tensors.take_or(key, &[length], |_| {
        let weight = base.matrix(&format!("{}.weight", module.source))?;
        Ok(norms(weight).to_vec())
    })?;
    Ok(values.into())
}

/// Adds the rows of `trainable_token_indices`, a list (for the token embedding) or an object by module.
fn token_rows(
    config: &JsonObject,
    base: &BaseModel,
    tensors: &mut AdapterTensors,
    spec: &DecoderSpec,
    effects: &mut Effects,
) -> Result<(), AdapterError> {
    const KEY: &str = "trainable_token_indices";
    let wrong = || {
        config.wrong(
            KEY,
            "a list of token ids, or an object from a module to such a list",
        )
    };
    let Some(value) = config.get(KEY) else {
        return Ok(());
    };
    let mut lists: Vec<(String, Vec<usize>)> = Vec::new();
    if value.is_object() {
        let object = config.optional_object(KEY)?.ok_or_else(wrong)?;
        for (name, list) in object.json().as_object().into_iter().flatten() {
            let list = serde_json::from_value(list.clone()).map_err(|_| wrong())?;
            lists.push((name.clone(), list));
        }
    } else {
        let list = serde_json::from_value(value.clone()).map_err(|_| wrong())?;
        lists.push((spec.embed_tokens.path.clone(), list));
    }

    let pair = [spec.embed_tokens.path.clone(), spec.lm_head.path.clone()];
    for (name, indices) in lists {
        let path = pair
            .iter()
            .find(|path| **path == name || path.ends_with(&format!(".{name}")))
            .ok_or_else(|| AdapterError::Targets {
                path: config.path().to_owned(),
                message: format!(
                    "`{KEY}` names `{name}`; supported are `{}` and `{}`",
                    pair[0], pair[1]
                ),
            })?;
        if let Some(index) = indices.iter().find(|index| **index >= spec.vocab_size) {
            let expected = format!("token ids below {} (found {index})", spec.vocab_size);
            return Err(config.wrong(KEY, &expected).into());
        }
        let head = format!("{}.weight", pair[1]);
        if spec.tied() && *path == pair[0] && lists_head(effects, &pair[1], &head) {
            let reason = format!(
                "`{}` is tied to the embedding and is changed as well",
                pair[1]
            );
            return Err(config.refused(KEY, &reason).into());
        }
        let distinct: BTreeSet<&usize> = indices.iter().collect();
        if indices.is_empty() || distinct.len() < indices.len() {
            return Err(config
                .wrong(KEY, "at least one token id, and none twice")
                .into());
        }
        if effects.modules.contains_key(path) {
            let reason = format!("`{path}` is targeted by `target_modules` as well");
            return Err(config.refused(KEY, &reason).into());
        }
        let key = format!("{path}.token_adapter.trainable_tokens_delta");
        let width = spec.embed_tokens.embedding_dim;
        let shape = [indices.len(), width];
        let source = if *path == pair[0] {
            &spec.embed_tokens.source
        } else {
            &spec.lm_head.source
        };
        let values = tensors.take_or(&key, &shape, |_| {
            let weight = base.matrix(&format!("{source}.weight"))?;
            Ok(indices
                .iter()
                .flat_map(|&index| weight.row(index).to_vec())
                .collect())
        })?;
        let rows = Array2::from_shape_vec(shape, values)
            .expect("`take_or` gives as many values as asked for");
        let adapter = |counted| TokenRows {
            input: tensors.full_key(&key),
            indices: indices.clone(),
            rows: rows.clone(),
            counted,
        };
        if spec.tied() && *path == pair[0] {
            effects.keeps_tie = true;
            effects
                .modules
                .insert(pair[1].clone(), Box::new(adapter(false)));
        }
        effects
            .modules
            .insert(path.clone(), Box::new(adapter(true)));
    }
    Ok(())
}

/// Whether the head has a change of its own.
fn lists_head(effects: &Effects, path: &str, weight: &str) -> bool {
    effects.modules.contains_key(path) || effects.replaced.contains_key(weight)
}

/// A module with its weight alone.
fn weight_only(weight: Array2<f32>) -> ModuleWeights {
    ModuleWeights { weight, bias: None }
}
