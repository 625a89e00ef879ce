//! Fusing float experts into `MoE`. The weights of all experts are stacked in the file of laid-out
//! weights ([`super::super::laid_out_files`]).

use super::{ExpertLayer, layers};
use crate::graph::proto::{Graph, Model};
use crate::lowering::NotLowered;
use crate::lowering::laid_out_files::{LaidOutFiles, LaidOutRange};
use crate::lowering::laid_out_tensor::{LaidOutTensor, LayOutError};
use crate::lowering::products::{Products, Weight, drop_unused, int};

/// The experts' tensors to stack for `model`. The tensors of a group must be contiguous in the
/// file.
pub fn to_lay_out(model: &Model) -> Vec<Vec<LaidOutTensor>> {
    let layers = of_model(model).into_iter().flatten();
    layers.flat_map(|layer| stacks(&layer)).collect()
}

/// Fuses the experts of each layer whose weights are stacked in `files`. Returns the layers that
/// couldn't be fused.
///
/// # Errors
/// If the metadata of a weight's file can't be read.
pub fn fuse(model: &mut Model, files: &LaidOutFiles) -> Result<Vec<NotLowered>, LayOutError> {
    let layers = of_model(model);
    let mut refused = Vec::new();
    let Some(graph) = &mut model.graph else {
        return Ok(refused);
    };
    for layer in layers {
        let layer = match layer {
            Ok(layer) => layer,
            Err(reason) => {
                refused.push(reason);
                continue;
            }
        };
        let [inner, outer] = stacks(&layer);
        match (files.find(&inner)?, files.find(&outer)?) {
            (Some(inner), Some(outer)) => replace(graph, &layer, &inner, &outer),
            _ => refused.push(layer.refused("their weights aren't contiguous in one file")),
        }
    }
    drop_unused(graph);
    Ok(refused)
}

fn of_model(model: &Model) -> Vec<Result<ExpertLayer<Weight>, super::NotLowered>> {
    let products = Products::of(model);
    let Some(graph) = &model.graph else {
        return Vec::new();
    };
    layers(graph, |node| {
        let weight = products.expert_weight(node);
        weight
            .cloned()
            .ok_or("one of their weights isn't stored in a file")
    })
}

/// The tensors of `gate_proj` and `up_proj` of all experts, and those of `down_proj`.
fn stacks(layer: &ExpertLayer<Weight>) -> [Vec<LaidOutTensor>; 2] {
    let experts = layer.experts.iter().cloned();
    experts
        .map(|[gate, up, down]| {
            (
                LaidOutTensor::Alternating(gate, up),
                LaidOutTensor::Rows(down),
            )
        })
        .unzip()
        .into()
}

fn replace(
    graph: &mut Graph,
    layer: &ExpertLayer<Weight>,
    inner: &LaidOutRange,
    outer: &LaidOutRange,
) {
    let experts = layer.experts.len();
    let mut stacked = |part: &str, found: &LaidOutRange| {
        let name = format!("{}/{part}", layer.sum);
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
