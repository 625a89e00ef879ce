//! Bytes that a decode step must read from memory.

use std::collections::BTreeSet;

use super::states::states;
use crate::adapter::{Adapter, GraphInput};
use crate::arch::{Attention, DecoderSpec, Module, ModuleKind};
use crate::graph::cache_size;
use crate::prepared::{DecodeReads, Precision};

/// Counts the bytes of one step; `bound` are the input tensors of an `unmerged` adapter. An
/// embedding that isn't also the head counts with a single row; a replicated layer counts once per
/// replica. `kept` gives the bytes of a weight whose codes are those of a quantized base.
pub fn decode_reads(
    spec: &DecoderSpec,
    unmerged: Option<&Adapter>,
    bound: &[GraphInput],
    precision: Precision,
    kept: &dyn Fn(&Module) -> Option<u64>,
) -> DecodeReads {
    // Tensors on experts count like the experts' weights: only for the experts that a token uses.
    let elements = |tensor: &GraphInput| {
        let [read, of] = tensor.share.map(|count| count as u64);
        tensor.shape.iter().product::<usize>() as u64 * read / of
    };
    let size = precision.compute.size() as u64;
    let modules = spec.modules();
    let replaced = unmerged.map_or_else(BTreeSet::new, Adapter::replaced_weights);
    let read = |module| module_bytes(spec, module, precision, &replaced, kept(module));
    let mut weights: u64 = modules.iter().map(read).sum();
    let side_network = unmerged.and_then(Adapter::side_network);
    if side_network.is_some_and(|network| network.repeats_decoder()) {
        // A second pass through the decoder, without embedding and head.
        let ends = [&spec.embed_tokens.path, &spec.lm_head.path];
        let between = modules
            .iter()
            .filter(|module| !ends.contains(&&module.path));
        weights += between.map(read).sum::<u64>();
    }
    let reads = bound.iter().filter(|tensor| tensor.role.adds_reads());
    let adapter: u64 = match unmerged {
        Some(_) => reads.map(elements).sum(),
        None => 0,
    };
    let more_layers = unmerged.map_or(&[][..], Adapter::more_layers);
    let layers = || spec.layers.iter().chain(more_layers);
    let keys_and_values = |attention: &Attention| {
        let (heads, width) = cache_size(attention);
        2 * heads * width
    };
    let attentions = layers().filter_map(|layer| layer.attention.as_ref());
    let cache: usize = attentions.map(keys_and_values).sum();
    let states = states(layers(), precision.compute);
    DecodeReads {
        weight_bytes: weights,
        adapter_bytes: adapter * size,
        cache_bytes_per_position: cache as u64 * size,
        state_bytes: states.iter().map(|state| state.bytes() as u64).sum(),
    }
}

