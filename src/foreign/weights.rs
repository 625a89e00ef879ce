//! How large a graph's weights are, and how many bytes of them a decode step reads.

use std::collections::{BTreeMap, BTreeSet};

use super::graph_file::{GraphFile, LightTensor};
use crate::graph::proto::{Node, element};

/// `DOUBLE`
const FLOAT64: i32 = 11;
/// `INT8`
const INT8: i32 = 3;
/// `UINT4`
const UINT4: i32 = 21;
/// `INT4`
const INT4: i32 = 22;

/// Bits of a code where an operator doesn't say.
const USUAL_BITS: u64 = 4;

/// Operators with quantized weights, with the place of the codes among their inputs. The inputs
/// after it are scales and zero points.
const QUANTIZED: [(&str, usize); 8] = [
    ("MatMulNBits", 1),
    ("MatMulBnb4", 1),
    ("GatherBlockQuantized", 0),
    ("QMoE", 2),
    ("MatMulInteger", 1),
    ("DynamicQuantizeMatMul", 1),
    ("MatMulIntegerToFloat", 1),
    ("DequantizeLinear", 0),
];

/// Operators that read a row of a table for each token.
const LOOKUPS: [&str; 2] = ["Gather", "GatherBlockQuantized"];

/// The weights of a graph.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Number of weights; of quantized ones, number of codes.
    pub parameters: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that a decode step reads: of a table that tokens are looked up in, one row.
    pub bytes_per_step: u64,
    /// Whether the graph has an operator for a mixture of experts.
    pub has_experts: bool,
    /// Bits of the codes of quantized weights, the fewest; `None` if none are quantized.
    pub quantized_bits: Option<u8>,
}

/// The size of the weights of `file`.
pub fn size(file: &GraphFile) -> Size {
    let nodes = &file.graph.node;
    let mut users: BTreeMap<&str, Vec<(&Node, usize)>> = BTreeMap::new();
    for node in nodes {
        for (place, input) in node.input.iter().enumerate() {
            users.entry(input).or_default().push((node, place));
        }
    }
    let tensors: BTreeMap<&str, &LightTensor> = file
        .graph
        .initializer
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor))
        .collect();
    let mut codes: BTreeMap<&str, u64> = BTreeMap::new();
    let mut scales: BTreeSet<&str> = BTreeSet::new();
    let mut size = Size {
        has_experts: nodes
            .iter()
            .any(|node| matches!(node.op_type.as_str(), "MoE" | "QMoE")),
        ..Size::default()
    };
    for node in nodes {
        let Some((_, place)) = QUANTIZED
            .iter()
            .find(|(operator, _)| node.op_type == *operator)
        else {
            continue;
        };
        let Some(name) = node.input.get(*place) else {
            continue;
        };
        let Some(tensor) = tensors.get(name.as_str()) else {
            continue;
        };
        let bits = code_bits(node, tensor);
        codes.insert(name, bits);
        scales.extend(node.input[place + 1..].iter().map(String::as_str));
        let bits = bits as u8;
        size.quantized_bits = Some(size.quantized_bits.map_or(bits, |fewest| fewest.min(bits)));
    }
    for (name, tensor) in tensors {
        let sides = tensor.dims.iter().map(|&dim| dim.unsigned_abs());
        let elements = sides.fold(1, u64::saturating_mul);
        let Some(bits) = element_bits(tensor.data_type) else {
            continue;
        };
        let bytes = elements.saturating_mul(bits).div_ceil(8);
        let is_float = matches!(
            tensor.data_type,
            element::FLOAT32 | element::FLOAT16 | element::BFLOAT16 | FLOAT64
        );
        if let Some(code) = codes.get(name) {
            let codes = elements.saturating_mul(bits) / code;
            size.parameters = size.parameters.saturating_add(codes as usize);
        } else if is_float && !scales.contains(name) {
            size.parameters = size.parameters.saturating_add(elements as usize);
        }
        size.bytes = size.bytes.saturating_add(bytes);
        let looked_up = users.get(name).is_some_and(|users| {
            let is_lookup = |(node, place): &(&Node, usize)| {
                let is_table = match node.op_type.as_str() {
                    "Gather" => *place == 0,
                    // Its scales have a row for each row of codes.
                    _ => true,
                };
                is_table && LOOKUPS.contains(&node.op_type.as_str())
            };
            users.iter().all(is_lookup)
        });
        let rows = tensor
            .dims
            .first()
            .map_or(1, |&rows| rows.unsigned_abs().max(1));
        let read = if looked_up { bytes / rows } else { bytes };
        size.bytes_per_step = size.bytes_per_step.saturating_add(read);
    }
    size
}

/// The bits of a code of `tensor`, the weights of `node`.
fn code_bits(node: &Node, tensor: &LightTensor) -> u64 {
    let attribute = |names: &[&str]| {
        let mut all = node.attribute.iter();
        let found = all.find(|one| names.contains(&one.name.as_str()))?;
        u64::try_from(found.i)
            .ok()
            .filter(|bits| (1..=8).contains(bits))
    };
    match (node.op_type.as_str(), tensor.data_type) {
        (_, UINT4 | INT4) => 4,
        ("MatMulNBits" | "GatherBlockQuantized", _) => attribute(&["bits"]).unwrap_or(USUAL_BITS),
        ("QMoE", _) => attribute(&["expert_weight_bits"]).unwrap_or(USUAL_BITS),
        ("MatMulBnb4", _) => 4,
        _ => 8,
    }
}

/// The bits of an element; `None` of types that weights don't have.
fn element_bits(element: i32) -> Option<u64> {
    match element {
        element::FLOAT32 | element::INT32 => Some(32),
        element::FLOAT16 | element::BFLOAT16 => Some(16),
        element::UINT8 | INT8 | element::BOOL => Some(8),
        element::INT64 | FLOAT64 => Some(64),
        UINT4 | INT4 => Some(4),
        _ => None,
    }
}
