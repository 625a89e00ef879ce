//! Widens a graph in bfloat16 to float32 everywhere, so that a CPU can run it: ONNX Runtime has
//! almost no bfloat16 kernels there. Its computation is then exact, apart from weights and
//! constants, which are already rounded.

use std::collections::{HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use prost::Message;

use peft_bench::graph::proto::{Entry, Graph, Model, Tensor, ValueInfo, dtype, element};
use peft_bench::prepared::{ADAPTER, GRAPH, PreparedVariant};
use peft_bench::weights::{
    BytesPlan, Dtype, SafetensorsFile, SafetensorsWriter, TensorView, round_to, widen,
};

/// File name of the widened graph's weights.
const WEIGHTS: &str = "widened.bin";

/// Writes the widened `variant` to `folder`.
pub fn widened(variant: &PreparedVariant, folder: &Path) -> PreparedVariant {
    fs::create_dir_all(folder).unwrap();
    let mut model =
        Model::decode(fs::read(variant.folder.join(GRAPH)).unwrap().as_slice()).unwrap();
    let graph = model.graph.as_mut().unwrap();
    for value in graph.input.iter_mut().chain(&mut graph.output) {
        widen_type(value);
    }
    let mut narrowed = HashSet::new();
    for node in &mut graph.node {
        let casts = node.op_type == "Cast";
        for attribute in &mut node.attribute {
            if casts && attribute.name == "to" && attribute.i == i64::from(element::BFLOAT16) {
                attribute.i = element::FLOAT32.into();
                narrowed.extend(node.input.iter().cloned());
            }
        }
    }
    widen_weights(graph, &narrowed, &variant.folder, folder);
    fs::write(folder.join(GRAPH), model.encode_to_vec()).unwrap();
    widen_file(&variant.folder.join(ADAPTER), &folder.join(ADAPTER));
    let mut manifest = variant.manifest.clone();
    manifest.compute = Dtype::Float32;
    for state in &mut manifest.states {
        state.dtype = Dtype::Float32;
    }
    PreparedVariant {
        folder: folder.to_owned(),
        manifest,
        up_to_date: false,
    }
}

fn widen_type(value: &mut ValueInfo) {
    let tensor = value
        .r#type
        .as_mut()
        .and_then(|kind| kind.tensor_type.as_mut());
    let tensor = tensor.expect("a graph's inputs and outputs are tensors");
    if tensor.elem_type == element::BFLOAT16 {
        tensor.elem_type = element::FLOAT32;
    }
}

/// Reads values of `dtype`, rounds them to bfloat16 and returns them as float32 bytes. A mask's
/// values may be infinite.
fn rounded(bytes: &[u8], dtype: Dtype) -> Vec<u8> {
    let values = widen(bytes, dtype).into_iter();
    values
        .flat_map(|value| round_to(value, Dtype::BFloat16).to_le_bytes())
        .collect()
}

/// Collects the weights in one file in `to`, other types unchanged; constants stay in the graph. If
/// the graph rounds a weight, the file gets the rounded one.
fn widen_weights(graph: &mut Graph, narrowed: &HashSet<String>, from: &Path, to: &Path) {
    let mut files: HashMap<String, Vec<u8>> = HashMap::new();
    let mut made: Vec<u8> = Vec::new();
    for tensor in &mut graph.initializer {
        let mut outside = (!tensor.external_data.is_empty()).then(|| {
            let location = entry(tensor, "location").expect("a weight has a file");
            let file = files
                .entry(location.to_owned())
                .or_insert_with_key(|location| fs::read(from.join(location)).unwrap());
            let [offset, length] = ["offset", "length"]
                .map(|key| entry(tensor, key).unwrap().parse::<usize>().unwrap());
            file[offset..offset + length].to_vec()
        });
        let stored = dtype(tensor.data_type);
        let narrow = stored == Some(Dtype::BFloat16);
        if let Some(stored) = stored.filter(|_| narrow || narrowed.contains(&tensor.name)) {
            tensor.data_type = element::FLOAT32;
            tensor.raw_data = rounded(&tensor.raw_data, stored);
            outside = outside.map(|bytes| rounded(&bytes, stored));
        }
        let Some(bytes) = outside else {
            continue;
        };
        made.resize(made.len().next_multiple_of(64), 0);
        let place = [made.len(), bytes.len()].map(|number| number.to_string());
        made.extend(bytes);
        let [offset, length] = place;
        let entries = [
            ("location", WEIGHTS.to_owned()),
            ("offset", offset),
            ("length", length),
        ];
        tensor.external_data = entries
            .map(|(key, value)| Entry {
                key: key.to_owned(),
                value,
            })
            .to_vec();
    }
    fs::write(to.join(WEIGHTS), made).unwrap();
}

fn entry<'a>(tensor: &'a Tensor, key: &str) -> Option<&'a str> {
    let found = tensor.external_data.iter().find(|entry| entry.key == key);
    found.map(|entry| entry.value.as_str())
}

/// Copies the tensors of one file, with bfloat16 widened to float32, over those of the same name in
/// another file.
pub fn widen_into(from: &Path, to: &Path) {
    let [from, to] = [from, to].map(|path| SafetensorsFile::open(path).unwrap());
    assert_eq!(from.names(), to.names());
    let written = OpenOptions::new().write(true).open(to.path()).unwrap();
    for name in from.names() {
        let [source, target] = [&from, &to].map(|file| file.get(&name).unwrap());
        let bytes = widened_bytes(&source);
        assert_eq!(bytes.len(), target.bytes.len(), "{name}");
        written.write_all_at(&bytes, target.span().offset).unwrap();
    }
}

/// Writes a copy of the file with bfloat16 widened to float32.
fn widen_file(from: &Path, to: &Path) {
    let file = SafetensorsFile::open(from).unwrap();
    let names = file.names();
    let views: Vec<_> = names.iter().map(|name| file.get(name).unwrap()).collect();
    let plans: Vec<BytesPlan> = views
        .iter()
        .map(|view| BytesPlan {
            name: view.name.to_owned(),
            stored: match view.stored {
                safetensors::Dtype::BF16 => safetensors::Dtype::F32,
                stored => stored,
            },
            shape: view.shape.to_vec(),
        })
        .collect();
    let writer = SafetensorsWriter::create_with(to, &plans, &[]).unwrap();
    for view in &views {
        writer.write_bytes(view.name, &widened_bytes(view)).unwrap();
    }
    writer.finish().unwrap();
}

fn widened_bytes(view: &TensorView) -> Vec<u8> {
    match view.stored {
        safetensors::Dtype::BF16 => rounded(view.bytes, Dtype::BFloat16),
        _ => view.bytes.to_vec(),
    }
}
