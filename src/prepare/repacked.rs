//! The weights of a base that's a quantized checkpoint, as graphs take them.
//!
//! Codes stay as they are. Where the checkpoint lays them out like ONNX Runtime's operators, graphs
//! map them in its files; otherwise a re-packed copy is written once, `repacked.safetensors` next
//! to the prepared folders, which all variants share. Weights that no operator has the codes of are
//! in that file as floats.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::{Preparation, PrepareError, fingerprint};
use crate::arch::ModuleKind;
use crate::graph::Parameter;
use crate::prepared::{REPACKED, Variant};
use crate::quantize::stored::{CodesForm, Form, KeptBase, Parts, StoredWeight};
use crate::quantize::{QuantizedFile, QuantizedWeight};
use crate::weights::{
    ByteSpan, BytesPlan, Dtype, PackedMatrix, SafetensorsFile, SafetensorsWriter, TensorLocation,
    WeightsError, WriteTensorError, encode,
};

/// The key of the fingerprint in the file's header.
const FINGERPRINT: &str = "fingerprint";

/// Number of values that are re-packed at a time.
const BATCH: usize = 1 << 20;

/// The quantized weights of the base as graphs use them.
#[derive(Debug)]
pub struct Repacked {
    /// By their names in the checkpoint.
    used: BTreeMap<String, Used>,
    /// Where each is, by its name in the checkpoint.
    parameters: BTreeMap<String, Parameter>,
}

impl Repacked {
    /// Where the weight `name` is.
    pub fn find(&self, name: &str) -> Option<Parameter> {
        self.parameters.get(name).cloned()
    }

    /// All of them.
    pub fn used(&self) -> impl Iterator<Item = &Used> {
        self.used.values()
    }

    /// The weight `name`, by its name in the checkpoint.
    pub fn get(&self, name: &str) -> Option<&Used> {
        self.used.get(name)
    }
}

/// A weight and how graphs use it.
#[derive(Debug)]
pub struct Used {
    /// The weight.
    pub weight: Arc<StoredWeight>,
    /// How graphs use it.
    pub form: Form,
}

impl Used {
    fn name(&self, part: &str) -> String {
        format!("{}.{part}", self.weight.name())
    }
}

impl Preparation<'_> {
    /// The base's quantized weights that its architecture uses. Embeddings are dequantized: rows
    /// can't be looked up in every form of codes. So is what latent attention with a compressed
    /// cache applies to queries, a product with the transpose of its codes.
    fn used_weights(&self) -> BTreeMap<String, Used> {
        let mut all = BTreeMap::new();
        let Some(stored) = &self.base.stored else {
            return all;
        };
        let mut used: BTreeMap<String, bool> = BTreeMap::new();
        for module in self.base.spec.modules() {
            let Ok(tensor) = self.base.tensor(&module.tensor("weight")) else {
                continue;
            };
            let is_float = matches!(module.kind, ModuleKind::Embedding { .. })
                || self.base.spec.is_absorbed(&module.path);
            *used.entry(tensor.name.to_owned()).or_default() |= is_float;
        }
        for (name, is_float) in used {
            // A slice of stacked experts is taken from its floats.
            let slice = self.base.store.slice(&name);
            let name = slice.map_or(&name, |slice| &slice.whole);
            let Some(weight) = stored.weights.get(name) else {
                continue;
            };
            if all.contains_key(name) {
                continue;
            }
            let kept = match is_float {
                true => KeptBase::Float,
                false => self.precision.base.kept,
            };
            let used = Used {
                form: weight.form(kept),
                weight: Arc::clone(weight),
            };
            all.insert(name.clone(), used);
        }
        all
    }

    /// Where graphs find the base's quantized weights; they're re-packed first if they aren't yet.
    /// `begin` then receives the file's size in bytes. `None` if the base isn't quantized.
    ///
    /// # Errors
    /// If a scale or a dequantized value isn't finite, or the file can't be written.
    pub(super) fn repacked(
        &self,
        begin: &dyn Fn(u64),
    ) -> Result<Option<Arc<Repacked>>, PrepareError> {
        if self.base.stored.is_none() {
            return Ok(None);
        }
        let path = self.model_folder().join(REPACKED);
        let fingerprint = fingerprint::fingerprint(self, None, Variant::Base);
        let scales = self.precision.compute;
        let used = self.used_weights();
        let orders = orders(&used);
        let plans = plans(&used, &orders, scales);
        let open = || -> Option<SafetensorsFile> {
            let file = SafetensorsFile::open(&path).ok()?;
            let is_there = |plan: &BytesPlan| {
                let found = file.get(&plan.name);
                found.is_some_and(|found| found.stored == plan.stored && found.shape == plan.shape)
            };
            let fits = file.metadata(FINGERPRINT) == Some(&*fingerprint);
            (fits && plans.iter().all(is_there)).then_some(file)
        };
        let file = match open() {
            _ if plans.is_empty() => None,
            Some(file) => Some(file),
            None => {
                begin(plans.iter().map(BytesPlan::bytes).sum());
                write(&path, &fingerprint, &used, &plans, &orders, scales)?;
                Some(SafetensorsFile::open(&path)?)
            }
        };
        let mut parameters = BTreeMap::new();
        for (name, one) in &used {
            parameters.insert(name.clone(), place(one, file.as_ref(), &orders, scales)?);
        }
        for module in self.base.spec.modules() {
            if let Ok(tensor) = self.base.tensor(&module.tensor("weight"))
                && let Some(slice) = self.base.store.slice(tensor.name)
                && let Some(Parameter::Stored(whole)) = parameters.get(&slice.whole)
            {
                let size = whole.dtype.size();
                let part = TensorLocation {
                    offset: whole.offset + (slice.first * size) as u64,
                    length: (slice.shape.iter().product::<usize>() * size) as u64,
                    shape: slice.shape.clone(),
                    ..whole.clone()
                };
                parameters.insert(tensor.name.to_owned(), Parameter::Stored(part));
            }
        }
        Ok(Some(Arc::new(Repacked { used, parameters })))
    }
}

