//! Merging the form into a layer's weight and bias.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, Axis, s};

use super::rotation::rotate_columns;
use super::{Delta, InputStage, LinearForm, OutputStage};
use crate::adapter::form::BaseModule;
use crate::adapter::{AdapterError, ModuleWeights};

impl LinearForm<'_> {
    /// Merges the form into the layer.
    ///
    /// # Errors
    /// If values that depend on the layer can't be computed.
    pub fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        let base = BaseModule::of(std::mem::take(module));
        // Values that depend on the base are computed before it's changed.
        let replaced = self.weight.as_ref().map(|tensor| tensor.matrix(&base));
        let replaced = replaced.transpose()?;
        let bias = self.bias.as_ref().map(|tensor| tensor.vector(&base));
        let bias = bias.transpose()?;
        let gain = self.gain.as_ref().map(|tensor| tensor.vector(&base));
        let gain = gain.transpose()?;
        let delta = match &self.delta {
            Some(Delta::LowRank { a, b }) => vec![b.matrix(&base)?, a.matrix(&base)?],
            Some(Delta::Kronecker { outer, inner }) => {
                vec![outer.matrix(&base)?, inner.matrix(&base)?]
            }
            Some(Delta::Folded { block, .. }) => vec![block.matrix(&base)?],
            None => Vec::new(),
        };
        let mut input = Vec::new();
        for stage in &self.input {
            let (InputStage::Scale(tensor) | InputStage::Rotation { blocks: tensor, .. }) = stage;
            input.push((stage, tensor.values(&base)?.into_owned()));
        }
        let output = match &self.output {
            Some(OutputStage::Scale(tensor)) => vec![tensor.vector(&base)?],
            Some(OutputStage::Pairs { own, other, .. }) => {
                vec![own.vector(&base)?, other.vector(&base)?]
            }
            None => Vec::new(),
        };

        let weights = base.into_weights().expect("they were given");
        let mut weight = replaced.unwrap_or(weights.weight);
        // y = W M_n … M_1 x, so the last stage is applied to the weight first.
        for (stage, values) in input.iter().rev() {
            match stage {
                InputStage::Scale(_) => weight *= &Array1::from_iter(values.iter().copied()),
                InputStage::Rotation { blocks, order } => {
                    rotate_columns(&mut weight, blocks.shape[1], values, order.as_deref());
                }
            }
        }
        match (&self.delta, delta.as_slice()) {
            (Some(Delta::LowRank { .. }), [b, a]) => {
                general_mat_mul(1.0, b, a, 1.0, &mut weight);
            }
            (Some(Delta::Kronecker { .. }), [outer, inner]) => {
                add_kronecker(&mut weight, outer, inner);
            }
            (Some(Delta::Folded { .. }), [block]) => {
                let width = block.ncols();
                for ((row, column), value) in weight.indexed_iter_mut() {
                    *value += block[[column % block.nrows(), row % width]];
                }
            }
            _ => {}
        }
        if let Some(gain) = &gain {
            scale_rows(&mut weight, gain);
        }
        let mut bias = bias.or(weights.bias);
        match (&self.output, output.as_slice()) {
            (Some(OutputStage::Scale(_)), [scale]) => {
                scale_rows(&mut weight, scale);
                bias = bias.map(|bias| bias * scale);
            }
            (Some(OutputStage::Pairs { order, .. }), [own, other]) => {
                let mut turned = weight.select(Axis(0), order);
                scale_rows(&mut turned, other);
                scale_rows(&mut weight, own);
                weight += &turned;
                bias = bias.map(|bias| &bias * own + bias.select(Axis(0), order) * other);
            }
            _ => {}
        }
        *module = ModuleWeights { weight, bias };
        Ok(())
    }
}

/// Multiplies row `k` by `scale[k]`.
pub fn scale_rows(weight: &mut Array2<f32>, scale: &Array1<f32>) {
    for (mut row, &scale) in weight.axis_iter_mut(Axis(0)).zip(scale) {
        row *= scale;
    }
}

/// `W ← W + outer ⊗ inner`: adds `outer[p, q] · inner` to block `(p, q)`.
fn add_kronecker(weight: &mut Array2<f32>, outer: &Array2<f32>, inner: &Array2<f32>) {
    let (rows, columns) = inner.dim();
    for ((p, q), &factor) in outer.indexed_iter() {
        let mut block =
            weight.slice_mut(s![p * rows..(p + 1) * rows, q * columns..(q + 1) * columns]);
        block.scaled_add(factor, inner);
    }
}
