//! Files of tensors.

use std::path::Path;

use peft_bench::weights::{
    AdapterTensor, Dtype, OnnxAdapterFile, SafetensorsFile, TensorStore, write_onnx_adapter,
};

use super::{entries, fixture, linked};
use crate::target::{Reader, Seed, Target, told};

pub const SAFETENSORS: Reader = Reader {
    name: "safetensors",
    one_of: 1,
    make: safetensors,
};

pub const INDEX: Reader = Reader {
    name: "shard-index",
    one_of: 1,
    make: index,
};

pub const ONNX_ADAPTER: Reader = Reader {
    name: "onnx-adapter",
    one_of: 1,
    make: onnx_adapter,
};

fn safetensors(folder: &Path) -> Target {
    let cases = ["lora", "ia3", "lora-bias-all", "xlora", "waveft"];
    let cases =
        cases.map(|name| fixture(&format!("cases/llama-gqa/{name}/adapter_model.safetensors")));
    let seeds = cases.iter().filter(|path| path.is_file()).map(|path| Seed {
        path: folder.join("file.safetensors"),
        ..Seed::at(path)
    });
    Target {
        seeds: seeds.collect(),
        read: Box::new(|seed| {
            let file = SafetensorsFile::open(&seed.path).map_err(|error| told(&error))?;
            for name in file.names() {
                let tensor = file.get(&name).unwrap();
                let _ = tensor.location().map_err(|error| told(&error));
                let _ = tensor.to_f32().map_err(|error| told(&error));
                let _ = tensor.to_i64().map_err(|error| told(&error));
                let _ = tensor.first_rows(1);
            }
            Ok(())
        }),
    }
}

fn index(folder: &Path) -> Target {
    let folder = linked(&fixture("models/llama-linear"), folder.join("model"));
    let files = entries(&folder).into_iter();
    let index = files.filter(|path| path.to_string_lossy().ends_with(".index.json"));
    Target {
        seeds: index.map(|path| Seed::at(&path)).collect(),
        read: Box::new(|seed| {
            let store = TensorStore::open_folder(seed.folder()).map_err(|error| told(&error))?;
            store.refuse_empty("model").map_err(|error| told(&error))?;
            for name in store.names() {
                store.get(name).map_err(|error| told(&error))?;
            }
            Ok(())
        }),
    }
}

fn onnx_adapter(folder: &Path) -> Target {
    let tensor = |name: &str, dtype: Dtype, shape: &[usize]| AdapterTensor {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        bytes: vec![7; shape.iter().product::<usize>() * dtype.size()].into(),
    };
    let tensors = [
        tensor("base.layers.0.q_proj.lora_A", Dtype::Float32, &[4, 6]),
        tensor("b", Dtype::Float16, &[5]),
        tensor("é", Dtype::BFloat16, &[0, 3]),
        tensor("scalar", Dtype::Float32, &[]),
    ];
    let seeds = [&tensors[..], &tensors[..1], &[]].map(|tensors| {
        let path = folder.join("a.onnx_adapter");
        write_onnx_adapter(&path, tensors, [1, 2]).unwrap();
        Seed::at(&path)
    });
    Target {
        seeds: seeds.into(),
        read: Box::new(|seed| {
            let file = OnnxAdapterFile::open(&seed.path).map_err(|error| told(&error))?;
            for tensor in file.tensors() {
                let elements: usize = tensor.shape.iter().product();
                assert_eq!(elements * tensor.dtype.size(), tensor.bytes.len());
            }
            Ok(())
        }),
    }
}
