//! Shadow: a small second decoder, whose state every block of the base is pulled towards.
//!
//! | tensor, below the block's path | shape |
//! |---|---|
//! | `shadow_down.default.weight`, `shadow_up.default.weight` | `[r, d]`, `[d, r]` |
//! | `shadow_update_transform.default.{0,2}.{weight,bias}` | `[u, d]`, `[u]`, `[d, u]`, `[d]` |
//! | `shadow_update_gate.default.{0,2}.{weight,bias}` | as above |
//!
//! | tensor of the model | shape |
//! |---|---|
//! | `base_model.shadow_backbone.default.*` | as in a decoder of the base's architecture, without head |
//! | `base_model.shadow_projection.default.weight` | `[d, shadow_hidden_size]`, if that isn't `d` |
//!
//! The backbone has `shadow_num_hidden_layers` (1) layers and the base's other sizes, except for
//! `shadow_hidden_size`, `shadow_intermediate_size` and `shadow_num_attention_heads`; a head's
//! width doesn't change. If its width is the base's it uses the base's embedding
//! (`share_embeddings`), else its own. It has its own cache. Its last hidden states, projected, are
//! the state `s`. Each targeted block in turn computes
//! `h ← block(h + shadow_alpha * up(down(h - s)))` and `s ← (1 - g) ∘ s + g ∘ transform(h)` with
//! `g = sigmoid(gate(h))`; `transform` and `gate` are two linear layers with a GELU in between. The
//! state after the last targeted block isn't used, so its networks aren't exported; PEFT runs them.
//!
//! Sources: PEFT, `tuners/shadow/`.

use ndarray::{ArrayD, IxDyn};
use serde_json::Value as Json;

use super::{Class, Method};
use crate::adapter::form::{FormTensor, TensorRole};
use crate::adapter::replaced::replace_modules;
use crate::adapter::targets::Targets;
use crate::adapter::toolbox::options::{factor, rank};
use crate::adapter::toolbox::tuner::Loading;
use crate::adapter::{AdapterError, AdapterTensors, Effects, Init, SideNetwork, SideParameter};
use crate::arch::{self, Activation, DecoderSpec, Layer, Module, ModuleKind, NormKind};
use crate::graph::{BeforeLayers, Carried, Dim, GraphBuilder, Scope, Value};
use crate::json::{ConfigError, JsonObject};
use crate::model::BaseModel;

/// The prefix of the backbone's parameters in the graph.
const BACKBONE: &str = "shadow_backbone/";
/// The prefix of the backbone's keys.
const BACKBONE_KEY: &str = "base_model.shadow_backbone.default.";
/// The largest number of the backbone's layers.
const DEEPEST: usize = 1 << 12;

/// The second decoder, and what connects it to the base's blocks.
#[derive(Debug)]
struct Shadow {
    /// The backbone's architecture. Its head isn't used, nor its embedding if that's shared.
    spec: DecoderSpec,
    /// Whether it uses the base's embedding.
    shares_embeddings: bool,
    /// The backbone's parameters, by their names in its architecture.
    backbone: Vec<(String, StoredTensor)>,
    projection: Option<StoredTensor>,
    /// The index of the first targeted block.
    first: usize,
    blocks: Vec<Block>,
    /// Parameter count of all tensors, unused ones included.
    parameters: usize,
}

/// A tensor of the checkpoint, and its key.
#[derive(Debug)]
struct StoredTensor {
    key: String,
    values: ArrayD<f32>,
    role: TensorRole,
}

/// The tensors of one block.
#[derive(Debug)]
struct Block {
    down: StoredTensor,
    /// Multiplied by `shadow_alpha`.
    up: StoredTensor,
    /// `transform` and `gate`; absent after the last block.
    update: Option<[Network; 2]>,
}

