//! Which tensors a checkpoint has, and where the values of each come from.

use std::collections::{BTreeMap, BTreeSet};

use crate::adapter::{Adapter, AdapterError};
use crate::arch::{DecoderSpec, Module, ModuleKind};
use crate::model::BaseModel;
use crate::prepare::PrepareError;
use crate::prepare::merge::{Change, head_follows};
use crate::weights::{Dtype, TensorPlan, TensorView};

/// The tensors of a checkpoint.
#[derive(Debug)]
pub struct Layout<'a> {
    /// In the order of the model's modules.
    pub tensors: Vec<Tensor<'a>>,
    /// Whether the head shares the embedding's tensor; then it has no weight of its own.
    pub tied: bool,
    /// Keys of `config.json` that give modules the biases that the adapter adds.
    pub bias_keys: BTreeSet<&'static str>,
    /// Tensors of the base that nothing uses.
    pub dropped: Vec<String>,
    /// What parameters are called that have another name in checkpoints.
    names: BTreeMap<String, String>,
}

/// One tensor.
#[derive(Debug)]
pub struct Tensor<'a> {
    /// Name, dtype and shape.
    pub plan: TensorPlan,
    /// Its values.
    pub values: Values<'a>,
}

/// Where values come from.
#[derive(Debug)]
pub enum Values<'a> {
    /// The merge.
    Merged,
    /// The base.
    Stored(TensorView<'a>),
    /// A bias that Transformers asks for because another module has one.
    Zeros,
}

impl Tensor<'_> {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.plan.shape.iter().product()
    }
}

impl<'a> Layout<'a> {
    /// Lays out `modules`, the architecture of `adapter` if there is one, after `changes`.
    ///
    /// # Errors
    /// If a tensor of the base is missing or has another shape, or the adapter adds a bias that
    /// Transformers has no place for.
    pub fn new(
        base: &'a BaseModel,
        adapter: Option<&Adapter>,
        modules: &[Module],
        changes: &[Change],
        dtype: Option<Dtype>,
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
        let mut used = BTreeSet::new();
        let mut names = BTreeMap::new();
        for module in modules {
            let shares_weight = tied && module.path == spec.lm_head.path;
            let mut own_dtype = Dtype::Float32;
            for (name, shape) in module.parameters() {
                if shares_weight && name == "weight" {
                    continue;
                }
                let stored = base.tensor(&module.tensor(name))?;
                stored.expect_shape(&shape)?;
                used.insert(stored.name);
                own_dtype = dtype.unwrap_or(stored.dtype()?);
                let place = format!("{}.{name}", module.path);
                let values = match changed.contains(&place) {
                    true => Values::Merged,
                    false => Values::Stored(stored),
                };
                let name = format!("{}.{name}", module.stored_path());
                tensors.push(tensor(name.clone(), own_dtype, shape, values));
                if name != place {
                    names.insert(place, name);
                }
            }
            let key = bias_key(spec, &module.path).filter(|_| lacks_bias(module));
            if key.is_some_and(|key| bias_keys.contains(key)) {
                let name = format!("{}.bias", module.path);
                let rows = module.parameters().swap_remove(0).1[0];
                let values = match changed.contains(&name) {
                    true => Values::Merged,
                    false => Values::Zeros,
                };
                tensors.push(tensor(name, own_dtype, vec![rows], values));
            }
        }
        let dropped = base.store.names().filter(|name| !used.contains(name));
        Ok(Self {
            tensors,
            tied,
            bias_keys,
            dropped: dropped.map(str::to_owned).collect(),
            names,
        })
    }

    /// What the parameter `name` is called in the checkpoint.
    pub fn name_of<'b>(&'b self, name: &'b str) -> &'b str {
        self.names.get(name).map_or(name, String::as_str)
    }
}

fn tensor(name: String, dtype: Dtype, shape: Vec<usize>, values: Values) -> Tensor {
    Tensor {
        plan: TensorPlan { name, dtype, shape },
        values,
    }
}

/// Whether it's a linear layer without a bias in the base.
fn lacks_bias(module: &Module) -> bool {
    matches!(module.kind, ModuleKind::Linear { bias: false, .. })
}

fn no_place(adapter: &Adapter, module: &Module) -> PrepareError {
    let reason = format!(
        "it adds a bias to `{}`, which Transformers' `{}` models have no place for",
        module.path, adapter.spec.model_type
    );
    let option = match adapter.peft_type.as_str() {
        "LORA" => "lora_bias",
        _ => "target_modules",
    };
    AdapterError::from(adapter.config.refused(option, &reason)).into()
}

/// The key of `config.json` that gives the linear layer at `path` a bias, and others with it.
fn bias_key(spec: &DecoderSpec, path: &str) -> Option<&'static str> {
    spec.linears()
        .find(|linear| linear.path == path)
        .and_then(|linear| linear.bias_key)
}
