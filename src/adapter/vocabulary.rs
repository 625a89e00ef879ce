//! Adapters trained with another vocabulary size than the base's, after `resize_token_embeddings`:
//! chat tokens were added, or the embedding was padded or cut.
//!
//! The configuration doesn't tell the size; the tensors do. The adapter then gets the base with an
//! embedding and a head of that many rows: those of the adapter's file, else the base's. A row that
//! neither has was drawn at random when the base was resized, and is unknown.
//!
//! Source: PEFT, `utils/save_and_load.py` (`save_embedding_layers`).

use super::form::Form;
use super::keys::common_name;
use super::replaced::{Origin, Replacement};
use super::tensors::{PREFIX, SHARED};
use super::{AdapterError, AdapterTensors, Effects};
use crate::arch::{DecoderSpec, Module, bare};
use crate::json::JsonObject;
use crate::model::BaseModel;

/// What may stand between the path of an embedding or head and `.weight` if a file holds it as a
/// whole: saved with the adapter, as a module to save, or as the base layer of a wrapper.
pub const WHOLE_TENSOR_INFIXES: [&str; 6] = [
    "",
    ".base_layer",
    ".token_adapter.base_layer",
    ".modules_to_save",
    ".modules_to_save.default",
    ".original_module",
];

/// Options that list token ids.
const TOKEN_IDS: [&str; 2] = ["trainable_token_indices", "token_indices"];

/// The vocabulary size of `tensors`, if it isn't that of `spec`: the rows of a whole embedding or
/// head in the file, or one more than the largest token id that's trained. Other tensors tell it
/// only when they're asked for ([`size_of_mismatch`]).
pub fn size_in_file(
    config: &JsonObject,
    tensors: &AdapterTensors,
    spec: &DecoderSpec,
) -> Option<usize> {
    if tensors.is_fresh() {
        return None;
    }
    let whole = ends(spec).into_iter().find_map(|module| {
        let width = module.parameters().swap_remove(0).1[1];
        let keys = WHOLE_TENSOR_INFIXES.iter().flat_map(|infix| {
            let key = format!("{}{infix}.weight", module.path);
            [format!("{SHARED}{key}"), key]
        });
        let mut shapes = keys.filter_map(|key| tensors.shape(&key));
        shapes.find_map(|shape| match shape[..] {
            [rows, columns] if columns == width && rows > 0 => Some(rows),
            _ => None,
        })
    });
    let size = whole.or_else(|| {
        let ids = TOKEN_IDS.iter().filter_map(|key| config.get(key));
        let last = ids.filter_map(largest).max()?;
        let size = usize::try_from(last).ok()?.checked_add(1)?;
        // Rows that aren't in the file are the base's.
        (size > spec.vocab_size).then_some(size)
    });
    size.filter(|size| *size != spec.vocab_size)
}

/// The largest number in a list, or in an object's lists.
fn largest(value: &serde_json::Value) -> Option<u64> {
    match value {
        serde_json::Value::Array(list) => list.iter().filter_map(|id| id.as_u64()).max(),
        serde_json::Value::Object(lists) => lists.values().filter_map(largest).max(),
        _ => None,
    }
}

/// The vocabulary size that a shape `error` shows: a tensor of the embedding or the head, or a
/// shared one, whose shape fits except for the number of tokens.
pub fn size_of_mismatch(error: &AdapterError, spec: &DecoderSpec) -> Option<usize> {
    let AdapterError::Shape {
        key,
        actual,
        expected,
        ..
    } = error
    else {
        return None;
    };
    let shared = key.starts_with(SHARED) && !key.starts_with(PREFIX);
    let key = common_name(key);
    let inside = |module: Module| {
        let rest = key.strip_prefix(bare(&module.path));
        rest.is_some_and(|rest| rest.starts_with('.'))
    };
    let meant = shared || ends(spec).into_iter().any(inside);
    if !meant || actual.len() != expected.len() {
        return None;
    }
    let mut axes = actual.iter().zip(expected).filter(|(a, b)| a != b);
    match (axes.next(), axes.next()) {
        (Some((&rows, &tokens)), None) if tokens == spec.vocab_size && rows > 0 => Some(rows),
        _ => None,
    }
}

/// Adds a note about the other vocabulary size.
pub fn note(tensors: &mut AdapterTensors, base: &BaseModel, size: usize) {
    let own = base.spec.vocab_size;
    let which = match size > own {
        true => format!("{} were added", size - own),
        false => format!("its last {} are left out", own - size),
    };
    tensors.note(format!(
        "the adapter was trained with a vocabulary of {size} tokens, and the base has {own}: {which}"
    ));
}

/// Takes the base's rows for every parameter of `resized`'s embedding and head that `effects` don't
/// replace.
///
/// # Errors
/// If neither the base nor the file has one of the rows.
pub fn complete(
    effects: &mut Effects,
    tensors: &AdapterTensors,
    resized: &BaseModel,
) -> Result<(), AdapterError> {
    let size = resized.spec.vocab_size;
    for module in ends(&resized.spec) {
        for (name, shape) in module.parameters() {
            let path = format!("{}.{name}", module.path);
            if effects.replaced.contains_key(&path) {
                continue;
            }
            let source = module.tensor(name);
            let there = resized.tensor(&source)?.shape[0];
            let adapter = effects.modules.get(&module.path);
            let form = adapter.map(|adapter| adapter.form());
            let covered = |row: &usize| matches!(&form, Some(Form::Tokens(rows)) if rows.indices.contains(row));
            if let Some(first) = (there..size).find(|row| !covered(row)) {
                return Err(AdapterError::Rows {
                    path: tensors.path().to_owned(),
                    name: path,
                    size,
                    there,
                    first,
                });
            }
            let replacement = Replacement {
                key: path.clone(),
                input: format!("{PREFIX}{path}"),
                shape,
                origin: Origin::Rows(source),
                trainable: false,
                is_copy: false,
            };
            effects.replaced.insert(path, replacement);
        }
    }
    Ok(())
}

/// The embedding and the head: the modules with a row for each token.
fn ends(spec: &DecoderSpec) -> [Module; 2] {
    [spec.embed_tokens.module(), spec.lm_head.module()]
}