/// Two linear layers: the weight and bias of each.
type Network = [StoredTensor; 4];

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "SHADOW",
    class: Class::Unmergeable,
    variants: "",
    refused: "shadow_model other than mirror; bases with experts; `shadow_hidden_size`, `shadow_intermediate_size` and \
              `shadow_num_attention_heads` for bases other than llama and opt",
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
    if !matches!(config.optional_text("shadow_model")?, None | Some("mirror")) {
        let reason = "only `mirror`, a backbone of the base's own architecture, is implemented";
        return Err(config.refused("shadow_model", reason).into());
    }
    let mut effects = Effects::default();
    let modules = base.spec.modules();
    let targets = Targets::read(config, &base.spec.model_type, Some(&[]))?;
    let saved = targets.saved(config, tensors, &modules)?;
    replace_modules(&mut effects, tensors, &base.spec, &saved)?;
    let blocks = targeted(config, base, tensors)?;
    let shadow = Shadow::read(config, base, tensors, blocks)?;
    effects.shared_params = shadow.parameters;
    effects.unmergeable = Some("pulls every block towards the state of a second network");
    effects.side_network = Some(Box::new(shadow));
    Ok(effects)
}

/// The range of the targeted blocks, which must be consecutive.
fn targeted(
    config: &JsonObject,
    base: &BaseModel,
    tensors: &mut AdapterTensors,
) -> Result<std::ops::Range<usize>, AdapterError> {
    let block = |path: &str| Module {
        path: path.to_owned(),
        source: path.to_owned(),
        kind: ModuleKind::Norm {
            shape: vec![base.spec.hidden_size],
            kind: NormKind::LayerWithoutParameters,
        },
    };
    let paths: Vec<&str> = base
        .spec
        .layers
        .iter()
        .map(|layer| layer.path.as_str())
        .collect();
    let blocks: Vec<Module> = paths.iter().map(|path| block(path)).collect();
    let targets = Targets::read(config, &base.spec.model_type, Some(&paths))?;
    let selected = targets.select(config, tensors, &blocks)?;
    for module in base.spec.modules() {
        if config.get("target_modules").is_some() && targets.contains(config, &module)? {
            return Err(AdapterError::Targets {
                path: config.path().to_owned(),
                message: format!(
                    "`target_modules` selects `{}`; this method adapts whole blocks: {}",
                    module.path,
                    paths.join(", ")
                ),
            });
        }
    }
    let is_selected = |path: &&str| selected.iter().any(|module| module.path == **path);
    let first = paths.iter().position(&is_selected).unwrap_or(0);
    let range = first..first + selected.len();
    match paths[range.clone()].iter().all(is_selected) {
        true => Ok(range),
        false => {
            let reason = "the blocks that it selects have gaps between them, and the state can't skip a block";
            Err(config.refused("target_modules", reason).into())
        }
    }
}

impl Shadow {
    fn read(
        config: &JsonObject,
        base: &BaseModel,
        tensors: &mut AdapterTensors,
        targeted: std::ops::Range<usize>,
    ) -> Result<Self, AdapterError> {
        let width = base.spec.hidden_size;
        let spec = mirrored(config, base)?;
        let inner = spec.hidden_size;
        let shares = config.flag("share_embeddings", true)? && inner == width;
        let made = spec
            .project_out
            .as_ref()
            .map_or(inner, |project| project.out_features);
        if made != inner {
            let reason = format!(
                "the backbone's states are {made} wide after its `project_out`, and have to be {inner} wide"
            );
            return Err(config.refused("shadow_model", &reason).into());
        }
        let mut holding = TensorReader {
            tensors,
            parameters: 0,
        };
        let backbone = backbone(&mut holding, base, &spec, shares)?;
        let projection = match inner == width {
            true => None,
            false => {
                let key = "base_model.shadow_projection.default.weight";
                let init = Init::linear_default(inner);
                Some(holding.take(key, &[width, inner], init, TensorRole::Map)?)
            }
        };
        let r = rank(config, "r", 8)?;
        let hidden = match config.get("update_hidden_size") {
            Some(_) => rank(config, "update_hidden_size", r)?,
            None => r,
        };
        let alpha = factor(config, "shadow_alpha", 0.1)? as f32;
        let identity = config.flag("init_weights", true)?;
        let mut blocks = Vec::new();
        for index in targeted.clone() {
            let path = &base.spec.layers[index].path;
            let key = |name: &str| format!("{path}.{name}.weight");
            let up = match identity {
                true => Init::Zeros,
                false => Init::linear_default(r),
            };
            let block = Block {
                down: holding.take(
                    &key("shadow_down.default"),
                    &[r, width],
                    Init::linear_default(width),
                    TensorRole::Map,
                )?,
                up: holding
                    .take(&key("shadow_up.default"), &[width, r], up, TensorRole::Term)?
                    .times(alpha),
                update: Some([
                    holding.network(
                        &format!("{path}.shadow_update_transform.default"),
                        width,
                        hidden,
                    )?,
                    holding.network(
                        &format!("{path}.shadow_update_gate.default"),
                        width,
                        hidden,
                    )?,
                ]),
            };
            blocks.push(block);
        }
        if let Some(last) = blocks.last_mut() {
            last.update = None;
        }
        Ok(Self {
            parameters: holding.parameters,
            spec,
            shares_embeddings: shares,
            backbone,
            projection,
            first: targeted.start,
            blocks,
        })
    }

