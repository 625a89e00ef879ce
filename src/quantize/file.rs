//! A base's quantized weights in a safetensors file: `<tensor>.codes`, `<tensor>.scales`, and
//! `<tensor>.zeros` for formats with zero points.
//!
//! It's made a few rows at a time from the mapped checkpoint, so that each thread needs only some
//! MiB of memory. The codes of queries, keys and values are contiguous, and so are their scales, so
//! that they can be one product. The header has a fingerprint of the source weights: a file made
//! from other weights, or a damaged one, is made again.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use thiserror::Error;

use super::{Format, Quantization, Quantized, QuantizedWeight};
use crate::arch::{DecoderSpec, Layer, Linear, Mlp, Module, Projections};
use crate::weights::{
    BytesPlan, Dtype, SafetensorsFile, SafetensorsWriter, TensorView, WeightsError, encode,
    round_to, widen,
};

/// The fingerprint's key in the header.
const FINGERPRINT: &str = "fingerprint";

/// Number of values quantized at a time.
const BATCH: usize = 1 << 20;

/// Why weights can't be quantized, or their file can't be written or read.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum QuantizeError {
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error("tensor `{name}` of `{}` can't be quantized: row {row} has a NaN or an infinity in {dtype}", path.display())]
    NonFinite {
        name: String,
        path: PathBuf,
        row: usize,
        dtype: Dtype,
    },
    #[error("`{}` has no quantized `{name}` of the expected size", path.display())]
    Missing { name: String, path: PathBuf },
}

impl QuantizeError {
    /// Converts the error for callers that only know [`WeightsError`].
    pub fn into_weights(self) -> WeightsError {
        match self {
            Self::Weights(error) => error,
            Self::NonFinite { ref path, .. } | Self::Missing { ref path, .. } => {
                WeightsError::Layout {
                    path: path.clone(),
                    message: self.to_string(),
                }
            }
        }
    }
}

/// The dtypes that are involved in quantizing a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantizedTypes {
    /// The dtype that weights are rounded to first.
    pub weights: Dtype,
    /// The dtype that scales are rounded to in the end: that of a product's input, since the
    /// operators accept no other.
    pub scales: Dtype,
}

/// An open file of quantized weights.
#[derive(Debug, Clone)]
pub struct QuantizedFile {
    file: SafetensorsFile,
}

/// The model whose weights are quantized.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    /// Its architecture.
    pub spec: &'a DecoderSpec,
    /// Finds the checkpoint's tensor of a name.
    pub tensor: &'a (dyn Fn(&str) -> Result<TensorView<'a>, WeightsError> + Sync),
}

/// A weight to quantize.
struct Source {
    /// Its name in the file.
    key: String,
    /// Its tensor in the checkpoint.
    tensor: String,
    format: Format,
    rows: usize,
    columns: usize,
    /// Whether it's stored as `[in_features, out_features]`.
    in_out: bool,
}

impl QuantizedFile {
    /// Wraps an open file.
    pub fn of(file: SafetensorsFile) -> Self {
        Self { file }
    }

    /// A tensor of the file.
    pub fn tensor<'a>(&'a self, name: &'a str) -> Option<TensorView<'a>> {
        self.file.get(name)
    }

    /// Whether it contains the weight `key`.
    pub fn has(&self, key: &str) -> bool {
        self.file.get(&names(key)[0]).is_some()
    }

    /// Opens the file at `path`; `None` if it's incomplete or has another fingerprint.
    pub fn open(path: &Path, fingerprint: &str) -> Option<Self> {
        let file = SafetensorsFile::open(path).ok()?;
        (file.metadata(FINGERPRINT) == Some(fingerprint)).then_some(Self { file })
    }

