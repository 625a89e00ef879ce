//! One graph for several adapters at once: each row of the batch picks its adapter's tensors.
//!
//! ```text
//! A [r, in]        A [adapters, r, in] ─ Gather(adapter_index) ─ [batch, r, in]
//! x ─ FusedMatMul  x [batch, sequence, in] ─ FusedMatMul ─ [batch, sequence, r]
//! ```
//!
//! Every input of the adapter gets a leading axis of adapters, and a `Gather` picks a row's own.
//! A matrix product then is one of a batch of matrices, and a vector `[batch, 1, features]` scales
//! the tokens of its own row. The other nodes stay as they are. That covers adapters whose tensors
//! are factors of products or of elementwise scales: LoRA, DoRA's magnitudes, (IA)³ and the like.
//! Whatever else reads a tensor (a table of tokens, a rotation, a replaced weight) takes one for
//! the whole batch.

use thiserror::Error;

use super::products::{int, node};
use crate::graph::proto::{
    Dimension, DimensionValue, Graph, Model, Node, Shape, TensorType, Type, ValueInfo, element,
};

/// The input with the number of each row's adapter, i64 `[batch]`.
pub const ADAPTER_INDEX: &str = "adapter_index";

/// Why the rows of a batch can't pick their adapters.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "rows can't pick their own `{input}`: {reason}; `--mixed-form grouped` runs each adapter's rows by themselves"
)]
pub struct NotGathered {
    /// The adapter's tensor.
    pub input: String,
    /// What's in the way.
    pub reason: String,
}

/// Lets each row of the batch pick the tensors `inputs` of one of `adapters` adapters.
///
/// # Errors
/// If a tensor is used otherwise than as a factor of products or of elementwise scales.
pub fn gather_adapters(
    model: &mut Model,
    inputs: &[String],
    adapters: usize,
) -> Result<(), NotGathered> {
    let Some(graph) = &mut model.graph else {
        return Ok(());
    };
    for input in inputs {
        check(graph, input).map_err(|reason| NotGathered {
            input: input.clone(),
            reason,
        })?;
    }
    let mut gathers = Vec::with_capacity(inputs.len());
    for input in inputs {
        let rows = format!("{input}/rows");
        for node in &mut graph.node {
            for used in node.input.iter_mut().filter(|used| *used == input) {
                used.clone_from(&rows);
            }
        }
        let mut gather = node(
            "Gather",
            &[input, ADAPTER_INDEX],
            &rows,
            vec![int("axis", 0)],
        );
        gather.name = format!("{input}/Gather");
        gathers.push(gather);
        if let Some(shape) = shape_of(graph, input) {
            let one = |size| Dimension {
                value: Some(DimensionValue::Value(size)),
            };
            if shape.dim.len() == 1 {
                shape.dim.insert(0, one(1));
            }
            shape.dim.insert(0, one(adapters as i64));
        }
    }
    graph.node.splice(0..0, gathers);
    graph.input.push(ValueInfo {
        name: ADAPTER_INDEX.to_owned(),
        r#type: Some(Type {
            tensor_type: Some(TensorType {
                elem_type: element::INT64,
                shape: Some(Shape {
                    dim: vec![Dimension { value: None }],
                }),
            }),
        }),
    });
    Ok(())
}

/// Whether every node that reads `input` computes the same for each row from the row's own.
fn check(graph: &mut Graph, input: &str) -> Result<(), String> {
    let axes = shape_of(graph, input).map_or(0, |shape| shape.dim.len());
    let mut readers = graph
        .node
        .iter()
        .filter(|node| node.input.iter().any(|used| used == input))
        .peekable();
    if axes == 0 || readers.peek().is_none() {
        return Err("the graph doesn't read it as it is".to_owned());
    }
    for reader in readers {
        if !gathers(reader, input, axes) {
            return Err(format!(
                "`{}` (`{}`) takes one for the whole batch",
                reader.name, reader.op_type
            ));
        }
    }
    Ok(())
}

