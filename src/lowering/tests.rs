//! Lowering graphs of small models, in each weights mode.

mod experts;
mod roles;

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::adapter::AdapterForm;
use crate::experiment::Experiment;
use crate::lowering::model_file;
use crate::model::BaseModel;
use crate::prepare::Preparation;
use crate::prepared::{Precision, PreparedVariant, Variant};
use crate::quantize::{Format, Quantization};
use crate::weights::{Dtype, SafetensorsFile};

fn prepare(model: &str, case: &str, dtype: Dtype, export_dir: &Path) -> Vec<PreparedVariant> {
    prepare_as(model, case, Precision::new(dtype, false), export_dir)
}

fn prepare_as(
    model: &str,
    case: &str,
    precision: Precision,
    export_dir: &Path,
) -> Vec<PreparedVariant> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let base = BaseModel::open_folder(&fixtures.join("models").join(model)).unwrap();
    let preparation = Preparation {
        base: &base,
        precision,
        export_dir,
        seed: 0,
        adapter_form: AdapterForm::Reduced,
        task_id: None,
    };
    let folder = fixtures.join("cases").join(model).join(case);
    let experiment = Experiment::find(&folder).unwrap();
    let all = [Variant::Base, Variant::Merged, Variant::Unmerged];
    preparation.prepare(Some(&experiment), &all).unwrap()
}

fn target(weights: WeightsMode) -> LoweringTarget {
    LoweringTarget {
        provider: Provider::Cpu,
        weights,
        sequences: 1,
    }
}

fn rewritten(variant: &PreparedVariant, weights: WeightsMode) -> (LoweredGraphs, Vec<u64>) {
    rewritten_for(variant, target(weights))
}

/// The lowered graphs, and the size in bytes of each file that was written.
fn rewritten_for(variant: &PreparedVariant, target: LoweringTarget) -> (LoweredGraphs, Vec<u64>) {
    let model = model_file::read(&variant.folder, 40).unwrap();
    let made = std::cell::RefCell::new(Vec::new());
    let begin = |bytes| made.borrow_mut().push(bytes);
    let laid_out = target.provider == Provider::Cpu && target.weights != WeightsMode::InPlace;
    let files = laid_out.then(|| {
        LaidOutFiles::open_or_write(to_lay_out(&model, BLOCK), &variant.folder, BLOCK, &begin)
            .unwrap()
    });
    let lowered = lower(model, target, files.as_ref()).unwrap();
    (lowered, made.into_inner())
}

fn operators(model: &Model) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for node in &model.graph.as_ref().unwrap().node {
        *counts.entry(node.op_type.as_str()).or_default() += 1;
    }
    counts
}

fn count(model: &Model, operator: &str) -> usize {
    operators(model).get(operator).copied().unwrap_or(0)
}

/// The block size in the tests, which may differ from this processor's.
const BLOCK: usize = 8;

/// 2 layers of 7 products, and the output head.
const PRODUCTS: usize = 15;

#[test]
fn a_prompt_has_weights_on_the_left_and_one_transposition_for_an_mlp() {
    let folder = tempfile::tempdir().unwrap();
    let base = &prepare("llama-gqa", "lora", Dtype::Float32, folder.path())[0];
    let (lowered, _) = rewritten(base, WeightsMode::InPlace);
    let prompt = lowered.prompt.unwrap();
    assert_eq!(count(&prompt, "FusedMatMul"), PRODUCTS);
    // Queries, keys and values of both layers, and the outputs of the first layer's attention and
    // MLP.
    assert_eq!(count(&prompt, "Transpose"), 2 * 3 + 2);
    assert_eq!(count(&lowered.step, "Transpose"), 0);
    assert_eq!(lowered.prompt_end, SHORT_PROMPT + 1);
}

#[test]
fn biases_and_activations_stay_turned() {
    let folder = tempfile::tempdir().unwrap();
    let base = &prepare("opt-pre", "lora", Dtype::Float32, folder.path())[0];
    let prompt = rewritten(base, WeightsMode::InPlace).0.prompt.unwrap();
    // One column each for the biases of queries, keys and values (2 layers), and of the output
    // projection, fc1 and fc2 (1 layer).
    let columns = |name: &str| name.ends_with("/column");
    let nodes = &prompt.graph.as_ref().unwrap().node;
    let made = nodes.iter().filter(|node| columns(&node.name)).count();
    assert_eq!(made, 2 * 3 + 3);
    assert_eq!(count(&prompt, "Transpose"), 2 * 3 + 2);
}

