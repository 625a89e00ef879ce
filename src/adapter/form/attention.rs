//! The form of an attention: a term that's added to its heads' outputs.

use super::linear::input;
use super::{FormTensor, Naming};
use crate::graph::{AttentionPlace, AttentionSite, Attr, GraphBuilder, Value};

/// Further keys and values, which every token attends to without a mask and with a softmax of their
/// own.
#[derive(Debug)]
pub struct AttentionForm<'a> {
    /// `[num_key_value_heads, head_dim, length]`, already multiplied by the scores' factor.
    pub keys: FormTensor<'a>,
    /// `[num_key_value_heads, length, head_dim]`
    pub values: FormTensor<'a>,
    /// Where the result is added.
    pub place: AttentionPlace,
}

impl<'a> AttentionForm<'a> {
    /// Its tensors.
    pub fn tensors(&self) -> Vec<&FormTensor<'a>> {
        vec![&self.keys, &self.values]
    }

    /// Computes `softmax(q K) V` head by head. Returns it before the heads' output projection,
    /// `[batch, sequence, num_attention_heads * head_dim]`.
    ///
    /// Query heads that share a key and value head are rows of one product.
    pub fn nodes(&self, graph: &mut GraphBuilder, naming: &Naming, site: &AttentionSite) -> Value {
        let at = |name: &str| format!("/{}/adapter/{name}", site.path);
        let keys = input(graph, naming, &self.keys);
        let values = input(graph, naming, &self.values);
        let (groups, width) = (site.num_key_value_heads as i64, site.head_dim as i64);
        let shared = (site.num_attention_heads / site.num_key_value_heads) as i64 * width;

        let split = graph.reshape(&at("split"), site.query, &[0, 0, groups, shared]);
        let split = graph.transpose(&at("to_front"), &split, &[0, 2, 1, 3]);
        let rows = graph.reshape(&at("rows"), &split, &[0, 0, -1, width]);
        let scores = graph.op("MatMul", &at("scores/MatMul"), &[&rows, &keys], &[]);
        let attrs = [("axis", Attr::Int(-1))];
        let weights = graph.op("Softmax", &at("Softmax"), &[&scores], &attrs);
        let sums = graph.op("MatMul", &at("values/MatMul"), &[&weights, &values], &[]);
        let split = graph.reshape(&at("heads"), &sums, &[0, 0, -1, shared]);
        let split = graph.transpose(&at("to_back"), &split, &[0, 2, 1, 3]);
        graph.reshape(&at("join"), &split, &[0, 0, groups * shared])
    }
}
