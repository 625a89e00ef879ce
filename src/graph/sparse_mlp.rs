//! A gated MLP most of whose gates are zero: those below a quantile of a normal distribution with
//! the gates' mean and deviation.
//!
//! ```text
//! g = gate_proj(x)
//! down_proj(act(relu(g - mean(g) - quantile * deviation(g))) * up_proj(x))
//! ```
//!
//! Source: `Gemma3nTextMLP` in `modeling_gemma3n.py`, Hugging Face Transformers.

use super::activation::activate;
use super::builder::{GraphBuilder, Value};
use super::linear::linear;
use super::mlp::mlp;
use super::pass::Pass;
use crate::arch::Mlp;

/// Adds the MLP of the layer at `path`; about the part `sparsity` of its gates becomes zero. Only
/// gated MLPs have gates.
pub(super) fn sparse_mlp(
    graph: &mut GraphBuilder,
    pass: &Pass,
    path: &str,
    own: &Mlp,
    sparsity: f64,
    x: &Value,
) -> Value {
    let Mlp::Gated {
        gate_proj,
        up_proj,
        down_proj,
        activation,
    } = own
    else {
        return mlp(graph, pass, path, own, x);
    };
    let at = |part: &str| format!("/{path}/mlp/{part}");
    let gate = linear(graph, pass, gate_proj, x);
    let axis = graph.constant_i64("axis.last", &[-1], false);
    let mean = graph.op("ReduceMean", &at("mean"), &[&gate, &axis], &[]);
    let centred = graph.op("Sub", &at("centred"), &[&gate, &mean], &[]);
    let squares = graph.mul(&at("squares"), &centred, &centred);
    let variance = graph.op("ReduceMean", &at("variance"), &[&squares, &axis], &[]);
    let deviation = graph.op("Sqrt", &at("deviation"), &[&variance], &[]);
    let quantile = graph.filled(&at("quantile"), &[], normal_quantile(sparsity) as f32);
    let cutoff = graph.mul(&at("cutoff"), &deviation, &quantile);
    let rest = graph.op("Sub", &at("Sub"), &[&centred, &cutoff], &[]);
    let kept = graph.op("Relu", &at("Relu"), &[&rest], &[]);
    let activated = activate(graph, path, &at("act_fn"), *activation, &kept);
    let up = linear(graph, pass, up_proj, x);
    let product = graph.mul(&at("Mul"), &activated, &up);
    linear(graph, pass, down_proj, &product)
}

/// The value below which the part `p` of a standard normal distribution lies, for `0 < p < 1`.
fn normal_quantile(p: f64) -> f64 {
    // The distribution function rises everywhere, so halving an interval finds the value.
    let (mut low, mut high) = (-9.0, 9.0);
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        match normal_distribution(middle) < p {
            true => low = middle,
            false => high = middle,
        }
    }
    (low + high) / 2.0
}

/// The part of a standard normal distribution below `x`, by its series
/// `1/2 + density(x) (x + x^3/3 + x^5/(3*5) + …)`.
fn normal_distribution(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for odd in (3..400).step_by(2) {
        term *= x * x / f64::from(odd);
        sum += term;
    }
    let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    0.5 + density * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_the_normal_distribution_are_those_of_tables() {
        for (p, expected) in [
            (0.5, 0.0),
            (0.95, 1.644_853_626_951_472_7),
            (0.9, 1.281_551_565_544_600_4),
            (0.1, -1.281_551_565_544_600_4),
            (0.999, 3.090_232_306_167_813_5),
        ] {
            let found = normal_quantile(p);
            assert!((found - expected).abs() < 1e-9, "{p}: {found}");
        }
    }
}
