//! Prompt tuning: `num_virtual_tokens` trained rows in front of the token embeddings.
//!
//! | tensor | shape |
//! |---|---|
//! | `prompt_embeddings` | `[num_virtual_tokens, embedding_dim]` |
//!
//! Positions count from the first virtual token. Fresh rows are `N(0, 1)` (`RANDOM`), the rows of
//! random tokens (`SAMPLE_VOCAB`), or those of a text's tokens, repeated or cut to the number
//! (`TEXT`).
//!
//! Sources: Lester et al., arXiv:2104.08691; PEFT, `tuners/prompt_tuning/`.

use rand::rngs::ChaCha12Rng;
use rand::seq::index;

use super::{Class, Method};
use crate::adapter::toolbox::tuner::Loading;
use crate::adapter::{AdapterError, BoundTensor, Effects, Init, Prompt, PromptCounts};
use crate::graph::PROMPT_INPUT;
use crate::json::{ConfigError, JsonObject};
use crate::model::BaseModel;

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "PROMPT_TUNING",
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
    let count = config.size_up_to("num_virtual_tokens", base.spec.max_position_embeddings)?;
    let width = token_dim(config, base)?;
    let shape = vec![count, width];
    let values = tensors.take_or(PROMPT_INPUT, &shape, |rng| fresh(config, base, count, rng))?;
    Ok(virtual_tokens(
        shape,
        values,
        PromptCounts::plain(count * width),
    ))
}

/// The width of a virtual token.
///
/// # Errors
/// If `token_dim` isn't the width of the model's embedding.
pub fn token_dim(config: &JsonObject, base: &BaseModel) -> Result<usize, ConfigError> {
    let width = base.spec.embed_tokens.embedding_dim;
    match config.optional_size("token_dim")? {
        Some(found) if found != width => {
            let expected = format!("{width}, the width of this model's embedding");
            Err(config.wrong("token_dim", &expected))
        }
        _ => Ok(width),
    }
}

/// An adapter that adds rows in front of the token embeddings only.
pub fn virtual_tokens(shape: Vec<usize>, values: Vec<f32>, counts: PromptCounts) -> Effects {
    Effects {
        prompt: Some(Prompt::Virtual(BoundTensor {
            name: PROMPT_INPUT.to_owned(),
            shape,
            values,
        })),
        prompt_counts: counts,
        ..Default::default()
    }
}

/// Fresh rows by `prompt_tuning_init`.
///
/// # Errors
/// If its value is unknown, or the text can't be turned into the model's tokens.
pub fn fresh(
    config: &JsonObject,
    base: &BaseModel,
    count: usize,
    rng: &mut ChaCha12Rng,
) -> Result<Vec<f32>, AdapterError> {
    let table = &base.spec.embed_tokens;
    let ids: Vec<usize> = match config.optional_text("prompt_tuning_init")? {
        None | Some("RANDOM") => {
            return Ok(Init::Normal(1.0).draw(count * table.embedding_dim, rng));
        }
        Some("SAMPLE_VOCAB") => {
            let distinct = count.min(table.num_embeddings);
            let drawn = index::sample(rng, table.num_embeddings, distinct).into_vec();
            drawn.into_iter().cycle().take(count).collect()
        }
        Some("TEXT") => text_ids(config, base)?
            .into_iter()
            .cycle()
            .take(count)
            .collect(),
        Some(_) => {
            let expected = "one of RANDOM, SAMPLE_VOCAB, TEXT";
            return Err(config.wrong("prompt_tuning_init", expected).into());
        }
    };
    token_rows(base, ids)
}

/// The base's embeddings of `ids`. All ids must be below its vocabulary's size.
///
/// # Errors
/// If they can't be read.
pub fn token_rows(
    base: &BaseModel,
    ids: impl IntoIterator<Item = usize>,
) -> Result<Vec<f32>, AdapterError> {
    let table = &base.spec.embed_tokens;
    let rows = base.tensor(&format!("{}.weight", table.source))?;
    rows.expect_shape(&[table.num_embeddings, table.embedding_dim])?;
    let size = table.embedding_dim;
    let mut values = Vec::new();
    for id in ids {
        values.extend(base.values(&rows, id * size..(id + 1) * size)?);
    }
    Ok(values)
}

fn text_ids(config: &JsonObject, base: &BaseModel) -> Result<Vec<usize>, AdapterError> {
    let text = config
        .optional_text("prompt_tuning_init_text")?
        .ok_or_else(|| config.missing("prompt_tuning_init_text", "the text for `TEXT`"))?;
    let failed = |message: String| AdapterError::Fresh {
        path: config.path().to_owned(),
        message,
    };
    let ids = base
        .tokenizer()
        .and_then(|tokenizer| tokenizer.encode(text))
        .map_err(|error| {
            failed(format!(
                "`prompt_tuning_init` `TEXT` needs a tokenizer: {error}"
            ))
        })?;
    if ids.is_empty() {
        return Err(failed("`prompt_tuning_init_text` has no tokens".to_owned()));
    }
    let rows = base.spec.embed_tokens.num_embeddings;
    if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
        return Err(failed(format!(
            "the tokenizer gives `prompt_tuning_init_text` the token id {id}, and the embedding has \
             {rows} rows"
        )));
    }
    Ok(ids.into_iter().map(|id| id as usize).collect())
}
