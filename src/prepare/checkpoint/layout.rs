//! Which tensors a checkpoint has, and the source of each one's values.

use std::collections::{BTreeMap, BTreeSet};

use super::packed::Packing;
use crate::adapter::{Adapter, AdapterError};
use crate::arch::{DecoderSpec, Module, ModuleKind, bare};
use crate::model::BaseModel;
use crate::prepare::PrepareError;
use crate::prepare::merge::{Change, head_follows};
use crate::weights::{BytesPlan, Dtype, TensorSlice, TensorView};

/// The tensors of a checkpoint.
#[derive(Debug)]
pub struct Layout<'a> {
    /// In the order of the model's modules.
    pub tensors: Vec<Tensor<'a>>,
    /// Whether the head shares the embedding's tensor; then it has no weight of its own.
    pub tied: bool,
    /// Keys of `config.json` that give modules the biases that the adapter adds.
    pub bias_keys: BTreeSet<&'static str>,
    /// Tensors of the base that the architecture doesn't use.
    pub dropped: Vec<String>,
    /// Linear layers of a packed checkpoint whose weights aren't packed.
    pub float: BTreeSet<String>,
    /// Parts of a multimodal checkpoint that don't belong to its text model.
    pub towers: BTreeSet<String>,
    /// For parameters that are stored under another name: the tensor, and the parameter's first
    /// element in it.
    places: BTreeMap<String, (String, usize)>,
}

/// One tensor.
#[derive(Debug)]
pub struct Tensor<'a> {
    /// Name, dtype and shape.
    pub plan: BytesPlan,
    /// How it's packed, if it's quantized.
    pub packing: Option<Packing>,
    /// Where its values come from.
    pub values: ValueSource<'a>,
}

