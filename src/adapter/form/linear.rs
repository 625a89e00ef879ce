//! The form of a linear layer.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayView2, Axis, s};

use super::{BaseModule, Naming, Part};
use crate::adapter::{AdapterError, ModuleWeights};
use crate::graph::{Attr, Dim, GraphBuilder, LinearSite, RoutedSite, Value};

/// `y = output(gain ∘ (W input(x) + delta x) + b)`; a stage that's absent does nothing.
#[derive(Debug, Default)]
pub struct LinearForm<'a> {
    /// What happens to the input on its way to the weight, first to last.
    pub input: Vec<InputStage<'a>>,
    /// `W'`, `[out_features, in_features]`.
    pub weight: Option<Part<'a>>,
    /// What's added to the product; it takes the layer's own input.
    pub delta: Option<Delta<'a>>,
    /// `[out_features]`, on product and delta, not on the bias.
    pub gain: Option<Part<'a>>,
    /// `b'`, `[out_features]`.
    pub bias: Option<Part<'a>>,
    /// What happens to the output, bias included.
    pub output: Option<OutputStage<'a>>,
}

/// A change of the input.
#[derive(Debug)]
pub enum InputStage<'a> {
    /// `x ∘ v`, `v` `[in_features]`.
    Scale(Part<'a>),
    /// Row vectors times a block-diagonal matrix: `x_k ← x_k · R_k`.
    Rotation {
        /// `[n, b, b]`, `n b = in_features`.
        blocks: Part<'a>,
        /// Element `order[c]` of the input is the `c`-th of the blocks; the result goes back to where it
        /// came from.
        order: Option<Vec<usize>>,
    },
}

/// A change of the product.
#[derive(Debug)]
pub enum Delta<'a> {
    /// `B A x`
    LowRank {
        /// `[r, in_features]`
        a: Part<'a>,
        /// `[out_features, r]`
        b: Part<'a>,
    },
    /// `(outer ⊗ inner) x`
    Kronecker {
        /// `[p, q]`
        outer: Part<'a>,
        /// `[out_features / p, in_features / q]`
        inner: Part<'a>,
    },
    /// Inputs whose indices have the same remainder by `r` are summed; column `c` of the weight gains row
    /// `c mod r` of `block`.
    Folded {
        /// `[r, out_features / copies]`
        block: Part<'a>,
        /// How often the outputs are repeated.
        copies: usize,
        /// Columns of the weight.
        in_features: usize,
    },
}

/// A change of the output.
#[derive(Debug)]
pub enum OutputStage<'a> {
    /// `y ∘ l`, `l` `[out_features]`.
    Scale(Part<'a>),
    /// `y_k ← y_k · c_k + y_other(k) · t_k`, `c` and `t` `[out_features]`.
    Pairs {
        /// What each output keeps of itself.
        own: Part<'a>,
        /// What it takes of the other one of its pair.
        other: Part<'a>,
        /// Each output's pair.
        order: Vec<usize>,
    },
}

impl<'a> LinearForm<'a> {
    /// A low-rank pair and nothing else.
    pub fn low_rank(a: Part<'a>, b: Part<'a>) -> Self {
        Self {
            delta: Some(Delta::LowRank { a, b }),
            ..Self::default()
        }
    }

    /// A replaced weight and nothing else.
    pub fn replaced(weight: Part<'a>) -> Self {
        Self {
            weight: Some(weight),
            ..Self::default()
        }
    }

    /// The pair, or the weight where that is no larger: it costs no node.
    pub fn low_rank_or_weight(a: Part<'a>, b: Part<'a>, weight: Part<'a>) -> Self {
        if a.elements() + b.elements() < weight.elements() {
            Self::low_rank(a, b)
        } else {
            Self::replaced(weight)
        }
    }

