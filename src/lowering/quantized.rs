//! Joining products with quantized weights, `MatMulNBits` and `MatMulBnb4`.
//!
//! ONNX Runtime must pack the codes of `MatMulNBits` when it opens a session; otherwise the product
//! is some hundred times slower. Products with the same input are joined, as in
//! [`super::joined_products`]. Their weights are contiguous in the file of quantized weights, so
//! the joined weight is mapped as well. If a merge has changed some of them, ONNX Runtime
//! concatenates them when it opens the session.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use super::joined_products::{groups, split, take_joined};
use super::model_file::ROOT;
use super::products::{drop_unused, int, node};
use crate::graph::proto::{Graph, Model, Node, Tensor};
use crate::onnxruntime::Provider;
use crate::quantize::Operator;
use crate::weights::ByteSpan;

/// Whether `model` has a product whose codes ONNX Runtime must pack.
pub fn needs_packing(model: &Model) -> bool {
    let mut nodes = model.graph.iter().flat_map(|graph| &graph.node);
    nodes.any(|node| operator_of(node).is_some_and(|operator| operator.packs_codes))
}

/// Whether `model` has a product with a quantized weight.
pub fn is_quantized(model: &Model) -> bool {
    let mut nodes = model.graph.iter().flat_map(|graph| &graph.node);
    nodes.any(is_product)
}

fn is_product(node: &Node) -> bool {
    operator_of(node).is_some()
}

/// The operator of `node`, if it multiplies with quantized weights.
fn operator_of(node: &Node) -> Option<&'static Operator> {
    let mut operators = Operator::ALL.into_iter();
    operators.find(|operator| operator.name == node.op_type)
}

/// The largest number of products joined on a GPU. To split more outputs, the CUDA kernel needs
/// lists with an entry for each column, which are copied to the device in every step.
const MOST_ON_A_GPU: usize = 4;

/// Joins products with the same input. An attention node takes joined queries, keys and values
/// directly, if no other node comes in between; otherwise the output is split.
pub fn join(model: &mut Model, provider: Provider) {
    let most = match provider {
        Provider::Cpu => usize::MAX,
        Provider::Cuda(_) => MOST_ON_A_GPU,
    };
    let Some(graph) = &mut model.graph else {
        return;
    };
    let products: HashMap<String, Node> = graph
        .node
        .iter()
        .filter(|node| is_product(node))
        .map(|node| (node.output[0].clone(), node.clone()))
        .collect();
    // The products by the first one's output, with the attention node that takes them.
    let groups: HashMap<String, (Vec<Node>, Option<String>)> = groups(graph, is_product)
        .into_iter()
        .map(|(first, group)| {
            let parts = group.outputs.iter().map(|output| products[output].clone());
            (first, (parts.collect::<Vec<_>>(), group.attention))
        })
        .filter(|(_, (parts, _))| parts.len() <= most && can_be_joined(parts))
        .collect();
    let mut done: HashSet<String> = HashSet::new();
    let mut taken: HashMap<String, String> = HashMap::new();
    let mut nodes = Vec::new();
    for mut node in std::mem::take(&mut graph.node) {
        let output = node.output.first().cloned().unwrap_or_default();
        if let Some(joined) = taken.get(&node.name) {
            take_joined(&mut node, joined);
        }
        if done.contains(&output) {
            continue;
        }
        let Some((parts, attention)) = groups.get(&output) else {
            nodes.push(node);
            continue;
        };
        let joined = format!("{output}/joined");
        add_joined(graph, &mut nodes, parts, &joined);
        match attention {
            Some(name) => {
                taken.insert(name.clone(), joined);
            }
            None => {
                let rows: Vec<i64> = parts.iter().map(|part| attribute(part, "N")).collect();
                let outputs: Vec<String> =
                    parts.iter().map(|part| part.output[0].clone()).collect();
                nodes.push(split(graph, &joined, &outputs, &rows, -1));
            }
        }
        done.extend(parts.iter().map(|part| part.output[0].clone()));
    }
    graph.node = nodes;
    drop_unused(graph);
}

