//! LoRA: `W' = W + scaling * B A`.
//!
//! | tensor | shape |
//! |---|---|
//! | `lora_A.weight` | `[r, in_features]` |
//! | `lora_B.weight` | `[out_features, r]` |
//! | `lora_B.bias` (`lora_bias`) | `[out_features]` |
//! | `lora_embedding_A`, `lora_embedding_B` | `[r, num_embeddings]`, `[embedding_dim, r]` |
//! | `lora_magnitude_vector` (`use_dora`) | `[out_features]`, for an embedding `[embedding_dim]` |
//!
//! `scaling` is `lora_alpha / r`, or `lora_alpha / sqrt(r)` with `use_rslora`, after `rank_pattern`
//! and `alpha_pattern`. Sums are taken in float32. `fan_in_fan_out` tells how a layer stores its
//! weight; the architecture decides that here, as PEFT corrects the option, too.
//!
//! `target_parameters` selects parameters in addition to modules, or instead of them
//! (`parameters.rs`), stacked experts included (`stacked.rs`).
//!
//! Variants change what the pair is added to (PiSSA, OLoRA, KaSA: `residual.rs`), how it's stored
//! (BD-LoRA, QALoRA, KaSA, MiCA: `factors.rs`), or which tokens it acts on (aLoRA: `activated.rs`).
//! EVA, VeLoRA, MonteCLoRA, LoRA-FA and Riemannian preconditioning differ in training only. PiSSA
//! and OLoRA are plain LoRA on an embedding: nothing is taken out of its rows.
//!
//! With DoRA, `V = W + scaling * B A` and `W' = diag(m / |V|) V`, where `|V|` are the norms of the
//! rows (for an embedding: of the columns). The bias isn't scaled.
//!
//! Sources: Hu et al., arXiv:2106.09685; Liu et al., arXiv:2402.09353 (DoRA); PEFT, `tuners/lora/`.

mod activated;
mod arrow;
mod arrow_config;
mod block_diagonal;
mod config;
mod conversion;
mod embedding;
mod expert;
mod factors;
mod init;
mod linear;
mod parameters;
mod residual;
mod stacked;
mod tying;

use std::sync::OnceLock;

use ndarray::{Array1, Array2};

use self::activated::Activated;
use self::arrow::Experts;
pub use self::arrow::folders as arrow_folders;
use self::config::LoraConfig;
use self::conversion::{converted, converts};
use self::embedding::LoraEmbedding;
pub use self::embedding::column_norms;
pub use self::expert::{Expert, Pair};
use self::factors::{check_table_rank, factors, factors_from_weights};
use self::init::LoraInit;
use self::linear::LoraLinear;
use self::parameters::{TargetParameters, check_options};
use self::residual::FreshFactors;
pub use self::residual::Residual;
use self::tying::Tie;
use super::{Class, Method};
use crate::adapter::replaced::{
    leave_out_bias, replace_base_layer, replace_biases, replace_modules,
};
use crate::adapter::targets::{QUERY_VALUE, Targets};
use crate::adapter::token_rows::trainable_token_indices;
use crate::adapter::toolbox::read_past::refuse_read_past;
use crate::adapter::toolbox::replication::replicate;
use crate::adapter::toolbox::tuner::{
    Loading, TargetEmbedding, TargetLinear, TargetModule, not_adaptable, target_module,
    without_experts,
};
use crate::adapter::{AdapterError, AdapterTensors, Effects, Init, ModuleAdapter};
use crate::arch::{Module, ModuleKind};
use crate::json::JsonObject;
use crate::model::BaseModel;
use crate::weights::WeightsError;

