//! `target_parameters`: LoRA on parameters that are selected by their own names.
//!
//! A name selects every parameter of Transformers' model that it equals, or that ends with a dot
//! and it. `exclude_modules` and `layers_to_transform` have no effect on them; `rank_pattern` and
//! `alpha_pattern` are matched with the parameter's whole name.
//!
//! - Stacked experts of a layer: see [`super::stacked`].
//! - A matrix `[p, q]`, as the checkpoint stores it, gains `scaling * B A` with `A` `[r, q]` and
//!   `B` `[p, r]`. For a linear layer that's its usual LoRA; for an embedding, and for a layer
//!   that's stored as `[in, out]`, `A` and `B` are swapped.
//!
//! Source: PEFT, `tuners/tuners_utils.py` (`_inject_parameters`), `tuners/lora/layer.py`
//! (`ParamWrapper`).

use ndarray::Array2;

use super::config::{LoraConfig, is_on};
use super::conversion::PARAMETERS;
use super::embedding::LoraEmbedding;
use super::init::{LoraInit, StoredShapes};
use super::linear::LoraLinear;
use super::stacked::{self, StackedTarget};
use crate::adapter::form::Form;
use crate::adapter::toolbox::stacked::Stack;
use crate::adapter::{AdapterError, AdapterTensors, Effects, ModuleAdapter, ModuleWeights};
use crate::arch::{DecoderSpec, Expert, Mixture, Module, ModuleKind, last_name};
use crate::json::{ConfigError, JsonObject};

/// Options that PEFT refuses together with it.
const NOT_WITH: [&str; 9] = [
    "fan_in_fan_out",
    "lora_bias",
    "use_dora",
    "velora_config",
    "kasa_config",
    "arrow_config",
    "alora_invocation_tokens",
    "use_bdlora",
    "monteclora_config",
];

/// A parameter of Transformers' model.
#[derive(Debug)]
struct Parameter<'a> {
    /// For example `model.layers.0.mlp.experts.gate_up_proj`.
    name: String,
    kind: Kind<'a>,
}

#[derive(Debug)]
enum Kind<'a> {
    /// A stacked tensor of a layer's experts.
    Stack(Stack, &'a Mixture),
    /// The weight of a module that can be adapted.
    Matrix(Module),
    /// A parameter that can't be adapted.
    Other,
}

impl Parameter<'_> {
    /// The path of its module.
    fn module(&self) -> &str {
        self.name.rsplit_once('.').map_or("", |(module, _)| module)
    }
}

/// The parameters that `target_parameters` selects.
#[derive(Debug)]
pub struct TargetParameters<'a> {
    selected: Vec<Parameter<'a>>,
}

