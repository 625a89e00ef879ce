//! What a decode step must read from memory.

use super::DecodeReads;
use crate::adapter::{Adapter, Beside, GraphInput};
use crate::arch::{DecoderSpec, ModuleKind};
use crate::graph::cache_head_dim;
use crate::weights::Dtype;

/// Counts the bytes of one step, with `bound` tensors of an `unmerged` adapter. Of an embedding a single row is read, unless it's the head as well;
/// replicated layers are read once for each replica.
pub fn decode_reads(
    spec: &DecoderSpec,
    unmerged: Option<&Adapter>,
    bound: &[GraphInput],
    compute: Dtype,
) -> DecodeReads {
    let elements = |shape: &[usize]| shape.iter().product::<usize>() as u64;
    let size = compute.size() as u64;
    let mut weights = 0;
    for module in spec.modules() {
        if let ModuleKind::Embedding { embedding_dim, .. } = module.kind {
            weights += embedding_dim as u64;
            continue;
        }
        // Of a router's experts a token goes through some.
        let [read, of] = match module.kind {
            ModuleKind::Routed { share, .. } => share.map(|count| count as u64),
            _ => [1, 1],
        };
        let own: u64 = module
            .parameters()
            .iter()
            .map(|(_, shape)| elements(shape))
            .sum();
        weights += own * read / of;
    }
    let reads = bound.iter().filter(|tensor| tensor.role.adds_reads());
    let adapter: u64 = match unmerged {
        Some(_) => reads.map(|tensor| elements(&tensor.shape)).sum(),
        None => 0,
    };
    if let Some(Beside::Mixture(_)) = unmerged.and_then(Adapter::beside) {
        // Another pass, without embedding and head.
        let head = spec.lm_head.in_features * spec.lm_head.out_features;
        weights += weights - head as u64 - spec.embed_tokens.embedding_dim as u64;
    }
    let more_layers = unmerged.map_or(&[][..], Adapter::more_layers);
    let cache: usize = spec
        .layers
        .iter()
        .chain(more_layers)
        .map(|layer| 2 * layer.attention.num_key_value_heads * cache_head_dim(&layer.attention))
        .sum();
    DecodeReads {
        weight_bytes: weights * size,
        adapter_bytes: adapter * size,
        cache_bytes_per_position: cache as u64 * size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BaseModel;

    fn reads(model: &str, case: &str) -> DecodeReads {
        let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let base = BaseModel::open_folder(&fixtures.join("models").join(model)).unwrap();
        let folder = fixtures.join("cases").join(model).join(case);
        let adapter = Adapter::load(&folder, &base, 0).unwrap();
        let inputs = adapter.inputs();
        decode_reads(&adapter.spec, Some(&adapter), &inputs, Dtype::Float32)
    }

    #[test]
    fn an_untied_embedding_is_read_by_one_row() {
        // 2 layers: q 64x64, k and v 32x64, o 64x64, three of 96x64, two norms; a norm, a head, a row.
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
    fn what_takes_a_weights_place_adds_nothing() {
        assert_eq!(reads("llama-gqa", "ln-tuning").adapter_bytes, 0);
    }
}