/// The base's weight, which PEFT saves with embeddings and heads.
const BASE_WEIGHT: &str = "base_layer.weight";

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "LORA",
    class: Class::Weight,
    variants: "rsLoRA, DoRA, PiSSA, OLoRA, EVA, MiCA, KaSA, BD-LoRA, QALoRA, VeLoRA, MonteCLoRA, \
               `lora_bias`, `target_parameters`, `trainable_token_indices`, `layer_replication`, LoRA-FA; aLoRA and Arrow, which aren't merged",
    refused: "`pissa_niter_k`, CorDA, LoRA-GA, LoftQ unless converted",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let Loading {
        config,
        base,
        tensors,
        ..
    } = loading;
    let as_saved = config;
    let config = &converted(config, &base.spec)?;
    let mut lora = LoraConfig::read(config, base.spec.vocab_size)?;
    let spec = replicate(config, &base.spec)?;
    let modules = spec.modules();
    let parameters = TargetParameters::read(config, &lora, tensors, &spec)?;
    let targets = Targets::with_defaults(config, &spec.model_type, QUERY_VALUE)?;
    // If parameters are named, an empty list of modules selects none.
    let mut selected = match targets.is_empty() && !parameters.is_empty() {
        true => Vec::new(),
        false => targets.select(config, tensors, &modules)?,
    };
    let older = match tensors.is_fresh() {
        true => Vec::new(),
        false => of_older_modules(as_saved, base, tensors, &modules, &selected)?,
    };
    // Experts are no modules. Where PEFT converts a configuration, it names their tensors.
    if older.iter().any(|module| is_expert(base, module)) {
        selected.retain(|module| !is_expert(base, module));
    } else {
        selected = without_experts(&targets, selected, base);
    }
    refuse_read_past(config, base, &selected)?;
    selected.extend(older);
    let mut saved = targets.saved(config, tensors, &modules)?;
    let mut effects = Effects::default();

    let tied = match lora.ensure_weight_tying && spec.says_tied() {
        true => tying::tie(config, tensors, &targets, &spec, &mut selected, &mut saved)?,
        false => Tie::Apart,
    };
    effects.keeps_tie = match tied {
        Tie::Apart => false,
        Tie::Targets => tying::change_alike(&lora, config, &spec)?,
        Tie::Saved => true,
    };
    parameters.check_modules(config, &selected, &saved)?;
    replace_modules(&mut effects, tensors, &base.spec, &saved)?;
    if tied == Tie::Saved {
        leave_out_bias(&mut effects, &spec.lm_head);
        // The shared tensor is counted at the embedding.
        let head = format!("{}.weight", spec.lm_head.path);
        if let Some(head) = effects.replaced.get_mut(&head) {
            head.trainable = false;
        }
    }
    let adapted: Vec<Module> = selected
        .iter()
        .chain(parameters.modules())
        .cloned()
        .collect();
    replace_biases(
        &mut effects,
        tensors,
        config,
        "lora_only",
        &modules,
        &adapted,
    )?;
    let experts = match lora.arrow.take() {
        Some(arrow) => {
            effects.unmergeable = Some("with `arrow_config` sends every token to its own experts");
            let experts = Experts::load(arrow, config, base, tensors, &mut effects)?;
            experts.check_targets(&selected)?;
            Some(experts)
        }
        None => None,
    };
    let mut made = factors_from_weights(&lora, config, base, tensors, &selected)?;
    for module in &selected {
        replace_base_layer(&mut effects, tensors, base, module)?;
        let made = made.remove(&module.path);
        let (adapter, frozen) = match &experts {
            Some(experts) => experts.of(config, &lora, base, tensors, module)?,
            None => module_adapter(config, &lora, base, tensors, module, made)?,
        };
        effects.frozen_params += frozen;
        effects.modules.insert(module.path.clone(), adapter);
    }
    parameters.adapt(config, &lora, tensors, &mut effects)?;
    trainable_token_indices(config, base, tensors, &spec, &mut effects)?;
    effects.spec = Some(spec);
    if lora.invocation.is_some() {
        effects.unmergeable = Some("with `alora_invocation_tokens` acts on some tokens only");
    }
    effects.invocation = lora.invocation;
    Ok(effects)
}

fn is_expert(base: &BaseModel, module: &Module) -> bool {
    matches!(module.kind, ModuleKind::Routed { .. }) && !base.spec.is_router(&module.path)
}

/// Modules that the file adapts by themselves, though they aren't `selected`. Before Transformers 5,
/// experts were modules, too; and PEFT's conversion of such a configuration takes all modules that
/// are called like an expert's projection for experts, so it leaves out others of that name.
fn of_older_modules(
    config: &JsonObject,
    base: &BaseModel,
    tensors: &mut AdapterTensors,
    modules: &[Module],
    selected: &[Module],
) -> Result<Vec<Module>, AdapterError> {
    if config.get("target_modules").is_none() {
        return Ok(Vec::new());
    }
    let targets = Targets::read(config, &base.spec.model_type, None)?;
    let converts = converts(&base.spec);
    let mut found = Vec::new();
    for module in modules {
        let own = match (is_expert(base, module), &module.kind) {
            (true, _) if converts => continue,
            (true, _) => &module.source,
            (false, ModuleKind::Linear { .. }) => {
                if selected.iter().any(|other| other.path == module.path) {
                    continue;
                }
                &module.path
            }
            (false, _) => continue,
        };
        let is_there = tensors.has(&format!("{own}.lora_A.weight"));
        if is_there && targets.contains(config, module)? {
            found.push(module.clone());
        }
    }
    if let Some(first) = found.first() {
        tensors.note(format!(
            "modules such as `{}` are adapted as the file has them ({} in all), though PEFT doesn't load \
             these tensors with Transformers 5",
            first.path,
            found.len()
        ));
    }
    Ok(found)
}