    /// Its tensors.
    pub fn parts(&self) -> Vec<&Part<'a>> {
        let mut all = Vec::new();
        for stage in &self.input {
            match stage {
                InputStage::Scale(part) | InputStage::Rotation { blocks: part, .. } => {
                    all.push(part);
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
            Some(OutputStage::Scale(part)) => all.push(part),
            Some(OutputStage::Pairs { own, other, .. }) => all.extend([own, other]),
            None => {}
        }
        all
    }

    /// Folds the form into the layer.
    ///
    /// # Errors
    /// If values that depend on the layer can't be worked out.
    pub fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        let base = BaseModule::of(std::mem::take(module));
        // What depends on the base is worked out while it's as it was.
        let replaced = self.weight.as_ref().map(|part| part.matrix(&base));
        let replaced = replaced.transpose()?;
        let bias = self.bias.as_ref().map(|part| part.vector(&base));
        let bias = bias.transpose()?;
        let gain = self.gain.as_ref().map(|part| part.vector(&base));
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
            let (InputStage::Scale(part) | InputStage::Rotation { blocks: part, .. }) = stage;
            input.push((stage, part.values(&base)?.into_owned()));
        }
        let output = match &self.output {
            Some(OutputStage::Scale(part)) => vec![part.vector(&base)?],
            Some(OutputStage::Pairs { own, other, .. }) => {
                vec![own.vector(&base)?, other.vector(&base)?]
            }
            None => Vec::new(),
        };

        let weights = base.into_weights().expect("they were given");
        let mut weight = replaced.unwrap_or(weights.weight);
        // y = W M_n … M_1 x, so the last stage meets the weight first.
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