#[test]
fn a_decode_step_is_convolutions_and_joins_products_of_one_input() {
    let folder = tempfile::tempdir().unwrap();
    let base = &prepare("llama-gqa", "lora", Dtype::Float32, folder.path())[0];
    let (lowered, made) = rewritten(base, WeightsMode::Mapped);
    assert_eq!(count(&lowered.step, "FusedMatMul"), 0);
    // Queries, keys and values are joined, and so are gate and up of the MLP, which stays in
    // blocks.
    assert_eq!(count(&lowered.step, "Conv"), PRODUCTS - 2 * (2 + 1));
    assert_eq!(count(&lowered.step, "Split"), 2);
    // Reorderings before and after the products of attention, MLP and head.
    let plain = rewritten(base, WeightsMode::InPlace).0.step;
    let reshapes = count(&lowered.step, "Reshape") - count(&plain, "Reshape");
    assert_eq!(reshapes, 2 * (2 + 2 + 2) + 2);
    // The head's 140 rows, and 4 that pad the last block.
    assert_eq!(count(&lowered.step, "Slice"), 1);
    assert_eq!(made.len(), 1);

    let (again, made) = rewritten(base, WeightsMode::Mapped);
    assert_eq!(again.step, lowered.step);
    assert!(made.is_empty(), "{made:?}");
}

#[test]
fn a_prompt_is_brought_into_blocks_once_for_an_mlp() {
    let folder = tempfile::tempdir().unwrap();
    let base = &prepare("llama-gqa", "lora", Dtype::Float32, folder.path())[0];
    let prompt = rewritten(base, WeightsMode::Mapped).0.prompt.unwrap();
    // Gate and up are joined in the last layer only; in the others, splitting them would cost too
    // much.
    assert_eq!(count(&prompt, "Conv"), PRODUCTS - 2 * 2 - 1);
    // In the last layer, only queries, keys and values have all positions.
    let of_all_positions = 3 + 1;
    assert_eq!(count(&prompt, "ReorderInput"), of_all_positions);
    assert_eq!(count(&prompt, "ReorderOutput"), of_all_positions);
}

#[test]
fn biases_go_into_convolutions_and_activations_stay_in_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let all = prepare("opt-pre", "lora", Dtype::Float32, folder.path());
    let lowered = rewritten(&all[0], WeightsMode::Mapped).0;
    let with_bias = |model: &Model| {
        let nodes = &model.graph.as_ref().unwrap().node;
        let convolutions = nodes.iter().filter(|node| node.op_type == "Conv");
        convolutions.filter(|node| node.input.len() == 3).count()
    };
    // Joined queries, keys and values, output projection, fc1 and fc2 of both layers.
    let prompt = lowered.prompt.unwrap();
    assert_eq!(
        (with_bias(&lowered.step), with_bias(&prompt)),
        (2 * 4, 2 * 4)
    );
    let relu = |model: &Model| {
        let nodes = &model.graph.as_ref().unwrap().node;
        let node = nodes.iter().find(|node| node.op_type == "Relu").unwrap();
        node.input[0].ends_with("/blocked")
    };
    assert!(relu(&lowered.step) && relu(&prompt));
}

#[test]
fn the_merged_variant_runs_the_bases_graph_and_adds_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let all = prepare("llama-gqa", "lora", Dtype::Float32, folder.path());
    let (base, first) = rewritten(&all[0], WeightsMode::Mapped);
    let (merged, own) = rewritten(&all[1], WeightsMode::Mapped);
    let (unmerged, none) = rewritten(&all[2], WeightsMode::Mapped);
    assert_eq!(operators(&merged.step), operators(&base.step));
    // q and v are merged; k is stored with them, so that the three are contiguous.
    assert_eq!((first.len(), own.len(), none.len()), (1, 1, 0));
    assert!(own[0] < first[0] / 2, "{own:?} {first:?}");
    // With the adapter between products and attention, the joined product becomes three.
    let adapter = 2 * 2 * 2;
    let all = count(&unmerged.step, "Conv") + count(&unmerged.step, "FusedMatMul");
    assert_eq!(all - adapter, PRODUCTS - 2 * (2 + 1));
    assert_eq!(count(&unmerged.step, "Split"), 2 * 2);
    assert_eq!(count(&base.step, "Split"), 2);
}

