//! Which weights are worth laying out in blocks, and in which order.

use std::collections::HashSet;

use crate::graph::proto::Model;
use crate::lowering::joined::groups;
use crate::lowering::piece::Piece;
use crate::lowering::products::{Products, Weight};

/// Rows of a weight from which on a block that isn't full costs little.
const MANY_ROWS: usize = 128;

/// Whether a weight makes whole blocks.
pub(super) fn is_whole(weight: &Weight, block: usize) -> bool {
    weight.rows > 0 && weight.rows.is_multiple_of(block)
}

/// Whether a weight can be laid out, and is worth it.
fn fits(weight: &Weight, block: usize) -> bool {
    let columns = weight.columns > 0 && weight.columns.is_multiple_of(block);
    columns && (is_whole(weight, block) || weight.rows >= MANY_ROWS)
}

/// The weights of `model` that are wanted in blocks, in groups that shall follow each other.
pub fn wanted(model: &Model, block: usize) -> Vec<Vec<Piece>> {
    let products = Products::of(model);
    let Some(graph) = &model.graph else {
        return Vec::new();
    };
    let groups_of = groups(graph, |node| products.weight(node).is_some());
    let mut groups = Vec::new();
    let mut seen: HashSet<(String, u64)> = HashSet::new();
    for node in &graph.node {
        let Some(weight) = products.any_weight(node) else {
            continue;
        };
        let joined: Vec<Weight> = groups_of
            .get(&node.output[0])
            .into_iter()
            .flat_map(|group| &group.outputs)
            .filter_map(|value| products.weight_of(value).cloned())
            .collect();
        let group = match !joined.is_empty() && joined.iter().all(|weight| is_whole(weight, block))
        {
            true => joined,
            false => vec![weight.clone()],
        };
        let fresh = |weight: &Weight| !seen.contains(&(weight.location.clone(), weight.offset));
        if group.iter().all(|weight| fits(weight, block)) && group.iter().any(fresh) {
            let places = group
                .iter()
                .map(|weight| (weight.location.clone(), weight.offset));
            seen.extend(places);
            let blocks = |weight| Piece::Blocks(weight, block);
            groups.push(group.into_iter().map(blocks).collect());
        }
    }
    groups
}
