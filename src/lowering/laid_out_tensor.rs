//! The tensors of a laid-out file: weights in blocks, stacked weights of experts, and parts of
//! weights.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::products::Weight;
use crate::graph::proto;
use crate::weights::{Dtype, SafetensorsWriter, WeightsError, round_to, widen};

/// Bytes converted at a time.
const BATCH_BYTES: usize = 8 << 20;

/// Why laid-out weights can't be made or read.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum LayOutError {
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "a copy of the weights can't be laid out for this processor; `--weights in-place` does without one"
    )]
    Write(#[source] WeightsError),
}

/// A float32 tensor, made from one or two weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaidOutTensor {
    /// `[rows / b, columns, b]`: each block is the transpose of `b` rows; the last one is padded
    /// with zeros.
    Blocks(Weight, usize),
    /// `[rows, columns]`, in the order of the source.
    Rows(Weight),
    /// `[2 * rows, columns]`: rows of the first and the second weight in alternation.
    Alternating(Weight, Weight),
    /// `[heads * count, columns]`: of the rows of each head, `count` from `first` on.
    OfHeads {
        /// The weight.
        weight: Weight,
        /// Number of heads.
        heads: usize,
        /// The first row of a head that's taken.
        first: usize,
        /// Number of rows of a head that are taken.
        count: usize,
    },
}

impl LaidOutTensor {
    /// The weights that it's made from.
    pub fn sources(&self) -> Vec<&Weight> {
        match self {
            Self::Blocks(weight, _) | Self::Rows(weight) | Self::OfHeads { weight, .. } => {
                vec![weight]
            }
            Self::Alternating(first, second) => vec![first, second],
        }
    }

    /// The form's name.
    pub fn form(&self) -> String {
        match self {
            Self::Blocks(_, block) => format!("blocks.{block}"),
            Self::Rows(_) => "rows".to_owned(),
            Self::Alternating(..) => "alternating".to_owned(),
            Self::OfHeads {
                heads,
                first,
                count,
                ..
            } => format!("heads.{heads}.{first}.{count}"),
        }
    }

    /// `[rows, columns]`, with the rows that pad the last block.
    pub fn size(&self) -> [usize; 2] {
        let sources = self.sources();
        let rows: usize = match self {
            Self::OfHeads { heads, count, .. } => heads * count,
            _ => sources.iter().map(|weight| weight.rows).sum(),
        };
        [rows.next_multiple_of(self.unit()), sources[0].columns]
    }

    /// The tensor's shape.
    pub fn shape(&self) -> Vec<usize> {
        let [rows, columns] = self.size();
        match self {
            Self::Blocks(_, block) => vec![rows / block, columns, *block],
            Self::Rows(_) | Self::Alternating(..) | Self::OfHeads { .. } => vec![rows, columns],
        }
    }

    /// Number of rows that are laid out as a unit.
    fn unit(&self) -> usize {
        match self {
            Self::Blocks(_, block) => *block,
            Self::Rows(_) | Self::Alternating(..) | Self::OfHeads { .. } => 1,
        }
    }

    /// Divides writing the tensor, called `name`, into batches of some MiB.
    pub fn batches<'a>(&'a self, name: &'a str) -> Vec<Batch<'a>> {
        let sources = self.sources();
        let rows = sources[0].rows;
        if let Self::OfHeads {
            heads,
            first,
            count,
            ..
        } = *self
        {
            let of_head = |head: usize| Batch {
                name,
                tensor: self,
                first: head * (rows / heads) + first,
                count,
                place: head * count,
            };
            return (0..heads).map(of_head).collect();
        }
        let [all, columns] = self.size();
        let unit = self.unit();
        let row_bytes = (4 * columns * all / rows.max(1)).max(1);
        let step = (BATCH_BYTES / (row_bytes * unit)).max(1) * unit;
        let starts = (0..rows).step_by(step);
        let batch = |first: usize| Batch {
            name,
            tensor: self,
            first,
            count: step.min(rows - first),
            place: first * sources.len(),
        };
        starts.map(batch).collect()
    }
}

/// Some rows of each source of a laid-out tensor.
#[derive(Debug)]
pub struct Batch<'a> {
    name: &'a str,
    tensor: &'a LaidOutTensor,
    first: usize,
    count: usize,
    /// The row of the tensor where they begin.
    place: usize,
}