/// The laid-out tensors of a base, by the offsets of their sources.
fn laid_out_of(base: &PreparedVariant) -> BTreeMap<u64, (Vec<usize>, Vec<f32>)> {
    rewritten(base, WeightsMode::Mapped);
    let file = SafetensorsFile::open(&base.folder.join(laid_out_files::LAID_OUT)).unwrap();
    let blocks = file.names().into_iter().map(|name| {
        let offset = name.rsplit(':').nth(1).unwrap().parse().unwrap();
        let tensor = file.get(&name).unwrap();
        (offset, (tensor.shape.to_vec(), tensor.to_f32().unwrap()))
    });
    blocks.collect()
}

/// Asserts that each block is the transpose of `weight`'s rows, `[out, in]`, padded with zeros.
fn assert_blocks(blocks: &(Vec<usize>, Vec<f32>), weight: ndarray::ArrayView2<f32>) {
    let (shape, values) = blocks;
    let rows = BLOCK;
    let columns = weight.ncols();
    assert_eq!(shape, &[weight.nrows().div_ceil(rows), columns, rows]);
    for (place, &value) in values.iter().enumerate() {
        let row = place / (rows * columns) * rows + place % rows;
        let expected = weight.get((row, place / rows % columns));
        assert_eq!(value, expected.copied().unwrap_or(0.0), "{row}");
    }
}

#[test]
fn blocks_are_the_weights_transposed_and_rounded() {
    let folder = tempfile::tempdir().unwrap();
    let base = &prepare("llama-gqa", "lora", Dtype::BFloat16, folder.path())[0];
    let blocks = laid_out_of(base);
    let model = BaseModel::open_folder(&base.manifest.model_folder).unwrap();
    // The head's 140 rows don't fill the last block.
    for name in ["model.layers.0.mlp.up_proj.weight", "lm_head.weight"] {
        let offset = model.tensor(name).unwrap().location().unwrap().offset;
        let round = |value| crate::weights::round_to(value, Dtype::BFloat16);
        let rounded = model.matrix(name).unwrap().mapv(round);
        assert_blocks(&blocks[&offset], rounded.view());
    }
}

#[test]
fn weights_that_are_stored_as_in_out_are_in_blocks_too() {
    let folder = tempfile::tempdir().unwrap();
    let base = &prepare("gpt2", "lora", Dtype::Float32, folder.path())[0];
    let blocks = laid_out_of(base);
    let model = BaseModel::open_folder(&base.manifest.model_folder).unwrap();
    for name in ["attn.c_attn", "attn.c_proj", "mlp.c_proj"] {
        let name = format!("transformer.h.1.{name}.weight");
        let offset = model.tensor(&name).unwrap().location().unwrap().offset;
        let weight = model.matrix(&name).unwrap();
        assert_blocks(&blocks[&offset], weight.view());
    }
}

#[test]
fn what_a_variant_lays_out_for_itself_alone_is_timed() {
    let folder = tempfile::tempdir().unwrap();
    let all = prepare("llama-gqa", "lora", Dtype::Float32, folder.path());
    let own_seconds = |variant: &PreparedVariant| {
        let model = model_file::read(&variant.folder, 40).unwrap();
        let files =
            LaidOutFiles::open_or_write(to_lay_out(&model, BLOCK), &variant.folder, BLOCK, &|_| {})
                .unwrap();
        files.own_seconds
    };
    let [_, merged, unmerged] = &all[..] else {
        panic!("three variants");
    };
    // This variant is the first, so it also writes the base's file, which doesn't count as its own.
    assert_eq!(own_seconds(unmerged), None);
    assert!(own_seconds(merged).unwrap() > 0.0);
    assert_eq!(own_seconds(merged), None, "it's there");
}

