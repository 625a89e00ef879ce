//! Layers that are computed on the CPU although the session runs on a GPU, which has no room for
//! all of them: the first layers are on the GPU, the others on the CPU.
//!
//! ONNX Runtime partitions the graph. A node's metadata may have an annotation, and an option of the
//! session says which provider gets the nodes with that annotation. Nodes that none names go where
//! they usually go, to the GPU. A session has one GPU at most, so layers can't be divided among
//! several.
//!
//! A node's name begins with its layer's path, such as `/model.layers.3/mlp/up_proj/MatMul`.
//!
//! On a CPU, ONNX Runtime has no float16 version of products, sums and activations, and leaves them to
//! the GPU. So they're computed in float32 here, with casts around them; those of weights are
//! computed once, when the session is opened.
//!
//! A trap, seen with ONNX Runtime 1.31: where a node with its output in the host's memory (`Shape`) is
//! left to the GPU and an annotated node takes that output, partitioning crashes. So these are
//! annotated too; they run on the CPU anyway.
//!
//! Source: ONNX Runtime's documentation, "Graph Partitioning with Annotations and Memory
//! Constraints".

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use super::model_file::ROOT;
use super::products::{int, node};
use super::quantized::attribute;
use crate::graph::proto::{Entry, Graph, Model, Node, Tensor, ValueInfo, dtype, element};
use crate::weights::Dtype;

/// The key of the metadata that ONNX Runtime reads.
const ANNOTATION: &str = "layer_ann";
/// The annotation of nodes on the CPU.
const ON_CPU: &str = "on_cpu";
/// The session's option that says where annotated nodes run.
pub const OPTION: &str = "session.layer_assignment_settings";
/// Its value: `=` asks for this annotation, and not for those that begin with it.
pub const SETTING: &str = "cpu(=on_cpu)";
/// Operators without a float16 version on the CPU, all of whose inputs and outputs have one type.
const WITHOUT_FLOAT16: [&str; 16] = [
    "MatMul",
    "FusedMatMul",
    "Gemm",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Neg",
    "Sqrt",
    "Sigmoid",
    "Tanh",
    "Relu",
    "Elu",
    "Gelu",
    "QuickGelu",
    "Softplus",
];
/// Operators whose output is in the host's memory.
const ON_HOST: [&str; 2] = ["Shape", "Size"];
/// Names of the lists of layers in modules' paths.
const LISTS: [&str; 3] = ["layers", "h", "blocks"];

/// Whether layers of a graph that computes in `compute` can be on the CPU: ONNX Runtime has nearly no
/// operators for bfloat16 there, and other types are widened here.
pub fn takes(compute: Dtype) -> bool {
    compute != Dtype::BFloat16
}

/// Bytes of weights, as the graph computes with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WeightSizes {
    /// Of each layer.
    pub layers: Vec<u64>,
    /// Of everything else: embeddings, the last norm, the head.
    pub rest: u64,
}

impl WeightSizes {
    /// The sizes in `model`, which computes in `compute`.
    pub fn of(model: &Model, compute: Dtype) -> Self {
        let mut layers = BTreeMap::<usize, u64>::new();
        let mut rest = 0;
        let initializers = model.graph.iter().flat_map(|graph| &graph.initializer);
        for tensor in initializers {
            let bytes = bytes_of(tensor, compute);
            match layer_of(&tensor.name) {
                Some(layer) => *layers.entry(layer).or_default() += bytes,
                None => rest += bytes,
            }
        }
        let count = layers.last_key_value().map_or(0, |(last, _)| last + 1);
        let size = |layer| layers.get(&layer).copied().unwrap_or_default();
        Self {
            layers: (0..count).map(size).collect(),
            rest,
        }
    }

    /// The bytes on a GPU that has the first `layers`.
    pub fn on_gpu(&self, layers: usize) -> u64 {
        self.rest + self.layers.iter().take(layers).sum::<u64>()
    }
}

/// The bytes of `tensor` once numbers are cast to `compute`; codes stay as they are.
fn bytes_of(tensor: &Tensor, compute: Dtype) -> u64 {
    if dtype(tensor.data_type).is_some() {
        let elements: i64 = tensor.dims.iter().product();
        return elements.max(0) as u64 * compute.size() as u64;
    }
    let span = tensor.span(Path::new(ROOT));
    span.map_or(tensor.raw_data.len() as u64, |span| span.length)
}

