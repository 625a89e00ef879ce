//! What the `tokenizers` crate makes of malformed files: it panics on some, and allocates whatever
//! size a table of character normalizations claims. Here both are errors.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::Value;

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
pub fn check_normalizer(normalizer: &Value) -> tokenizers::Result<()> {
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
}