    /// The state for the first targeted block, from the backbone's last hidden states.
    fn projected(&self, graph: &mut GraphBuilder, hidden: Value) -> Value {
        let Some(projection) = &self.projection else {
            return hidden;
        };
        let weight = projection.input(graph);
        graph.matmul_transposed("/shadow_projection/MatMul", &hidden, &weight)
    }
}

impl SideNetwork for Shadow {
    fn tensors(&self) -> Vec<FormTensor<'_>> {
        let backbone = self.backbone.iter().map(|(_, held)| held);
        let blocks = self.blocks.iter().flat_map(|block| {
            let update = block.update.iter().flatten().flatten();
            [&block.down, &block.up].into_iter().chain(update)
        });
        let all = backbone.chain(&self.projection).chain(blocks);
        all.map(StoredTensor::tensor).collect()
    }

    fn layers<'a>(&'a self, _spec: &'a DecoderSpec) -> &'a [Layer] {
        &self.spec.layers
    }

    fn parameters(&self) -> Vec<SideParameter<'_>> {
        let in_out: Vec<String> = self
            .spec
            .modules()
            .iter()
            .filter(|module| module.is_stored_in_out())
            .map(|module| format!("{}.weight", module.path))
            .collect();
        let parameters = self.backbone.iter().map(|(name, held)| SideParameter {
            name: format!("{BACKBONE}{name}"),
            input: &held.key,
            shape: held.values.shape(),
            is_stored_in_out: in_out.contains(name),
        });
        parameters.collect()
    }

    /// Adds the backbone, with the base's embedding or its own, and the projection of its last
    /// hidden states.
    fn before_layers(&self, decoder: &mut BeforeLayers) -> Carried {
        let scope = Scope {
            nodes: "/shadow_backbone".to_owned(),
            parameters: BACKBONE.to_owned(),
        };
        let embedded = self.shares_embeddings.then_some(decoder.embedded);
        let hidden = decoder.decoder(scope, &self.spec, embedded);
        Carried {
            token_gate: None,
            state: Some(self.projected(decoder.graph, hidden)),
        }
    }

    /// Changes `h`, the input of block `index`, `[batch, sequence, d]`, by its difference to the
    /// state, if the block is targeted.
    fn enter_layer(
        &self,
        graph: &mut GraphBuilder,
        index: usize,
        h: &Value,
        state: &mut Value,
    ) -> Option<Value> {
        let place = index.checked_sub(self.first)?;
        let block = self.blocks.get(place)?;
        let name = format!("/shadow/{index}");
        if let Some(before) = place.checked_sub(1)
            && let Some([transform, gate]) = &self.blocks[before].update
        {
            let candidate = network(graph, &format!("{name}/transform"), transform, h);
            let gate = network(graph, &format!("{name}/gate"), gate, h);
            let gate = graph.op("Sigmoid", &format!("{name}/gate/Sigmoid"), &[&gate], &[]);
            // (1 - g) s + g t
            let change = graph.op("Sub", &format!("{name}/change"), &[&candidate, state], &[]);
            let change = graph.mul(&format!("{name}/gated"), &gate, &change);
            *state = graph.add(&format!("{name}/state"), state, &change);
        }
        let (down, up) = (block.down.input(graph), block.up.input(graph));
        let delta = graph.op("Sub", &format!("{name}/discrepancy"), &[h, state], &[]);
        let inner = graph.matmul_transposed(&format!("{name}/down"), &delta, &down);
        let delta = graph.matmul_transposed(&format!("{name}/up"), &inner, &up);
        Some(graph.add(&format!("{name}/Add"), h, &delta))
    }
}

