//! What the `tokenizers` crate makes of malformed files: it panics on some, allocates whatever
//! size a table of character normalizations claims, and takes a level of the stack for each byte of
//! a word. Here these are errors.

use std::cell::Cell;
use std::fmt;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// The most bytes of a word in a vocabulary. Those of real ones have less than a thousand.
pub const LONGEST_WORD: usize = 4096;

const MALFORMED: &str = "it's malformed in a way that the tokenizers library can't handle";

thread_local! {
    /// Whether a panic of this thread becomes an error, so that nothing is printed of it.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Does `work` with the crate; a panic in it is an error.
///
/// # Errors
/// If the work fails or panics.
pub fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                usual(info);
            }
        }));
    });
    let before = GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    done.unwrap_or_else(|_| Err(MALFORMED.into()))
}

/// Refuses tables of character normalizations in the `normalizer` of a `tokenizer.json` that claim
/// to be longer than they are.
///
/// # Errors
/// If one does.
fn check_normalizer(normalizer: &Value) -> tokenizers::Result<()> {
    if let Some(text) = normalizer["precompiled_charsmap"].as_str() {
        // What isn't base64 is refused by the crate itself.
        check_table(&BASE64_STANDARD.decode(text).unwrap_or_default())?;
    }
    let inside = normalizer["normalizers"].as_array();
    inside.into_iter().flatten().try_for_each(check_normalizer)
}

/// Refuses a table whose first four bytes, the length of its trie, promise more than follows.
///
/// # Errors
/// If they do, or the trie is empty.
pub fn check_table(table: &[u8]) -> tokenizers::Result<()> {
    let fits = match table.split_first_chunk::<4>() {
        Some((length, rest)) => (4..=rest.len()).contains(&(u32::from_le_bytes(*length) as usize)),
        None => table.is_empty(),
    };
    match fits {
        true => Ok(()),
        false => {
            Err("its table of character normalizations (`precompiled_charsmap`) is cut off".into())
        }
    }
}

/// Refuses a `tokenizer.json` with words, merges or added tokens that are too long, or with tables of
/// character normalizations that claim to be longer than they are.
///
/// # Errors
/// If there's one, or it's no JSON.
pub fn check(tokenizer: &[u8]) -> tokenizers::Result<()> {
    #[derive(Deserialize)]
    struct Checked {
        #[serde(default)]
        normalizer: Value,
        #[serde(default, rename = "model")]
        _model: Short,
        #[serde(default, rename = "added_tokens")]
        _added: Short,
    }
    let Checked { normalizer, .. } = serde_json::from_slice(tokenizer)?;
    check_normalizer(&normalizer)
}

/// Any JSON without texts that are longer than a word.
#[derive(Default)]
struct Short;

impl<'de> Deserialize<'de> for Short {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShortVisitor)
    }
}

struct ShortVisitor;

impl<'de> Visitor<'de> for ShortVisitor {
    type Value = Short;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Short, E> {
        match text.len() {
            0..=LONGEST_WORD => Ok(Short),
            length => Err(E::custom(format!(
                "a word or token of the vocabulary has {length} bytes, at most {LONGEST_WORD} are allowed"
            ))),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Short, A::Error> {
        while elements.next_element::<Short>()?.is_some() {}
        Ok(Short)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Short, A::Error> {
        while entries.next_entry::<Short, Short>()?.is_some() {}
        Ok(Short)
    }

    fn visit_unit<E: Error>(self) -> Result<Short, E> {
        Ok(Short)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Short, E> {
        Ok(Short)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Short, E> {
        Ok(Short)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Short, E> {
        Ok(Short)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Short, E> {
        Ok(Short)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_panic_is_an_error_and_the_next_one_is_too() {
        for _ in 0..2 {
            let error = guarded::<()>(|| panic!("inside the crate")).unwrap_err();
            assert_eq!(error.to_string(), MALFORMED);
        }
        assert_eq!(guarded(|| Ok(7)).unwrap(), 7);
    }

    #[test]
    fn a_table_that_promises_too_much_is_refused_wherever_it_stands() {
        let text = |table: &[u8]| BASE64_STANDARD.encode(table);
        let long = text(&[255, 255, 255, 127, 0, 0, 0, 0]);
        let whole = text(&[4, 0, 0, 0, 1, 2, 3, 4, 0]);
        let nested = |table: &str| json!({ "type": "Sequence", "normalizers": [{ "type": "Precompiled", "precompiled_charsmap": table }] });
        assert!(check_normalizer(&nested(&long)).is_err());
        check_normalizer(&nested(&whole)).unwrap();
        check_normalizer(&json!(null)).unwrap();
    }

    #[test]
    fn words_that_are_too_long_are_refused_wherever_they_are() {
        let long = "[".repeat(LONGEST_WORD + 1);
        let check = |model: Value, added: Value| {
            super::check(
                json!({ "model": model, "added_tokens": added })
                    .to_string()
                    .as_bytes(),
            )
        };
        check(json!({ "vocab": [["a", -1.5]], "unk_id": null }), json!([])).unwrap();
        check(json!({ "vocab": { "a": 0 } }), json!([{ "content": "b" }])).unwrap();
        for (model, added) in [
            (json!({ "vocab": [[long, -1.5]] }), json!([])),
            (json!({ "vocab": { (long.clone()): 1 } }), json!([])),
            (json!({ "merges": [["a", long]] }), json!([])),
            (json!({}), json!([{ "content": long }])),
        ] {
            let error = check(model, added).unwrap_err().to_string();
            assert!(error.contains("has 4097 bytes"), "{error}");
        }
    }
}
