//! Writes the folder of one variant: graph, adapter tensors, manifest.

use std::fs;
use std::path::Path;
use std::time::Instant;

use prost::Message;

use super::absorbed::check_absorbs;
use super::describe::describe;
use super::merge::{OVERLAY, merge};
use super::quantized::{check_runs_on_quantized, take_quantized};
use super::repacked::Repacked;
use super::residuals::{Residuals, write_residuals};
use super::{Preparation, PrepareError};
use crate::adapter::{Adapter, GraphInput};
use crate::arch::DecoderSpec;
use crate::experiment::Experiment;
use crate::files::temporary_folder;
use crate::files::write_file;
use crate::graph::{Adaptation, Export, Parameter, Parameters, build};
use crate::model::BaseModel;
use crate::prepared::{ADAPTER, GRAPH, Manifest, Precision, RESIDUALS, Variant};
use crate::quantize::QuantizedFile;
use crate::weights::{Dtype, SafetensorsWriter, TensorPlan};

/// The files of a variant's folder, without the manifest.
pub fn files(manifest: &Manifest) -> Vec<&'static str> {
    match manifest.variant {
        Variant::Base | Variant::Exported => vec![GRAPH],
        Variant::Merged => vec![GRAPH, OVERLAY],
        Variant::Unmerged if manifest.has_residuals => vec![GRAPH, ADAPTER, RESIDUALS],
        Variant::Unmerged => vec![GRAPH, ADAPTER],
    }
}

/// The manifest of `folder`, if that was made from the same, and all its files are there.
pub fn find(folder: &Path, fingerprint: &str) -> Option<Manifest> {
    let manifest = Manifest::read(folder).ok()?;
    let is_whole = || {
        let files = files(&manifest);
        files.iter().all(|file| folder.join(file).is_file())
    };
    let found = manifest.fingerprint == fingerprint && is_whole();
    found.then_some(manifest)
}

/// The inputs from which a variant is made.
#[derive(Debug, Clone, Copy)]
pub struct Ingredients<'a> {
    /// The experiment, for variants with an adapter.
    pub experiment: Option<&'a Experiment>,
    /// Its adapter.
    pub adapter: Option<&'a Adapter>,
    /// The base as the adapter sees it.
    pub base: &'a BaseModel,
    /// The base's quantized weights.
    pub quantized: Option<&'a QuantizedFile>,
    /// The weights of a base that's a quantized checkpoint.
    pub repacked: Option<&'a Repacked>,
}

/// Weights that all variants of a base share.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shared<'a> {
    /// The base's quantized weights.
    pub quantized: Option<&'a QuantizedFile>,
    /// The weights of a base that's a quantized checkpoint.
    pub repacked: Option<&'a Repacked>,
}

impl Shared<'_> {
    /// The parameters of `base` in the architecture `spec`, without those that are `replaced`.
    ///
    /// # Errors
    /// If a tensor is missing, or has another shape or an unsupported dtype.
    pub fn parameters(
        self,
        base: &BaseModel,
        spec: &DecoderSpec,
        precision: Precision,
        replaced: &dyn Fn(&str) -> bool,
    ) -> Result<Parameters, PrepareError> {
        let kept = |name: &str| self.repacked?.find(name);
        let mut parameters = Parameters::of_base_but(spec, &base.store, replaced, &kept)?;
        if let (Some(quantization), Some(file)) = (precision.quantization, self.quantized) {
            take_quantized(&mut parameters, spec, quantization, file)?;
        }
        Ok(parameters)
    }
}

/// Prepares `variant` in `folder`. It's written to a temporary sibling folder and then renamed, so
/// an earlier version stays complete until then.
///
/// # Errors
/// If the adapter can't be merged or used with the weights, or a file can't be written.
pub fn export(
    preparation: &Preparation,
    ingredients: Ingredients,
    variant: Variant,
    folder: &Path,
    fingerprint: String,
) -> Result<Manifest, PrepareError> {
    let Ingredients {
        experiment,
        adapter,
        quantized,
        repacked,
        ..
    } = ingredients;
    let shared = Shared {
        quantized,
        repacked,
    };
    let start = Instant::now();
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PrepareError::Write { path, source }
    };
    let parent = folder.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(failed(parent))?;
    // The graph refers to weights by paths relative to the folder's final location.
    let parent = fs::canonicalize(parent).map_err(failed(parent))?;
    let name = folder.file_name().expect("a variant's folder has a name");
    let target = parent.join(name);
    let partial = temporary_folder::create(&parent).map_err(failed(&parent))?;
    let made = partial.path();

    let mut bound = Vec::new();
    let mut has_residuals = false;
    let parameters = match (variant, adapter) {
        (Variant::Merged, Some(adapter)) => {
            let parameters = merge(
                ingredients.base,
                adapter,
                preparation.precision,
                shared,
                made,
            )?;
            moved(parameters, &made.join(OVERLAY), &target.join(OVERLAY))
        }
        (Variant::Unmerged, Some(adapter)) => {
            bound = adapter.inputs();
            // Before values are computed, since this checks the shapes of the base's tensors.
            let mut parameters = unmerged_parameters(preparation, adapter, shared)?;
            let precision = preparation.precision;
            let path = made.join(RESIDUALS);
            let residuals = write_residuals(
                ingredients.base,
                adapter,
                precision.quantized_types(),
                &path,
            )?;
            has_residuals = residuals.is_some();
            let left;
            let base = match residuals {
                Some(Residuals { file, weights }) => {
                    for (name, weight) in weights {
                        parameters.set(&name, Parameter::Quantized(weight));
                    }
                    parameters = moved(parameters, &path, &target.join(RESIDUALS));
                    left = ingredients.base.with_residuals(file);
                    &left
                }
                None => ingredients.base,
            };
            write_bound(
                base,
                precision.compute,
                adapter,
                &bound,
                &made.join(ADAPTER),
            )?;
            parameters
        }
        _ => base_parameters(preparation, None, shared)?,
    };
    let parameters = absolute(parameters);

    let spec = adapter.map_or(&preparation.base.spec, |adapter| &adapter.spec);
    let export = Export {
        spec,
        adaptation: adapter
            .filter(|_| variant == Variant::Unmerged)
            .map(|adapter| adapter as &dyn Adaptation),
    };
    let arithmetic = preparation.precision.arithmetic();
    let model = build(&export, &parameters, arithmetic, &target);
    let path = made.join(GRAPH);
    write_file(&path, &model.encode_to_vec()).map_err(failed(&folder.join(GRAPH)))?;

    let mut manifest = describe(
        preparation,
        experiment,
        adapter,
        variant,
        &bound,
        repacked,
        fingerprint,
    )?;
    manifest.has_residuals = has_residuals;
    manifest.prepare_seconds = start.elapsed().as_secs_f64();
    let path = folder.join(Manifest::FILE);
    manifest.write(made).map_err(failed(&path))?;
    // Another process may have made the same meanwhile, and use the folder already.
    if let Some(theirs) = find(&target, &manifest.fingerprint) {
        return Ok(theirs);
    }
    temporary_folder::replace(made, &target).map_err(failed(folder))?;
    Ok(manifest)
}