fn network(graph: &mut GraphBuilder, name: &str, network: &Network, x: &Value) -> Value {
    let [w0, b0, w2, b2] = network.each_ref().map(|held| held.input(graph));
    let inner = graph.matmul_transposed(&format!("{name}/0/MatMul"), x, &w0);
    let inner = graph.add(&format!("{name}/0/Add"), &inner, &b0);
    let inner = graph.contrib("Gelu", &format!("{name}/1"), &[&inner], &[]);
    let outer = graph.matmul_transposed(&format!("{name}/2/MatMul"), &inner, &w2);
    graph.add(&format!("{name}/2/Add"), &outer, &b2)
}

/// The backbone's architecture: the base's with other sizes.
fn mirrored(config: &JsonObject, base: &BaseModel) -> Result<DecoderSpec, AdapterError> {
    if base.spec.tower.is_some() {
        let reason = format!(
            "SHADOW for a `{}`, whose backbone would be multimodal too, is not implemented",
            base.spec.model_type
        );
        return Err(config.refused("peft_type", &reason).into());
    }
    if base.spec.has_states() || base.spec.has_latent_attention() {
        let reason = format!(
            "SHADOW for a `{}`, whose layers have states or latent attention, is not implemented",
            base.spec.model_type
        );
        return Err(config.refused("peft_type", &reason).into());
    }
    let mut changed = base.config.clone();
    let mut set = |names: &[&str], value: usize| {
        let known = names.iter().find(|name| changed.get(name).is_some());
        changed = changed.with(known.unwrap_or(&names[0]), Json::from(value));
    };
    let layers = config
        .optional_size_up_to("shadow_num_hidden_layers", DEEPEST)?
        .unwrap_or(1);
    set(&["num_hidden_layers", "n_layer"], layers);
    let attention = base.spec.first_attention();
    if let (Some(attention), "llama") = (attention, base.spec.model_type.as_str()) {
        // Transformers has set them before PEFT changes the other sizes.
        set(&["head_dim"], attention.head_dim);
        set(&["num_key_value_heads"], attention.num_key_value_heads);
    }
    for (key, names) in [
        ("shadow_hidden_size", &["hidden_size"][..]),
        (
            "shadow_intermediate_size",
            &["intermediate_size", "ffn_dim"],
        ),
        ("shadow_num_attention_heads", &["num_attention_heads"]),
    ] {
        let Some(size) = rank_or_none(config, key)? else {
            continue;
        };
        if !["llama", "opt"].contains(&base.spec.model_type.as_str()) {
            let reason = format!("not for the model type `{}`", base.spec.model_type);
            return Err(config.refused(key, &reason).into());
        }
        set(names, size);
    }
    if let Some(Json::Array(types)) = changed.get("layer_types") {
        let mut types = types.clone();
        if let Some(last) = types.last().cloned() {
            types.resize(layers, last);
        }
        changed = changed.with("layer_types", types.into());
    }
    let spec = arch::spec(&changed)?;
    check_mirrored(config, &spec)?;
    Ok(spec)
}

/// Refuses a backbone with parts whose initial values, names or keys differ from the ones
/// implemented here.
fn check_mirrored(config: &JsonObject, spec: &DecoderSpec) -> Result<(), ConfigError> {
    let modules = spec.modules();
    let has = |test: &dyn Fn(&Module) -> bool| modules.iter().any(test);
    let part = if has(&|module| matches!(module.kind, ModuleKind::Routed { .. })) {
        "experts"
    } else if has(&|module| matches!(module.kind, ModuleKind::Parameter { .. })) {
        "parameters besides those of its layers"
    } else {
        return Ok(());
    };
    let reason = format!(
        "SHADOW for a `{}`, whose backbone would have {part}, is not implemented",
        spec.model_type
    );
    Err(config.refused("peft_type", &reason))
}

/// A size up to the largest rank, if the option is present.
fn rank_or_none(config: &JsonObject, key: &str) -> Result<Option<usize>, ConfigError> {
    config.optional_size_up_to(key, 1 << 20)
}

