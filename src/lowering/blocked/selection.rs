//! The choice of the weights that are laid out in blocks, and their order.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::graph::Role;
use crate::graph::proto::{Graph, Model};
use crate::lowering::NotLowered;
use crate::lowering::joined_products::groups;
use crate::lowering::laid_out_tensor::LaidOutTensor;
use crate::lowering::products::{Products, Weight};

/// From this number of rows on, a partly filled last block costs little.
const MANY_ROWS: usize = 128;

/// Whether the weight's rows fill whole blocks.
pub(super) fn is_whole(weight: &Weight, block: usize) -> bool {
    weight.rows > 0 && weight.rows.is_multiple_of(block)
}

/// Whether the weight can be laid out, and it's worth it.
fn fits(weight: &Weight, block: usize) -> bool {
    let columns = weight.columns > 0 && weight.columns.is_multiple_of(block);
    columns && (is_whole(weight, block) || weight.rows >= MANY_ROWS)
}

/// The weights of `model` to lay out in blocks. The weights of a group must be contiguous in the
/// file.
pub fn to_lay_out(model: &Model, block: usize) -> Vec<Vec<LaidOutTensor>> {
    let products = Products::of(model);
    let Some(graph) = &model.graph else {
        return Vec::new();
    };
    let groups_of = groups(graph, |node| products.out_in_weight(node).is_some());
    let mut groups = Vec::new();
    let mut seen: HashSet<(PathBuf, u64)> = HashSet::new();
    for node in &graph.node {
        let Some(weight) = products.weight(node) else {
            continue;
        };
        let joined: Vec<Weight> = groups_of
            .get(&node.output[0])
            .into_iter()
            .flat_map(|group| &group.outputs)
            .filter_map(|value| products.out_in_weight_of(value).cloned())
            .collect();
        let group = match !joined.is_empty() && joined.iter().all(|weight| is_whole(weight, block))
        {
            true => joined,
            false => vec![weight.clone()],
        };
        let fresh =
            |weight: &Weight| !seen.contains(&(weight.span.path.clone(), weight.span.offset));
        if group.iter().all(|weight| fits(weight, block)) && group.iter().any(fresh) {
            let places = group
                .iter()
                .map(|weight| (weight.span.path.clone(), weight.span.offset));
            seen.extend(places);
            let blocks = |weight| LaidOutTensor::Blocks(weight, block);
            groups.push(group.into_iter().map(blocks).collect());
        }
    }
    groups
}

/// The linear layers of the rewritten `graph` that aren't in blocks of `block` channels, with the
/// reason.
pub(super) fn not_laid_out(graph: &Graph, products: &Products, block: usize) -> Vec<NotLowered> {
    let mut found: Vec<NotLowered> = Vec::new();
    for node in &graph.node {
        let Some(Role::Linear { path, .. }) = Role::of(node) else {
            continue;
        };
        let reason = match products.weight(node) {
            None => "its weight isn't stored in a file".to_owned(),
            Some(weight) => {
                let (rows, columns) = (weight.rows, weight.columns);
                format!(
                    "its weight, {rows} × {columns}, doesn't fill whole blocks of {block} channels"
                )
            }
        };
        found.push(NotLowered {
            role: "linear".to_owned(),
            path,
            reason,
        });
    }
    found
}
