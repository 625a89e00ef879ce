//! `ensure_weight_tying`: who adapts or saves one end of a tied model, its embedding or its head, does the same to the
//! other.
//!
//! - PEFT looks for `embed_tokens` and `lm_head` by name. Where an embedding is called otherwise, only `lm_head` says
//!   that the pair is meant; and the configuration that PEFT saves then names the embedding alone.
//! - Ends that are saved (`modules_to_save`) come first: targets are left as they are then.
//! - The head of a saved pair has no bias, whatever the base's has.
//!
//! Source: PEFT, `tuners/tuners_utils.py` (`_check_tied_modules`), `tuners/lora/model.py`, `utils/other.py`.

use super::config::LoraConfig;
use super::init::LoraInit;
use crate::adapter::AdapterTensors;
use crate::adapter::targets::Targets;
use crate::arch::{DecoderSpec, Linear, Module};
use crate::json::{ConfigError, JsonObject};

/// What PEFT takes for one of the ends.
const NAMES: [&str; 2] = ["embed_tokens", "lm_head"];

/// Which ends are tied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tie {
    /// None.
    Apart,
    /// Both are targets.
    Targets,
    /// Both are saved whole.
    Saved,
}

/// Completes the pair in `selected`, the targeted modules, or in `saved`.
///
/// # Errors
/// If the head of a saved pair is targeted as well, or PEFT would lose the head's tensors.
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

/// Whether a tied pair of targets stays the same after a merge. DoRA rescales the rows of one and the columns of the
/// other, patterns may scale them apart, and starts that make a head's factors anew leave it with tensors of its own.
///
/// # Errors
/// If a pattern can't be matched.
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