/// Adds the product `joined`, which replaces `parts`.
fn add_joined(graph: &mut Graph, nodes: &mut Vec<Node>, parts: &[Node], joined: &str) {
    let weights: Vec<String> = ["codes", "scales", "zeros"]
        .iter()
        .zip(1..parts[0].input.len())
        .map(|(what, place)| {
            let names: Vec<String> = parts.iter().map(|part| part.input[place].clone()).collect();
            joined_initializer(graph, nodes, &names, &format!("{joined}.{what}"))
        })
        .collect();
    let mut product = parts[0].clone();
    let rows: i64 = parts.iter().map(|part| attribute(part, "N")).sum();
    for attribute in &mut product.attribute {
        if attribute.name == "N" {
            *attribute = int("N", rows);
        }
    }
    product.input.splice(1.., weights);
    product.output = vec![joined.to_owned()];
    joined.clone_into(&mut product.name);
    nodes.push(product);
}

/// Whether `parts` have the same operator, input and attributes. NF4's blocks may span rows, so its
/// weights must be whole blocks.
fn can_be_joined(parts: &[Node]) -> bool {
    let first = &parts[0];
    let alike = |part: &Node| {
        part.op_type == first.op_type
            && part.input[0] == first.input[0]
            && part.input.len() == first.input.len()
            && other_attributes(part) == other_attributes(first)
    };
    let whole = |part: &Node| {
        let elements = attribute(part, "N") * attribute(part, "K");
        let rows_are_apart = operator_of(part).is_some_and(|operator| operator.packs_codes);
        rows_are_apart || elements % attribute(part, "block_size").max(1) == 0
    };
    parts.iter().all(|part| alike(part) && whole(part))
}

/// The attributes of a product but for the number of its rows.
fn other_attributes(product: &Node) -> BTreeMap<&str, i64> {
    let others = product.attribute.iter().filter(|other| other.name != "N");
    others.map(|other| (other.name.as_str(), other.i)).collect()
}

/// The integer attribute `name` of a node; 0 if it's absent.
pub fn attribute(node: &Node, name: &str) -> i64 {
    let mut all = node.attribute.iter();
    all.find(|attribute| attribute.name == name)
        .map_or(0, |attribute| attribute.i)
}

/// Adds `joined`, the concatenation of the initializers `names`: an initializer if they're
/// contiguous in their file, otherwise a `Concat` node.
pub fn joined_initializer(
    graph: &mut Graph,
    nodes: &mut Vec<Node>,
    names: &[String],
    joined: &str,
) -> String {
    let find = |name: &String| graph.initializer.iter().find(|tensor| tensor.name == *name);
    let found: Option<Vec<&Tensor>> = names.iter().map(find).collect();
    let root = Path::new(ROOT);
    let spans = found.iter().flatten().map(|tensor| tensor.span(root));
    let spans: Option<Vec<ByteSpan>> = spans.collect();
    let follows = |pair: &[ByteSpan]| {
        pair[0].path == pair[1].path && pair[0].offset + pair[0].length == pair[1].offset
    };
    if let (Some(tensors), Some(spans)) = (found, spans)
        && spans.windows(2).all(follows)
        && tensors.iter().all(|tensor| !tensor.dims.is_empty())
    {
        let mut tensor = tensors[0].clone();
        tensor.name = joined.to_owned();
        tensor.dims[0] = tensors.iter().map(|tensor| tensor.dims[0]).sum();
        let span = ByteSpan {
            length: spans.iter().map(|span| span.length).sum(),
            ..spans[0].clone()
        };
        tensor.set_span(&span, root);
        graph.initializer.push(tensor);
    } else {
        let parts: Vec<&str> = names.iter().map(String::as_str).collect();
        nodes.push(node("Concat", &parts, joined, vec![int("axis", 0)]));
    }
    joined.to_owned()
}