impl<'a> TargetParameters<'a> {
    /// Finds the parameters. PEFT ignores a name that selects none; a trained adapter's gets a note
    /// in `tensors`.
    ///
    /// # Errors
    /// If a name selects no parameter of a fresh adapter, or one that can't be adapted, or another
    /// option can't be combined with it.
    pub fn read(
        config: &JsonObject,
        lora: &LoraConfig,
        tensors: &mut AdapterTensors,
        spec: &'a DecoderSpec,
    ) -> Result<Self, AdapterError> {
        if config
            .get(PARAMETERS)
            .is_some_and(serde_json::Value::is_string)
        {
            return Err(config.wrong(PARAMETERS, "a list of strings").into());
        }
        let names = config.optional_texts(PARAMETERS)?.unwrap_or_default();
        if names.is_empty() {
            let selected = Vec::new();
            return Ok(Self { selected });
        }
        check_options(config, lora, "`target_parameters`")?;
        let all = parameters(spec);
        let is_meant = |parameter: &Parameter, name: &str| {
            let is_meant = |spelled: &String| {
                let rest = spelled.strip_suffix(name);
                rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            config.spellings(&parameter.name).iter().any(is_meant)
        };
        let failed = |message: String| AdapterError::Targets {
            path: config.path().to_owned(),
            message,
        };
        for name in &names {
            if all.iter().any(|parameter| is_meant(parameter, name)) {
                continue;
            }
            if tensors.is_fresh() {
                return Err(failed(format!(
                    "`{name}` in `{PARAMETERS}` matches no parameter of this model; it has {}",
                    examples(&all)
                )));
            }
            tensors.note(format!(
                "`{PARAMETERS}` names `{name}`, which this model doesn't have; every tensor of the \
                 adapter is used"
            ));
        }
        let meant = |parameter: &Parameter| names.iter().any(|name| is_meant(parameter, name));
        let selected: Vec<Parameter> = all.into_iter().filter(meant).collect();
        for parameter in &selected {
            if matches!(parameter.kind, Kind::Other) {
                return Err(failed(format!(
                    "`{PARAMETERS}` selects `{}`, which can't be adapted; only weights of linear layers, of the token \
                     embedding, of routers and of experts are supported",
                    parameter.name
                )));
            }
        }
        Ok(Self { selected })
    }

    /// Whether none is selected.
    pub fn is_empty(&self) -> bool {
        self.selected.is_empty()
    }

    /// The modules whose weight is adapted as a parameter.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.selected.iter().filter_map(|one| match &one.kind {
            Kind::Matrix(module) => Some(module),
            Kind::Stack(..) | Kind::Other => None,
        })
    }

    /// Checks that none of their modules is adapted or replaced as a module.
    ///
    /// # Errors
    /// If one is.
    pub fn check_modules(
        &self,
        config: &JsonObject,
        adapted: &[Module],
        saved: &[Module],
    ) -> Result<(), AdapterError> {
        for parameter in &self.selected {
            let module = parameter.module();
            let key = match module {
                _ if adapted.iter().any(|other| other.path == module) => "target_modules",
                _ if saved.iter().any(|other| is_inside(&other.path, module)) => "modules_to_save",
                _ => continue,
            };
            return Err(AdapterError::Targets {
                path: config.path().to_owned(),
                message: format!(
                    "`{PARAMETERS}` selects `{}` and `{key}` its module too; only one can have it",
                    parameter.name
                ),
            });
        }
        Ok(())
    }

    /// Reads the tensors, and adds their changes to `effects`.
    ///
    /// # Errors
    /// If one is missing or has another shape.
    pub fn adapt(
        &self,
        config: &JsonObject,
        lora: &LoraConfig,
        tensors: &mut AdapterTensors,
        effects: &mut Effects,
    ) -> Result<(), AdapterError> {
        for parameter in &self.selected {
            let (r, scaling) = lora.rank_and_scaling(config, &parameter.name)?;
            match &parameter.kind {
                Kind::Stack(..) if lora.init == LoraInit::Orthogonal && tensors.is_fresh() => {
                    let reason = "it isn't supported for fresh stacked experts";
                    return Err(config.refused("init_lora_weights", reason).into());
                }
                Kind::Stack(stack, mixture) => {
                    let experts = &mixture.experts;
                    self.check_single_experts(config, parameter, experts, tensors)?;
                    let target = StackedTarget {
                        stack: *stack,
                        key: &self.key(parameter, *stack),
                        r,
                        scaling,
                        init: lora.init,
                        swapped: mixture.hides_transposition(),
                    };
                    for (path, adapter) in stacked::load(tensors, target, experts)? {
                        effects.modules.insert(path, Box::new(adapter));
                    }
                }
                Kind::Matrix(module) => {
                    let adapter = matrix(lora, tensors, module, r, scaling)?;
                    effects.modules.insert(module.path.clone(), adapter);
                }
                Kind::Other => unreachable!("`read` refuses it"),
            }
        }
        Ok(())
    }

    /// Whether the experts' other stacked tensor is adapted, too.
    fn has_both(&self, parameter: &Parameter) -> bool {
        let module = parameter.module();
        let others = self.selected.iter();
        others.filter(|other| other.module() == module).count() > 1
    }

    /// The prefix of the stacked tensor's keys.
    fn key(&self, parameter: &Parameter, stack: Stack) -> String {
        let module = parameter.module();
        match stack == Stack::Inner && self.has_both(parameter) {
            true => format!("{module}.base_layer"),
            false => module.to_owned(),
        }
    }

    /// Refuses pairs of single experts' gate and up projections without those of `down_proj`: PEFT
    /// loads them into a wrapper inside that of `down_proj`, so without it they are lost.
    fn check_single_experts(
        &self,
        config: &JsonObject,
        parameter: &Parameter,
        experts: &[Expert],
        tensors: &AdapterTensors,
    ) -> Result<(), AdapterError> {
        let [gate, down] = [experts[0].inner.linears()[0], &experts[0].down_proj];
        let alone =
            matches!(parameter.kind, Kind::Stack(Stack::Inner, _)) && !self.has_both(parameter);
        if !alone || !tensors.has(&format!("{}.lora_A.weight", gate.source)) {
            return Ok(());
        }
        let reason = format!(
            "the file adapts single experts without their `{}`, and PEFT doesn't load such tensors",
            last_name(&down.source)
        );
        Err(config.refused("target_modules", &reason).into())
    }
}

/// Refuses options that PEFT doesn't combine with a parameter; `what` is that.
///
/// # Errors
/// If one is set.
pub fn check_options(
    config: &JsonObject,
    lora: &LoraConfig,
    what: &str,
) -> Result<(), ConfigError> {
    let refused = |key: &str| {
        let reason = format!("it can't be combined with {what}");
        Err(config.refused(key, &reason))
    };
    if let Some(key) = NOT_WITH.into_iter().find(|key| is_on(config, key)) {
        return refused(key);
    }
    // Dropout is applied between a module's input and `A`; a parameter has no input.
    if config.optional_number("lora_dropout")?.unwrap_or(0.0) != 0.0 {
        return refused("lora_dropout");
    }
    match lora.init {
        LoraInit::Default | LoraInit::Gaussian | LoraInit::Random | LoraInit::Orthogonal => Ok(()),
        LoraInit::Pissa | LoraInit::Olora | LoraInit::Mica => refused("init_lora_weights"),
    }
}

