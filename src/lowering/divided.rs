//! Weights that latent attention with a compressed cache divides into rows of heads
//! ([`Role::Divided`]). Both parts are in the file of laid-out weights, so that sessions map them.
//! Otherwise, ONNX Runtime divides them when it opens a session, and each session has a copy.

use super::laid_out_files::LaidOutFiles;
use super::laid_out_tensor::{LaidOutTensor, LayOutError};
use super::products::{Products, drop_unused};
use crate::graph::Role;
use crate::graph::proto::{Model, Node};

/// The parts to lay out for `model`.
pub fn to_lay_out(model: &Model) -> Vec<Vec<LaidOutTensor>> {
    let products = Products::of(model);
    let nodes = model.graph.iter().flat_map(|graph| &graph.node);
    let parts = nodes.filter_map(|node| parts(node, &products));
    parts.flatten().map(|part| vec![part]).collect()
}

/// Replaces the nodes that divide a weight by the parts in `files`.
///
/// # Errors
/// If the metadata of a weight's file can't be read.
pub fn take(model: &mut Model, files: &LaidOutFiles) -> Result<(), LayOutError> {
    let products = Products::of(model);
    let Some(graph) = &mut model.graph else {
        return Ok(());
    };
    let mut found = Vec::new();
    for node in &graph.node {
        let (Some(parts), Some(Role::Divided { heads, rows, .. })) =
            (parts(node, &products), Role::of(node))
        else {
            continue;
        };
        let [keys, values] = parts.map(|part| files.find(std::slice::from_ref(&part)));
        if let (Some(keys), Some(values)) = (keys?, values?) {
            let parts = [(keys, rows[0]), (values, rows[1])];
            let tensors = node.output.iter().zip(parts).map(|(name, (range, rows))| {
                let dims = [heads, rows, range.columns].map(|size| size as i64);
                range.initializer(name, dims.to_vec())
            });
            found.extend(tensors);
        }
    }
    let is_found = |node: &Node| {
        found
            .iter()
            .any(|tensor| node.output.first() == Some(&tensor.name))
    };
    graph.node.retain(|node| !is_found(node));
    graph.initializer.extend(found);
    drop_unused(graph);
    Ok(())
}

/// Both parts, if `node` divides a weight that's stored in a file.
fn parts(node: &Node, products: &Products) -> Option<[LaidOutTensor; 2]> {
    let weight = products.divided_weight(node)?;
    let Role::Divided { heads, rows, .. } = Role::of(node)? else {
        return None;
    };
    let of_head = rows[0].checked_add(rows[1])?;
    if heads == 0 || heads.checked_mul(of_head)? != weight.rows {
        return None;
    }
    let part = |first, count| LaidOutTensor::OfHeads {
        weight: weight.clone(),
        heads,
        first,
        count,
    };
    Some([part(0, rows[0]), part(rows[0], rows[1])])
}