/// The number of the layer that a node or a parameter with this name is in.
fn layer_of(name: &str) -> Option<usize> {
    let mut words = name.split(['/', '.']).peekable();
    while let Some(word) = words.next() {
        if LISTS.contains(&word)
            && let Some(number) = words.peek().and_then(|next| next.parse().ok())
        {
            return Some(number);
        }
    }
    None
}

/// Puts all layers but the first `on_gpu` on the CPU. Returns the inputs that only their nodes take:
/// the keys, values and states of these layers, which are held in the host's memory.
pub fn place(model: &mut Model, on_gpu: usize) -> BTreeSet<String> {
    let Some(graph) = &mut model.graph else {
        return BTreeSet::new();
    };
    let is_on_cpu = |node: &Node| layer_of(&node.name).is_some_and(|layer| layer >= on_gpu);
    widen(graph, is_on_cpu);
    let mut on_cpu = BTreeSet::new();
    let mut elsewhere = HashSet::new();
    for node in &mut graph.node {
        let is_on_host = ON_HOST.contains(&node.op_type.as_str());
        if is_on_cpu(node) {
            on_cpu.extend(node.input.iter().cloned());
        } else if !is_on_host {
            elsewhere.extend(node.input.iter().cloned());
        }
        if is_on_cpu(node) || is_on_host {
            node.metadata_props.push(Entry {
                key: ANNOTATION.to_owned(),
                value: ON_CPU.to_owned(),
            });
        }
    }
    let inputs: HashSet<&str> = graph
        .input
        .iter()
        .map(|input| input.name.as_str())
        .collect();
    on_cpu.retain(|name| inputs.contains(name.as_str()) && !elsewhere.contains(name));
    on_cpu
}

/// Computes nodes for which `is_on_cpu` is true in float32 if they have no float16 version there.
fn widen(graph: &mut Graph, is_on_cpu: impl Fn(&Node) -> bool) {
    let mut halves = constants_and_inputs_in_float16(graph);
    for mut node in std::mem::take(&mut graph.node) {
        let has_one_type = WITHOUT_FLOAT16.contains(&node.op_type.as_str());
        if !(has_one_type && node.input.iter().any(|input| halves.contains(input))) {
            graph.node.push(node);
            continue;
        }
        halves.extend(node.output.iter().cloned());
        if !is_on_cpu(&node) {
            graph.node.push(node);
            continue;
        }
        for (place, input) in node.input.iter_mut().enumerate() {
            let wide = format!("{}/{place}/widened", node.name);
            graph.node.push(cast(input, &wide, element::FLOAT32));
            *input = wide;
        }
        let narrow = node.output[0].clone();
        node.output[0] = format!("{narrow}/widened");
        let mut back = cast(&node.output[0], &narrow, element::FLOAT16);
        back.name = format!("{}/narrowed", node.name);
        graph.node.extend([node, back]);
    }
}

/// The names of values in float16 that are initializers, casts of them, or inputs.
fn constants_and_inputs_in_float16(graph: &Graph) -> HashSet<String> {
    let type_of = |input: &ValueInfo| {
        input
            .r#type
            .as_ref()?
            .tensor_type
            .as_ref()
            .map(|of| of.elem_type)
    };
    let inputs = graph.input.iter();
    let inputs = inputs.filter_map(|input| Some((input.name.as_str(), i64::from(type_of(input)?))));
    let constants = graph.initializer.iter();
    let constants = constants.map(|tensor| (tensor.name.as_str(), i64::from(tensor.data_type)));
    let mut types: HashMap<&str, i64> = inputs.chain(constants).collect();
    for node in graph.node.iter().filter(|node| node.op_type == "Cast") {
        if types.contains_key(node.input[0].as_str()) {
            types.insert(&node.output[0], attribute(node, "to"));
        }
    }
    types.retain(|_, kind| *kind == i64::from(element::FLOAT16));
    types.into_keys().map(str::to_owned).collect()
}