/// The names under which distinct orders of columns are stored.
fn orders(used: &BTreeMap<String, Used>) -> BTreeMap<Vec<u32>, String> {
    let mut orders = BTreeMap::new();
    for one in used.values() {
        if let Form::Codes(CodesForm {
            order: Some(order), ..
        }) = &one.form
        {
            orders
                .entry(order.clone())
                .or_insert_with(|| one.name("order"));
        }
    }
    orders
}

/// The tensors of the file. Codes of all weights come first, then scales, so that those of queries,
/// keys and values are contiguous and become one product.
fn plans(
    used: &BTreeMap<String, Used>,
    orders: &BTreeMap<Vec<u32>, String>,
    scales_type: Dtype,
) -> Vec<BytesPlan> {
    let plan = |name, stored, shape| BytesPlan {
        name,
        stored,
        shape,
    };
    let [mut codes, mut scales, mut zeros, mut floats] = [const { Vec::new() }; 4];
    for one in used.values() {
        let (rows, columns) = (one.weight.row_count(), one.weight.columns());
        match &one.form {
            Form::Codes(form) => {
                let [codes_shape, scales_shape] = form.encoding.shapes(rows, columns);
                if one.weight.codes_in_place(form).is_none() {
                    codes.push(plan(one.name("codes"), safetensors::Dtype::U8, codes_shape));
                }
                if !scales_lie(one, form, scales_type) {
                    let stored = scales_type.to_safetensors();
                    scales.push(plan(one.name("scales"), stored, scales_shape));
                }
                if form.has_zeros {
                    let shape = form.encoding.zeros_shape(rows, columns);
                    zeros.push(plan(one.name("zeros"), safetensors::Dtype::U8, shape));
                }
            }
            Form::Float { dtype, .. } => {
                let name = one.weight.name().to_owned();
                let shape = one.weight.shape().to_vec();
                floats.push(plan(name, dtype.to_safetensors(), shape));
            }
        }
    }
    let orders = orders.iter().map(|(order, name)| {
        let shape = vec![order.len()];
        plan(name.clone(), safetensors::Dtype::I64, shape)
    });
    let parts = [codes, scales, zeros, floats].into_iter().flatten();
    // Eight bytes each, so that what follows stays aligned.
    orders.chain(parts).collect()
}

fn scales_lie(one: &Used, form: &CodesForm, scales_type: Dtype) -> bool {
    scales_type == Dtype::Float32 && one.weight.scales_in_place(form).is_some()
}

