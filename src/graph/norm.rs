//! Norms, with or without a preceding residual addition.

use super::builder::{Attr, GraphBuilder, Value};
use crate::arch::{HeadNorm, Norm, NormKind, NormOver};

/// Adds `norm(x)`; `x` and the returned value are `[batch, sequence, hidden_size]`.
pub fn norm(graph: &mut GraphBuilder, norm: &Norm, x: &Value) -> Value {
    let name = format!("/{}", norm.path);
    named(graph, &name, norm, x)
}

/// Adds `norm(x)` as the node `name`; the norm is over the last axis.
pub fn named(graph: &mut GraphBuilder, name: &str, norm: &Norm, x: &Value) -> Value {
    let (weight, bias) = parameters(graph, norm);
    let attrs = [
        ("axis", Attr::Int(-1)),
        ("epsilon", Attr::Float(norm.epsilon as f32)),
    ];
    match (norm.kind, bias) {
        (NormKind::Rms | NormKind::RmsPlusOne | NormKind::RmsWithoutParameters, _) => {
            graph.op("SimplifiedLayerNormalization", name, &[x, &weight], &attrs)
        }
        (_, Some(bias)) => graph.op("LayerNormalization", name, &[x, &weight, &bias], &attrs),
        (_, None) => graph.op("LayerNormalization", name, &[x, &weight], &attrs),
    }
}

/// Adds the norm of queries or keys, `[batch, sequence, heads * head_dim]`.
pub fn norm_of_heads(
    graph: &mut GraphBuilder,
    norm: &HeadNorm,
    heads: usize,
    head_dim: usize,
    x: &Value,
) -> Value {
    let HeadNorm { norm, over } = norm;
    if *over == NormOver::Projection {
        return self::norm(graph, norm, x);
    }
    let name = format!("/{}", norm.path);
    let shape = [0, 0, heads as i64, head_dim as i64];
    let split = graph.reshape(&format!("{name}/split_heads"), x, &shape);
    let normed = match over {
        NormOver::HeadWithOwnWeight | NormOver::HeadWithOwnModule => {
            // The operator supports only one weight for all heads.
            let plain = Norm {
                kind: NormKind::LayerWithoutParameters,
                ..norm.clone()
            };
            let normed = named(graph, &format!("{name}/heads"), &plain, &split);
            let weight = match over {
                NormOver::HeadWithOwnModule => weights_of_heads(graph, norm, heads),
                _ => graph.parameter(&format!("{}.weight", norm.path)),
            };
            graph.mul(&format!("{name}/Mul"), &normed, &weight)
        }
        _ => named(graph, &format!("{name}/heads"), norm, &split),
    };
    graph.reshape(&name, &normed, &[0, 0, (heads * head_dim) as i64])
}

/// The weights of the heads' own modules, `[heads, head_dim]`. ONNX Runtime joins them when it
/// opens the session.
fn weights_of_heads(graph: &mut GraphBuilder, norm: &Norm, heads: usize) -> Value {
    let own = |head| format!("{}.weight", HeadNorm::of_head(&norm.path, head));
    let weights: Vec<Value> = (0..heads).map(|head| graph.parameter(&own(head))).collect();
    let weights: Vec<&Value> = weights.iter().collect();
    let name = format!("/{}/weights", norm.path);
    let attrs = [("axis", Attr::Int(0))];
    let joined = graph.op("Concat", &format!("{name}/Concat"), &weights, &attrs);
    graph.reshape(&name, &joined, &[heads as i64, norm.size as i64])
}

/// Adds `sum = x + update` and `norm(sum)` as one node. Returns `(sum, norm(sum))`.
pub fn add_norm(
    graph: &mut GraphBuilder,
    norm: &Norm,
    x: &Value,
    update: &Value,
) -> (Value, Value) {
    let name = format!("/{}", norm.path);
    let sum = format!("{name}/sum");
    let outputs = [name.as_str(), "", "", sum.as_str()];
    let (weight, bias) = parameters(graph, norm);
    let attrs = [("epsilon", Attr::Float(norm.epsilon as f32))];
    let op = match norm.kind {
        NormKind::Rms | NormKind::RmsPlusOne | NormKind::RmsWithoutParameters => {
            "SkipSimplifiedLayerNormalization"
        }
        NormKind::Layer
        | NormKind::LayerPlusOne
        | NormKind::LayerWithoutBias
        | NormKind::LayerWithoutParameters => "SkipLayerNormalization",
    };
    let mut inputs = vec![x, update, &weight];
    inputs.extend(bias.as_ref());
    let mut made = graph.contrib_outputs(op, &name, &inputs, &outputs, &attrs);
    (made.remove(3), made.remove(0))
}

fn parameters(graph: &mut GraphBuilder, norm: &Norm) -> (Value, Option<Value>) {
    if norm.kind.parameters().is_empty() {
        let ones = format!("ones.{}", norm.size);
        return (graph.filled(&ones, &[norm.size], 1.0), None);
    }
    let weight = graph.parameter(&format!("{}.weight", norm.path));
    let bias = graph.find_parameter(&format!("{}.bias", norm.path));
    match norm.kind.adds_one() {
        true => {
            // ONNX Runtime folds this sum when it opens the session.
            let one = graph.filled("one.float", &[], 1.0);
            let name = format!("/{}/weight/Add", norm.path);
            (graph.add(&name, &weight, &one), bias)
        }
        false => (weight, bias),
    }
}
