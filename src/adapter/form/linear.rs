//! The form of a linear layer.

mod absorbed;
mod merge;
mod nodes;
mod rotation;
#[cfg(test)]
mod tests;

pub use merge::scale_rows;
pub use nodes::input;
pub use rotation::{inverse, rotate_columns, rotate_input};

use super::FormTensor;

/// `y = output(gain ∘ (W input(x) + delta x) + b)`. An absent stage does nothing.
#[derive(Debug, Default)]
pub struct LinearForm<'a> {
    /// Changes of the input of the weight, first to last.
    pub input: Vec<InputStage<'a>>,
    /// `W'`, `[out_features, in_features]`, in place of the base's.
    pub weight: Option<FormTensor<'a>>,
    /// A term added to the product. It's computed from the layer's unchanged input.
    pub delta: Option<Delta<'a>>,
    /// `[out_features]`: scales the product and the delta, not the bias.
    pub gain: Option<FormTensor<'a>>,
    /// `b'`, `[out_features]`, in place of the base's.
    pub bias: Option<FormTensor<'a>>,
    /// A change of the output, bias included.
    pub output: Option<OutputStage<'a>>,
}

/// A change of the input.
#[derive(Debug)]
pub enum InputStage<'a> {
    /// `x ∘ v`, `v` `[in_features]`.
    Scale(FormTensor<'a>),
    /// Row vectors times a block-diagonal matrix: `x_k ← x_k · R_k`.
    Rotation {
        /// `[n, b, b]`, `n b = in_features`.
        blocks: FormTensor<'a>,
        /// Element `order[c]` of the input is element `c` of the blocks; the result is put back in
        /// the original order.
        order: Option<Vec<usize>>,
    },
}

/// A term added to the product.
#[derive(Debug)]
pub enum Delta<'a> {
    /// `B A x`
    LowRank {
        /// `[r, in_features]`
        a: FormTensor<'a>,
        /// `[out_features, r]`
        b: FormTensor<'a>,
    },
    /// `(outer ⊗ inner) x`
    Kronecker {
        /// `[p, q]`
        outer: FormTensor<'a>,
        /// `[out_features / p, in_features / q]`
        inner: FormTensor<'a>,
    },
    /// The inputs whose indices have the same remainder by `r` are summed: row `c mod r` of `block`
    /// is added to column `c` of the weight.
    Folded {
        /// `[r, out_features / copies]`
        block: FormTensor<'a>,
        /// How often the outputs are repeated.
        copies: usize,
        /// The number of the weight's columns.
        in_features: usize,
    },
}

/// A change of the output.
#[derive(Debug)]
pub enum OutputStage<'a> {
    /// `y ∘ l`, `l` `[out_features]`.
    Scale(FormTensor<'a>),
    /// `y_k ← y_k · c_k + y_other(k) · t_k`, `c` and `t` `[out_features]`.
    Pairs {
        /// The factor of each output itself.
        own: FormTensor<'a>,
        /// The factor of the other output of its pair.
        other: FormTensor<'a>,
        /// The index of the other output.
        order: Vec<usize>,
    },
}

impl<'a> LinearForm<'a> {
    /// A form with a low-rank pair only.
    pub fn low_rank(a: FormTensor<'a>, b: FormTensor<'a>) -> Self {
        Self {
            delta: Some(Delta::LowRank { a, b }),
            ..Self::default()
        }
    }

    /// A form with a replaced weight only.
    pub fn replaced(weight: FormTensor<'a>) -> Self {
        Self {
            weight: Some(weight),
            ..Self::default()
        }
    }

    /// The pair, or the weight if that is no larger, since it needs no node.
    pub fn low_rank_or_weight(
        a: FormTensor<'a>,
        b: FormTensor<'a>,
        weight: FormTensor<'a>,
    ) -> Self {
        if a.elements() + b.elements() < weight.elements() {
            Self::low_rank(a, b)
        } else {
            Self::replaced(weight)
        }
    }

    /// Its tensors.
    pub fn tensors(&self) -> Vec<&FormTensor<'a>> {
        let mut all = Vec::new();
        for stage in &self.input {
            match stage {
                InputStage::Scale(tensor) | InputStage::Rotation { blocks: tensor, .. } => {
                    all.push(tensor);
                }
            }
        }
        all.extend(&self.weight);
        match &self.delta {
            Some(Delta::LowRank { a, b }) => all.extend([a, b]),
            Some(Delta::Kronecker { outer, inner }) => all.extend([outer, inner]),
            Some(Delta::Folded { block, .. }) => all.push(block),
            None => {}
        }
        all.extend(&self.gain);
        all.extend(&self.bias);
        match &self.output {
            Some(OutputStage::Scale(tensor)) => all.push(tensor),
            Some(OutputStage::Pairs { own, other, .. }) => all.extend([own, other]),
            None => {}
        }
        all
    }
}
