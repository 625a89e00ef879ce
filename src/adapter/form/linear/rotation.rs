//! Products of inputs and of weights with a block-diagonal matrix.

use ndarray::{Array2, ArrayView2, Axis, s};

use crate::graph::{GraphBuilder, Value};

/// Multiplies `[batch, sequence, n b]` by blocks `[n, b, b]`, with the input's elements in the
/// given `order`.
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

/// `W ← W Mᵀ`, with `M` block-diagonal in the given order of columns, and `blocks`
/// `[n, size, size]`.
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