impl Batch<'_> {
    /// Lays out these rows and writes them.
    ///
    /// # Errors
    /// If a source can't be read, or the file can't be written.
    pub fn write(&self, writer: &SafetensorsWriter) -> Result<(), LayOutError> {
        let [_, columns] = self.tensor.size();
        let sources = self.tensor.sources();
        let values: Vec<Vec<f32>> = sources
            .iter()
            .map(|weight| self.read(weight))
            .collect::<Result<_, _>>()?;
        let rows = (self.count * sources.len()).next_multiple_of(self.tensor.unit());
        let mut laid_out = vec![0_u8; 4 * columns * rows];
        match (self.tensor, &values[..]) {
            (LaidOutTensor::Blocks(_, block), [values]) => {
                blocks(values, *block, columns, &mut laid_out)
            }
            (_, values) => alternate(values, columns, &mut laid_out),
        }
        let start = 4 * columns * self.place;
        writer
            .write_bytes_from(self.name, start, &laid_out)
            .map_err(LayOutError::Write)
    }

    /// These rows of `weight`, rounded to each of its dtypes in order.
    fn read(&self, weight: &Weight) -> Result<Vec<f32>, LayOutError> {
        let path = weight.span.path.clone();
        let dtypes: Vec<Dtype> = weight
            .types
            .iter()
            .filter_map(|&element| proto::dtype(element))
            .collect();
        let stored = dtypes[0];
        let read = || match weight.in_out {
            true => self.read_columns(weight, &path, stored),
            false => self.read_rows(weight, &path, stored),
        };
        let mut values = match read() {
            Ok(values) => values,
            Err(source) => return Err(LayOutError::Read { path, source }),
        };
        for &dtype in &dtypes[1..] {
            if dtype != Dtype::Float32 {
                for value in &mut values {
                    *value = round_to(*value, dtype);
                }
            }
        }
        Ok(values)
    }

    fn read_rows(&self, weight: &Weight, path: &Path, stored: Dtype) -> io::Result<Vec<f32>> {
        let row_bytes = weight.columns * stored.size();
        let mut bytes = vec![0; self.count * row_bytes];
        let start = weight.span.offset + (self.first * row_bytes) as u64;
        File::open(path)?.read_exact_at(&mut bytes, start)?;
        Ok(widen(&bytes, stored))
    }

    /// These rows of a weight that's stored transposed.
    fn read_columns(&self, weight: &Weight, path: &Path, stored: Dtype) -> io::Result<Vec<f32>> {
        let file = File::open(path)?;
        let mut values = vec![0.0; self.count * weight.columns];
        let mut bytes = vec![0; self.count * stored.size()];
        for column in 0..weight.columns {
            let place = column * weight.rows + self.first;
            let start = weight.span.offset + (place * stored.size()) as u64;
            file.read_exact_at(&mut bytes, start)?;
            for (row, value) in widen(&bytes, stored).into_iter().enumerate() {
                values[row * weight.columns + column] = value;
            }
        }
        Ok(values)
    }
}

/// Lays out `values`, `[n, columns]`, in blocks of `rows` rows.
fn blocks(values: &[f32], rows: usize, columns: usize, laid_out: &mut [u8]) {
    let block = rows * columns;
    let blocks = laid_out.chunks_exact_mut(4 * block);
    for (from, to) in values.chunks(block).zip(blocks) {
        for (column, target) in to.chunks_exact_mut(4 * rows).enumerate() {
            let rows = from.chunks_exact(columns);
            for (row, place) in rows.zip(target.chunks_exact_mut(4)) {
                place.copy_from_slice(&row[column].to_le_bytes());
            }
        }
    }
}

/// Lays out the rows of all `sources`, each `[n, columns]`, in alternation.
fn alternate(sources: &[Vec<f32>], columns: usize, laid_out: &mut [u8]) {
    for (place, row) in laid_out.chunks_exact_mut(4 * columns).enumerate() {
        let source = &sources[place % sources.len()];
        let from = &source[place / sources.len() * columns..][..columns];
        for (value, place) in from.iter().zip(row.chunks_exact_mut(4)) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }
}
