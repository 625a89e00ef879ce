//! Tokenizers of every kind, with the files beside them.

use std::path::Path;

use peft_bench::model::{TOKENIZER_FILES, TextTokenizer};

use super::{entries, fixture, linked};
use crate::target::{Reader, Seed, Target, told};

pub const TOKENIZER: Reader = Reader {
    name: "tokenizer",
    one_of: 1,
    make: tokenizer,
};

const TEXTS: [&str; 3] = [
    "The adapter's weights, in 16 bits.",
    "<s> é ▁\u{1f980}\n\n  \t<|endoftext|>",
    "",
];

fn tokenizer(folder: &Path) -> Target {
    let mut seeds = Vec::new();
    for from in entries(&fixture("tokenizers")) {
        let own = linked(&from, folder.join(from.file_name().unwrap()));
        if TextTokenizer::open(&own).is_err() {
            continue;
        }
        let files = entries(&own).into_iter().filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            let is_read = TOKENIZER_FILES.contains(&name.as_ref()) || name == "config.json";
            is_read && !name.starts_with("chat_template")
        });
        seeds.extend(files.map(|path| Seed::at(&path)));
    }
    Target {
        seeds,
        read: Box::new(|seed| {
            let tokenizer = TextTokenizer::open(seed.folder()).map_err(|error| told(&error))?;
            for text in TEXTS {
                let ids = tokenizer.encode(text).map_err(|error| told(&error))?;
                tokenizer.decode(&ids).map_err(|error| told(&error))?;
            }
            let ids: Vec<u32> = (0..50).chain([u32::MAX]).collect();
            tokenizer.decode(&ids).map_err(|error| told(&error))?;
            Ok(())
        }),
    }
}
