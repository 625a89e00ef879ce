use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::tests::{base, in_dtype, load, names_in};
use super::super::{CheckpointForm, write_checkpoint};
use super::{PackedLayout, Packing, gptq};
use crate::model::BaseModel;
use crate::quantize::{Format, Quantization, Quantized};
use crate::weights::{Dtype, SafetensorsFile};

/// The values of a packed weight, decoded as compressed-tensors does it.
fn unpacked(file: &SafetensorsFile, weight: &str, bits: usize) -> Vec<f32> {
    let [shape, packed, scale] =
        ["shape", "packed", "scale"].map(|part| format!("{weight}_{part}"));
    let sizes = file.get(&shape).unwrap().bytes.as_chunks::<8>().0;
    let [rows, columns] = [0, 1].map(|at| i64::from_le_bytes(sizes[at]) as usize);
    let words = file.get(&packed).unwrap().bytes.as_chunks::<4>().0;
    let words: Vec<u32> = words
        .iter()
        .map(|bytes| u32::from_le_bytes(*bytes))
        .collect();
    let scales = file.get(&scale).unwrap().to_f32().unwrap();
    let in_word = 32 / bits;
    assert_eq!(words.len(), rows * columns / in_word, "{weight}");
    let groups = scales.len() / rows;
    let value = |at: usize| {
        let code = words[at / in_word] >> (bits * (at % in_word)) & ((1 << bits) - 1);
        let (row, column) = (at / columns, at % columns);
        let scale = scales[row * groups + column / (columns / groups)];
        (code as i32 - (1 << (bits - 1))) as f32 * scale
    };
    (0..rows * columns).map(value).collect()
}

