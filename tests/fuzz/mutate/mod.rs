//! Damages files: by their bytes, and with their form in view, so that what's behind the first check
//! is reached too.

mod bytes;
mod json;
mod page;
mod protobuf;

use std::path::Path;

use rand::RngExt;
use rand::rngs::ChaCha12Rng;
use serde_json::Value;

use crate::target::Seed;

/// What a file is made of.
pub enum Form {
    /// Text or bytes of any kind.
    Bytes,
    /// One JSON value.
    Json(Value),
    /// A JSON value in each line.
    JsonLines(Vec<Value>),
    /// A header of JSON with its length before it, and data behind it.
    Safetensors(Value, Vec<u8>),
    /// Fields with numbers, some of which are messages again.
    Protobuf,
    /// A page with packed JSON in it: what's before and after it, and what it is.
    Page([String; 2], Value),
}

/// A text that stands for the beginning of a key, and is taken out of the text: JSON's objects here
/// have no key twice.
const TWICE: &str = "@twice@";

impl Form {
    /// The form of the file at `path`.
    pub fn of(path: &Path, bytes: &[u8]) -> Self {
        let name = path.file_name().unwrap().to_string_lossy();
        let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        if ends(&[".json"]) {
            Self::Json(serde_json::from_slice(bytes).unwrap())
        } else if ends(&[".jsonl"]) {
            let lines = std::str::from_utf8(bytes).unwrap().lines();
            Self::JsonLines(
                lines
                    .map(|line| serde_json::from_str(line).unwrap())
                    .collect(),
            )
        } else if ends(&[".safetensors"]) {
            let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
            let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
            Self::Safetensors(serde_json::from_slice(header).unwrap(), data.to_vec())
        } else if ends(&[".onnx", ".model"]) {
            Self::Protobuf
        } else if ends(&[".html"]) {
            page::form(std::str::from_utf8(bytes).unwrap())
        } else {
            Self::Bytes
        }
    }
}

/// `seed`, damaged; parts may come out of `other`.
pub fn mutated(seed: &Seed, other: &Seed, rng: &mut ChaCha12Rng) -> Vec<u8> {
    let mut made = match &seed.form {
        _ if rng.random_ratio(1, 8) => seed.bytes.clone(),
        Form::Bytes => seed.bytes.clone(),
        Form::Json(value) => {
            let mut value = value.clone();
            json::damage(&mut value, json_of(other), rng);
            text(&value)
        }
        Form::JsonLines(values) => {
            let mut values = values.clone();
            let place = rng.random_range(0..values.len());
            let from = values[rng.random_range(0..values.len())].clone();
            json::damage(&mut values[place], Some(&from), rng);
            let lines: Vec<Vec<u8>> = values.iter().map(text).collect();
            lines.join(&b'\n')
        }
        Form::Safetensors(header, data) => {
            let mut header = header.clone();
            json::damage(&mut header, json_of(other), rng);
            let header = text(&header);
            let length = match rng.random_ratio(1, 16) {
                true => bytes::telling(rng),
                false => header.len() as u64,
            };
            [&length.to_le_bytes()[..], &header, data].concat()
        }
        Form::Protobuf => protobuf::damaged(&seed.bytes, rng, 0),
        Form::Page(around, value) => {
            let mut value = value.clone();
            json::damage(&mut value, json_of(other), rng);
            page::made(around, &text(&value), rng)
        }
    };
    let is_structured = !matches!(seed.form, Form::Bytes);
    if !is_structured || rng.random_ratio(1, 6) || made == seed.bytes {
        for _ in 0..rng.random_range(1..=4) {
            bytes::damage(&mut made, &other.bytes, rng);
        }
    }
    made
}

fn json_of(seed: &Seed) -> Option<&Value> {
    match &seed.form {
        Form::Json(value) | Form::Safetensors(value, _) | Form::Page(_, value) => Some(value),
        Form::JsonLines(values) => values.first(),
        Form::Bytes | Form::Protobuf => None,
    }
}

/// `value` as text, with keys that are there twice.
fn text(value: &Value) -> Vec<u8> {
    value.to_string().replace(TWICE, "").into_bytes()
}