/// The backbone's parameters; fresh ones are initialised as in Transformers.
fn backbone(
    holding: &mut TensorReader,
    base: &BaseModel,
    spec: &DecoderSpec,
    shares_embeddings: bool,
) -> Result<Vec<(String, StoredTensor)>, AdapterError> {
    let deviation = ["initializer_range", "init_std"].iter().find_map(|key| {
        let value = base.config.get(key)?.as_f64()?;
        Some(value as f32)
    });
    let deviation = deviation
        .filter(|deviation| deviation.is_finite())
        .unwrap_or(0.02);
    // `model.layers.0` is `layers.0` in the backbone, which has no head.
    let first = spec.layers[0].path.as_str();
    let parts: Vec<&str> = first.rsplitn(3, '.').collect();
    let prefix = format!("{}.", parts[2]);
    let mut all = Vec::new();
    for module in spec.modules() {
        let own = module.path.strip_prefix(&prefix);
        let Some(own) = own else { continue };
        // PEFT removes an embedding with the name `embed_tokens`. One with another name remains,
        // unused.
        let is_shared = shares_embeddings && module.path == spec.embed_tokens.path;
        if is_shared && own == "embed_tokens" {
            continue;
        }
        for (name, shape) in module.parameters() {
            let (init, role) = match (&module.kind, name) {
                (_, "bias") => (Init::Zeros, TensorRole::Map),
                (ModuleKind::Norm { kind, .. }, _) if kind.adds_one() => {
                    (Init::Zeros, TensorRole::Map)
                }
                (ModuleKind::Norm { .. }, _) => (Init::Constant(1.0), TensorRole::Map),
                (ModuleKind::Xielu, name) => {
                    let value = Activation::fresh_xielu(name);
                    (Init::Constant(value), TensorRole::Map)
                }
                (ModuleKind::Embedding { .. }, _) => (Init::Normal(deviation), TensorRole::Table),
                // GPT-2's projections into the residual start smaller, the more layers there are.
                _ if module.is_stored_in_out() && own.ends_with("c_proj") => {
                    let addends = (2 * spec.layers.len()) as f32;
                    (Init::Normal(deviation / addends.sqrt()), TensorRole::Map)
                }
                // `check_mirrored` refuses the last ones.
                (
                    ModuleKind::Linear { .. }
                    | ModuleKind::Routed { .. }
                    | ModuleKind::Convolution { .. }
                    | ModuleKind::Parameter { .. },
                    _,
                ) => (Init::Normal(deviation), TensorRole::Map),
            };
            let key = format!("{BACKBONE_KEY}{own}.{name}");
            let held = holding.take(&key, &shape, init, role)?;
            if is_shared {
                continue;
            }
            all.push((format!("{}.{name}", module.path), held));
        }
    }
    Ok(all)
}

/// Reads tensors and counts their parameters.
struct TensorReader<'a> {
    tensors: &'a mut AdapterTensors,
    parameters: usize,
}

impl TensorReader<'_> {
    fn take(
        &mut self,
        key: &str,
        shape: &[usize],
        init: Init,
        role: TensorRole,
    ) -> Result<StoredTensor, AdapterError> {
        let values = self.tensors.take(key, shape, init)?;
        self.parameters += values.len();
        Ok(StoredTensor {
            key: self.tensors.full_key(key),
            values: ArrayD::from_shape_vec(IxDyn(shape), values)
                .expect("`take` gives as many values as asked for"),
            role,
        })
    }

    fn network(
        &mut self,
        path: &str,
        width: usize,
        hidden: usize,
    ) -> Result<Network, AdapterError> {
        let mut take = |name: &str, shape: &[usize], fan_in| {
            let init = Init::linear_default(fan_in);
            self.take(&format!("{path}.{name}"), shape, init, TensorRole::Map)
        };
        Ok([
            take("0.weight", &[hidden, width], width)?,
            take("0.bias", &[hidden], width)?,
            take("2.weight", &[width, hidden], hidden)?,
            take("2.bias", &[width], hidden)?,
        ])
    }
}

impl StoredTensor {
    /// The tensor times a constant.
    fn times(mut self, factor: f32) -> Self {
        self.values *= factor;
        self
    }

    fn tensor(&self) -> FormTensor<'_> {
        FormTensor::stored(&self.key, &self.values, self.role)
    }

    fn input(&self, graph: &mut GraphBuilder) -> Value {
        let dims: Vec<Dim> = self
            .values
            .shape()
            .iter()
            .map(|&size| size.into())
            .collect();
        graph.input(&self.key, &dims)
    }
}
