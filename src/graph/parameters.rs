//! The source of each parameter of a model: the base's files, a merge's overlay file, or a graph
//! input.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::arch::DecoderSpec;
use crate::model::find_base_tensor;
use crate::quantize::QuantizedWeight;
use crate::weights::{TensorLocation, TensorStore, WeightsError};

/// The source of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    /// A tensor in a safetensors file.
    Stored(TensorLocation),
    /// A quantized tensor in a safetensors file: codes and scales.
    Quantized(QuantizedWeight),
    /// An input of the graph.
    Input {
        /// The input's name.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
}

impl Parameter {
    /// Mutable paths of the files that hold it.
    pub fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::Stored(location) => vec![&mut location.path],
            Self::Quantized(weight) => {
                let more = [&mut weight.zeros, &mut weight.order];
                let spans = [&mut weight.codes, &mut weight.scales];
                let all = spans.into_iter().chain(more.into_iter().flatten());
                all.map(|span| &mut span.path).collect()
            }
            Self::Input { .. } => Vec::new(),
        }
    }
}

/// All parameters of a model by name, such as `model.layers.0.self_attn.q_proj.weight`.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    all: BTreeMap<String, Parameter>,
    /// Paths of the linear layers whose weight is stored as `[in_features, out_features]`.
    stored_in_out: BTreeSet<String>,
}

impl Parameters {
    /// Finds all parameters of `spec` in the base's checkpoint and checks their shapes.
    ///
    /// # Errors
    /// If a tensor is missing, or has another shape or an unsupported dtype.
    pub fn of_base(spec: &DecoderSpec, base: &TensorStore) -> Result<Self, WeightsError> {
        Self::of_base_but(spec, base, &|_| false, &|_| None)
    }

    /// [`of_base`](Self::of_base) without the parameters that are `replaced`. The base may have
    /// them in another shape, or not at all, as after a resize of its vocabulary. `kept` says where
    /// a weight is that the base stores quantized, by its name in the checkpoint.
    ///
    /// # Errors
    /// If a tensor is missing, or has another shape or an unsupported dtype.
    pub fn of_base_but(
        spec: &DecoderSpec,
        base: &TensorStore,
        replaced: &dyn Fn(&str) -> bool,
        kept: &dyn Fn(&str) -> Option<Parameter>,
    ) -> Result<Self, WeightsError> {
        let mut found = Self::default();
        for module in spec.modules() {
            if module.is_stored_in_out() {
                found.stored_in_out.insert(module.path.clone());
            }
            for (name, shape) in module.parameters() {
                let path = format!("{}.{name}", module.path);
                if replaced(&path) {
                    continue;
                }
                let source = module.tensor(name);
                let tensor = find_base_tensor(spec, base, &source)?;
                tensor.expect_shape(&shape)?;
                let place = match kept(tensor.name).filter(|_| tensor.is_packed()) {
                    Some(Parameter::Quantized(weight)) => {
                        Parameter::Quantized(weight.first_rows(tensor.shape[0]))
                    }
                    Some(Parameter::Stored(mut location)) => {
                        location.shape[0] = tensor.shape[0];
                        let elements = tensor.elements() as u64;
                        location.length = elements * location.dtype.size() as u64;
                        Parameter::Stored(location)
                    }
                    _ => Parameter::Stored(tensor.location()?),
                };
                found.all.insert(path, place);
            }
        }
        Ok(found)
    }

    /// Whether the weight of the linear layer at `path` is stored as `[in_features, out_features]`.
    pub fn is_stored_in_out(&self, path: &str) -> bool {
        self.stored_in_out.contains(path)
    }

    /// Marks the weight of the linear layer at `path` as stored as `[in_features, out_features]`.
    pub fn set_stored_in_out(&mut self, path: &str) {
        self.stored_in_out.insert(path.to_owned());
    }

    /// The source of parameter `name`, if the model has it.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.all.get(name)
    }

    /// All parameters, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Parameter)> {
        self.all
            .iter()
            .map(|(name, origin)| (name.as_str(), origin))
    }

    /// All parameters, mutable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Parameter)> {
        self.all
            .iter_mut()
            .map(|(name, origin)| (name.as_str(), origin))
    }

    /// Sets the source of parameter `name`, or adds it.
    pub fn set(&mut self, name: &str, origin: Parameter) {
        self.all.insert(name.to_owned(), origin);
    }
}
