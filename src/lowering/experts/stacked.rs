//! `MoE`: the weights of all experts are stacked in a file, copied once, like others ([`super::super::pack`]).

use super::{Layer, Reader};
use crate::graph::proto::{Graph, Model};
use crate::lowering::pack::{Found, LaidOutFiles};
use crate::lowering::piece::{PackError, Piece};
use crate::lowering::products::{Products, Weight, drop_unused, int};

/// The weights that `model` wants stacked, in groups that shall follow each other.
pub fn wanted(model: &Model) -> Vec<Vec<Piece>> {
    layers(model).iter().flat_map(stacks).collect()
}

/// Makes one node of each layer's experts whose weights are stacked in `files`.
///
/// # Errors
/// If a file can't be read.
pub fn fuse(model: &mut Model, files: &LaidOutFiles) -> Result<(), PackError> {
    let layers = layers(model);
    let Some(graph) = &mut model.graph else {
        return Ok(());
    };
    for layer in layers {
        let [inner, outer] = stacks(&layer);
        if let (Some(inner), Some(outer)) = (files.find(&inner)?, files.find(&outer)?) {
            replace(graph, &layer, &inner, &outer);
        }
    }
    drop_unused(graph);
    Ok(())
}

fn layers(model: &Model) -> Vec<Layer<Weight>> {
    let products = Products::of(model);
    let Some(graph) = &model.graph else {
        return Vec::new();
    };
    let nodes = graph.node.iter();
    let routed = nodes.filter_map(|node| {
        let output = node.output.first()?;
        let weight = products.routed_weight_of(output)?;
        Some((output.as_str(), (node.input[0].as_str(), weight.clone())))
    });
    Reader::new(graph, routed.collect()).layers()
}

/// `gate_proj` and `up_proj` of all experts, and `down_proj`.
fn stacks(layer: &Layer<Weight>) -> [Vec<Piece>; 2] {
    let experts = layer.experts.iter().cloned();
    experts
        .map(|[gate, up, down]| (Piece::Alternating(gate, up), Piece::Rows(down)))
        .unzip()
        .into()
}

fn replace(graph: &mut Graph, layer: &Layer<Weight>, inner: &Found, outer: &Found) {
    let experts = layer.experts.len();
    let mut stacked = |part: &str, found: &Found| {
        let name = format!("{}/{part}", layer.last);
        let dims = [experts, found.rows / experts, found.columns].map(|size| size as i64);
        let tensor = found.initializer(&name, dims.to_vec());
        graph.initializer.push(tensor);
        name
    };
    let inner = stacked("gate_up.weight", inner);
    let outer = stacked("down.weight", outer);
    let input = vec![
        layer.rows.clone(),
        layer.logits.clone(),
        inner,
        String::new(),
        outer,
    ];
    let normalised = int("normalize_routing_weights", layer.normalised.into());
    layer.replace(graph, "MoE", input, vec![normalised]);
}
