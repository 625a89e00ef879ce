//! Trainable tokens: trains single rows of the embedding.
//!
//! | tensor | shape |
//! |---|---|
//! | `<embedding>.trainable_tokens_delta` | `[tokens, embedding_dim]` |
//!
//! Row `j` replaces row `token_indices[j]`; despite the tensor's name nothing is added. A tied head
//! uses the same rows, and its copy is saved, too.
//!
//! Source: PEFT, `tuners/trainable_tokens/`.

use super::{Class, Method};
use crate::adapter::targets::Targets;
use crate::adapter::token_rows::{ReplacedRows, replace_rows};
use crate::adapter::toolbox::tuner::{Loading, not_adaptable};
use crate::adapter::{AdapterError, Effects, Init};

const KEY: &str = "token_indices";

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "TRAINABLE_TOKENS",
    class: Class::Parameter,
    variants: "",
    refused: "modules other than the token embedding and the head; a tied head that is also changed",
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
    let wrong = || config.wrong(KEY, "a list of token ids");
    let indices = config.get(KEY).ok_or_else(wrong)?;
    let indices: Vec<usize> = serde_json::from_value(indices.clone()).map_err(|_| wrong())?;
    let spec = &base.spec;
    let modules = spec.modules();
    let default = [spec.embed_tokens.path.as_str()];
    let targets = Targets::read(config, &spec.model_type, Some(&default))?;
    let mut effects = Effects::default();
    let init = match config.flag("init_weights", true)? {
        true => None,
        false => Some(Init::Normal(1.0)),
    };
    for module in targets.select(config, tensors, &modules)? {
        let path = module.path.as_str();
        if path != spec.embed_tokens.path && path != spec.lm_head.path {
            let allowed = "the token embedding and the head";
            return Err(not_adaptable(config, &module, allowed));
        }
        let rows = ReplacedRows {
            option: KEY,
            infix: "",
            path,
            indices: &indices,
            init,
            head_follows: spec.says_tied(),
        };
        replace_rows(config, base, tensors, spec, &mut effects, &rows)?;
    }
    Ok(effects)
}
