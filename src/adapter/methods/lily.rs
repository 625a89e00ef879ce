//! Lily: low-rank experts that layers share, mixed by a router in every layer.
//!
//! | tensor | shape |
//! |---|---|
//! | `lily_A.weight` | `[r, in_features]` |
//! | `lily_B.weight` | `[num_B * r, out_features]`, one expert below the other |
//! | `lily_router.weight` | `[num_B, r]` |
//!
//! `h = A x`; `p` is the mean of `softmax(router h)` over **all tokens of the call**, and
//! `y = W x + b + scaling * (Σ_e p_e B_e)ᵀ h`. So the output depends on which tokens share a call.
//! Here, as with a cache in PEFT, the prompt is one call and every later token another. A prompt
//! isn't split into chunks, and the last layer is computed for all positions. The sequences of a
//! batch share their mean.
//!
//! Modules with the same name in `target_modules` and the same shape share `B`, and each `stride_A`
//! of them in turn share `A`; the file holds a copy for each. Sums are taken in float32.
//!
//! Sources: Zhong et al., arXiv:2407.09946; PEFT, `tuners/lily/`.

use std::collections::HashMap;
use std::sync::Arc;

use ndarray::Array2;

use super::{Class, Method};
use crate::adapter::form::{Form, FormTensor, Native, NativeForm, NativeSite, TensorRole};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::options::{factor, rank};
use crate::adapter::toolbox::tuner::{Loading, TargetLinear, Tuner};
use crate::adapter::{AdapterError, AdapterTensors, Effects, Init, ModuleAdapter};
use crate::arch::last_name;
use crate::graph::{Attr, Value};
use crate::json::{ConfigError, JsonObject};

/// The tensors of one layer.
#[derive(Debug)]
struct Lily {
    /// `[r, in_features]`
    a: Shared,
    /// `[num_B * r, out_features]`
    b: Shared,
    /// `[num_B, r]`
    router: Array2<f32>,
    router_key: String,
    scaling: f32,
}

/// A tensor that several layers share, and its key in the first one.
#[derive(Debug, Clone)]
struct Shared {
    key: String,
    values: Arc<Array2<f32>>,
}

/// What the layers of one name and shape share.
#[derive(Debug, Default)]
struct SharedFactors {
    layers: usize,
    a: Option<Shared>,
    b: Option<Shared>,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "LILY",
    class: Class::Unmergeable,
    variants: "stride_A",
    refused: "the head as a target",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let r = rank(config, "r", 32)?;
    let stride = config.optional_size("stride_A")?.unwrap_or(1);
    let experts = rank(config, "num_B", 2)?;
    if experts < 2 {
        return Err(config.wrong("num_B", "an integer of at least 2").into());
    }
    let scaling = factor(config, "scaling", 1.0)? as f32;
    let second = config.flag("init_weights", true)?;
    let head = loading.base.spec.lm_head.path.clone();

    let tuner = Tuner::open(loading, QUERY_VALUE, None)?;
    let layers = tuner.layers()?;
    if layers.iter().any(|layer| layer.path() == head) {
        let reason = format!(
            "it selects `{head}`, whose router would average over the positions that logits are computed for"
        );
        return Err(config.refused("target_modules", &reason).into());
    }
    let names = Names::read(config, layers.len())?;
    let mut groups: HashMap<(String, usize, usize), SharedFactors> = HashMap::new();
    let mut shared = 0;
    let mut effects = tuner.adapt(|tensors, layer| {
        let name = names.of(config, layer.path())?;
        let group = groups.entry((name, layer.out_features, layer.in_features));
        let group = group.or_default();
        if group.layers.is_multiple_of(stride) {
            group.a = None;
        }
        group.layers += 1;
        let first = Init::linear_default(layer.in_features);
        let shape = [r, layer.in_features];
        shared += share(&mut group.a, tensors, layer, "lily_A.weight", shape, first)?;
        let init = match second {
            true => Init::Zeros,
            false => Init::linear_default(layer.out_features),
        };
        let shape = [experts * r, layer.out_features];
        shared += share(&mut group.b, tensors, layer, "lily_B.weight", shape, init)?;
        let router_key = layer.key("lily_router.weight");
        let held = |tensor: &Option<Shared>| tensor.clone().expect("it was taken above");
        Ok(Lily {
            a: held(&group.a),
            b: held(&group.b),
            router: tensors.matrix(&router_key, [experts, r], Init::linear_default(r))?,
            router_key: tensors.full_key(&router_key),
            scaling,
        })
    })?;
    effects.shared_params += shared;
    effects.unmergeable = Some("mixes its experts differently in every call");
    effects.whole_calls = true;
    Ok(effects)
}

/// Reads the tensor `name` of `layer` into `shared`, unless another layer has done so; then both
/// must be equal. Returns the number of parameters that it adds.
fn share(
    shared: &mut Option<Shared>,
    tensors: &mut AdapterTensors,
    layer: &TargetLinear,
    name: &str,
    shape: [usize; 2],
    init: Init,
) -> Result<usize, AdapterError> {
    let key = layer.key(name);
    let Some(first) = shared else {
        let values = Arc::new(tensors.matrix(&key, shape, init)?);
        let (key, added) = (tensors.full_key(&key), values.len());
        *shared = Some(Shared { key, values });
        return Ok(added);
    };
    if !tensors.is_fresh() && *first.values != tensors.matrix(&key, shape, init)? {
        return Err(tensors.layout(format!(
            "tensor `{}` differs from `{}`, which is the same tensor in the model",
            tensors.full_key(&key),
            first.key
        )));
    }
    Ok(0)
}