#[test]
fn what_is_laid_out_of_changed_weights_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let all = prepare("llama-gqa", "lora", Dtype::Float32, folder.path());
    let merged = &all[1];
    rewritten(&all[0], WeightsMode::Mapped);
    rewritten(merged, WeightsMode::Mapped);
    let overlay = merged.folder.join("overlay.safetensors");
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(9);
    let file = std::fs::File::options()
        .append(true)
        .open(&overlay)
        .unwrap();
    file.set_modified(later).unwrap();
    let (_, made) = rewritten(merged, WeightsMode::Mapped);
    assert_eq!(made.len(), 1);
    // Tensors made from the earlier version aren't kept.
    assert!(rewritten(merged, WeightsMode::Mapped).1.is_empty());
    let size = std::fs::metadata(merged.folder.join(laid_out_files::LAID_OUT)).unwrap();
    assert!(size.len() < made[0] + 4096, "{} {made:?}", size.len());
}

#[test]
fn resident_weights_are_the_mapped_ones() {
    let folder = tempfile::tempdir().unwrap();
    let base = &prepare("llama-gqa", "lora", Dtype::Float32, folder.path())[0];
    let mapped = rewritten(base, WeightsMode::Mapped).0;
    let resident = rewritten(base, WeightsMode::Resident).0;
    assert_eq!(
        (&resident.step, &resident.prompt),
        (&mapped.step, &mapped.prompt)
    );
    assert!(!mapped.packs_step && !resident.packs_step);
}

#[test]
fn weights_of_16_bits_are_widened_once() {
    let folder = tempfile::tempdir().unwrap();
    let base = &prepare("llama-gqa", "lora", Dtype::Float16, folder.path())[0];
    assert!(rewritten(base, WeightsMode::InPlace).0.prompt.is_none());
    let mapped = rewritten(base, WeightsMode::Mapped).0;
    // Casts to 16 bits and back, of norms and the embedding, which aren't laid out.
    for model in [&mapped.step, &mapped.prompt.unwrap()] {
        assert_eq!(count(model, "Cast"), 1 + 2 * (5 + 1));
    }
}

#[test]
fn several_sequences_decode_as_prompts_do() {
    let folder = tempfile::tempdir().unwrap();
    let base = &prepare("llama-gqa", "lora", Dtype::Float32, folder.path())[0];
    let mut target = target(WeightsMode::Mapped);
    target.sequences = 2;
    let lowered = rewritten_for(base, target).0;
    assert!(lowered.prompt.is_none());
    // As is the head's.
    assert_eq!(count(&lowered.step, "ReorderInput"), 2 * 3 + 1);
}

#[test]
fn lengths_are_inputs_and_the_next_token_is_picked_on_the_host() {
    for (model, lengths) in [
        (
            "llama-gqa",
            vec!["/attention_mask/last_index", "/attention_mask/total/i32"],
        ),
        (
            "opt-pre",
            vec![
                "/attention_mask/last_index",
                "/attention_mask/total/i32",
                "/attention_mask/total",
                "/attention_mask/past",
            ],
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let base = &prepare(model, "lora", Dtype::Float32, folder.path())[0];
        let graph = rewritten(base, WeightsMode::Mapped).0.step.graph.unwrap();
        let inputs = graph.input.iter().map(|input| input.name.as_str());
        let others: Vec<&str> = inputs.filter(|name| !name.starts_with("past")).collect();
        assert_eq!(others, [vec!["input_ids"], lengths].concat());
        assert!(graph.node.iter().all(|node| node.op_type != "ArgMax"));
        let outputs = graph.output.iter().map(|output| output.name.as_str());
        let others: Vec<&str> = outputs
            .filter(|name| !name.starts_with("present"))
            .collect();
        assert_eq!(others, ["logits"]);
    }
}

#[test]
fn gpus_run_the_plain_graph_with_lengths_as_inputs_if_only_attention_takes_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut target = target(WeightsMode::Mapped);
    target.provider = Provider::Cuda(0);
    let inputs = |model: &Model| -> Vec<String> {
        let inputs = &model.graph.as_ref().unwrap().input;
        let names = inputs.iter().map(|input| input.name.clone());
        names.filter(|name| !name.starts_with("past")).collect()
    };

    // Position tables are sliced by lengths from the mask's shape, which are known on the host.
    let base = &prepare("opt-pre", "lora", Dtype::Float32, folder.path())[0];
    let mut model = model_file::read(&base.folder, 40).unwrap();
    let found = lower(model.clone(), target, None).unwrap();
    products::remove_roles(&mut model);
    assert_eq!(found.step, model);
    assert!(found.prompt.is_none());

    for (name, taken) in [
        (
            "llama-gqa",
            &["/attention_mask/last_index", "/attention_mask/total/i32"][..],
        ),
        // Its rotary embedding is a node before attention.
        (
            "phi",
            &[
                "/attention_mask/last_index",
                "/attention_mask/total/i32",
                "/attention_mask/past",
            ],
        ),
    ] {
        let base = &prepare(name, "lora", Dtype::Float32, folder.path())[0];
        let model = model_file::read(&base.folder, 40).unwrap();
        let found = lower(model.clone(), target, None).unwrap();
        assert_eq!(inputs(&found.step)[1..], *taken, "{name}");
        assert_eq!(inputs(&model), ["input_ids", "attention_mask"]);
        assert_eq!(
            found.step.graph.unwrap().output,
            model.graph.unwrap().output
        );
        assert!(found.prompt.is_none());
    }
}