    /// Opens the file at `path`. If it doesn't exist, is damaged or was made from other weights,
    /// it's made first; `begin` then receives its size in bytes.
    ///
    /// # Errors
    /// If a weight is missing or isn't finite, or the file can't be written.
    pub fn make_ready(
        path: &Path,
        fingerprint: &str,
        base: Base,
        quantization: Quantization,
        types: QuantizedTypes,
        begin: &dyn Fn(u64),
    ) -> Result<Self, QuantizeError> {
        let groups = sources(base.spec, quantization);
        let all = || groups.iter().flatten();
        if let Some(found) = Self::open(path, fingerprint)
            && all().all(|one| {
                found
                    .find(&one.key, one.format, one.rows, one.columns)
                    .is_ok_and(|weight| weight.scales_type == types.scales)
            })
        {
            return Ok(found);
        }
        for one in all() {
            let shape = match one.in_out {
                true => [one.columns, one.rows],
                false => [one.rows, one.columns],
            };
            (base.tensor)(&one.tensor)?.expect_shape(&shape)?;
        }
        let plans: Vec<BytesPlan> = groups
            .iter()
            .flat_map(|group| {
                let named = group
                    .iter()
                    .map(|one| (one.key.as_str(), one.format, one.rows, one.columns));
                joined_plans(&named.collect::<Vec<_>>(), types.scales)
            })
            .collect();
        begin(
            all()
                .map(|one| one.format.bytes(one.rows, one.columns, types.scales))
                .sum(),
        );

        let written = |source| WeightsError::Write {
            path: path.to_owned(),
            source,
        };
        let folder = path.parent().unwrap_or(Path::new("."));
        let name = path.file_name().expect("callers name a file");
        fs::create_dir_all(folder).map_err(written)?;
        // In a separate folder, since leftovers of a killed process are removed from it.
        let partial = crate::files::temporary_folder::create(folder).map_err(written)?;
        let made = partial.path().join(name);
        let writer = SafetensorsWriter::create_with(&made, &plans, &[(FINGERPRINT, fingerprint)])?;
        let batches: Vec<(&Source, usize)> = all()
            .flat_map(|one| {
                let step = one.format.rows_at_once(one.columns, BATCH);
                (0..one.rows).step_by(step).map(move |first| (one, first))
            })
            .collect();
        batches
            .into_par_iter()
            .try_for_each(|(one, first)| quantize_batch(base, one, first, types, &writer))?;
        writer.finish()?;
        fs::rename(&made, path).map_err(written)?;
        let file = SafetensorsFile::open(path)?;
        Ok(Self { file })
    }

    /// The weight `key`.
    ///
    /// # Errors
    /// If the file doesn't contain it in this format and size.
    pub fn find(
        &self,
        key: &str,
        format: Format,
        rows: usize,
        columns: usize,
    ) -> Result<QuantizedWeight, QuantizeError> {
        let missing = || QuantizeError::Missing {
            name: key.to_owned(),
            path: self.file.path().to_owned(),
        };
        let [codes, scales, zeros] = names(key);
        let codes = self.file.get(&codes).ok_or_else(missing)?;
        let scales = self.file.get(&scales).ok_or_else(missing)?;
        let scales_type = scales.dtype()?;
        let zeros = match format.zeros_shape(rows, columns) {
            None => None,
            Some(shape) => {
                let found = self.file.get(&zeros).ok_or_else(missing)?;
                if found.stored != safetensors::Dtype::U8 || found.shape != shape {
                    return Err(missing());
                }
                Some(found.span())
            }
        };
        let fits = codes.stored == safetensors::Dtype::U8
            && format.shapes(rows, columns) == [codes.shape.to_vec(), scales.shape.to_vec()];
        if !fits {
            return Err(missing());
        }
        Ok(QuantizedWeight {
            encoding: format.encoding(),
            rows,
            columns,
            codes: codes.span(),
            scales: scales.span(),
            scales_type,
            zeros,
            order: None,
        })
    }

    /// The dequantized values of the weight `key`.
    ///
    /// # Errors
    /// If the file doesn't contain it in this format and size.
    pub fn dequantize(
        &self,
        key: &str,
        format: Format,
        rows: usize,
        columns: usize,
    ) -> Result<Vec<f32>, QuantizeError> {
        let scales_type = self.find(key, format, rows, columns)?.scales_type;
        let [codes, scales, zeros] = names(key);
        let part = |name: &str| {
            let tensor = self.file.get(name).map(|tensor| tensor.bytes.to_vec());
            tensor.unwrap_or_default()
        };
        let stored = Quantized {
            codes: part(&codes),
            scales: widen(&part(&scales), scales_type),
            zeros: part(&zeros),
        };
        Ok(format.dequantize(&stored, rows, columns))
    }
}