fn write(
    path: &Path,
    fingerprint: &str,
    used: &BTreeMap<String, Used>,
    plans: &[BytesPlan],
    orders: &BTreeMap<Vec<u32>, String>,
    scales_type: Dtype,
) -> Result<(), PrepareError> {
    let written = |source| WeightsError::Write {
        path: path.to_owned(),
        source,
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().expect("the file has a name");
    fs::create_dir_all(folder).map_err(written)?;
    // In a separate folder, since leftovers of a killed process are removed from it.
    let partial = crate::files::temporary_folder::create(folder).map_err(written)?;
    let made = partial.path().join(name);
    let writer = SafetensorsWriter::create_with(&made, plans, &[(FINGERPRINT, fingerprint)])?;
    for (order, name) in orders {
        let bytes: Vec<u8> = order
            .iter()
            .flat_map(|&column| i64::from(column).to_le_bytes())
            .collect();
        writer.write_bytes(name, &bytes)?;
    }
    let mut batches = Vec::new();
    for one in used.values() {
        let rows = one.weight.row_count();
        let step = (BATCH / one.weight.columns()).max(1);
        // Blocks of bitsandbytes may span rows: an even number of values, and whole blocks.
        let step = match &one.form {
            Form::Codes(form) => form.encoding.rows_at_once(one.weight.columns(), BATCH),
            Form::Float { .. } => step,
        };
        let starts = (0..rows).step_by(step);
        batches.extend(starts.map(|start| (one, start..rows.min(start + step))));
    }
    batches
        .into_par_iter()
        .try_for_each(|(one, rows)| match &one.form {
            Form::Codes(form) => write_codes(&writer, one, form, rows, scales_type),
            Form::Float { .. } => {
                let first = rows.start * one.weight.columns();
                let values = PackedMatrix::rows(&*one.weight, rows);
                Ok(writer.write_elements(one.weight.name(), first, &values)?)
            }
        })
        .map_err(|error: WriteTensorError| not_finite(error, used))?;
    writer.finish()?;
    Ok(fs::rename(&made, path).map_err(written)?)
}

/// The tensors of a weight `name` in codes of `form`, all in one file.
pub(super) fn codes_plans(
    name: &str,
    form: &CodesForm,
    [rows, columns]: [usize; 2],
    scales_type: Dtype,
) -> Vec<BytesPlan> {
    let plan = |part: &str, stored, shape| BytesPlan {
        name: format!("{name}.{part}"),
        stored,
        shape,
    };
    let [codes, scales] = form.encoding.shapes(rows, columns);
    let mut plans = vec![
        plan("codes", safetensors::Dtype::U8, codes),
        plan("scales", scales_type.to_safetensors(), scales),
    ];
    if form.has_zeros {
        let shape = form.encoding.zeros_shape(rows, columns);
        plans.push(plan("zeros", safetensors::Dtype::U8, shape));
    }
    plans
}

/// Writes `parts`, all of `weight`, as the tensors of [`codes_plans`].
pub(super) fn write_parts(
    writer: &SafetensorsWriter,
    name: &str,
    weight: &StoredWeight,
    form: &CodesForm,
    parts: &Parts,
) -> Result<(), WriteTensorError> {
    let codes = weight.packed_codes(form, parts);
    writer.write_bytes(&format!("{name}.codes"), &codes)?;
    writer.write(&format!("{name}.scales"), &weight.block_scales(form, parts))?;
    if form.has_zeros {
        let zeros = weight.block_zeros(form, parts);
        writer.write_bytes(&format!("{name}.zeros"), &zeros)?;
    }
    Ok(())
}

/// Where the tensors of [`codes_plans`] are in `file`.
///
/// # Errors
/// If it lacks one.
pub(super) fn found_codes(
    file: &QuantizedFile,
    name: &str,
    form: &CodesForm,
    [rows, columns]: [usize; 2],
    order: Option<ByteSpan>,
) -> Result<QuantizedWeight, WeightsError> {
    let missing = |part: &str| WeightsError::Layout {
        path: Path::new(crate::prepare::merge::OVERLAY).to_owned(),
        message: format!("`{name}.{part}` is missing"),
    };
    let span = |part: &str| -> Result<(ByteSpan, safetensors::Dtype), WeightsError> {
        let name = format!("{name}.{part}");
        let tensor = file.tensor(&name).ok_or_else(|| missing(part))?;
        Ok((tensor.span(), tensor.stored))
    };
    let (scales, stored) = span("scales")?;
    let zeros = match form.has_zeros {
        true => Some(span("zeros")?.0),
        false => None,
    };
    Ok(QuantizedWeight {
        encoding: form.encoding,
        rows,
        columns,
        codes: span("codes")?.0,
        scales,
        scales_type: Dtype::from_safetensors(stored).ok_or_else(|| missing("scales"))?,
        zeros,
        order,
    })
}

fn write_codes(
    writer: &SafetensorsWriter,
    one: &Used,
    form: &CodesForm,
    rows: std::ops::Range<usize>,
    scales_type: Dtype,
) -> Result<(), WriteTensorError> {
    let columns = one.weight.columns();
    let [before_codes, before_scales] = match rows.start {
        0 => [0, 0],
        before => form
            .encoding
            .shapes(before, columns)
            .map(|shape| shape.iter().product()),
    };
    let parts = one.weight.parts(rows.clone());
    if one.weight.codes_in_place(form).is_none() {
        let codes = one.weight.packed_codes(form, &parts);
        writer.write_bytes_from(&one.name("codes"), before_codes, &codes)?;
    }
    if !scales_lie(one, form, scales_type) {
        let scales = one.weight.block_scales(form, &parts);
        let mut bytes = Vec::new();
        encode(&scales, scales_type, before_scales, &mut bytes).map_err(|source| {
            WriteTensorError::NonFinite {
                name: one.name("scales"),
                path: writer.path().to_owned(),
                source,
            }
        })?;
        let first = scales_type.size() * before_scales;
        writer.write_bytes_from(&one.name("scales"), first, &bytes)?;
    }
    if form.has_zeros {
        let zeros = one.weight.block_zeros(form, &parts);
        let line = form.encoding.zeros_shape(1, columns)[1];
        writer.write_bytes_from(&one.name("zeros"), line * rows.start, &zeros)?;
    }
    Ok(())
}

/// Names the checkpoint's file instead of the one that was being written.
fn not_finite(error: WriteTensorError, used: &BTreeMap<String, Used>) -> PrepareError {
    let WriteTensorError::NonFinite { name, source, .. } = &error else {
        return match error {
            WriteTensorError::Weights(error) => error.into(),
            WriteTensorError::NonFinite { .. } => unreachable!("it was looked at above"),
        };
    };
    let of = used
        .values()
        .find(|one| name.starts_with(one.weight.name()));
    let path = of.map_or(Path::new(""), |one| one.weight.path());
    WeightsError::NonFinite {
        name: name.clone(),
        path: path.to_owned(),
        index: source.index,
        value: source.value,
    }
    .into()
}

/// Where graphs find a weight: in the checkpoint's files, or in `file`.
fn place(
    one: &Used,
    file: Option<&SafetensorsFile>,
    orders: &BTreeMap<Vec<u32>, String>,
    scales_type: Dtype,
) -> Result<Parameter, WeightsError> {
    let span = |name: &str| -> ByteSpan {
        let found = file.and_then(|file| Some(file.get(name)?.span()));
        found.expect("the file has what isn't in place")
    };
    Ok(match &one.form {
        Form::Codes(form) => {
            let lying = scales_lie(one, form, scales_type);
            let scales = lying.then(|| one.weight.scales_in_place(form)).flatten();
            Parameter::Quantized(QuantizedWeight {
                encoding: form.encoding,
                rows: one.weight.row_count(),
                columns: one.weight.columns(),
                codes: one
                    .weight
                    .codes_in_place(form)
                    .unwrap_or_else(|| span(&one.name("codes"))),
                scales: scales.unwrap_or_else(|| span(&one.name("scales"))),
                scales_type,
                zeros: form.has_zeros.then(|| span(&one.name("zeros"))),
                order: form.order.as_ref().map(|order| span(&orders[order])),
            })
        }
        Form::Float { .. } => {
            let tensor = file.and_then(|file| file.get(one.weight.name()));
            Parameter::Stored(tensor.expect("the file has all floats").location()?)
        }
    })
}