/// The adapter of one expert's projection, from a file that has a pair for it.
fn single_expert(
    config: &JsonObject,
    lora: &LoraConfig,
    tensors: &mut AdapterTensors,
    module: &Module,
) -> Result<Box<dyn ModuleAdapter>, AdapterError> {
    check_options(config, lora, "an expert's projection")?;
    let [out_features, in_features] = module.matrix_size().expect("an expert has matrices");
    let (r, scaling) = lora.rank_and_scaling(config, &module.source)?;
    let keys = ["lora_A.weight", "lora_B.weight"].map(|name| format!("{}.{name}", module.source));
    let a = tensors.matrix(&keys[0], [r, in_features], Init::Zeros)?;
    let b = tensors.matrix(&keys[1], [out_features, r], Init::Zeros)?;
    Ok(Box::new(LoraLinear {
        trainable: a.len() + b.len(),
        keys: [
            tensors.full_key(&keys[0]),
            tensors.full_key(&keys[1]),
            String::new(),
        ],
        a,
        b,
        bias: None,
        scaling,
        magnitude: None,
        residual: None,
    }))
}

/// The adapter of a module, and the number of its parameters that PEFT counts and doesn't train.
/// `made`: its fresh factors, if they were computed from the weight.
fn module_adapter(
    config: &JsonObject,
    lora: &LoraConfig,
    base: &BaseModel,
    tensors: &mut AdapterTensors,
    module: &Module,
    made: Option<FreshFactors>,
) -> Result<(Box<dyn ModuleAdapter>, usize), AdapterError> {
    if is_expert(base, module) {
        return Ok((single_expert(config, lora, tensors, module)?, 0));
    }
    let (r, scaling) = lora.rank_and_scaling(config, &module.path)?;
    match target_module(base, module) {
        Some(TargetModule::Linear(layer)) => {
            let tied = base.spec.tied() && module.path == base.spec.lm_head.path;
            if tied && lora.removed(scaling).is_some() && !tensors.has(&layer.key(BASE_WEIGHT)) {
                let reason = format!(
                    "it takes a part out of the weight of `{}`, which is also the tied embedding's",
                    module.path
                );
                let key = if lora.kasa {
                    "kasa_config"
                } else {
                    "init_lora_weights"
                };
                return Err(config.refused(key, &reason).into());
            }
            // A fresh adapter's initial factors are the part that's taken out of the weight.
            let removed = made.as_ref().map(|(a, b)| (a.clone(), b * scaling));
            let factors = factors(lora, config, tensors, &layer, r, made)?;
            let frozen = factors.frozen;
            let mut adapter = linear_adapter(lora, base, tensors, &layer, factors, (r, scaling))?;
            if let (Some(residual), Some(removed)) = (&mut adapter.residual, removed) {
                residual.pair = removed.into();
            }
            Ok(match lora.invocation {
                Some(_) => (Box::new(Activated(adapter)), frozen),
                None => (Box::new(adapter), frozen),
            })
        }
        Some(TargetModule::Embedding(_))
            if lora.invocation.is_some()
                || lora.kasa
                || lora.blocks.is_some()
                || lora.monteclora_samples.is_some() =>
        {
            Err(not_adaptable(config, module, "linear layers"))
        }
        Some(TargetModule::Embedding(table)) => {
            check_table_rank(lora, config, &table, r)?;
            let adapter = embedding_adapter(lora, base, tensors, &table, (r, scaling), made)?;
            let frozen = match lora.init {
                LoraInit::Mica => adapter.b.len(),
                _ => 0,
            };
            Ok((Box::new(adapter), frozen))
        }
        None => Err(not_adaptable(
            config,
            module,
            "linear layers and the token embedding",
        )),
    }
}

