//! Damages the bytes of a safetensors file in targeted ways.

use serde_json::{Value, json};

/// The JSON header of a safetensors file.
pub fn header_of(bytes: &[u8]) -> String {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    String::from_utf8(bytes[8..8 + length].to_vec()).unwrap()
}

/// The file with its header replaced.
pub fn with_header(header: &str, bytes: &[u8]) -> Vec<u8> {
    let old = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut all = (header.len() as u64).to_le_bytes().to_vec();
    all.extend_from_slice(header.as_bytes());
    all.extend_from_slice(&bytes[8 + old..]);
    all
}

/// The byte range of the tensor `name` in its file.
pub fn data_of(bytes: &[u8], name: &str) -> std::ops::Range<usize> {
    let header = header_of(bytes);
    let json: Value = serde_json::from_str(&header).unwrap();
    let place = |number: usize| {
        let offset = json[name]["data_offsets"][number].as_u64().unwrap();
        8 + header.len() + offset as usize
    };
    place(0)..place(1)
}

/// Damaged versions of a safetensors file: `(description, words that the message must contain,
/// bytes)`.
pub fn spoilt_files(whole: &[u8]) -> Vec<(&'static str, String, Vec<u8>)> {
    let header: Value = serde_json::from_str(&header_of(whole)).unwrap();
    let name = header
        .as_object()
        .unwrap()
        .keys()
        .find(|key| *key != "__metadata__")
        .unwrap();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut header = header.clone();
        change(&mut header[name]);
        with_header(&header.to_string(), whole)
    };
    let offsets = |add: [i64; 2]| {
        changed(&|tensor| {
            for (number, add) in add.into_iter().enumerate() {
                let offset = tensor["data_offsets"][number].as_i64().unwrap();
                tensor["data_offsets"][number] = json!(offset + add);
            }
        })
    };
    let sized = |length: u64| [&length.to_le_bytes()[..], &whole[8..]].concat();
    let too_long = format!("{} bytes, the file has {}", whole.len(), whole.len() + 1);
    let all: Vec<(&str, &str, Vec<u8>)> = vec![
        ("empty", "0 bytes", Vec::new()),
        ("cut in the length", "5 bytes", whole[..5].to_vec()),
        ("cut in the header", "100", whole[..100].to_vec()),
        (
            "cut in the data",
            "cut off",
            whole[..whole.len() - 1].to_vec(),
        ),
        ("too long", &too_long, [whole, &[0]].concat()),
        ("overlapping offsets", name, offsets([4, 4])),
        ("offsets out of range", "begin", offsets([1 << 40, 1 << 40])),
        (
            "offsets in the wrong order",
            "8 to 0",
            changed(&|t| t["data_offsets"] = json!([8, 0])),
        ),
        (
            "negative offsets",
            "-8",
            changed(&|t| t["data_offsets"] = json!([-8, 0])),
        ),
        (
            "a size that overflows",
            name,
            changed(&|t| t["shape"] = json!([u64::MAX, u64::MAX])),
        ),
        (
            "a shape that does not fit",
            name,
            changed(&|t| t["shape"] = json!([1, 1])),
        ),
        (
            "an unknown dtype",
            "F33",
            changed(&|t| t["dtype"] = json!("F33")),
        ),
        (
            "an absurd header length",
            "18446744073709551615",
            sized(u64::MAX),
        ),
        ("a header beyond the file", "1048576", sized(1 << 20)),
        (
            "a header that is no JSON",
            "header",
            with_header("this is not JSON", whole),
        ),
        (
            "a header that is an array",
            "header",
            with_header("[1, 2]", whole),
        ),
        (
            "a header that is nested deeply",
            "header",
            with_header(&"[".repeat(100_000), whole),
        ),
        (
            "a header that is not UTF-8",
            "UTF-8",
            [&8_u64.to_le_bytes()[..], &[0xff; 8]].concat(),
        ),
        (
            "a web page",
            "web page",
            b"<!DOCTYPE html><html><body>404 Not Found</body></html>".to_vec(),
        ),
        (
            "a pointer of Git LFS",
            "git lfs pull",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4cac19622f\nsize 5\n".to_vec(),
        ),
    ];
    all.into_iter()
        .map(|(label, words, bytes)| (label, words.to_owned(), bytes))
        .collect()
}
