//! Products with quantized weights: `MatMulNBits` and `MatMulBnb4`.
//!
//! ONNX Runtime packs the codes of `MatMulNBits` when a session starts, whatever the options say of packing, or else the
//! product is some hundred times slower. Queries, keys and values are joined for the same reason as in [`super::joined`]:
//! in the file of quantized weights they follow each other, so the joined one is mapped too; where a merge has changed
//! some of them, ONNX Runtime joins them at the start.

use std::collections::HashMap;

use super::joined::take_joined;
use super::products::{drop_unused, int, node};
use crate::graph::proto::{Entry, Graph, Model, Node, Tensor};

/// Whether a product of `model` has codes that ONNX Runtime has to pack.
pub fn needs_packing(model: &Model) -> bool {
    let mut nodes = model.graph.iter().flat_map(|graph| &graph.node);
    nodes.any(|node| node.op_type == "MatMulNBits")
}

/// Whether a product of `model` has a quantized weight.
pub fn is_quantized(model: &Model) -> bool {
    let mut nodes = model.graph.iter().flat_map(|graph| &graph.node);
    nodes.any(|node| is_product(node))
}

fn is_product(node: &Node) -> bool {
    ["MatMulNBits", "MatMulBnb4"].contains(&node.op_type.as_str())
}

/// Joins products that share their input and are all that their attention node takes.
pub fn join(model: &mut Model) {
    let Some(graph) = &mut model.graph else {
        return;
    };
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for name in graph.node.iter().flat_map(|node| &node.input) {
        *uses.entry(name).or_default() += 1;
    }
    let makers: HashMap<&str, &Node> = graph
        .node
        .iter()
        .filter(|node| is_product(node))
        .map(|node| (node.output[0].as_str(), node))
        .collect();
    let triple = |attention: &Node| -> Option<[Node; 3]> {
        let parts = attention.input.get(..3)?.iter().map(|value| {
            let alone = uses.get(value.as_str()) == Some(&1);
            makers
                .get(value.as_str())
                .filter(|_| alone)
                .copied()
                .cloned()
        });
        let parts: [Node; 3] = parts.collect::<Option<Vec<Node>>>()?.try_into().ok()?;
        can_be_joined(&parts).then_some(parts)
    };
    let triples: HashMap<String, [Node; 3]> = graph
        .node
        .iter()
        .filter(|node| node.op_type == "GroupQueryAttention")
        .filter_map(|node| Some((node.name.clone(), triple(node)?)))
        .collect();
    let joined: Vec<&String> = triples
        .values()
        .flatten()
        .map(|part| &part.output[0])
        .collect();
    let mut nodes = Vec::new();
    for mut attention in std::mem::take(&mut graph.node) {
        if attention
            .output
            .first()
            .is_some_and(|output| joined.contains(&output))
        {
            continue;
        }
        if let Some(parts) = triples.get(&attention.name) {
            let qkv = format!("{}/qkv", attention.name);
            let weights = [1, 2].map(|place| {
                let names = parts.each_ref().map(|part| part.input[place].clone());
                let what = ["codes", "scales"][place - 1];
                joined_initializer(graph, &mut nodes, &names, &format!("{qkv}.{what}"))
            });
            let mut product = parts[0].clone();
            let rows: i64 = parts.iter().map(|part| attribute(part, "N")).sum();
            for attribute in &mut product.attribute {
                if attribute.name == "N" {
                    *attribute = int("N", rows);
                }
            }
            let [codes, scales] = weights;
            product.input[1] = codes;
            product.input[2] = scales;
            product.output = vec![qkv.clone()];
            product.name.clone_from(&qkv);
            nodes.push(product);
            take_joined(&mut attention, &qkv);
        }
        nodes.push(attention);
    }
    graph.node = nodes;
    drop_unused(graph);
}

/// The same operator, input and form; of NF4, whose blocks don't end with rows, whole blocks.
fn can_be_joined(parts: &[Node; 3]) -> bool {
    let [first, ..] = parts;
    let alike = |part: &Node| {
        let same = |name| attribute(part, name) == attribute(first, name);
        part.op_type == first.op_type
            && part.input[0] == first.input[0]
            && ["K", "bits", "block_size", "accuracy_level"]
                .into_iter()
                .all(same)
    };
    let whole = |part: &Node| {
        let elements = attribute(part, "N") * attribute(part, "K");
        part.op_type == "MatMulNBits" || elements % attribute(part, "block_size") == 0
    };
    parts.iter().all(|part| alike(part) && whole(part))
}

fn attribute(node: &Node, name: &str) -> i64 {
    let mut all = node.attribute.iter();
    all.find(|attribute| attribute.name == name)
        .map_or(0, |attribute| attribute.i)
}

/// Adds the three initializers `names`, one behind the other, as `joined`: one reference where they follow each other in
/// their file, else a node.
fn joined_initializer(
    graph: &mut Graph,
    nodes: &mut Vec<Node>,
    names: &[String; 3],
    joined: &str,
) -> String {
    let find = |name: &String| graph.initializer.iter().find(|tensor| tensor.name == *name);
    let found: Option<Vec<&Tensor>> = names.iter().map(find).collect();
    let places: Option<Vec<(&str, u64, u64)>> = found
        .iter()
        .flatten()
        .map(|tensor| {
            let entry = |key: &str| {
                let found = tensor.external_data.iter().find(|entry| entry.key == key);
                found.map(|entry| entry.value.as_str())
            };
            let number = |key| entry(key)?.parse().ok();
            Some((entry("location")?, number("offset")?, number("length")?))
        })
        .collect();
    if let (Some(tensors), Some(places)) = (found, places)
        && places
            .windows(2)
            .all(|pair| pair[0].0 == pair[1].0 && pair[0].1 + pair[0].2 == pair[1].1)
    {
        let mut tensor = tensors[0].clone();
        tensor.name = joined.to_owned();
        tensor.dims[0] = tensors.iter().map(|tensor| tensor.dims[0]).sum();
        let length: u64 = places.iter().map(|place| place.2).sum();
        let entry = |key: &str, value: String| Entry {
            key: key.to_owned(),
            value,
        };
        tensor.external_data = vec![
            entry("location", places[0].0.to_owned()),
            entry("offset", places[0].1.to_string()),
            entry("length", length.to_string()),
        ];
        graph.initializer.push(tensor);
    } else {
        let parts: Vec<&str> = names.iter().map(String::as_str).collect();
        nodes.push(node("Concat", &parts, joined, vec![int("axis", 0)]));
    }
    joined.to_owned()
}