/// Names of codes, scales and zero points.
fn names(key: &str) -> [String; 3] {
    ["codes", "scales", "zeros"].map(|part| format!("{key}.{part}"))
}

/// Plans for weights, `(key, format, rows, columns)`: first the codes of all of them, then their
/// scales in `scales_type`, then their zero points.
pub fn joined_plans(
    weights: &[(&str, Format, usize, usize)],
    scales_type: Dtype,
) -> Vec<BytesPlan> {
    let plan = |part: usize| {
        weights
            .iter()
            .map(move |&(key, format, rows, columns)| BytesPlan {
                name: names(key)[part].clone(),
                stored: [safetensors::Dtype::U8, scales_type.to_safetensors()][part],
                shape: format.shapes(rows, columns)[part].clone(),
            })
    };
    let zeros = weights.iter().filter_map(|&(key, format, rows, columns)| {
        Some(BytesPlan {
            name: names(key)[2].clone(),
            stored: safetensors::Dtype::U8,
            shape: format.zeros_shape(rows, columns)?,
        })
    });
    plan(0).chain(plan(1)).chain(zeros).collect()
}

/// Rounds `values`, whole rows from row `first` on, to `dtype`, and quantizes them. `name` and `path`
/// say in messages which weight it is, and in which file.
///
/// # Errors
/// If a value isn't finite after rounding.
pub fn quantize_rows(
    (name, path): (&str, &Path),
    format: Format,
    (first, columns): (usize, usize),
    values: &mut [f32],
    dtype: Dtype,
) -> Result<Quantized, QuantizeError> {
    for (row, values) in values.chunks_exact_mut(columns).enumerate() {
        if dtype != Dtype::Float32 {
            values
                .iter_mut()
                .for_each(|value| *value = round_to(*value, dtype));
        }
        if !values.iter().all(|value| value.is_finite()) {
            return Err(QuantizeError::NonFinite {
                name: name.to_owned(),
                path: path.to_owned(),
                row: first + row,
                dtype,
            });
        }
    }
    Ok(format.quantize(values, columns))
}

/// Quantizes and writes `values`: whole rows of the planned weight `key`, from row `first` on.
///
/// # Errors
/// If a value isn't finite after rounding, or writing fails.
fn write_rows(
    writer: &SafetensorsWriter,
    key: &str,
    format: Format,
    (first, columns): (usize, usize),
    values: &mut [f32],
    types: QuantizedTypes,
) -> Result<(), QuantizeError> {
    let source = (key, writer.path());
    let made = quantize_rows(source, format, (first, columns), values, types.weights)?;
    let [codes, scales, zeros] = names(key);
    let [before_codes, before_scales] = match first {
        0 => [0, 0],
        rows => format
            .shapes(rows, columns)
            .map(|shape| shape.iter().product()),
    };
    writer.write_bytes_from(&codes, before_codes, &made.codes)?;
    let mut bytes = Vec::new();
    encode(&made.scales, types.scales, 0, &mut bytes)
        .expect("no scale is larger than the values of its block, which are finite in that type");
    let size = types.scales.size();
    writer.write_bytes_from(&scales, size * before_scales, &bytes)?;
    if let Some(shape) = format.zeros_shape(first, columns) {
        let before = shape.iter().product();
        writer.write_bytes_from(&zeros, before, &made.zeros)?;
    }
    Ok(())
}

/// Quantizes and writes all `values` of the planned weight `key`, some rows at a time.
///
/// # Errors
/// As [`write_rows`].
pub fn write_matrix(
    writer: &SafetensorsWriter,
    key: &str,
    format: Format,
    columns: usize,
    values: &[f32],
    types: QuantizedTypes,
) -> Result<(), QuantizeError> {
    let step = format.rows_at_once(columns, BATCH);
    for (index, rows) in values.chunks(step * columns).enumerate() {
        let place = (index * step, columns);
        write_rows(writer, key, format, place, &mut rows.to_vec(), types)?;
    }
    Ok(())
}