    /// Adds the layer's nodes; returns its output, bias included.
    pub fn nodes(&self, graph: &mut GraphBuilder, naming: &Naming, site: &LinearSite) -> Value {
        let path = site.path;
        let at = |name: &str| format!("/{path}/adapter/{name}");
        let mut x = site.x.clone();
        for (index, stage) in self.input.iter().enumerate() {
            let name = at(&format!("input_{index}"));
            x = match stage {
                InputStage::Scale(part) => {
                    let scale = input(graph, naming, part);
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
            Some(part) => {
                let weight = input(graph, naming, part);
                graph.matmul_transposed(&name, &x, &weight)
            }
            None => graph.product(&name, path, &x),
        };
        if let Some(delta) = &self.delta {
            let delta = delta.nodes(graph, naming, site);
            y = graph.add(&at("Add"), &y, &delta);
        }
        if let Some(part) = &self.gain {
            let gain = input(graph, naming, part);
            y = graph.mul(&at("gain"), &y, &gain);
        }
        let bias = match &self.bias {
            Some(part) => Some(input(graph, naming, part)),
            None => graph.find_parameter(&format!("{path}.bias")),
        };
        if let Some(bias) = &bias {
            y = graph.add(&format!("/{path}/Add"), &y, bias);
        }
        match &self.output {
            None => y,
            Some(OutputStage::Scale(part)) => {
                let scale = input(graph, naming, part);
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
}

impl LinearForm<'_> {
    /// Adds a low-rank pair, all that there is for experts, to `product`.
    ///
    /// # Panics
    /// If it's anything else.
    pub fn routed_nodes(
        &self,
        graph: &mut GraphBuilder,
        naming: &Naming,
        site: RoutedSite,
        product: &Value,
    ) -> Value {
        let Some(Delta::LowRank { a, b }) = &self.delta else {
            unreachable!("`{}` has a low-rank pair", site.path);
        };
        let at = |name: &str| format!("/{}/adapter/{name}", site.path);
        // Projections that share `A` have its rank.
        let key = naming.input(a);
        let rank = Dim::Symbol(format!("{key}.r"));
        let dims = [rank.clone(), a.shape[1].into()];
        let a = graph.shared_input(&key, &dims);
        let dims = [b.shape[0].into(), rank];
        let b = graph.input(&naming.input(b), &dims);
        let inner = match &site.inner {
            Some((inner, of)) if *of == a => inner.clone(),
            _ => graph.routed_matmul_transposed(&at("A/MatMul"), site.x, &a),
        };
        *site.inner = Some((inner.clone(), a));
        let delta = graph.routed_matmul_transposed(&at("B/MatMul"), &inner, &b);
        graph.add(&at("Add"), product, &delta)
    }
}

impl Delta<'_> {
    fn nodes(&self, graph: &mut GraphBuilder, naming: &Naming, site: &LinearSite) -> Value {
        let path = site.path;
        let at = |name: &str| format!("/{path}/adapter/{name}");
        match self {
            Self::LowRank { a, b } => {
                // The rank is symbolic: an adapter of another rank is bound to the same graph.
                let rank = Dim::Symbol(format!("{path}.r"));
                let dims = [rank.clone(), a.shape[1].into()];
                let a = graph.input(&naming.input(a), &dims);
                let dims = [b.shape[0].into(), rank];
                let b = graph.input(&naming.input(b), &dims);
                let inner = graph.matmul_transposed(&at("A/MatMul"), site.x, &a);
                graph.matmul_transposed(&at("B/MatMul"), &inner, &b)
            }
            Self::Kronecker { outer, inner } => {
                let (q, v) = (outer.shape[1] as i64, inner.shape[1] as i64);
                let out = (outer.shape[0] * inner.shape[0]) as i64;
                let (outer, inner) = (input(graph, naming, outer), input(graph, naming, inner));
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
                    let pads = graph.constant_i64(&at("pads"), &pads, false);
                    x = graph.op("Pad", &at("Pad"), &[&x, &pads], &[]);
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

/// The graph's input for `part`; all dimensions but a rank are fixed.
pub fn input(graph: &mut GraphBuilder, naming: &Naming, part: &Part) -> Value {
    let mut dims: Vec<Dim> = part.shape.iter().map(|&size| size.into()).collect();
    if let Some(axis) = part.rank_axis {
        dims[axis] = Dim::Symbol(format!("{}.r", naming.path));
    }
    graph.shared_input(&naming.input(part), &dims)
}

/// `[batch, sequence, n b]` times blocks `[n, b, b]`.
pub fn rotate_input(
    graph: &mut GraphBuilder,
    name: &str,
    x: &Value,
    blocks: &Value,
    size: usize,
    order: Option<&[usize]>,
) -> Value {
    let gather = |graph: &mut GraphBuilder, what: &str, x: &Value, order: &[usize]| {
        let order: Vec<i64> = order.iter().map(|&index| index as i64).collect();
        let order = graph.constant_i64(&format!("{name}/{what}/order"), &order, false);
        graph.gather(&format!("{name}/{what}"), x, &order, -1)
    };
    let x = match order {
        Some(order) => gather(graph, "to_blocks", x, order),
        None => x.clone(),
    };
    let shape = [0, 0, -1, size as i64];
    let split = graph.reshape(&format!("{name}/split"), &x, &shape);
    let split = graph.transpose(&format!("{name}/to_front"), &split, &[0, 2, 1, 3]);
    let turned = graph.op("MatMul", &format!("{name}/MatMul"), &[&split, blocks], &[]);
    let turned = graph.transpose(&format!("{name}/to_back"), &turned, &[0, 2, 1, 3]);
    let joined = graph.reshape(&format!("{name}/join"), &turned, &[0, 0, -1]);
    match order {
        Some(order) => gather(graph, "from_blocks", &joined, &inverse(order)),
        None => joined,
    }
}

/// The permutation that undoes `order`.
pub fn inverse(order: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; order.len()];
    for (place, &index) in order.iter().enumerate() {
        inverse[index] = place;
    }
    inverse
}

/// `W ← W Mᵀ`, `M` block-diagonal in the given order of columns, with `blocks` of `size`².
pub fn rotate_columns(
    weight: &mut Array2<f32>,
    size: usize,
    blocks: &[f32],
    order: Option<&[usize]>,
) {
    if let Some(order) = order {
        *weight = weight.select(Axis(1), order);
    }
    for (index, block) in blocks.chunks_exact(size * size).enumerate() {
        let block = ArrayView2::from_shape((size, size), block).expect("chunks have this size");
        let mut columns = weight.slice_mut(s![.., index * size..(index + 1) * size]);
        let turned = columns.dot(&block.t());
        columns.assign(&turned);
    }
    if let Some(order) = order {
        *weight = weight.select(Axis(1), &inverse(order));
    }
}

/// Row `k` times `scale[k]`.
pub fn scale_rows(weight: &mut Array2<f32>, scale: &Array1<f32>) {
    for (mut row, &scale) in weight.axis_iter_mut(Axis(0)).zip(scale) {
        row *= scale;
    }
}

/// `W ← W + outer ⊗ inner`: block `(p, q)` gains `outer[p, q] · inner`.
fn add_kronecker(weight: &mut Array2<f32>, outer: &Array2<f32>, inner: &Array2<f32>) {
    let (rows, columns) = inner.dim();
    for ((p, q), &factor) in outer.indexed_iter() {
        let mut block =
            weight.slice_mut(s![p * rows..(p + 1) * rows, q * columns..(q + 1) * columns]);
        block.scaled_add(factor, inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::form::Role;
    use ndarray::{Array3, array};

    fn merged(form: &LinearForm, weight: Array2<f32>, bias: Option<Array1<f32>>) -> ModuleWeights {
        let mut module = ModuleWeights { weight, bias };
        form.merge_into(&mut module).unwrap();
        module
    }

    /// `y` as the stages say, element by element.
    #[test]
    fn stages_merge_in_their_order() {
        let (a, b) = (array![[1.0, -1.0]], array![[2.0], [0.5]]);
        let (scale, gain, out) = (array![3.0, 0.5], array![2.0, 4.0], array![10.0, 100.0]);
        let bias = array![1.0, 2.0];
        let form = LinearForm {
            input: vec![InputStage::Scale(Part::stored("v", &scale, Role::Factor))],
            gain: Some(Part::stored("g", &gain, Role::Factor)),
            bias: Some(Part::stored("b", &bias, Role::InPlace)),
            output: Some(OutputStage::Scale(Part::stored("l", &out, Role::Factor))),
            ..LinearForm::low_rank(
                Part::stored("A", &a, Role::Term),
                Part::scaled("B", &b, 2.0, Role::Term),
            )
        };
        let module = merged(
            &form,
            array![[1.0, 2.0], [3.0, 4.0]],
            Some(array![9.0, 9.0]),
        );
        // Row 0: ([3, 1] + 4·[1, −1])·2·10; row 1: ([9, 2] + [1, −1])·4·100.
        assert_eq!(module.weight, array![[140.0, -60.0], [4000.0, 400.0]]);
        assert_eq!(module.bias, Some(array![10.0, 200.0]));
    }

    #[test]
    fn a_rotation_turns_row_vectors_in_the_order_given() {
        let blocks: Array3<f32> = array![[[0.0, 1.0], [-1.0, 0.0]]];
        let rotation = |order| LinearForm {
            input: vec![InputStage::Rotation {
                blocks: Part::stored("R", &blocks, Role::Map),
                order,
            }],
            ..LinearForm::default()
        };
        // x·R = (−x₁, x₀); y = W (x·R).
        let plain = merged(&rotation(None), array![[1.0, 10.0]], None);
        assert_eq!(plain.weight, array![[10.0, -1.0]]);
        // The blocks see (x₁, x₀), which becomes (−x₀, x₁): back in place, (x₁, −x₀).
        let turned = merged(&rotation(Some(vec![1, 0])), array![[1.0, 10.0]], None);
        assert_eq!(turned.weight, array![[-10.0, 1.0]]);
    }

    #[test]
    fn a_kronecker_product_is_added_block_by_block() {
        let (outer, inner) = (array![[1.0, 2.0]], array![[1.0], [10.0]]);
        let form = LinearForm {
            delta: Some(Delta::Kronecker {
                outer: Part::stored("w1", &outer, Role::Term),
                inner: Part::stored("w2", &inner, Role::Term),
            }),
            ..LinearForm::default()
        };
        let module = merged(&form, Array2::ones((2, 2)), None);
        assert_eq!(module.weight, array![[2.0, 3.0], [11.0, 21.0]]);
    }

    #[test]
    fn pairs_of_outputs_turn_with_their_bias() {
        let (own, other) = (array![2.0, 3.0], array![-1.0, 1.0]);
        let form = LinearForm {
            output: Some(OutputStage::Pairs {
                own: Part::stored("c", &own, Role::Factor),
                other: Part::stored("t", &other, Role::Term),
                order: vec![1, 0],
            }),
            ..LinearForm::default()
        };
        let module = merged(&form, array![[1.0], [10.0]], Some(array![1.0, 2.0]));
        assert_eq!(module.weight, array![[-8.0], [31.0]]);
        assert_eq!(module.bias, Some(array![0.0, 7.0]));
    }

    #[test]
    fn the_smaller_of_pair_and_weight_is_chosen() {
        let (a, b) = (Array2::zeros((1, 4)), Array2::zeros((4, 1)));
        let (c, d) = (Array2::zeros((2, 4)), Array2::zeros((4, 2)));
        let weight = || Part::derived("W", &[4, 4], Role::InPlace, |_| unreachable!());
        let choose = |a, b| {
            LinearForm::low_rank_or_weight(
                Part::stored("A", a, Role::Term),
                Part::stored("B", b, Role::Term),
                weight(),
            )
        };
        assert!(choose(&a, &b).weight.is_none());
        assert!(choose(&c, &d).delta.is_none());
    }
}
