//! Context-aware prompt tuning: the embeddings of chosen tokens, slightly changed, in front of the
//! prompt.
//!
//! | tensor | shape |
//! |---|---|
//! | `prompt_embeddings` | `[number of cpt_token_ids, embedding_dim]` |
//!
//! Training finds a difference of bounded length to the tokens' embeddings. PEFT saves the sum, so
//! inference is prompt tuning's. The configuration's masks and factors concern training only. A
//! fresh adapter is the tokens' embeddings.
//!
//! Sources: Blau et al., arXiv:2410.17222; PEFT, `tuners/cpt/`.

use super::prompt_tuning::{token_dim, token_rows, virtual_tokens};
use super::{Class, Method};
use crate::adapter::toolbox::tuner::Loading;
use crate::adapter::{AdapterError, Effects, PromptCounts};
use crate::graph::PROMPT_INPUT;
use crate::json::{ConfigError, JsonObject};
use crate::model::BaseModel;

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "CPT",
    class: Class::Unmergeable,
    variants: "",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let Loading {
        config,
        base,
        tensors,
        ..
    } = loading;
    let ids = token_ids(config, base)?;
    let width = token_dim(config, base)?;
    let elements = ids.len() * width;
    let shape = vec![ids.len(), width];
    let values = tensors.take_or(PROMPT_INPUT, &shape, |_| token_rows(base, ids))?;
    let counts = PromptCounts {
        frozen: elements,
        ..PromptCounts::plain(elements)
    };
    Ok(virtual_tokens(shape, values, counts))
}

/// `cpt_token_ids`; PEFT's default is token 0.
fn token_ids(config: &JsonObject, base: &BaseModel) -> Result<Vec<usize>, ConfigError> {
    let most = base.spec.max_position_embeddings;
    let rows = base.spec.embed_tokens.num_embeddings;
    let expected = format!("a list of 1 to {most} token ids below {rows}");
    let key = "cpt_token_ids";
    let ids = match config.get(key) {
        None => vec![0],
        Some(value) => serde_json::from_value::<Vec<usize>>(value.clone())
            .ok()
            .filter(|ids| (1..=most).contains(&ids.len()) && ids.iter().all(|&id| id < rows))
            .ok_or_else(|| config.wrong(key, &expected))?,
    };
    for mask in ["cpt_mask", "cpt_tokens_type_mask"] {
        let length = config.get(mask).map(|mask| mask.as_array().map(Vec::len));
        if length.is_some_and(|length| length != Some(ids.len())) {
            let expected = format!(
                "a list of {} numbers, one for each token of `{key}`",
                ids.len()
            );
            return Err(config.wrong(mask, &expected));
        }
    }
    let count = "num_virtual_tokens";
    if config.optional_size(count)?.is_some_and(|n| n != ids.len()) {
        return Err(config.wrong(count, &format!("{}, the length of `{key}`", ids.len())));
    }
    Ok(ids)
}
