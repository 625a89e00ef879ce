//! The form as nodes of the unmerged graph.

use super::rotation::rotate_input;
use super::{Delta, InputStage, LinearForm, OutputStage};
use crate::adapter::form::{FormTensor, Naming};
use crate::graph::{Attr, Dim, ExpertSite, GraphBuilder, LinearSite, Value};

impl LinearForm<'_> {
    /// Adds the layer's nodes; returns its output, bias included.
    pub fn nodes(&self, graph: &mut GraphBuilder, naming: &Naming, site: &LinearSite) -> Value {
        let path = site.path;
        let at = |name: &str| format!("/{path}/adapter/{name}");
        let mut x = site.x.clone();
        for (index, stage) in self.input.iter().enumerate() {
            let name = at(&format!("input_{index}"));
            x = match stage {
                InputStage::Scale(tensor) => {
                    let scale = input(graph, naming, tensor);
                    graph.mul(&name, &x, &scale)
                }
                InputStage::Rotation { blocks, order } => {
                    let value = input(graph, naming, blocks);
                    let size = blocks.shape[1];
                    rotate_input(graph, &name, &x, &value, size, order.as_deref())
                }
            };
        }
        let name = format!("/{path}/MatMul");
        let mut y = match &self.weight {
            Some(tensor) => {
                let weight = input(graph, naming, tensor);
                graph.product_with(&name, path, &x, &weight)
            }
            None => graph.product(&name, path, &x),
        };
        if let Some(delta) = &self.delta {
            let delta = delta.nodes(graph, naming, site);
            y = graph.add(&at("Add"), &y, &delta);
        }
        if let Some(tensor) = &self.gain {
            let gain = input(graph, naming, tensor);
            y = graph.mul(&at("gain"), &y, &gain);
        }
        let bias = match &self.bias {
            Some(tensor) => Some(input(graph, naming, tensor)),
            None => graph.find_parameter(&format!("{path}.bias")),
        };
        if let Some(bias) = &bias {
            y = graph.add(&format!("/{path}/Add"), &y, bias);
        }
        match &self.output {
            None => y,
            Some(OutputStage::Scale(tensor)) => {
                let scale = input(graph, naming, tensor);
                graph.mul(&at("output"), &y, &scale)
            }
            Some(OutputStage::Pairs { own, other, order }) => {
                let order: Vec<i64> = order.iter().map(|&index| index as i64).collect();
                let order = graph.constant_i64(&at("pairs"), &order, false);
                let (own, other) = (input(graph, naming, own), input(graph, naming, other));
                let turned = graph.gather(&at("output/Gather"), &y, &order, -1);
                let turned = graph.mul(&at("output/other"), &turned, &other);
                let kept = graph.mul(&at("output/own"), &y, &own);
                graph.add(&at("output/Add"), &kept, &turned)
            }
        }
    }

    /// Adds a low-rank pair to `product`, an expert's. Experts have no other form.
    ///
    /// # Panics
    /// If the form has no low-rank pair.
    pub fn expert_nodes(
        &self,
        graph: &mut GraphBuilder,
        naming: &Naming,
        site: ExpertSite,
        product: &Value,
    ) -> Value {
        let Some(Delta::LowRank { a, b }) = &self.delta else {
            unreachable!("`{}` has a low-rank pair", site.path);
        };
        let at = |name: &str| format!("/{}/adapter/{name}", site.path);
        // Projections with the same `A` have the same rank.
        let key = naming.input(a);
        let rank = Dim::Symbol(format!("{key}.r"));
        let dims = [rank.clone(), a.shape[1].into()];
        let a = graph.input(&key, &dims);
        let dims = [b.shape[0].into(), rank];
        let b = graph.input(&naming.input(b), &dims);
        let inner = match &site.inner {
            Some((inner, of)) if *of == a => inner.clone(),
            _ => graph.matmul_transposed(&at("A/MatMul"), site.x, &a),
        };
        *site.inner = Some((inner.clone(), a));
        let delta = graph.matmul_transposed(&at("B/MatMul"), &inner, &b);
        graph.add(&at("Add"), product, &delta)
    }
}