/// Bytes of `module` that one step reads.
fn module_bytes(
    spec: &DecoderSpec,
    module: &Module,
    precision: Precision,
    replaced: &BTreeSet<String>,
    kept: Option<u64>,
) -> u64 {
    let size = precision.compute.size() as u64;
    let quantization = precision.quantization;
    let format = quantization
        .and_then(|quantization| quantization.of(spec, module))
        .filter(|_| !replaced.contains(&format!("{}.weight", module.path)));
    // A token uses only some of a router's experts.
    let [read, of] = match module.kind {
        ModuleKind::Embedding { embedding_dim, .. } => {
            let float = embedding_dim as u64 * size;
            return format.map_or(float, |format| {
                format.bytes(1, embedding_dim, precision.compute)
            });
        }
        ModuleKind::Routed { share, .. } => share.map(|count| count as u64),
        _ => [1, 1],
    };
    let bytes = |(name, shape): (&str, Vec<usize>)| match (format, &shape[..]) {
        (Some(format), &[columns, rows]) if name == "weight" && module.is_stored_in_out() => {
            format.bytes(rows, columns, precision.compute)
        }
        (Some(format), &[rows, columns]) if name == "weight" => {
            format.bytes(rows, columns, precision.compute)
        }
        _ => match kept.filter(|_| name == "weight") {
            Some(bytes) => bytes,
            None => shape.iter().product::<usize>() as u64 * size,
        },
    };
    let own: u64 = module.parameters().into_iter().map(bytes).sum();
    own * read / of
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BaseModel;
    use crate::quantize::{Format, Quantization};
    use crate::weights::Dtype;

    fn reads(model: &str, case: &str) -> DecodeReads {
        reads_of(model, case, None)
    }

    fn reads_of(model: &str, case: &str, quantization: Option<Quantization>) -> DecodeReads {
        let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let base = BaseModel::open_folder(&fixtures.join("models").join(model)).unwrap();
        let folder = fixtures.join("cases").join(model).join(case);
        let adapter = Adapter::load(&folder, &base, 0).unwrap();
        let precision = Precision::new(Dtype::Float32, false).with_quantization(quantization);
        let (inputs, none) = (adapter.inputs(), |_: &Module| None);
        decode_reads(&adapter.spec, Some(&adapter), &inputs, precision, &none)
    }

    #[test]
    fn an_untied_embedding_counts_with_one_row() {
        // 2 layers: q 64x64, k and v 32x64, o 64x64, three of 96x64, two norms; then the final
        // norm, the head, and one embedding row.
        let layer = 64 * 64 * 2 + 32 * 64 * 2 + 3 * 96 * 64 + 2 * 64;
        let base = BaseModel::open_folder(
            &std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/fixtures/models/llama-gqa"),
        );
        let vocab = base.unwrap().spec.vocab_size;
        let expected = 4 * (2 * layer + 64 + vocab * 64 + 64);
        let reads = reads("llama-gqa", "lora");
        assert_eq!(reads.weight_bytes, expected as u64);
        // r = 4 on q and v of both layers.
        assert_eq!(reads.adapter_bytes, 4 * 2 * 4 * (64 + 64 + 64 + 32));
        assert_eq!(reads.cache_bytes_per_position, 4 * 2 * 2 * 2 * 16);
        assert_eq!(
            reads.bytes(10.0),
            (reads.weight_bytes + reads.adapter_bytes) as f64 + 5120.0
        );
    }

    #[test]
    fn quantized_weights_count_with_their_codes_and_scales() {
        let float = reads("llama-gqa", "lora");
        let quantization = Quantization::uniform(Format::Int4Blocks32);
        let quantized = reads_of("llama-gqa", "lora", Some(quantization));
        let linear = 2 * (64 * 64 * 2 + 32 * 64 * 2 + 3 * 96 * 64) + 140 * 64;
        // 16 bytes and a scale in place of 32 values.
        let saved = linear / 32 * (4 * 32 - 16 - 4);
        assert_eq!(float.weight_bytes - quantized.weight_bytes, saved);
        let head = Quantization {
            head: None,
            ..quantization
        };
        let float_head = reads_of("llama-gqa", "lora", Some(head));
        assert_eq!(
            float_head.weight_bytes - quantized.weight_bytes,
            140 * 64 / 32 * (128 - 20)
        );
    }

    #[test]
    fn a_replaced_weight_counts_as_float_and_a_quantized_embedding_with_one_row() {
        let quantization = Quantization::uniform(Format::Int4Blocks32);
        let weight_bytes_of = |case| reads_of("llama-gqa", case, Some(quantization)).weight_bytes;
        assert_eq!(reads("llama-gqa", "c3a").adapter_bytes, 0);
        let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let base = BaseModel::open_folder(&fixtures.join("models/llama-gqa")).unwrap();
        let c3a = Adapter::load(&fixtures.join("cases/llama-gqa/c3a"), &base, 0).unwrap();
        let modules = base.spec.modules();
        let targets = modules
            .iter()
            .filter(|module| c3a.module(&module.path).is_some());
        let elements: usize = targets
            .map(|module| module.matrix_size().unwrap().iter().product::<usize>())
            .sum();
        let more = (4 * elements - elements / 32 * 20) as u64;
        assert!(more > 0);
        assert_eq!(weight_bytes_of("c3a"), weight_bytes_of("lora") + more);
        let embedding = Quantization {
            embedding: Some(Format::Int8Blocks32),
            ..quantization
        };
        let row = reads_of("llama-gqa", "lora", Some(embedding)).weight_bytes;
        assert_eq!(weight_bytes_of("lora") - row, 64 * 4 - (64 + 2 * 4));
    }

    #[test]
    fn adapters_on_experts_count_only_for_the_experts_that_a_token_uses() {
        // 2 of 4 experts, in 2 layers: gate and up (2 x 24) x 32, down 32 x 24, both of rank 2; q
        // 32 and v 16 of 32.
        let experts = 2 * 2 * 2 * ((32 + 2 * 24) + (24 + 32));
        let attention = 2 * 2 * ((32 + 32) + (32 + 16));
        let reads = reads("mixtral", "lora-experts");
        assert_eq!(reads.adapter_bytes, 4 * (experts + attention));
        // An adapter adds nothing to the bytes of the base's weights.
        assert_eq!(
            reads.weight_bytes,
            self::reads("mixtral", "lora").weight_bytes
        );
    }

    #[test]
    fn a_tensor_that_replaces_a_weight_adds_nothing() {
        assert_eq!(reads("llama-gqa", "ln-tuning").adapter_bytes, 0);
    }
}
