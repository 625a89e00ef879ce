//! The pipeline that each class builds around a vocabulary (normalizer, pre-tokenizer, model and
//! decoder), in the format of `tokenizer.json`.
//!
//! Sources: `tokenization_<class>.py` of Transformers.

use serde_json::{Map, Value, json};

use super::class::Class;
use super::settings::Settings;

/// The regular expression with which Qwen2's tokenizer splits text.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen3.5's, which counts combining marks as parts of words.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Vocabulary and merges, in the format of `tokenizer.json`.
#[derive(Debug)]
pub struct Words {
    /// The id of each token.
    pub vocab: Value,
    /// Pairs of tokens to merge, in order of priority.
    pub merges: Value,
}

impl Words {
    /// The vocabulary and merges in the `model` of a `tokenizer.json`, whatever its type.
    pub fn of_model(model: &Value) -> Self {
        let vocab = match model.get("vocab") {
            Some(Value::Array(tokens)) => {
                let token = |(token, id): (&Value, usize)| {
                    let text = token.get(0).unwrap_or(token).as_str()?;
                    Some((text.to_owned(), Value::from(id)))
                };
                let ids = tokens.iter().zip(0..).filter_map(token);
                Value::Object(ids.collect())
            }
            Some(vocab) => vocab.clone(),
            None => Value::Object(Map::new()),
        };
        let merges = model.get("merges").cloned();
        Self {
            vocab,
            merges: merges.unwrap_or_else(|| json!([])),
        }
    }
}

/// The class's default for the special token `key`, used if the configuration doesn't set it.
pub fn default_token(class: Class, key: &str) -> Option<&'static str> {
    const END: &str = "<|endoftext|>";
    match (class, key) {
        (Class::Llama | Class::CodeLlama | Class::Gemma, "unk_token") => Some("<unk>"),
        (Class::Llama | Class::CodeLlama, "bos_token") => Some("<s>"),
        (Class::Llama | Class::CodeLlama, "eos_token") => Some("</s>"),
        (Class::Gemma, "bos_token") => Some("<bos>"),
        (Class::Gemma, "eos_token") => Some("<eos>"),
        (Class::Gemma, "pad_token") => Some("<pad>"),
        (Class::Gemma, "mask_token") => Some("<mask>"),
        (
            Class::Gpt2 | Class::CodeGen | Class::GptNeoX,
            "unk_token" | "bos_token" | "eos_token",
        )
        | (Class::Qwen2 | Class::Qwen35, "unk_token" | "eos_token" | "pad_token") => Some(END),
        (Class::GptNeoX, "pad_token") => Some("<|padding|>"),
        (Class::Cohere, "unk_token") => Some("<UNK>"),
        (Class::Cohere, "bos_token") => Some("<BOS_TOKEN>"),
        (Class::Cohere, "eos_token") => Some("<|END_OF_TURN_TOKEN|>"),
        (Class::Cohere, "pad_token") => Some("<PAD>"),
        (Class::Cohere, "cls_token") => Some("<CLS>"),
        (Class::Cohere, "sep_token") => Some("<SEP>"),
        (Class::Cohere, "mask_token") => Some("<MASK_TOKEN>"),
        _ => None,
    }
}

/// The special tokens that `CodeLlamaTokenizer` adds, by name.
pub const CODE_LLAMA: [(&str, &str); 5] = [
    ("prefix_token", "▁<PRE>"),
    ("middle_token", "▁<MID>"),
    ("suffix_token", "▁<SUF>"),
    ("eot_token", "▁<EOT>"),
    ("fill_token", "<FILL_ME>"),
];

/// Builds the pipeline of `class`, which isn't [`Class::AsStored`], around `words`; `unknown` is
/// the unknown token.
pub fn build(
    class: Class,
    settings: &Settings,
    words: Words,
    unknown: Option<&str>,
) -> Map<String, Value> {
    let prefix_space = settings.flag("add_prefix_space");
    let byte_level = |add_prefix_space: bool, use_regex: bool| {
        json!({
            "type": "ByteLevel",
            "add_prefix_space": add_prefix_space,
            "trim_offsets": true,
            "use_regex": use_regex,
        })
    };
    let split = |pattern: &str| {
        json!({
            "type": "Sequence",
            "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false },
                byte_level(prefix_space, false),
            ],
        })
    };
    let nfc = || json!({ "type": "NFC" });
    let (normalizer, pre_tokenizer) = match class {
        Class::AsStored => (Value::Null, Value::Null),
        Class::Llama => {
            let scheme = match (
                settings.flag_or("add_prefix_space", true),
                settings.flag("legacy"),
            ) {
                (true, true) => "always",
                (true, false) => "first",
                (false, _) => "never",
            };
            (Value::Null, metaspace(scheme))
        }
        Class::CodeLlama => {
            let scheme = match settings.flag_or("add_prefix_space", true) {
                true => "first",
                false => "never",
            };
            (Value::Null, metaspace(scheme))
        }
        Class::Gemma => (
            json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" }),
            json!({
                "type": "Split",
                "pattern": { "String": " " },
                "behavior": "MergedWithPrevious",
                "invert": false,
            }),
        ),
        Class::Gpt2 | Class::CodeGen => (Value::Null, byte_level(prefix_space, true)),
        Class::Qwen2 => (nfc(), split(QWEN2)),
        Class::Qwen35 => (nfc(), split(QWEN35)),
        Class::GptNeoX => (nfc(), byte_level(prefix_space, true)),
        Class::Cohere => (
            nfc(),
            json!({
                "type": "Sequence",
                "pretokenizers": [
                    { "type": "Digits", "individual_digits": true },
                    byte_level(prefix_space, true),
                ],
            }),
        ),
    };
    let decoder = match class.is_byte_level() {
        true => byte_level(true, true),
        false => {
            let mut decoders = vec![
                json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
                json!({ "type": "ByteFallback" }),
                json!({ "type": "Fuse" }),
            ];
            let strips = match class {
                Class::Llama => settings.flag_or("add_prefix_space", true),
                Class::CodeLlama => true,
                _ => false,
            };
            if strips {
                decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
            }
            json!({ "type": "Sequence", "decoders": decoders })
        }
    };
    let whole = !class.is_byte_level();
    let model = json!({
        "type": "BPE",
        "unk_token": unknown.filter(|_| matches!(class, Class::Gemma | Class::CodeLlama)),
        "fuse_unk": whole,
        "byte_fallback": whole,
        "vocab": words.vocab,
        "merges": words.merges,
    });
    let parts = [
        ("normalizer", normalizer),
        ("pre_tokenizer", pre_tokenizer),
        ("decoder", decoder),
        ("model", model),
    ];
    parts
        .map(|(key, value)| (key.to_owned(), value))
        .into_iter()
        .collect()
}

fn metaspace(prepend_scheme: &str) -> Value {
    json!({
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": prepend_scheme,
        "split": false,
    })
}
