//! One unmerged graph for several adapters.

use std::path::Path;

use super::absorbed::check_absorbs;
use super::export::{Shared, absolute, base_parameters_but, set_inputs_of_network};
use super::quantized::check_runs_on_quantized;
use super::{Preparation, PrepareError};
use crate::adapter::{Adapter, AdapterForm, AdapterSet};
use crate::experiment::Experiment;
use crate::graph::proto::Model;
use crate::graph::{Export, Parameter, build};
use crate::model::BaseModel;
use crate::prepared::Variant;

impl Preparation<'_> {
    /// Loads the adapters of `experiments` for one unmerged graph, and the base as they see it.
    ///
    /// # Errors
    /// If one can't be loaded or run on the base's weights.
    pub fn load_unmerged(
        &self,
        experiments: &[&Experiment],
    ) -> Result<(BaseModel, Vec<Adapter>), PrepareError> {
        let quantized = self.quantized_file(&|_| {})?;
        let seen = self.base_seen_by(Variant::Unmerged, quantized.as_ref());
        let base = seen.unwrap_or_else(|| self.base.clone());
        let mut adapters = Vec::with_capacity(experiments.len());
        for experiment in experiments {
            let (folder, values) = (&experiment.folder, experiment.values);
            let adapter = Adapter::load_for_task(folder, &base, self.seed, values, self.task_id)?;
            let adapter = adapter.with_form(AdapterForm::Reduced)?;
            check_absorbs(&adapter)?;
            if let Some(quantization) = self.precision.quantization {
                check_runs_on_quantized(&adapter, quantization)?;
            }
            adapters.push(adapter);
        }
        Ok((base, adapters))
    }

    /// Builds the graph of `set`. Locations of its external data are relative to `folder`, which is
    /// absolute.
    ///
    /// # Errors
    /// If a parameter is missing.
    pub fn shared_graph(&self, set: &AdapterSet, folder: &Path) -> Result<Model, PrepareError> {
        let quantized = self.quantized_file(&|_| {})?;
        let spec = &set.adapters()[0].spec;
        let repacked = self.repacked(&|_| {})?;
        let shared = Shared {
            quantized: quantized.as_deref(),
            repacked: repacked.as_deref(),
        };
        let mut parameters = base_parameters_but(self, spec, shared, &|name| {
            let mut adapters = set.adapters().iter();
            adapters.any(|adapter| adapter.replaced().contains_key(name))
        })?;
        for (name, replacement) in set.replacements() {
            let origin = Parameter::Input {
                name: replacement.input.clone(),
                shape: replacement.shape.clone(),
            };
            parameters.set(name, origin);
        }
        for adapter in set.adapters() {
            set_inputs_of_network(&mut parameters, adapter);
        }
        let parameters = absolute(parameters);
        let export = Export {
            spec,
            adaptation: Some(set),
        };
        Ok(build(
            &export,
            &parameters,
            self.precision.arithmetic(),
            folder,
        ))
    }
}
