//! Pages with packed results in them.

use std::io::{Read, Write};

use base64::prelude::{BASE64_STANDARD, Engine};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use rand::RngExt;
use rand::rngs::ChaCha12Rng;

use super::Form;

/// What stands before the packed data, and after it.
const MARKS: [&str; 2] = [" id=\"data\">", "</script>"];

/// The form of the page `text`.
pub fn form(text: &str) -> Form {
    let (before, rest) = text.split_once(MARKS[0]).unwrap();
    let (data, after) = rest.split_once(MARKS[1]).unwrap();
    let deflated = BASE64_STANDARD.decode(data).unwrap();
    let mut json = Vec::new();
    ZlibDecoder::new(deflated.as_slice())
        .read_to_end(&mut json)
        .unwrap();
    let around = [
        format!("{before}{}", MARKS[0]),
        format!("{}{after}", MARKS[1]),
    ];
    Form::Page(around, serde_json::from_slice(&json).unwrap())
}

/// The page with `json` in it, which now and then is very long.
pub fn made(around: &[String; 2], json: &[u8], rng: &mut ChaCha12Rng) -> Vec<u8> {
    let mut json = json.to_vec();
    if rng.random_ratio(1, 200) {
        let (blank, last) = ([b" ", b"["][rng.random_range(0..2)], json.len() - 1);
        json.splice(last..last, blank.repeat(100 << 20));
    }
    let [before, after] = around;
    [
        before.as_bytes(),
        packed(&json).as_bytes(),
        after.as_bytes(),
    ]
    .concat()
}

/// `bytes`, packed as in a page.
fn packed(bytes: &[u8]) -> String {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    BASE64_STANDARD.encode(encoder.finish().unwrap())
}
