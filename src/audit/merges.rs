//! What the tensors that an adapter changes become, in the ways in which they may be merged.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::json;

use crate::adapter::folder::{CONFIG, WEIGHTS};
use crate::adapter::{Adapter, AdapterError, ValuesFrom};
use crate::arch::Module;
use crate::files::temporary_folder;
use crate::json::JsonObject;
use crate::model::BaseModel;
use crate::prepare::Change;
use crate::weights::{BytesPlan, Dtype, SafetensorsWriter, TensorStore, round_to};

/// An adapter and its base, as they're loaded.
#[derive(Debug, Clone, Copy)]
pub struct Ingredients<'a> {
    /// The base, with the adapter's vocabulary size.
    pub base: &'a BaseModel,
    /// The adapter.
    pub adapter: &'a Adapter,
    /// The adapter's folder.
    pub folder: &'a Path,
    /// Where its values come from.
    pub values: ValuesFrom,
    /// The seed of fresh values.
    pub seed: u64,
    /// The task, for adapters with several.
    pub task_id: Option<usize>,
}

/// A way to merge.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// The dtype that the base's weights are rounded to before the merge, as by a program that
    /// loads the base in it.
    pub rounded_base: Option<Dtype>,
    /// How often the adapter is merged.
    pub times: usize,
}

/// The right way.
pub const ONCE: Way = Way {
    rounded_base: None,
    times: 1,
};

/// The values of the parameters that `change` changes, in the order of [`Change::parameters`].
///
/// # Errors
/// If values can't be read, or the adapter's can't be used with them.
pub fn merged(
    change: &Change,
    base: &BaseModel,
    adapter: &Adapter,
    way: Way,
) -> Result<Vec<Vec<f32>>, AdapterError> {
    let (module, own) = match change {
        Change::Module { module, adapter } => (module, adapter),
        Change::Parameter { replacement, .. } => {
            return Ok(vec![adapter.replacement_values(base, replacement)?]);
        }
    };
    let mut weights = adapter.read_module(base, module)?;
    if let Some(dtype) = way.rounded_base {
        weights.weight.mapv_inplace(|value| round_to(value, dtype));
        if let Some(bias) = &mut weights.bias {
            bias.mapv_inplace(|value| round_to(value, dtype));
        }
    }
    for _ in 0..way.times {
        own.merge_into(&mut weights)?;
    }
    if module.is_stored_in_out() {
        weights.weight.swap_axes(0, 1);
    }
    let mut all = vec![weights.weight.iter().copied().collect()];
    if change.parameters().len() > 1 {
        all.extend(weights.bias.map(|bias| bias.to_vec()));
    }
    Ok(all)
}

/// The base's values of the parameter `name`, of `module`; zeros in place of rows or a bias that it
/// doesn't have.
///
/// # Errors
/// If they can't be read.
pub fn base_values(
    base: &BaseModel,
    module: &Module,
    name: &str,
    elements: usize,
) -> Result<Vec<f32>, AdapterError> {
    let has = module.parameters().iter().any(|(own, _)| *own == name);
    let mut values = match has {
        true => base.values_of(&module.tensor(name))?,
        false => Vec::new(),
    };
    values.resize(elements, 0.0);
    Ok(values)
}

/// The adapter, altered in ways that are common mistakes or common practice. Each is loaded when
/// it's needed first.
#[derive(Debug)]
pub struct Alternatives<'a> {
    ingredients: Ingredients<'a>,
    rounded: [OnceLock<Option<Adapter>>; 2],
    without_magnitudes: OnceLock<Option<Adapter>>,
}

/// The 16-bit dtypes.
const NARROW: [Dtype; 2] = [Dtype::BFloat16, Dtype::Float16];

/// The end of the names of DoRA's magnitudes.
const MAGNITUDE: &str = "lora_magnitude_vector";

const USE_DORA: &str = "use_dora";

impl<'a> Alternatives<'a> {
    /// Those of `ingredients`.
    pub fn of(ingredients: Ingredients<'a>) -> Self {
        Self {
            ingredients,
            rounded: Default::default(),
            without_magnitudes: OnceLock::new(),
        }
    }

    /// The adapter rounded to bfloat16 and to float16; a fresh one, or one that can't be, isn't.
    pub fn rounded(&self) -> impl Iterator<Item = &Adapter> {
        let pairs = self.rounded.iter().zip(NARROW);
        pairs.filter_map(|(cell, dtype)| {
            let load = || self.load(|_| true, Some(dtype), |config| config);
            cell.get_or_init(load).as_ref()
        })
    }

    /// A DoRA adapter read as plain LoRA.
    pub fn without_magnitudes(&self) -> Option<&Adapter> {
        let load = || {
            let own = &self.ingredients.adapter.config;
            let is_dora = own.get(USE_DORA).and_then(serde_json::Value::as_bool);
            is_dora.filter(|is_dora| *is_dora)?;
            let kept = |name: &str| !name.contains(MAGNITUDE);
            self.load(kept, None, |config| config.with(USE_DORA, json!(false)))
        };
        self.without_magnitudes.get_or_init(load).as_ref()
    }

    /// The adapter with the tensors that `keep` keeps, rounded to `dtype`. `None` where it's fresh,
    /// or isn't an adapter any more: then there's nothing to compare with.
    fn load(
        &self,
        keep: impl Fn(&str) -> bool,
        dtype: Option<Dtype>,
        config: impl Fn(JsonObject) -> JsonObject,
    ) -> Option<Adapter> {
        let own = self.ingredients;
        if own.adapter.is_fresh() {
            return None;
        }
        let folder = temporary_folder::scratch().ok()?;
        let altered = config(JsonObject::read(&own.folder.join(CONFIG)).ok()?);
        fs::write(folder.path().join(CONFIG), altered.json().to_string()).ok()?;
        let store = crate::adapter::folder::open(own.folder, &altered, own.values).ok()??;
        copy(&store, &folder.path().join(WEIGHTS), keep, dtype).ok()?;
        let (base, seed) = (own.base, own.seed);
        let loaded =
            Adapter::load_for_task(folder.path(), base, seed, ValuesFrom::Trained, own.task_id);
        loaded.ok()
    }
}

/// Copies the tensors of `store` that `keep` keeps to the file `path`. Floats are rounded to
/// `dtype`, and stored in float32.
fn copy(
    store: &TensorStore,
    path: &Path,
    keep: impl Fn(&str) -> bool,
    dtype: Option<Dtype>,
) -> Result<(), AdapterError> {
    let names: Vec<&str> = store.names().filter(|name| keep(name)).collect();
    let mut plans = Vec::new();
    for name in &names {
        let tensor = store.get(name)?;
        plans.push(BytesPlan {
            name: (*name).to_owned(),
            stored: match tensor.dtype() {
                Ok(_) => safetensors::Dtype::F32,
                Err(_) => tensor.stored,
            },
            shape: tensor.shape.clone(),
        });
    }
    let writer = SafetensorsWriter::create_with(path, &plans, &[])?;
    for name in names {
        let tensor = store.get(name)?;
        if tensor.dtype().is_err() {
            writer.write_bytes(name, tensor.bytes)?;
            continue;
        }
        let mut values = tensor.to_f32()?;
        if let Some(dtype) = dtype {
            for value in &mut values {
                *value = round_to(*value, dtype);
            }
        }
        writer.write(name, &values)?;
    }
    writer.finish()?;
    Ok(())
}
