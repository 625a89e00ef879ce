//! Activation functions of the MLP.

use super::builder::{Attr, GraphBuilder, Value};
use crate::arch::Activation;

/// Adds `activation(x)`.
pub fn activate(graph: &mut GraphBuilder, name: &str, activation: Activation, x: &Value) -> Value {
    match activation {
        // `QuickGelu` is `x * sigmoid(alpha * x)`.
        Activation::Silu => graph.contrib("QuickGelu", name, &[x], &[("alpha", Attr::Float(1.0))]),
        Activation::Relu => graph.op("Relu", name, &[x], &[]),
        Activation::Gelu => graph.contrib("Gelu", name, &[x], &[]),
        Activation::GeluTanh => graph.contrib("FastGelu", name, &[x], &[]),
    }
}