/// Where a tensor's values come from.
#[derive(Debug)]
pub enum ValueSource<'a> {
    /// The merge.
    Merged,
    /// The base.
    Stored(TensorView<'a>),
    /// The base for these slices, each with its first element, and the merge for the others.
    Slices(Vec<(usize, TensorView<'a>)>),
    /// Zeros: a bias that Transformers expects because another module has one.
    Zeros,
}

impl Tensor<'_> {
    /// The stored tensors: itself, or those that it's packed into.
    pub fn plans(&self) -> Vec<BytesPlan> {
        match self.packing {
            Some(packing) => packing.plans(&self.plan),
            None => vec![self.plan.clone()],
        }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.plan.shape.iter().product()
    }
}

impl<'a> Layout<'a> {
    /// Lays out `modules`, those of the adapter's architecture or the base's, after `changes`.
    ///
    /// # Errors
    /// If a tensor of the base is missing or has another shape, or the adapter adds a bias that
    /// Transformers' model class can't hold.
    pub fn new(
        base: &'a BaseModel,
        adapter: Option<&Adapter>,
        modules: &[Module],
        changes: &[Change],
        dtype: Option<Dtype>,
        packing: Option<Packing>,
    ) -> Result<Self, PrepareError> {
        let spec = adapter.map_or(&base.spec, |adapter| &adapter.spec);
        let changed: BTreeSet<String> = changes
            .iter()
            .flat_map(Change::parameters)
            .map(|(name, _)| name)
            .collect();
        let tied = spec.tied() && {
            let apart = [&spec.embed_tokens.path, &spec.lm_head.path]
                .iter()
                .any(|path| changed.contains(&format!("{path}.weight")));
            !apart || adapter.is_some_and(head_follows)
        };

        let mut bias_keys = BTreeSet::new();
        for module in modules.iter().filter(|module| lacks_bias(module)) {
            if !changed.contains(&format!("{}.bias", module.path)) {
                continue;
            }
            match (bias_key(spec, &module.path), adapter) {
                (Some(key), _) => bias_keys.insert(key),
                (None, Some(adapter)) => return Err(no_place(adapter, module)),
                (None, None) => unreachable!("only an adapter adds a bias"),
            };
        }

        let mut tensors = Vec::new();
        // A tied head has no tensor, but is a linear layer all the same.
        let mut float = BTreeSet::from([spec.lm_head.path.clone()]);
        let mut used = BTreeSet::new();
        let mut places = BTreeMap::new();
        let mut stacks: BTreeMap<String, usize> = BTreeMap::new();
        for module in modules {
            let shares_weight = tied && module.path == spec.lm_head.path;
            let mut own_dtype = Dtype::Float32;
            for (name, shape) in module.parameters() {
                if shares_weight && name == "weight" {
                    continue;
                }
                let stored = base.tensor(&module.tensor(name))?;
                let place = format!("{}.{name}", module.path);
                let replaced =
                    adapter.is_some_and(|adapter| adapter.replaced().contains_key(&place));
                if !replaced {
                    stored.expect_shape(&shape)?;
                }
                own_dtype = match dtype {
                    Some(dtype) => dtype,
                    None if stored.is_packed() => float_dtype(base),
                    None => stored.dtype()?,
                };
                let is_changed = changed.contains(&place);
                if let Some(slice) = base.store.slice(stored.name) {
                    let whole = base.store.get(&slice.whole)?;
                    used.insert(whole.name);
                    let name = stack_name(&module.stored_path(spec), slice);
                    let index = *stacks.entry(name.clone()).or_insert_with(|| {
                        let shape = whole.shape.to_owned();
                        let values = ValueSource::Slices(Vec::new());
                        tensors.push(tensor(name.clone(), own_dtype, shape, values));
                        tensors.len() - 1
                    });
                    places.insert(place, (name, slice.first));
                    if let (false, ValueSource::Slices(slices)) =
                        (is_changed, &mut tensors[index].values)
                    {
                        slices.push((slice.first, stored));
                    }
                    continue;
                }
                used.insert(stored.name);
                let values = match is_changed {
                    true => ValueSource::Merged,
                    false => ValueSource::Stored(stored),
                };
                let is_linear = matches!(module.kind, ModuleKind::Linear { .. });
                let packed =
                    packing.filter(|packing| name == "weight" && packing.packs(module, spec));
                if packing.is_some() && packed.is_none() && is_linear && name == "weight" {
                    float.insert(module.stored_path(spec));
                }
                let name = format!("{}.{name}", known_path(module, spec));
                tensors.push(Tensor {
                    packing: packed,
                    ..tensor(name.clone(), own_dtype, shape, values)
                });
                if name != place {
                    places.insert(place, (name, 0));
                }
            }
            let key = bias_key(spec, &module.path).filter(|_| lacks_bias(module));
            if key.is_some_and(|key| bias_keys.contains(key)) {
                let place = format!("{}.bias", module.path);
                let rows = module.parameters().swap_remove(0).1[0];
                let values = match changed.contains(&place) {
                    true => ValueSource::Merged,
                    false => ValueSource::Zeros,
                };
                let name = spec.stored_parameter(&place);
                tensors.push(tensor(name.clone(), own_dtype, vec![rows], values));
                if name != place {
                    places.insert(place, (name, 0));
                }
            }
        }
        let towers = other_towers(spec, base);
        // What quantized weights are stored in isn't needed beside their values.
        let is_part = |name: &str| base.stored.as_ref().is_some_and(|all| all.has_part(name));
        let mut left: Vec<&str> = base.store.names_of_values().collect();
        left.sort_unstable();
        left.dedup();
        let left = left
            .into_iter()
            .filter(|name| !used.contains(name) && !is_part(name));
        let (others, dropped): (Vec<&str>, Vec<&str>) =
            left.partition(|name| towers.contains(name));
        for name in others {
            let stored = base.store.get(name)?;
            // Tensors of other than float types (such as positions) are copied unchanged.
            let stored_dtype = match (dtype, stored.dtype()) {
                (Some(dtype), Ok(_)) => dtype.to_safetensors(),
                (None, _) if stored.is_packed() => float_dtype(base).to_safetensors(),
                _ => stored.stored,
            };
            tensors.push(Tensor {
                packing: None,
                plan: BytesPlan {
                    name: name.to_owned(),
                    stored: stored_dtype,
                    shape: stored.shape.to_owned(),
                },
                values: ValueSource::Stored(stored),
            });
        }
        Ok(Self {
            tensors,
            tied,
            bias_keys,
            dropped: dropped.into_iter().map(str::to_owned).collect(),
            float,
            towers: towers.iter().filter_map(|name| first_part(name)).collect(),
            places,
        })
    }

    /// Where the parameter `name` is in the checkpoint: its tensor, and its first element there.
    pub fn place_of<'b>(&'b self, name: &'b str) -> (&'b str, usize) {
        let place = self.places.get(name);
        place.map_or((name, 0), |(tensor, first)| (tensor, *first))
    }
}