fn cast(from: &str, to: &str, kind: i32) -> Node {
    node("Cast", &[from], to, vec![int("to", i64::from(kind))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, inputs: &[&str]) -> Node {
        Node {
            name: name.to_owned(),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            ..Node::default()
        }
    }

    fn model() -> Model {
        let tensor = |name: &str, data_type, dims: &[i64]| Tensor {
            name: name.to_owned(),
            data_type,
            dims: dims.to_vec(),
            raw_data: vec![0; 5],
            ..Tensor::default()
        };
        let input = |name: &str| ValueInfo {
            name: name.to_owned(),
            ..ValueInfo::default()
        };
        let graph = Graph {
            node: vec![
                node("/model.embed_tokens/Gather", &["ids", "table"]),
                node(
                    "/model.layers.0/attention",
                    &["past_key_values.0.key", "mask"],
                ),
                node(
                    "/model.layers.2/attention",
                    &["past_key_values.2.key", "mask"],
                ),
                node("/model.layers.10/attention", &["past_key_values.10.key"]),
                node("/model.layers.10/share", &["past_key_values.0.key"]),
                node("/transformer.h.3/mlp", &["x"]),
            ],
            initializer: vec![
                tensor("model.embed_tokens.weight", element::FLOAT32, &[10, 4]),
                tensor("model.layers.0.mlp.weight", element::BFLOAT16, &[4, 4]),
                tensor(
                    "model.layers.2.mlp.experts.7.weight",
                    element::FLOAT16,
                    &[2],
                ),
                tensor("model.layers.2.mlp.codes", element::UINT8, &[5]),
            ],
            input: [
                "ids",
                "mask",
                "past_key_values.0.key",
                "past_key_values.2.key",
                "past_key_values.10.key",
            ]
            .map(input)
            .to_vec(),
            ..Graph::default()
        };
        Model {
            graph: Some(graph),
            ..Model::default()
        }
    }

    #[test]
    fn layers_behind_the_first_ones_are_annotated_and_their_caches_are_on_the_host() {
        let mut model = model();
        let on_host = place(&mut model, 2);
        assert_eq!(
            on_host.iter().collect::<Vec<_>>(),
            ["past_key_values.10.key", "past_key_values.2.key"]
        );
        let graph = model.graph.unwrap();
        let is_annotated = |node: &Node| node.metadata_props.iter().any(|of| of.key == ANNOTATION);
        let annotated: Vec<bool> = graph.node.iter().map(is_annotated).collect();
        assert_eq!(annotated, [false, false, true, true, true, true]);
    }

    #[test]
    fn what_has_no_float16_version_on_the_cpu_is_computed_in_float32_there() {
        let mut model = model();
        let graph = model.graph.as_mut().unwrap();
        let make = |layer: usize, op: &str, inputs: &[&str], output: &str| Node {
            op_type: op.to_owned(),
            output: vec![output.to_owned()],
            ..node(&format!("/model.layers.{layer}/mlp/{op}"), inputs)
        };
        let half = "model.layers.2.mlp.experts.7.weight";
        graph.node = vec![
            cast("model.embed_tokens.weight", "narrow", element::FLOAT16),
            make(0, "MatMul", &["x", half], "first"),
            make(2, "MatMul", &["x", half], "second"),
            make(2, "Add", &["first", "second"], "sum"),
            make(3, "MatMul", &["sum", "narrow"], "third"),
            make(3, "Reshape", &["third", "shape"], "shaped"),
            // The type of its inputs isn't known to be float16.
            make(4, "Mul", &["position", "position"], "square"),
        ];
        place(&mut model, 1);
        let nodes = model.graph.unwrap().node;
        let operators: Vec<_> = nodes.iter().map(|node| node.op_type.as_str()).collect();
        let wide = |op| ["Cast", "Cast", op, "Cast"];
        let expected = [
            &["Cast", "MatMul"][..],
            &wide("MatMul"),
            &wide("Add"),
            &wide("MatMul"),
            &["Reshape", "Mul"],
        ];
        assert_eq!(operators, expected.concat());
        let product = &nodes[4];
        assert_eq!(
            product.input,
            [2, 3].map(|place| nodes[place].output[0].as_str())
        );
        assert_eq!(nodes[3].input, [half]);
        assert_eq!(
            (&nodes[5].input, nodes[5].output[0].as_str()),
            (&product.output, "second")
        );
        let is_annotated = |node: &Node| node.metadata_props.iter().any(|of| of.key == ANNOTATION);
        assert!(nodes[2..].iter().all(is_annotated) && !nodes[..2].iter().any(is_annotated));
        let names: HashSet<_> = nodes.iter().map(|node| &node.name).collect();
        assert_eq!(names.len(), nodes.len());
    }

    #[test]
    fn weights_count_in_the_type_of_the_arithmetic_by_layer() {
        let sizes = WeightSizes::of(&model(), Dtype::Float16);
        let expected = WeightSizes {
            layers: vec![32, 0, 4 + 5],
            rest: 80,
        };
        assert_eq!(sizes, expected);
        assert_eq!(
            [0, 1, 3, 9].map(|layers| sizes.on_gpu(layers)),
            [80, 112, 121, 121]
        );
    }
}