/// Whether `path` is `module` or below it.
fn is_inside(path: &str, module: &str) -> bool {
    let rest = path.strip_prefix(module);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// All parameters of Transformers' model, experts last.
fn parameters(spec: &DecoderSpec) -> Vec<Parameter<'_>> {
    let mut all = Vec::new();
    let layers = spec.layers.iter();
    let mixtures: Vec<_> = layers.filter_map(|layer| layer.mlp.mixture()).collect();
    for module in spec.modules() {
        let is_router = mixtures
            .iter()
            .any(|mixture| mixture.router.linear.path == module.path);
        let is_matrix = match module.kind {
            ModuleKind::Routed { .. } if !is_router => continue,
            ModuleKind::Linear { .. } | ModuleKind::Routed { .. } => true,
            ModuleKind::Embedding { .. } => module.path == spec.embed_tokens.path,
            ModuleKind::Convolution { .. }
            | ModuleKind::Norm { .. }
            | ModuleKind::Parameter { .. }
            | ModuleKind::Xielu => false,
        };
        for (name, _) in module.parameters() {
            let kind = match is_matrix && name == "weight" {
                true => Kind::Matrix(module.clone()),
                false => Kind::Other,
            };
            let name = format!("{}.{name}", module.path);
            all.push(Parameter { name, kind });
        }
    }
    for mixture in mixtures {
        let Some(first) = mixture.experts.first() else {
            continue;
        };
        for stack in Stack::ALL {
            all.push(Parameter {
                name: format!("{}.{}", mixture.path, stack.name(first)),
                kind: Kind::Stack(stack, mixture),
            });
        }
    }
    all
}

/// The last two segments of the names, each once.
fn examples(all: &[Parameter]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for parameter in all {
        let name = &parameter.name;
        let start = name.rmatch_indices('.').nth(1).map_or(0, |(at, _)| at + 1);
        if !names.contains(&&name[start..]) {
            names.push(&name[start..]);
        }
    }
    names.join(", ")
}

/// The adapter of a module's weight.
fn matrix(
    lora: &LoraConfig,
    tensors: &mut AdapterTensors,
    module: &Module,
    r: usize,
    scaling: f32,
) -> Result<Box<dyn ModuleAdapter>, AdapterError> {
    let shape = module.parameters().swap_remove(0).1;
    let [rows, columns] = [shape[0], shape[1]];
    // Old adapters call a router's tensors by the checkpoint's name.
    let older = format!("{}.lora_A.weight", module.source);
    let is_router = matches!(module.kind, ModuleKind::Routed { .. });
    let place = match is_router && tensors.has(&older) {
        true => &module.source,
        false => &module.path,
    };
    let keys = ["lora_A.weight", "lora_B.weight"].map(|name| format!("{place}.{name}"));
    let stored = StoredShapes {
        a: [r, columns],
        b: [rows, r],
        blocks_in_a: false,
    };
    let (a, b) = lora
        .init
        .linear(tensors, keys.each_ref().map(String::as_str), stored)?;
    let [key_a, key_b] = keys.map(|key| tensors.full_key(&key));
    let turned = |array: Array2<f32>| array.t().as_standard_layout().into_owned();
    let none = String::new();
    let inner: Box<dyn ModuleAdapter> = match module.kind {
        ModuleKind::Embedding { .. } => Box::new(LoraEmbedding {
            keys: [key_b, key_a, none],
            trainable: a.len() + b.len(),
            a: turned(b),
            b: turned(a),
            scaling,
            magnitude: None,
        }),
        _ => {
            let trainable = a.len() + b.len();
            let (keys, a, b) = match module.is_stored_in_out() {
                true => ([key_b, key_a, none], turned(b), turned(a)),
                false => ([key_a, key_b, none], a, b),
            };
            Box::new(LoraLinear {
                keys,
                a,
                b,
                bias: None,
                scaling,
                magnitude: None,
                residual: None,
                trainable,
            })
        }
    };
    Ok(Box::new(OfParameter(inner)))
}

/// The adapter of a parameter. PEFT changes the weight itself in every step; no native form is
/// implemented for that.
#[derive(Debug)]
struct OfParameter(Box<dyn ModuleAdapter>);

impl ModuleAdapter for OfParameter {
    fn form(&self) -> Form<'_> {
        self.0.form()
    }

    fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        self.0.merge_into(module)
    }

    fn trainable_params(&self) -> usize {
        self.0.trainable_params()
    }
}
