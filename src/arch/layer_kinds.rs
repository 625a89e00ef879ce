//! Which layers have which mixer, and the sizes of mixers that several families share.

use crate::json::{ConfigError, JsonObject};

/// The longest convolution that's accepted: states are allocated before any tensor's shape has
/// confirmed it.
const LONGEST_KERNEL: usize = 1 << 10;

/// The most heads, and the widest ones, that are accepted.
const MOST: usize = 1 << 16;

/// Reads a list with a kind for each of the `layers` layers; `kinds` are their names with what they
/// mean. `None` if `key` is absent.
///
/// # Errors
/// If it's something else.
pub fn read<T: Copy>(
    config: &JsonObject,
    key: &str,
    layers: usize,
    kinds: &[(&str, T)],
) -> Result<Option<Vec<T>>, ConfigError> {
    let Some(names) = config.optional_texts(key)? else {
        return Ok(None);
    };
    let meaning = |name: &String| {
        let mut kinds = kinds.iter();
        let (_, kind) = kinds.find(|(known, _)| known == name)?;
        Some(*kind)
    };
    let found: Option<Vec<T>> = names.iter().map(meaning).collect();
    match found.filter(|found| found.len() == layers) {
        Some(found) => Ok(Some(found)),
        None => {
            let known: Vec<String> = kinds.iter().map(|(name, _)| format!("`{name}`")).collect();
            let expected = format!("{} for each of the {layers} layers", known.join(" or "));
            Err(config.wrong(key, &expected))
        }
    }
}

/// Reads the number of tokens that a convolution spans.
///
/// # Errors
/// If it's no such number, or 1: such a convolution would have no state.
pub fn kernel(config: &JsonObject, key: &str, default: usize) -> Result<usize, ConfigError> {
    let kernel = config.optional_size_up_to(key, LONGEST_KERNEL)?;
    match kernel.unwrap_or(default) {
        1 => Err(config.wrong(key, "at least 2 tokens")),
        kernel => Ok(kernel),
    }
}

/// Reads a size of at most [`MOST`]: states are allocated before any tensor's shape has confirmed
/// them.
///
/// # Errors
/// If it's something else.
pub fn size(config: &JsonObject, key: &str, default: usize) -> Result<usize, ConfigError> {
    Ok(config.optional_size_up_to(key, MOST)?.unwrap_or(default))
}

/// Refuses activations other than SiLU, the only one that the convolution's operator has.
///
/// # Errors
/// If `key` names another one.
pub fn must_be_silu(config: &JsonObject, key: &str) -> Result<(), ConfigError> {
    match config.optional_text(key)? {
        None | Some("silu" | "swish") => Ok(()),
        Some(_) => Err(config.wrong(key, "`silu`, the activation behind the convolution")),
    }
}