fn quantize_batch(
    base: Base,
    one: &Source,
    first: usize,
    types: QuantizedTypes,
    writer: &SafetensorsWriter,
) -> Result<(), QuantizeError> {
    let tensor = (base.tensor)(&one.tensor)?;
    let stored = tensor.dtype()?;
    let rows = one
        .format
        .rows_at_once(one.columns, BATCH)
        .min(one.rows - first);
    let mut values = match one.in_out {
        false => {
            let row_bytes = one.columns * stored.size();
            widen(
                &tensor.bytes[first * row_bytes..][..rows * row_bytes],
                stored,
            )
        }
        true => {
            let mut transposed = vec![0.0; rows * one.columns];
            let stored_row = one.rows * stored.size();
            for (column, row) in tensor.bytes.chunks_exact(stored_row).enumerate() {
                let part = &row[first * stored.size()..][..rows * stored.size()];
                for (index, value) in widen(part, stored).into_iter().enumerate() {
                    transposed[index * one.columns + column] = value;
                }
            }
            transposed
        }
    };
    let place = (first, one.columns);
    write_rows(writer, &one.key, one.format, place, &mut values, types).map_err(|error| {
        match error {
            // Users find the tensor by its name in the checkpoint.
            QuantizeError::NonFinite { row, dtype, .. } => QuantizeError::NonFinite {
                name: one.tensor.clone(),
                path: tensor.path.to_owned(),
                row,
                dtype,
            },
            other => other,
        }
    })
}

/// The weights of a model that `quantization` covers, each once, in contiguous groups.
fn sources(spec: &DecoderSpec, quantization: Quantization) -> Vec<Vec<Source>> {
    let mut seen = BTreeSet::new();
    let mut source = |module: Module| -> Option<Source> {
        let [rows, columns] = module.matrix_size()?;
        let key = quantization.key(spec, &module);
        Some(Source {
            in_out: module.is_stored_in_out(),
            format: quantization.of(spec, &module)?,
            tensor: format!("{}.weight", module.source),
            rows,
            columns,
            key: seen.insert(key.clone()).then_some(key)?,
        })
    };
    let modules = spec.modules();
    let by_path: HashMap<&str, &Module> = modules
        .iter()
        .map(|module| (module.path.as_str(), module))
        .collect();
    let mut groups: Vec<Vec<Source>> = Vec::new();
    for paths in spec.layers.iter().flat_map(one_input) {
        let group = paths.into_iter().filter_map(|path| by_path.get(path));
        let group = group.filter_map(|module| source((*module).clone()));
        groups.push(group.collect());
    }
    let others = modules.into_iter().filter_map(source);
    groups.extend(others.map(|one| vec![one]));
    groups.retain(|group: &Vec<Source>| !group.is_empty());
    groups
}

/// Paths of a layer's modules, grouped by input: the products of a group are joined.
fn one_input<'a>(layer: &'a Layer) -> Vec<Vec<&'a str>> {
    fn paths<'a>(modules: &[&'a Linear]) -> Vec<&'a str> {
        modules.iter().map(|module| module.path.as_str()).collect()
    }
    let mut groups = Vec::new();
    let projections = layer.attention.as_ref().map(|own| &own.projections);
    if let Some(Projections::Separate { query, key, value }) = projections {
        groups.push(paths(&[query, key, value]));
    }
    let mut of_mlp = |mlp: &'a Mlp| {
        if let Mlp::Gated {
            gate_proj, up_proj, ..
        } = mlp
        {
            groups.push(paths(&[gate_proj, up_proj]));
        }
    };
    of_mlp(&layer.mlp);
    if let Some(mixture) = layer.mlp.mixture() {
        if let Some(shared) = &mixture.shared {
            of_mlp(&shared.mlp);
        }
        let experts = mixture.experts.iter();
        groups.extend(experts.map(|expert| paths(&expert.inner.linears())));
    }
    groups
}
