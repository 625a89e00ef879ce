//! Fusing float experts into `MoE`. The weights of all experts are stacked in the file of laid-out
//! weights ([`super::super::laid_out_files`]).

use super::{ExpertLayer, layers};
use crate::graph::proto::{Graph, Model};
use crate::lowering::NotLowered;
use crate::lowering::laid_out_files::{LaidOutFiles, LaidOutRange};
use crate::lowering::laid_out_tensor::{LaidOutTensor, LayOutError};
use crate::lowering::products::{
    Products, Weight, drop_unused, int, node, scalar_constant, shape_constant,
};

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
    let found = layers(graph, |node| {
        let weight = products.expert_weight(node);
        weight
            .cloned()
            .ok_or("one of their weights isn't stored in a file")
    });
    let alike = |layer: ExpertLayer<Weight>| {
        let size = |weight: &Weight| [weight.rows, weight.columns];
        let sizes = |expert: &[Weight; 3]| expert.each_ref().map(size);
        let [gate, up, down] = sizes(&layer.experts[0]);
        let all = layer.experts.iter().map(sizes);
        match gate == up && all.into_iter().all(|one| one == [gate, up, down]) {
            true => Ok(layer),
            false => Err(layer.refused("their weights have different sizes")),
        }
    };
    let found = found.into_iter();
    found.map(|layer| layer.and_then(alike)).collect()
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
    let input = |logits: &str| {
        vec![
            layer.rows.clone(),
            logits.to_owned(),
            inner,
            String::new(),
            outer,
        ]
    };
    let normalised = |is: bool| vec![int("normalize_routing_weights", is.into())];
    if layer.usual_router {
        let input = input(&layer.logits);
        layer.replace(graph, "MoE", input, normalised(layer.normalised));
        return;
    }
    // The node takes logits, and a softmax over the picked ones: with the weights' logarithms, that's
    // each weight divided by their sum. A weight of 0 has the logarithm of the smallest number.
    let at = |part: &str| format!("{}/{part}", layer.sum);
    let [least, logarithms, sums, whole] = ["least", "log", "weights", "unscaled"].map(at);
    let constant = scalar_constant(graph, "experts.least_weight", f32::MIN_POSITIVE);
    let axis = shape_constant(graph, "experts.axis", &[1]);
    let before = [
        node("Max", &[&layer.weights, &constant], &least, Vec::new()),
        node("Log", &[&least], &logarithms, Vec::new()),
        node("ReduceSum", &[&layer.weights, &axis], &sums, Vec::new()),
    ];
    layer.replace(graph, "MoE", input(&logarithms), normalised(true));
    let Some(place) = graph.node.iter().position(|node| node.name == layer.sum) else {
        return;
    };
    let output = std::mem::replace(&mut graph.node[place].output[0], whole.clone());
    let mut scaled = node("Mul", &[&whole, &sums], &output, Vec::new());
    scaled.name = at("scaled");
    graph.node.insert(place + 1, scaled);
    graph.node.splice(place..place, before);
}