#[test]
fn packed_weights_are_the_merged_ones_rounded_and_the_config_says_which_are_not_packed() {
    for (format, bits) in [(Format::Int4Blocks32, 4), (Format::Int8Blocks32, 8)] {
        let folder = TempDir::new().unwrap();
        let [float, packed] = ["float", "packed"].map(|name| folder.path().join(name));
        let base = base("llama-gqa");
        let adapter = load(&base, "llama-gqa/lora");
        let form = in_dtype(Some(Dtype::Float16));
        write_checkpoint(&base, Some(&adapter), form, &base.folder, &float).unwrap();
        let quantization = Some(Quantization::uniform(format));
        let form = CheckpointForm {
            quantization,
            ..form
        };
        let summary = write_checkpoint(&base, Some(&adapter), form, &base.folder, &packed).unwrap();
        let linears = 7 * base.spec.layers.len();
        assert_eq!(summary.quantized, linears);
        let expected = SafetensorsFile::open(&float.join("model.safetensors")).unwrap();
        let found = SafetensorsFile::open(&packed.join("model.safetensors")).unwrap();
        assert_eq!(found.names().len(), expected.names().len() + 2 * linears);
        for name in expected.names() {
            let tensor = expected.get(&name).unwrap();
            if let Some(same) = found.get(&name) {
                assert!(!name.ends_with("_proj.weight"), "{name}");
                assert_eq!(same.bytes, tensor.bytes, "{name}");
                continue;
            }
            let [rows, columns] = tensor.shape[..] else {
                panic!("{name}")
            };
            let made = format.quantize(&tensor.to_f32().unwrap(), columns);
            let scales: Vec<f32> = made
                .scales
                .iter()
                .map(|&scale| crate::weights::round_to(scale, Dtype::Float16))
                .collect();
            let stored = Quantized {
                codes: made.codes.clone(),
                scales: scales.clone(),
                zeros: Vec::new(),
            };
            let values = format.dequantize(&stored, rows, columns);
            assert_eq!(unpacked(&found, &name, bits), values, "{name}");
        }
        let config = fs::read(packed.join("config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let config = &config["quantization_config"];
        assert_eq!(config["ignore"], json!(["lm_head"]));
        let weights = &config["config_groups"]["group_0"]["weights"];
        assert_eq!(weights["num_bits"], bits);
    }
}

#[test]
fn what_cannot_be_packed_is_refused_by_name() {
    let gptq = PackedLayout::Gptq;
    let other = PackedLayout::CompressedTensors;
    for (model, packing, format, named) in [
        (
            "llama-gqa",
            other,
            Format::Nf4,
            "compressed-tensors has no nf4",
        ),
        ("llama-gqa", gptq, Format::Nf4, "gptq has no nf4"),
        ("gpt2", other, Format::Int4Blocks32, "Conv1D"),
        ("mixtral", gptq, Format::Int4Blocks32, "experts"),
        ("falcon", other, Format::Int8Blocks32, "falcon"),
        ("wrapper-llava", gptq, Format::Int4Blocks32, "multimodal"),
        ("mamba2", gptq, Format::Int4Blocks32, "mamba2"),
        ("mamba2", other, Format::Int4Blocks32, "mamba2"),
    ] {
        let folder = TempDir::new().unwrap();
        let base = base(model);
        let form = CheckpointForm {
            quantization: Some(Quantization::uniform(format)),
            packing,
            ..CheckpointForm::default()
        };
        let target = folder.path().join("packed");
        let error = write_checkpoint(&base, None, form, &base.folder, &target).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(named), "{message}");
        assert!(names_in(folder.path()).is_empty());
    }
}

/// All values of the checkpoint in `folder`, as this program reads them.
fn values_in(folder: &std::path::Path) -> Vec<(String, Vec<u32>)> {
    let model = BaseModel::open_folder(folder).unwrap();
    let mut names: Vec<&str> = model.store.names_of_values().collect();
    let is_part = |name: &str| model.stored.as_ref().is_some_and(|all| all.has_part(name));
    names.retain(|name| !is_part(name));
    names.sort_unstable();
    names.dedup();
    let bits = |name: &str| {
        let values = model.store.get(name).unwrap().to_f32().unwrap();
        values.iter().map(|value| value.to_bits()).collect()
    };
    names
        .iter()
        .map(|name| ((*name).to_owned(), bits(name)))
        .collect()
}

#[test]
fn gptq_holds_the_same_values_as_compressed_tensors() {
    // Separate and fused projections, biases, and layers that convolve.
    for model in ["llama-gqa", "bloom-normed", "mpt-wide", "lfm2-hub"] {
        for (format, dtype) in [
            (Format::Int4Blocks32, Dtype::Float16),
            (Format::Int8Blocks32, Dtype::Float32),
        ] {
            let folder = TempDir::new().unwrap();
            let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
            let base = base(model);
            let adapter = load(&base, &format!("{model}/lora"));
            let format = format.with(None, Some(16)).unwrap();
            let form = CheckpointForm {
                quantization: Some(Quantization::uniform(format)),
                ..in_dtype(Some(dtype))
            };
            let packed = CheckpointForm {
                packing: PackedLayout::Gptq,
                ..form
            };
            let count = |form, to| {
                let written = write_checkpoint(&base, Some(&adapter), form, &base.folder, to);
                written.unwrap().quantized
            };
            assert_eq!(count(form, &one), count(packed, &other));
            assert_eq!(values_in(&one), values_in(&other), "{model} {format:?}");
        }
    }
}

#[test]
fn gptq_has_its_tensors_and_its_configuration() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("packed");
    let base = base("llama-gqa");
    let form = CheckpointForm {
        quantization: Some(Quantization::uniform(Format::Int4Blocks32)),
        packing: PackedLayout::Gptq,
        ..in_dtype(Some(Dtype::BFloat16))
    };
    write_checkpoint(&base, None, form, &base.folder, &target).unwrap();
    let file = SafetensorsFile::open(&target.join("model.safetensors")).unwrap();
    let tensor = |part: &str| format!("model.layers.0.mlp.down_proj.{part}");
    let [codes, zeros, scales, index] = ["qweight", "qzeros", "scales", "g_idx"].map(&tensor);
    let weight = base.store.get(&tensor("weight")).unwrap();
    let [rows, columns] = weight.shape[..] else {
        panic!("{:?}", weight.shape)
    };
    let shape = |name: &str| file.get(name).unwrap().shape.to_vec();
    assert_eq!(shape(&codes), [columns / 8, rows]);
    assert_eq!(shape(&zeros), [columns / 32, rows / 8]);
    assert_eq!(shape(&scales), [columns / 32, rows]);
    assert_eq!(file.get(&scales).unwrap().dtype().unwrap(), Dtype::BFloat16);
    // Eight zero points of 8, each stored less one.
    assert!(
        file.get(&zeros)
            .unwrap()
            .bytes
            .iter()
            .all(|byte| *byte == 0x77)
    );
    let groups = file.get(&index).unwrap().to_i64().unwrap();
    let expected: Vec<i64> = (0..columns as i64).map(|input| input / 32).collect();
    assert_eq!(groups, expected);
    // The third output's code of input 9, from its value.
    let word = 4 * (rows + 2);
    let word = u32::from_le_bytes(
        file.get(&codes).unwrap().bytes[word..word + 4]
            .try_into()
            .unwrap(),
    );
    let code = (word >> 4 & 15) as f32;
    let scale = file.get(&scales).unwrap().to_f32().unwrap()[2];
    let value = weight.to_f32().unwrap()[2 * columns + 9];
    assert!(
        ((code - 8.0) * scale - value).abs() <= scale.abs() * 0.51,
        "{code} {scale} {value}"
    );

    let config: Value =
        serde_json::from_slice(&fs::read(target.join("config.json")).unwrap()).unwrap();
    let config = &config["quantization_config"];
    for (key, value) in [
        ("quant_method", json!("gptq")),
        ("bits", json!(4)),
        ("group_size", json!(32)),
        ("sym", json!(true)),
        ("desc_act", json!(false)),
        ("block_name_to_quantize", json!("model.layers")),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
}

#[test]
fn a_layer_that_gptq_would_take_for_packed_is_refused_by_name() {
    let spec = base("llama-gqa").spec;
    let packing = Packing {
        layout: PackedLayout::Gptq,
        format: Format::Int4,
        bits: 4,
        group_size: 128,
    };
    let reason = gptq::refusal(packing, &spec).unwrap();
    assert!(reason.contains("q_proj` has 64 inputs"), "{reason}");
    assert!(reason.contains("--packing compressed-tensors"), "{reason}");
    let packing = Packing {
        group_size: 32,
        ..packing
    };
    assert_eq!(gptq::refusal(packing, &spec), None);
}
