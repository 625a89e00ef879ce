//! Rows of the embedding that are replaced, token by token: `trainable_token_indices`.
//!
//! | tensor | shape |
//! |---|---|
//! | `<embedding>.token_adapter.trainable_tokens_delta` | `[tokens, embedding_dim]` |
//!
//! Despite its name the tensor holds the rows themselves, not their difference. On a tied model the
//! head's rows are the same. Source: PEFT, `tuners/trainable_tokens/layer.py`.

use ndarray::{Array2, Axis};

use super::{AdapterError, BoundTensor, ModuleAdapter, ModuleWeights, ReadWeight};
use crate::graph::proto::element;
use crate::graph::{Attr, Dim, EmbeddingSite, GraphBuilder, LinearSite, Value};

/// Replaced rows of an embedding, or of a head.
#[derive(Debug)]
pub struct TokenRows {
    /// The unmerged graph's input.
    pub input: String,
    /// Token ids.
    pub indices: Vec<usize>,
    /// `[indices.len(), embedding_dim]`
    pub rows: Array2<f32>,
    /// A tied head shares the embedding's rows, which are counted once.
    pub counted: bool,
}

impl TokenRows {
    /// The rows as an input of the graph, and the token ids as a constant.
    fn inputs(&self, graph: &mut GraphBuilder) -> (Value, Value) {
        let width = self.rows.ncols();
        let rows = graph.shared_input(&self.input, &[self.indices.len().into(), width.into()]);
        let ids: Vec<i64> = self.indices.iter().map(|&index| index as i64).collect();
        let indices = graph.constant_i64(&format!("{}.indices", self.input), &ids, false);
        (rows, indices)
    }
}

impl ModuleAdapter for TokenRows {
    fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        for (&index, row) in self.indices.iter().zip(self.rows.axis_iter(Axis(0))) {
            module.weight.row_mut(index).assign(&row);
        }
        Ok(())
    }

    fn bound_tensors(&self, _weight: ReadWeight) -> Result<Vec<BoundTensor>, AdapterError> {
        Ok(vec![BoundTensor {
            name: self.input.clone(),
            shape: self.rows.shape().to_vec(),
            values: self.rows.iter().copied().collect(),
        }])
    }

    /// A head: the logits of the replaced tokens are written over the base's.
    fn linear(&self, graph: &mut GraphBuilder, site: &LinearSite) -> Value {
        let (rows, indices) = self.inputs(graph);
        let name = format!("/{}/token_adapter", site.path);
        let logits = graph.matmul_transposed(&format!("{name}/MatMul"), site.x, &rows);
        let shape = graph.op("Shape", &format!("{name}/shape"), &[&logits], &[]);
        let places = graph.op(
            "Expand",
            &format!("{name}/places"),
            &[&indices, &shape],
            &[],
        );
        let product = graph.op(
            "ScatterElements",
            &format!("{name}/ScatterElements"),
            &[site.product, &places, &logits],
            &[("axis", Attr::Int(-1))],
        );
        match site.bias {
            Some(bias) => graph.add(&format!("{name}/Add"), &product, bias),
            None => product,
        }
    }

    /// For each token: is it one of the replaced ones, and which?
    fn embedding(&self, graph: &mut GraphBuilder, site: &EmbeddingSite) -> Value {
        let (rows, indices) = self.inputs(graph);
        let name = format!("/{}/token_adapter", site.path);
        let ids = graph.reshape(&format!("{name}/ids"), site.ids, &[0, 0, 1]);
        let equal = graph.op("Equal", &format!("{name}/Equal"), &[&ids, &indices], &[]);
        let equal = graph.cast(&format!("{name}/Equal/i32"), &equal, element::INT32);
        let attrs = [("axis", Attr::Int(-1)), ("keepdims", Attr::Int(0))];
        let which = graph.op("ArgMax", &format!("{name}/ArgMax"), &[&equal], &attrs);
        let replaced = graph.gather(&format!("{name}/Gather"), &rows, &which, 0);
        let axis = graph.constant_i64("last", &[-1], false);
        let hit = graph.op(
            "ReduceMax",
            &format!("{name}/ReduceMax"),
            &[&equal, &axis],
            &[],
        );
        let hit = graph.cast(&format!("{name}/hit"), &hit, element::BOOL);
        graph.op(
            "Where",
            &format!("{name}/Where"),
            &[&hit, &replaced, site.rows],
            &[],
        )
    }

    fn trainable_params(&self) -> usize {
        if self.counted { self.rows.len() } else { 0 }
    }
}

/// A symbolic dimension of an adapter's input, such as a rank, of its own for each module.
pub fn symbolic(path: &str, name: &str) -> Dim {
    Dim::Symbol(format!("{path}.{name}"))
}
