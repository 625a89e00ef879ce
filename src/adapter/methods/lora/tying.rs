//! `ensure_weight_tying`: if the embedding or the head of a tied model is adapted or saved, the
//! other is as well.
//!
//! - PEFT looks for `embed_tokens` and `lm_head` by name. If the embedding has another name, only
//!   `lm_head` selects the pair; and the configuration that PEFT then saves names only the
//!   embedding.
//! - A pair that's saved (`modules_to_save`) comes first: targets are then left as they are.
//! - The head of a saved pair has no bias, whatever the base's has.
//!
//! Source: PEFT, `tuners/tuners_utils.py` (`_check_tied_modules`), `tuners/lora/model.py`,
//! `utils/other.py`.

use super::config::LoraConfig;
use super::init::LoraInit;
use crate::adapter::AdapterTensors;
use crate::adapter::targets::Targets;
use crate::arch::{DecoderSpec, Linear, Module};
use crate::json::{ConfigError, JsonObject};

/// The names by which PEFT finds the pair.
const NAMES: [&str; 2] = ["embed_tokens", "lm_head"];

/// What the tied embedding and head have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tie {
    /// Nothing.
    Apart,
    /// Both are targeted.
    Targets,
    /// Both are saved.
    Saved,
}

/// Adds the missing one of the pair to `selected`, the targeted modules, or to `saved`.
///
/// # Errors
/// If the head of a saved pair is targeted, too, or PEFT would lose the head's tensors.
pub fn tie(
    config: &JsonObject,
    tensors: &AdapterTensors,
    targets: &Targets,
    spec: &DecoderSpec,
    selected: &mut Vec<Module>,
    saved: &mut Vec<Module>,
) -> Result<Tie, ConfigError> {
    let last = |name: &String| {
        name.rsplit('.')
            .next()
            .is_some_and(|name| NAMES.contains(&name))
    };
    if targets.modules_to_save.iter().any(last) {
        let head = &spec.lm_head.path;
        if selected.iter().any(|module| module.path == *head) {
            let reason = format!("`{head}` is saved with the embedding, and targeted as well");
            return Err(config.refused("ensure_weight_tying", &reason));
        }
        let ends = [&spec.embed_tokens.path, head];
        saved.retain(|module| !ends.contains(&&module.path));
        let without_bias = Linear {
            bias: false,
            ..spec.lm_head.clone()
        };
        saved.extend([spec.embed_tokens.module(), without_bias.module()]);
        selected.retain(|module| module.path != spec.embed_tokens.path);
        return Ok(Tie::Saved);
    }
    if targets.name_one_of(config, &NAMES)? {
        for end in [spec.embed_tokens.module(), spec.lm_head.module()] {
            if !selected.iter().any(|module| module.path == end.path) {
                selected.push(end);
            }
        }
        return Ok(Tie::Targets);
    }
    let lost = format!("{}.lora_A.weight", spec.lm_head.path);
    if tensors.has(&lost)
        && !selected
            .iter()
            .any(|module| module.path == spec.lm_head.path)
    {
        let reason = format!(
            "the file has `{lost}`, but PEFT no longer ties `{}` when it loads this configuration",
            spec.lm_head.path
        );
        return Err(config.refused("ensure_weight_tying", &reason));
    }
    Ok(Tie::Apart)
}

/// Whether a tied pair of targets is still equal after a merge. DoRA rescales the rows of one and
/// the columns of the other, patterns may scale them differently, and some initialisations give the
/// head its own factors.
///
/// # Errors
/// If a regular expression can't be matched.
pub fn change_alike(
    lora: &LoraConfig,
    config: &JsonObject,
    spec: &DecoderSpec,
) -> Result<bool, ConfigError> {
    let of = |path: &str| lora.rank_and_scaling(config, path);
    let same = of(&spec.embed_tokens.path)? == of(&spec.lm_head.path)?;
    let shared = matches!(
        lora.init,
        LoraInit::Default | LoraInit::Gaussian | LoraInit::Random
    );
    Ok(same && shared && !lora.use_dora && !lora.lora_bias)
}