/// Redirects references into the file `from` to the file `to`.
fn moved(mut parameters: Parameters, from: &Path, to: &Path) -> Parameters {
    for (_, parameter) in parameters.iter_mut() {
        for path in parameter.paths_mut() {
            if path == from {
                to.clone_into(path);
            }
        }
    }
    parameters
}

/// Makes every path in `parameters` absolute.
pub(super) fn absolute(mut parameters: Parameters) -> Parameters {
    for (_, parameter) in parameters.iter_mut() {
        for path in parameter.paths_mut() {
            if let Ok(absolute) = std::path::absolute(&path) {
                *path = absolute;
            }
        }
    }
    parameters
}

/// The base's parameters, without those that `adapter` replaces, and in the architecture that the
/// adapter gives the model (if there's an adapter).
fn base_parameters(
    preparation: &Preparation,
    adapter: Option<&Adapter>,
    shared: Shared,
) -> Result<Parameters, PrepareError> {
    let spec = adapter.map_or(&preparation.base.spec, |adapter| &adapter.spec);
    base_parameters_but(preparation, spec, shared, &|name| {
        adapter.is_some_and(|adapter| adapter.replaced().contains_key(name))
    })
}

/// The base's parameters in the architecture `spec`, without those that are `replaced`.
pub(super) fn base_parameters_but(
    preparation: &Preparation,
    spec: &DecoderSpec,
    shared: Shared,
    replaced: &dyn Fn(&str) -> bool,
) -> Result<Parameters, PrepareError> {
    shared.parameters(preparation.base, spec, preparation.precision, replaced)
}

/// The base's parameters. Those that the adapter replaces, and those of its side network, are
/// inputs of the graph.
fn unmerged_parameters(
    preparation: &Preparation,
    adapter: &Adapter,
    shared: Shared,
) -> Result<Parameters, PrepareError> {
    check_absorbs(adapter)?;
    if let Some(quantization) = preparation.precision.quantization {
        check_runs_on_quantized(adapter, quantization)?;
    }
    let mut parameters = base_parameters(preparation, Some(adapter), shared)?;
    for (name, replacement) in adapter.used_replacements() {
        parameters.set(
            name,
            Parameter::Input {
                name: replacement.input.clone(),
                shape: replacement.shape.clone(),
            },
        );
    }
    set_inputs_of_network(&mut parameters, adapter);
    Ok(parameters)
}

/// Makes the parameters of the adapter's side network inputs of the graph.
pub(super) fn set_inputs_of_network(parameters: &mut Parameters, adapter: &Adapter) {
    for parameter in adapter
        .side_network()
        .iter()
        .flat_map(|own| own.parameters())
    {
        if let (true, Some(path)) = (
            parameter.is_stored_in_out,
            parameter.name.strip_suffix(".weight"),
        ) {
            parameters.set_stored_in_out(path);
        }
        let origin = Parameter::Input {
            name: parameter.input.to_owned(),
            shape: parameter.shape.to_vec(),
        };
        parameters.set(&parameter.name, origin);
    }
}

fn write_bound(
    base: &BaseModel,
    compute: Dtype,
    adapter: &Adapter,
    bound: &[GraphInput],
    path: &Path,
) -> Result<(), PrepareError> {
    let plans: Vec<TensorPlan> = bound
        .iter()
        .map(|tensor| TensorPlan {
            name: tensor.name.clone(),
            dtype: compute,
            shape: tensor.shape.clone(),
        })
        .collect();
    let writer = SafetensorsWriter::create(path, &plans)?;
    adapter.for_each_input(base, &|name, values| writer.write(name, values))?;
    Ok(writer.finish()?)
}