/// How layers are grouped by name in `target_modules`.
#[derive(Debug)]
enum Names {
    /// A regular expression: all layers have one name.
    One,
    /// A list: a layer's name is the entry that ends its path, at a dot or not.
    List(Vec<String>),
    /// `all-linear`, for which PEFT lists the paths, with many layers: a name is the path's last
    /// segment.
    Last,
    /// `all-linear` with few layers: a name is the whole path.
    Path,
}

impl Names {
    fn read(config: &JsonObject, layers: usize) -> Result<Self, ConfigError> {
        /// The number of layers from which PEFT shortens paths.
        const LONG: usize = 20;
        const KEY: &str = "target_modules";
        Ok(match config.get(KEY) {
            Some(serde_json::Value::String(text)) if text.eq_ignore_ascii_case("all-linear") => {
                match layers {
                    LONG.. => Self::Last,
                    _ => Self::Path,
                }
            }
            Some(serde_json::Value::String(_)) => Self::One,
            Some(_) => Self::List(config.optional_texts(KEY)?.unwrap_or_default()),
            None => Self::Last,
        })
    }

    fn of(&self, config: &JsonObject, path: &str) -> Result<String, ConfigError> {
        match self {
            Self::One => Ok(String::new()),
            Self::Path => Ok(path.to_owned()),
            Self::Last => Ok(last_name(path).to_owned()),
            Self::List(names) => {
                let mut ends: Vec<&String> =
                    names.iter().filter(|name| path.ends_with(*name)).collect();
                ends.dedup();
                match ends[..] {
                    [name] => Ok(name.clone()),
                    _ => {
                        let reason = format!(
                            "several of its entries end `{path}`, and PEFT picks one of them at random"
                        );
                        Err(config.refused("target_modules", &reason))
                    }
                }
            }
        }
    }
}

impl Lily {
    fn tensors(&self) -> Vec<FormTensor<'_>> {
        vec![
            FormTensor::stored(&self.a.key, &self.a.values, TensorRole::Term),
            FormTensor::scaled(&self.b.key, &self.b.values, self.scaling, TensorRole::Term),
            FormTensor::stored(&self.router_key, &self.router, TensorRole::Map),
        ]
    }

    /// `h`, `[batch, sequence, r]`, and `p`, `[1, 1, num_B]`.
    fn routed(&self, site: &mut NativeSite) -> (Value, Value) {
        let [a, router] = [0, 2].map(|index| site.inputs[index].clone());
        let x = site.x.clone();
        let inner = site.matmul_transposed("A/MatMul", &x, &a);
        let logits = site.matmul_transposed("router/MatMul", &inner, &router);
        let softmax = site.name("router/Softmax");
        let last = [("axis", Attr::Int(-1))];
        let each = site.graph.op("Softmax", &softmax, &[&logits], &last);
        let axes = site.graph.constant_i64("axes_0_1", &[0, 1], false);
        (
            inner,
            site.op("ReduceMean", "router/ReduceMean", &[&each, &axes]),
        )
    }
}

impl ModuleAdapter for Lily {
    /// Each expert gets `h` times its share of the mixture: one product for all experts.
    fn form(&self) -> Form<'_> {
        Form::Native(NativeForm::new(self.tensors(), |site| {
            let (inner, shares) = self.routed(site);
            let axis = site.graph.constant_i64("last_axis", &[3], false);
            let axis_2 = site.graph.constant_i64("axis_2", &[2], false);
            let shares = site.op("Unsqueeze", "shares", &[&shares, &axis]);
            let inner = site.op("Unsqueeze", "inner", &[&inner, &axis_2]);
            let blocks = site.op("Mul", "blocks", &[&inner, &shares]);
            let joined = site.name("joined");
            let joined = site.graph.reshape(&joined, &blocks, &[0, 0, -1]);
            let b = site.inputs[1].clone();
            let delta = site.op("MatMul", "B/MatMul", &[&joined, &b]);
            site.base_plus(&delta)
        }))
    }

    /// As in PEFT: mixes the experts first.
    fn native(&self) -> Native<'_> {
        Native::Own(NativeForm::new(self.tensors(), |site| {
            let (inner, shares) = self.routed(site);
            let (experts, r) = self.router.dim();
            let out = self.b.values.ncols();
            let all = site.inputs[1].clone();
            let mut reshape = |name: &str, x: &Value, shape: &[i64]| {
                let name = site.name(name);
                site.graph.reshape(&name, x, shape)
            };
            let b = reshape("experts", &all, &[experts as i64, -1]);
            let shares = reshape("shares", &shares, &[1, -1]);
            let mixed = site.op("MatMul", "mix", &[&shares, &b]);
            let name = site.name("mixed");
            let mixed = site.graph.reshape(&name, &mixed, &[r as i64, out as i64]);
            let delta = site.op("MatMul", "B/MatMul", &[&inner, &mixed]);
            site.base_plus(&delta)
        }))
    }

    /// Shared tensors are counted once, by [`load`].
    fn trainable_params(&self) -> usize {
        self.router.len()
    }
}
