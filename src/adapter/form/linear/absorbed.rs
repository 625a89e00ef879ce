//! The form at a layer that's absorbed into queries and outputs of latent attention.

use super::nodes::{input, low_rank_inputs};
use super::{Delta, InputStage, LinearForm, OutputStage};
use crate::adapter::form::Naming;
use crate::graph::{AbsorbedChange, GraphBuilder};

impl LinearForm<'_> {
    /// Whether it can be absorbed: whether each stage is a product with a matrix that can be divided
    /// into the rows of heads, or with factors.
    pub fn absorbs(&self) -> bool {
        let scales = |stage: &InputStage| matches!(stage, InputStage::Scale(_));
        self.input.iter().all(scales)
            && matches!(self.delta, None | Some(Delta::LowRank { .. }))
            && matches!(self.output, None | Some(OutputStage::Scale(_)))
    }

    /// The change of the layer, with the graph's inputs for its tensors.
    ///
    /// # Panics
    /// If it can't be [absorbed](Self::absorbs).
    pub fn absorbed(&self, graph: &mut GraphBuilder, naming: &Naming) -> AbsorbedChange {
        let scale = |stage: &InputStage| match stage {
            InputStage::Scale(tensor) => input(graph, naming, tensor),
            InputStage::Rotation { .. } => unreachable!("rotations are refused"),
        };
        AbsorbedChange {
            input: self.input.iter().map(scale).collect(),
            weight: self.weight.as_ref().map(|of| input(graph, naming, of)),
            low_rank: self.delta.as_ref().map(|delta| match delta {
                Delta::LowRank { a, b } => low_rank_inputs(graph, naming, a, b),
                Delta::Kronecker { .. } | Delta::Folded { .. } => {
                    unreachable!("other added products are refused")
                }
            }),
            gain: self.gain.as_ref().map(|of| input(graph, naming, of)),
            bias: self.bias.as_ref().map(|of| input(graph, naming, of)),
            output: self.output.as_ref().map(|output| match output {
                OutputStage::Scale(tensor) => input(graph, naming, tensor),
                OutputStage::Pairs { .. } => unreachable!("rotated outputs are refused"),
            }),
        }
    }
}