fn linear_adapter(
    lora: &LoraConfig,
    base: &BaseModel,
    tensors: &mut AdapterTensors,
    layer: &TargetLinear,
    factors: factors::Factors,
    (r, scaling): (usize, f32),
) -> Result<LoraLinear, AdapterError> {
    let keys = [
        "lora_A.weight",
        "lora_B.weight",
        "lora_B.bias",
        "lora_magnitude_vector",
    ]
    .map(|name| layer.key(name));
    let bias = match lora.lora_bias {
        true => Some(tensors.vector(&keys[2], layer.out_features, lora.init.bias(r))?),
        false => None,
    };
    // A head is saved with its weight, without the part that's taken out.
    let saved = tensors.has(&layer.key(BASE_WEIGHT));
    let residual = match lora.removed(scaling) {
        Some(_) if saved => None,
        Some(part) => Some(Residual {
            path: layer.path().to_owned(),
            r,
            part,
            dtype: base.dtype_in_use(&format!("{}.weight", layer.module.source))?,
            quantized: base.quantized_to(&layer.module).is_some(),
            pair: OnceLock::new(),
        }),
        None => None,
    };
    let mut adapter = LoraLinear {
        keys: [&keys[0], &keys[1], &keys[3]].map(|key| tensors.full_key(key)),
        a: factors.a,
        b: factors.b,
        bias,
        scaling,
        magnitude: None,
        residual,
        trainable: factors.trainable,
    };
    if lora.use_dora {
        let module = &layer.module;
        // The rest of a quantized weight isn't written yet.
        let weight = match adapter.residual {
            Some(_) => BaseModel::full_matrix,
            None => BaseModel::matrix,
        };
        let weight = |source: &str| weight(base, source);
        adapter.magnitude = Some(magnitude(weight, tensors, module, &keys[3], |weight| {
            adapter.first_norms(weight)
        })?);
    }
    Ok(adapter)
}

fn embedding_adapter(
    lora: &LoraConfig,
    base: &BaseModel,
    tensors: &mut AdapterTensors,
    table: &TargetEmbedding,
    (r, scaling): (usize, f32),
    made: Option<FreshFactors>,
) -> Result<LoraEmbedding, AdapterError> {
    let keys = [
        "lora_embedding_A",
        "lora_embedding_B",
        "lora_magnitude_vector",
    ]
    .map(|name| table.key(name));
    let [init_a, init_b] = lora.init.embedding();
    let (a, b) = match made {
        Some(factors) => factors,
        None => (
            tensors.matrix(&keys[0], [r, table.num_embeddings], init_a)?,
            tensors.matrix(&keys[1], [table.embedding_dim, r], init_b)?,
        ),
    };
    let mut adapter = LoraEmbedding {
        keys: keys.each_ref().map(|key| tensors.full_key(key)),
        trainable: match lora.init {
            LoraInit::Mica => a.len(),
            _ => a.len() + b.len(),
        },
        a,
        b,
        scaling,
        magnitude: None,
    };
    if lora.use_dora {
        let module = &table.module;
        let weight = |source: &str| base.matrix(source);
        adapter.magnitude = Some(magnitude(weight, tensors, module, &keys[2], |weight| {
            Ok(embedding::column_norms(&adapter.updated(weight)))
        })?);
    }
    Ok(adapter)
}

/// DoRA's magnitude; a fresh one is the norms of the weight that the adapter starts with.
fn magnitude(
    read: impl Fn(&str) -> Result<Array2<f32>, WeightsError>,
    tensors: &mut AdapterTensors,
    module: &Module,
    key: &str,
    norms: impl Fn(Array2<f32>) -> Result<Array1<f32>, AdapterError>,
) -> Result<Array1<f32>, AdapterError> {
    let length = match &module.kind {
        ModuleKind::Embedding { embedding_dim, .. } => *embedding_dim,
        ModuleKind::Linear { out_features, .. } | ModuleKind::Routed { out_features, .. } => {
            *out_features
        }
        ModuleKind::Convolution { channels, .. } => *channels,
        ModuleKind::Norm { shape, .. } | ModuleKind::Parameter { shape, .. } => {
            shape.iter().product()
        }
        ModuleKind::Xielu => 1,
    };
    // PEFT before 0.12 stored it as a module's weight.
    let older = format!("{key}.weight");
    let key = if tensors.has(&older) {
        older.as_str()
    } else {
        key
    };
    let values = tensors.take_or(key, &[length], |_| {
        let weight = read(&format!("{}.weight", module.source))?;
        Ok(norms(weight)?.to_vec())
    })?;
    Ok(values.into())
}