#[test]
fn attention_takes_the_joined_product_with_its_biases() {
    let folder = tempfile::tempdir().unwrap();
    let all = prepare("opt-pre", "lora", Dtype::Float32, folder.path());
    let steps: Vec<Model> = all
        .iter()
        .map(|variant| rewritten(variant, WeightsMode::Mapped).0.step)
        .collect();
    let splits: Vec<usize> = steps.iter().map(|step| count(step, "Split")).collect();
    // With the adapter between products and attention, the joined product becomes three.
    assert_eq!(splits, [0, 0, 2]);
    assert_eq!(operators(&steps[0]), operators(&steps[1]));
}

#[test]
fn quantized_products_of_one_input_are_one_mapped_where_they_follow_each_other() {
    for (format, operator, head) in [
        (Format::Int4Blocks32, "MatMulNBits", 1),
        (Format::Int8Blocks32, "MatMulNBits", 1),
        (Format::Nf4, "MatMulBnb4", 0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let quantization = Some(Quantization::uniform(format));
        let precision = Precision::new(Dtype::Float32, false).with_quantization(quantization);
        let all = prepare_as("llama-gqa", "lora", precision, folder.path());
        // The single session runs prompts as well; nothing is laid out for them.
        let none = |_| panic!("{format:?}");
        let model = model_file::read(&all[0].folder, 1).unwrap();
        assert!(
            lay_out(&model, &all[0].folder, BLOCK, &none)
                .unwrap()
                .is_none()
        );
        let lowered: Vec<LoweredGraphs> = all
            .iter()
            .map(|variant| rewritten(variant, WeightsMode::InPlace).0)
            .collect();
        for layout in &lowered[..2] {
            assert!(layout.prompt.is_none());
            assert_eq!(layout.packs_step, format != Format::Nf4);
            assert_eq!(count(&layout.step, operator), 2 * 4 + head, "{format:?}");
        }
        // Merged queries and values are in the overlay file, keys aren't.
        let concats = |layout: &LoweredGraphs| count(&layout.step, "Concat");
        assert_eq!((concats(&lowered[0]), concats(&lowered[1])), (0, 2 * 2));
        // With the adapter's nodes before attention, queries, keys and values are split as well.
        assert_eq!(count(&lowered[2].step, operator), 2 * 4 + head);
        let splits = |layout: &LoweredGraphs| count(&layout.step, "Split");
        assert_eq!((splits(&lowered[0]), splits(&lowered[2])), (2, 2 * 2));
    }
}

#[test]
fn on_a_gpu_no_more_products_are_joined_than_one_split_handles_without_lists() {
    let folder = tempfile::tempdir().unwrap();
    let quantization = Some(Quantization::uniform(Format::Int4Blocks32));
    let precision = Precision::new(Dtype::Float16, true).with_quantization(quantization);
    let mut on_gpu = target(WeightsMode::InPlace);
    on_gpu.provider = Provider::Cuda(0);
    // In the first model, attention and MLP have the same input, except in the last layer, where
    // only keys and values have all positions. In the second, each has its own.
    for (model, [on_cpu, expected]) in [("cohere", [3 + 4, 7 + 4]), ("llama-gqa", [4 + 4, 4 + 4])] {
        let base = &prepare_as(model, "lora", precision, folder.path())[0];
        let products =
            |target: LoweringTarget| count(&rewritten_for(base, target).0.step, "MatMulNBits");
        assert_eq!(products(target(WeightsMode::InPlace)), on_cpu + 1);
        assert_eq!(products(on_gpu), expected + 1, "{model}");
    }
}
