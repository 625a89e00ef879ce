//! Damage that knows nothing of a file's form.

use rand::RngExt;
use rand::rngs::ChaCha12Rng;

/// Bytes that mean something in one form or another.
const TELLING: &[u8] = b"0123456789-+.eE{}[]()\"',:;\\/#=<>*?|\n\r\t ntf\0\x01\x7f\x80\xff";

/// Texts that mean something.
const TEXTS: &[&str] = &[
    "..",
    "../..",
    "/",
    "/dev/zero",
    "null",
    "true",
    "NaN",
    "-1",
    "1e999",
    "1e-999",
    "\\u0000",
    "\\ud800",
    "\u{feff}",
    "\u{10ffff}",
    "é",
    "{{",
    "</script>",
    "9223372036854775808",
    "18446744073709551616",
    "[[",
    "{\"\":",
];

/// The size beyond which nothing is inserted.
const LARGEST: usize = 1 << 20;

/// A number at a border.
pub fn telling(rng: &mut ChaCha12Rng) -> u64 {
    const BORDERS: [u64; 14] = [
        0,
        1,
        2,
        7,
        8,
        127,
        255,
        1 << 15,
        1 << 24,
        (1 << 31) - 1,
        1 << 32,
        (1 << 53) + 1,
        1 << 63,
        u64::MAX,
    ];
    let border = BORDERS[rng.random_range(0..BORDERS.len())];
    border.wrapping_add(rng.random_range(0..3)).wrapping_sub(1)
}

/// Damages `bytes` in one place; `other` is another file of the kind.
pub fn damage(bytes: &mut Vec<u8>, other: &[u8], rng: &mut ChaCha12Rng) {
    let at = rng.random_range(0..=bytes.len());
    let end = bytes.len().min(at + rng.random_range(1..=64));
    let is_full = bytes.len() > LARGEST;
    match rng.random_range(0..16) {
        0 | 1 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        2 | 3 if at < bytes.len() => bytes[at] = TELLING[rng.random_range(0..TELLING.len())],
        4 => bytes.insert(at, TELLING[rng.random_range(0..TELLING.len())]),
        5 => drop(bytes.drain(at..end)),
        6 => bytes.truncate(at),
        7 if !is_full => {
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
        8 => {
            let text = TEXTS[rng.random_range(0..TEXTS.len())];
            bytes.splice(at..at, text.bytes());
        }
        9 if !other.is_empty() => {
            // The beginning of one file and the end of the other.
            let from = rng.random_range(0..other.len());
            bytes.truncate(at);
            bytes.extend(&other[from..]);
        }
        10 if !other.is_empty() => {
            let from = rng.random_range(0..other.len());
            let to = other.len().min(from + rng.random_range(1..=64));
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        11 => {
            let number = telling(rng).to_le_bytes();
            let length = [1, 2, 4, 8][rng.random_range(0..4)];
            let end = bytes.len().min(at + length);
            bytes[at..end].copy_from_slice(&number[..end - at]);
        }
        12 => number(bytes, at, rng),
        13 if !is_full => {
            let count = [2, 100, 5_000][rng.random_range(0..3)];
            let part = bytes[at..end].to_vec();
            let many = part.repeat(count.min(LARGEST / part.len().max(1)));
            bytes.splice(at..at, many);
        }
        14 if !is_full && rng.random_ratio(1, 8) => {
            let opening = [&b"["[..], b"{\"a\":", b"("][rng.random_range(0..3)];
            bytes.splice(at..at, opening.repeat(100_000));
        }
        _ => {
            let other_at = rng.random_range(0..=bytes.len());
            if at < bytes.len() && other_at < bytes.len() {
                bytes.swap(at, other_at);
            }
        }
    }
}

/// Replaces the digits from `at` on, or those that follow, by another number.
fn number(bytes: &mut Vec<u8>, at: usize, rng: &mut ChaCha12Rng) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit) else {
        return;
    };
    let start = at + start;
    let digits = bytes[start..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    let end = start + digits.count();
    let number = match rng.random_range(0..4) {
        0 => format!("-{}", telling(rng)),
        1 => format!("{}e{}", telling(rng), rng.random_range(0..400)),
        _ => telling(rng).to_string(),
    };
    bytes.splice(start..end, number.bytes());
}
