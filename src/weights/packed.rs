//! Matrices that a checkpoint stores in another form than floats, such as codes and scales.

use std::fmt::Debug;
use std::ops::Range;
use std::path::Path;

use super::{SafetensorsFile, TensorView};

/// A matrix, or a stack of matrices, whose values are computed from other tensors of the checkpoint.
pub trait PackedMatrix: Debug + Send + Sync {
    /// The shape of its values; the last axis is the row.
    fn shape(&self) -> &[usize];

    /// The values of these rows. The rows of stacked matrices follow each other.
    fn rows(&self, rows: Range<usize>) -> Vec<f32>;

    /// Bytes of the tensors that it's stored in.
    fn stored_bytes(&self) -> u64;

    /// The file with its codes.
    fn path(&self) -> &Path;
}

/// The values from `elements` on, of all rows.
pub(super) fn elements(packed: &dyn PackedMatrix, elements: Range<usize>) -> Vec<f32> {
    let columns = packed.shape().last().copied().unwrap_or(1).max(1);
    if elements.is_empty() {
        return Vec::new();
    }
    let rows = elements.start / columns..elements.end.div_ceil(columns);
    let skipped = elements.start - rows.start * columns;
    let mut values = packed.rows(rows);
    values.truncate(skipped + elements.len());
    values.split_off(skipped)
}

/// A tensor of a checkpoint, held together with its file.
#[derive(Debug, Clone)]
pub struct TensorHandle {
    pub(super) file: SafetensorsFile,
    pub(super) name: String,
}

impl TensorHandle {
    /// The tensor.
    ///
    /// # Panics
    /// Never: a handle is made of a tensor that its file has.
    pub fn view(&self) -> TensorView<'_> {
        let found = self.file.get(&self.name);
        found.expect("the handle was made of a tensor that the file has")
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}