/// Whether `reader` computes row by row once `input`, with this number of axes, has a leading one
/// of rows.
fn gathers(reader: &Node, input: &str, axes: usize) -> bool {
    // Experts run on the tokens of all rows together. Elsewhere, values have an axis of heads.
    if !reader.name.contains("/adapter/") || reader.name.contains(".experts.") {
        return false;
    }
    match (reader.op_type.as_str(), axes) {
        ("FusedMatMul" | "MatMul", 2) => reader.input[0] != input,
        ("Mul" | "Add", 1) => true,
        _ => false,
    }
}

fn shape_of<'a>(graph: &'a mut Graph, input: &str) -> Option<&'a mut Shape> {
    let mut inputs = graph.input.iter_mut();
    let found = inputs.find(|found| found.name == input)?;
    let tensor = found.r#type.as_mut()?.tensor_type.as_mut()?;
    tensor.shape.as_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, dims: &[i64]) -> ValueInfo {
        let dim = dims.iter().map(|&size| Dimension {
            value: Some(DimensionValue::Value(size)),
        });
        ValueInfo {
            name: name.to_owned(),
            r#type: Some(Type {
                tensor_type: Some(TensorType {
                    elem_type: element::FLOAT32,
                    shape: Some(Shape { dim: dim.collect() }),
                }),
            }),
        }
    }

    fn named(mut made: Node, name: &str) -> Node {
        name.clone_into(&mut made.name);
        made
    }

    fn model(nodes: Vec<Node>) -> Model {
        Model {
            graph: Some(Graph {
                node: nodes,
                input: vec![input("a", &[2, 3]), input("v", &[3])],
                ..Graph::default()
            }),
            ..Model::default()
        }
    }

    fn sizes(graph: &Graph, place: usize) -> Vec<i64> {
        let tensor = graph.input[place].r#type.as_ref().unwrap();
        let shape = tensor.tensor_type.as_ref().unwrap().shape.as_ref().unwrap();
        let size = |dim: &Dimension| match dim.value {
            Some(DimensionValue::Value(size)) => size,
            _ => -1,
        };
        shape.dim.iter().map(size).collect()
    }

    #[test]
    fn factors_and_scales_are_picked_by_row() {
        let product = node("FusedMatMul", &["x", "a"], "y", Vec::new());
        let scale = node("Mul", &["y", "v"], "z", Vec::new());
        let mut model = model(vec![
            named(product, "/q/adapter/A/MatMul"),
            named(scale, "/q/adapter/gain"),
        ]);
        let inputs = ["a".to_owned(), "v".to_owned()];
        gather_adapters(&mut model, &inputs, 5).unwrap();
        let graph = model.graph.unwrap();
        let operators: Vec<&str> = graph.node.iter().map(|one| one.op_type.as_str()).collect();
        assert_eq!(operators, ["Gather", "Gather", "FusedMatMul", "Mul"]);
        assert_eq!(graph.node[0].input, ["a", ADAPTER_INDEX]);
        assert_eq!(graph.node[2].input, ["x", "a/rows"]);
        assert_eq!(graph.node[3].input, ["y", "v/rows"]);
        // A vector gets an axis of tokens, too.
        assert_eq!(sizes(&graph, 0), [5, 2, 3]);
        assert_eq!(sizes(&graph, 1), [5, 1, 3]);
        assert_eq!(graph.input[2].name, ADAPTER_INDEX);
    }

    #[test]
    fn what_takes_one_tensor_for_the_whole_batch_is_refused_and_nothing_is_changed() {
        let of = |operator: &str, inputs: &[&str], name: &str| {
            model(vec![named(node(operator, inputs, "y", Vec::new()), name)])
        };
        let rows = of("Gather", &["a", "ids"], "/embed/adapter/Gather");
        let expert = of(
            "FusedMatMul",
            &["x", "a"],
            "/mlp.experts.1/adapter/A/MatMul",
        );
        let left = of("MatMul", &["a", "x"], "/q/adapter/left");
        let norm = of("Mul", &["x", "a"], "/norm/Mul");
        for mut graph in [rows, expert, left, norm] {
            let before = graph.clone();
            let refused = gather_adapters(&mut graph, &["a".to_owned()], 2).unwrap_err();
            assert!(refused.to_string().contains("grouped"), "{refused}");
            assert_eq!(graph, before);
        }
    }
}
