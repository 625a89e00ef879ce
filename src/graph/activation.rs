//! Activation functions of the MLP.

use super::builder::{Attr, GraphBuilder, Value};
use crate::arch::Activation;

/// Adds `activation(x)` in the MLP of the layer at `path`.
pub fn activate(
    graph: &mut GraphBuilder,
    path: &str,
    name: &str,
    activation: Activation,
    x: &Value,
) -> Value {
    match activation {
        // `QuickGelu` is `x * sigmoid(alpha * x)`.
        Activation::Silu => graph.contrib("QuickGelu", name, &[x], &[("alpha", Attr::Float(1.0))]),
        Activation::Relu => graph.op("Relu", name, &[x], &[]),
        Activation::Gelu => graph.contrib("Gelu", name, &[x], &[]),
        Activation::GeluTanh => graph.contrib("FastGelu", name, &[x], &[]),
        Activation::Relu2 => {
            let positive = graph.op("Relu", &format!("{name}/Relu"), &[x], &[]);
            graph.mul(name, &positive, &positive)
        }
        Activation::Xielu => xielu(graph, &format!("{path}.mlp.act_fn"), name, x),
    }
}

/// Adds the xIELU whose parameters are those of the module `path`.
///
/// ```text
/// x > 0:      softplus(alpha_p) x^2                                         + beta x
/// otherwise:  (beta + softplus(alpha_n)) (exp(min(x, eps)) - 1 - x)         + beta x
/// ```
///
/// Source: Huang and Schlag, "Deriving Activation Functions Using Integration", arXiv:2411.13010.
fn xielu(graph: &mut GraphBuilder, path: &str, name: &str, x: &Value) -> Value {
    let at = |part: &str| format!("{name}/{part}");
    let [alpha_p, alpha_n, beta, eps] = ["alpha_p", "alpha_n", "beta", "eps"]
        .map(|parameter| graph.parameter(&format!("{path}.{parameter}")));
    // ONNX Runtime folds these three nodes when it opens the session.
    let above = graph.op("Softplus", &at("alpha_p/Softplus"), &[&alpha_p], &[]);
    let below = graph.op("Softplus", &at("alpha_n/Softplus"), &[&alpha_n], &[]);
    let below = graph.add(&at("alpha_n/Add"), &below, &beta);

    let square = graph.mul(&at("square"), x, x);
    let above = graph.mul(&at("above"), &square, &above);
    let capped = graph.op("Min", &at("Min"), &[x, &eps], &[]);
    // `eps` is negative, so this is `exp(min(x, eps)) - 1`.
    let grown = graph.op("Elu", &at("Elu"), &[&capped], &[]);
    let grown = graph.op("Sub", &at("Sub"), &[&grown, x], &[]);
    let below = graph.mul(&at("below"), &grown, &below);
    let zero = graph.filled("zero.float", &[], 0.0);
    let positive = graph.op("Greater", &at("Greater"), &[x, &zero], &[]);
    let bent = graph.op("Where", &at("Where"), &[&positive, &above, &below], &[]);
    let straight = graph.mul(&at("straight"), x, &beta);
    graph.add(name, &bent, &straight)
}