/// The module's name in a checkpoint that older releases of Transformers read too: before 5 they call
/// the head of GPT-NeoX `embed_out`, and 5 still reads that.
fn known_path(module: &Module, spec: &DecoderSpec) -> String {
    match spec.model_type == "gpt_neox" && module.path == spec.lm_head.path {
        true => "embed_out".to_owned(),
        false => module.stored_path(spec),
    }
}

/// The dtype that a quantized base has its floats in: that of its embedding.
fn float_dtype(base: &BaseModel) -> Dtype {
    let name = format!("{}.weight", base.spec.embed_tokens.source);
    let embedding = base.tensor(&name).ok().filter(|found| !found.is_packed());
    let dtype = embedding.and_then(|found| found.dtype().ok());
    dtype.unwrap_or(Dtype::Float32)
}

/// Tensors of a multimodal wrapper that don't belong to the text tower.
fn other_towers<'a>(spec: &DecoderSpec, base: &'a BaseModel) -> BTreeSet<&'a str> {
    if spec.tower.is_none() {
        return BTreeSet::new();
    }
    let own = spec.modules();
    let own: BTreeSet<Option<String>> = own.iter().map(|module| first_part(&module.path)).collect();
    let names = base.store.names_of_values();
    names
        .filter(|name| !own.contains(&first_part(name)))
        .collect()
}

/// The first part of a name without the enclosing modules: `layers`, `vision_tower`.
fn first_part(name: &str) -> Option<String> {
    bare(name).split('.').next().map(str::to_owned)
}

/// The name of the tensor that stacks the weights of all experts of a layer: the base's, with the
/// number of the layer of `path`, one of these experts.
fn stack_name(path: &str, slice: &TensorSlice) -> String {
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let mut own = path.split('.');
    let parts = slice.whole.split('.').map(|stored| match own.next() {
        Some(own) if is_number(own) && is_number(stored) => own,
        _ => stored,
    });
    parts.collect::<Vec<&str>>().join(".")
}

fn tensor(name: String, dtype: Dtype, shape: Vec<usize>, values: ValueSource) -> Tensor {
    Tensor {
        plan: BytesPlan {
            name,
            stored: dtype.to_safetensors(),
            shape,
        },
        packing: None,
        values,
    }
}

/// Whether `module` is a linear layer without a bias in the base.
fn lacks_bias(module: &Module) -> bool {
    matches!(module.kind, ModuleKind::Linear { bias: false, .. })
}

fn no_place(adapter: &Adapter, module: &Module) -> PrepareError {
    let reason = format!(
        "it adds a bias to `{}`, which Transformers' `{}` models can't have",
        module.path, adapter.spec.model_type
    );
    let option = match adapter.peft_type.as_str() {
        "LORA" => "lora_bias",
        _ => "target_modules",
    };
    AdapterError::from(adapter.config.refused(option, &reason)).into()
}

/// The key of `config.json` that gives the linear layer at `path` (and perhaps others) a bias.
fn bias_key(spec: &DecoderSpec, path: &str) -> Option<&'static str> {
    spec.linears()
        .find(|linear| linear.path == path)
        .and_then(|linear| linear.bias_key)
}
