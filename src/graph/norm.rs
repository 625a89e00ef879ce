//! Normalisation, alone or with the residual addition in front of it.

use super::builder::{Attr, GraphBuilder, Value};
use crate::arch::{Norm, NormKind};

/// Adds `norm(x)`; all `[batch, sequence, hidden_size]`.
pub fn norm(graph: &mut GraphBuilder, norm: &Norm, x: &Value) -> Value {
    let name = format!("/{}", norm.path);
    let (weight, bias) = parameters(graph, norm);
    let attrs = [
        ("axis", Attr::Int(-1)),
        ("epsilon", Attr::Float(norm.epsilon as f32)),
    ];
    match (norm.kind, bias) {
        (NormKind::Rms, _) => {
            graph.op("SimplifiedLayerNormalization", &name, &[x, &weight], &attrs)
        }
        (_, Some(bias)) => graph.op("LayerNormalization", &name, &[x, &weight, &bias], &attrs),
        (_, None) => graph.op("LayerNormalization", &name, &[x, &weight], &attrs),
    }
}

/// Adds `sum = x + update` and `norm(sum)` as one node; returns both, `(sum, normed)`.
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
        NormKind::Rms => "SkipSimplifiedLayerNormalization",
        NormKind::Layer | NormKind::LayerWithoutParameters => "SkipLayerNormalization",
    };
    let mut inputs = vec![x, update, &weight];
    inputs.extend(bias.as_ref());
    let mut made = graph.contrib_outputs(op, &name, &inputs, &outputs, &attrs);
    (made.remove(3), made.remove(0))
}

fn parameters(graph: &mut GraphBuilder, norm: &Norm) -> (Value, Option<Value>) {
    match norm.kind {
        NormKind::LayerWithoutParameters => {
            let ones = format!("ones.{}", norm.size);
            (graph.filled(&ones, &[norm.size], 1.0), None)
        }
        NormKind::Rms | NormKind::Layer => (
            graph.parameter(&format!("{}.weight", norm.path)),
            graph.find_parameter(&format!("{}.bias", norm.path)),
        ),
    }
}