impl Delta<'_> {
    fn nodes(&self, graph: &mut GraphBuilder, naming: &Naming, site: &LinearSite) -> Value {
        let path = site.path;
        let at = |name: &str| format!("/{path}/adapter/{name}");
        match self {
            Self::LowRank { a, b } => {
                let [a, b] = low_rank_inputs(graph, naming, a, b);
                let inner = graph.matmul_transposed(&at("A/MatMul"), site.x, &a);
                graph.matmul_transposed(&at("B/MatMul"), &inner, &b)
            }
            Self::Kronecker { outer, inner } => {
                let (q, v) = (outer.shape[1] as i64, inner.shape[1] as i64);
                let out = (outer.shape[0] * inner.shape[0]) as i64;
                let (mut outer, inner) = (input(graph, naming, outer), input(graph, naming, inner));
                if graph.on_gpu() {
                    // On a GPU, the product of one matrix with several copies lists of pointers to
                    // the GPU in every step. With a single token, operands with the same number of
                    // axes avoid that.
                    outer = graph.reshape(&at("outer/axes"), &outer, &[1, 1, -1, q]);
                }
                let split = graph.reshape(&at("split"), site.x, &[0, 0, q, v]);
                let right = graph.matmul_transposed(&at("inner/MatMul"), &split, &inner);
                let both = graph.op("MatMul", &at("outer/MatMul"), &[&outer, &right], &[]);
                graph.reshape(&at("join"), &both, &[0, 0, out])
            }
            Self::Folded {
                block,
                copies,
                in_features,
            } => {
                let r = block.shape[0];
                let value = input(graph, naming, block);
                let mut x = site.x.clone();
                let missing = in_features.next_multiple_of(r) - in_features;
                if missing > 0 {
                    let pads = [0, 0, 0, 0, 0, missing as i64];
                    x = graph.pad(&at("Pad"), &x, &pads);
                }
                let split = graph.reshape(&at("split"), &x, &[0, 0, -1, r as i64]);
                let axis = graph.constant_i64("axis_2", &[2], false);
                let attrs = [("keepdims", Attr::Int(0))];
                let sums = graph.op("ReduceSum", &at("ReduceSum"), &[&split, &axis], &attrs);
                let delta = graph.op("MatMul", &at("block/MatMul"), &[&sums, &value], &[]);
                if *copies == 1 {
                    return delta;
                }
                let repeats = graph.constant_i64(&at("copies"), &[1, 1, *copies as i64], false);
                graph.op("Tile", &at("Tile"), &[&delta, &repeats], &[])
            }
        }
    }
}

/// The graph's inputs for a low-rank pair. The rank is symbolic, so that an adapter of another rank
/// can be bound to the same graph.
pub fn low_rank_inputs(
    graph: &mut GraphBuilder,
    naming: &Naming,
    a: &FormTensor,
    b: &FormTensor,
) -> [Value; 2] {
    let rank = Dim::Symbol(format!("{}.r", naming.path));
    let dims = [rank.clone(), a.shape[1].into()];
    let a = graph.input(&naming.input(a), &dims);
    let dims = [b.shape[0].into(), rank];
    [a, graph.input(&naming.input(b), &dims)]
}

/// The graph's input for `part`. All dimensions are fixed, except a rank.
pub fn input(graph: &mut GraphBuilder, naming: &Naming, tensor: &FormTensor) -> Value {
    let mut dims: Vec<Dim> = tensor.shape.iter().map(|&size| size.into()).collect();
    if let Some(axis) = tensor.rank_axis {
        dims[axis] = Dim::Symbol(format!("{}.r", naming.path));
    }
    graph.input(&naming.input(tensor), &dims)
}
