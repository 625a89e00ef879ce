//! `tokenizer.model`: the protobuf file of SentencePiece.
//!
//! Sources: `sentencepiece_model.proto`; `SentencePieceExtractor` and
//! `SpmConverter.build_tokenizer_from_spm_proto`, `convert_slow_tokenizer.py`; `generate_merges`,
//! `tokenization_utils_base.py`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use prost::Message;
use serde_json::{Map, Value, json};
use tokenizers::AddedToken;
use tokenizers::normalizers::{NormalizerWrapper, Precompiled};

use super::TokenizerError;
use super::files::bytes;
use super::guard::{LONGEST_WORD, check_table};

/// `ModelProto`
#[derive(Clone, PartialEq, Message)]
pub struct Model {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<Trainer>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<Normalizer>,
}

/// `ModelProto.SentencePiece`
#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, tag = "1")]
    piece: String,
    #[prost(float, tag = "2")]
    score: f32,
    #[prost(int32, optional, tag = "3", default = "1")]
    r#type: Option<i32>,
}

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// `TrainerSpec`
#[derive(Clone, PartialEq, Message)]
struct Trainer {
    #[prost(int32, optional, tag = "3", default = "1")]
    model_type: Option<i32>,
    #[prost(bool, tag = "35")]
    byte_fallback: bool,
    #[prost(int32, tag = "40")]
    unk_id: i32,
    #[prost(int32, optional, tag = "41", default = "1")]
    bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42", default = "2")]
    eos_id: Option<i32>,
    #[prost(string, optional, tag = "45", default = "<unk>")]
    unk_piece: Option<String>,
    #[prost(string, optional, tag = "46", default = "<s>")]
    bos_piece: Option<String>,
    #[prost(string, optional, tag = "47", default = "</s>")]
    eos_piece: Option<String>,
}

const UNIGRAM: i32 = 1;

/// `NormalizerSpec`
#[derive(Clone, PartialEq, Message)]
struct Normalizer {
    #[prost(bytes = "vec", tag = "2")]
    precompiled_charsmap: Vec<u8>,
    #[prost(bool, optional, tag = "3", default = "true")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4", default = "true")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5", default = "true")]
    escape_whitespaces: Option<bool>,
}

impl Model {
    /// Reads `path`.
    ///
    /// # Errors
    /// If it isn't a SentencePiece file.
    pub fn read(path: &Path) -> Result<Self, TokenizerError> {
        let unsupported = |reason: String| TokenizerError::Unsupported {
            path: path.to_owned(),
            reason,
        };
        let model = Self::decode(bytes(path)?.as_slice())
            .map_err(|error| unsupported(format!("it's no SentencePiece model ({error})")))?;
        if model.pieces.is_empty() {
            return Err(unsupported("it has no pieces".to_owned()));
        }
        // Merges are found by trying every cut of a piece.
        let lengths = model.pieces.iter().map(|piece| piece.piece.len());
        match lengths.max().filter(|length| *length > LONGEST_WORD) {
            Some(length) => Err(unsupported(format!(
                "a piece has {length} bytes, at most {LONGEST_WORD} are allowed"
            ))),
            None => Ok(model),
        }
    }

    /// The id of each piece, and all merges of two pieces into a third, ordered by the third's id.
    pub fn bpe(&self) -> (Value, Value) {
        let ids = self.ids();
        let mut merges: Vec<(u32, usize, &str, &str)> = Vec::new();
        for (piece, id) in &ids {
            for (at, _) in piece.char_indices().skip(1) {
                let (left, right) = piece.split_at(at);
                if ids.contains_key(left) && ids.contains_key(right) {
                    merges.push((*id, at, left, right));
                }
            }
        }
        merges.sort_unstable();
        let merges = merges.into_iter().map(|(_, _, left, right)| [left, right]);
        (vocabulary(&ids), merges.collect())
    }

    fn ids(&self) -> HashMap<&str, u32> {
        let pieces = self.pieces.iter().zip(0..);
        pieces
            .map(|(piece, id)| (piece.piece.as_str(), id))
            .collect()
    }

    fn trainer(&self) -> Trainer {
        self.trainer.clone().unwrap_or_default()
    }

    /// Control and user-defined pieces, which are matched as a whole; only control pieces are
    /// special tokens.
    pub fn added(&self) -> Vec<AddedToken> {
        let pieces = self.pieces.iter();
        let added = pieces.filter(|piece| [CONTROL, USER_DEFINED].contains(&piece.r#type()));
        let token = |piece: &Piece| {
            AddedToken::from(piece.piece.as_str(), piece.r#type() == CONTROL).normalized(false)
        };
        added.map(token).collect()
    }

    /// Only the control pieces.
    pub fn control(&self) -> Vec<AddedToken> {
        let added = self.added().into_iter();
        added.filter(|token| token.special).collect()
    }

    /// The piece for `bos_token`, `eos_token` or `unk_token`, if the model has it.
    pub fn special(&self, key: &str) -> Option<String> {
        let trainer = self.trainer();
        let (id, piece, default) = match key {
            "bos_token" => (trainer.bos_id(), trainer.bos_piece(), "<s>"),
            "eos_token" => (trainer.eos_id(), trainer.eos_piece(), "</s>"),
            "unk_token" => (trainer.unk_id, trainer.unk_piece(), "<unk>"),
            _ => return None,
        };
        let piece = if piece.is_empty() { default } else { piece };
        (id >= 0).then(|| piece.to_owned())
    }

    /// Whether a space is put before the text.
    pub fn adds_prefix(&self) -> bool {
        let normalizer = self.normalizer.clone().unwrap_or_default();
        normalizer.add_dummy_prefix()
    }

    /// The parts of a tokenizer that encodes as SentencePiece does, with pieces renamed as in
    /// `names`. A `legacy` tokenizer puts a space before any text that follows an added token.
    ///
    /// # Errors
    /// If its table of character normalizations is malformed.
    pub fn parts(
        &self,
        names: &BTreeMap<u32, AddedToken>,
        legacy: bool,
    ) -> tokenizers::Result<Map<String, Value>> {
        let trainer = self.trainer();
        let spec = self.normalizer.clone().unwrap_or_default();
        let is_unigram = trainer.model_type() == UNIGRAM;
        let tokens: HashMap<u32, String> = match is_unigram {
            true => {
                let pieces = self.pieces.iter().zip(0..);
                pieces
                    .map(|(piece, id)| (id, piece.piece.clone()))
                    .collect()
            }
            false => self.renamed(names),
        };
        let user_defined: Vec<&str> = self
            .pieces
            .iter()
            .zip(0..)
            .filter(|(piece, _)| piece.r#type() == USER_DEFINED)
            .filter_map(|(_, id)| tokens.get(&id).map(String::as_str))
            .collect();
        let model = match is_unigram {
            true => json!({
                "type": "Unigram",
                "unk_id": trainer.unk_id,
                "vocab": self.pieces.iter().map(|piece| json!([piece.piece, piece.score])).collect::<Value>(),
                "byte_fallback": trainer.byte_fallback,
            }),
            false => {
                let ids = tokens.iter().map(|(id, token)| (token.as_str(), *id));
                json!({
                    "type": "BPE",
                    "unk_token": trainer.unk_piece(),
                    "fuse_unk": true,
                    "byte_fallback": trainer.byte_fallback,
                    "ignore_merges": !user_defined.is_empty(),
                    "vocab": vocabulary(&ids.collect()),
                    "merges": self.merges_by_score(&tokens),
                })
            }
        };

        let mut normalizers = Vec::new();
        if !spec.precompiled_charsmap.is_empty() {
            check_table(&spec.precompiled_charsmap)?;
            let table = Precompiled::from(&spec.precompiled_charsmap)?;
            normalizers.push(serde_json::to_value(NormalizerWrapper::from(table))?);
        }
        if spec.remove_extra_whitespaces() {
            normalizers.push(replace_pattern(r"\A +| +\z", ""));
            normalizers.push(replace_pattern(" {2,}", " "));
        }
        if spec.escape_whitespaces() {
            normalizers.push(json!({
                "type": "Replace", "pattern": { "String": " " }, "content": "▁"
            }));
        }
        if spec.add_dummy_prefix() && legacy {
            normalizers.push(replace_pattern(r"\A▁", "▁▁"));
        }
        let mut pre_tokenizers = Vec::new();
        if spec.add_dummy_prefix() {
            pre_tokenizers.push(json!({
                "type": "Metaspace",
                "replacement": "▁",
                "prepend_scheme": if legacy { "always" } else { "first" },
                "split": false,
            }));
        }
        if !user_defined.is_empty() {
            let mut longest_first = user_defined;
            longest_first.sort_by_key(|piece| std::cmp::Reverse(piece.chars().count()));
            let escaped: Vec<_> = longest_first.into_iter().map(fancy_regex::escape).collect();
            pre_tokenizers.push(json!({
                "type": "Split",
                "pattern": { "Regex": escaped.join("|") },
                "behavior": "Isolated",
                "invert": false,
            }));
        }
        let mut decoders =
            vec![json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " })];
        if trainer.byte_fallback {
            decoders.push(json!({ "type": "ByteFallback" }));
        }
        if spec.add_dummy_prefix() {
            decoders.push(json!({ "type": "Fuse" }));
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        } else if trainer.byte_fallback {
            decoders.push(json!({ "type": "Fuse" }));
        }
        let pre_tokenizer = match pre_tokenizers.is_empty() {
            true => Value::Null,
            false => json!({ "type": "Sequence", "pretokenizers": pre_tokenizers }),
        };
        let parts = [
            ("model", model),
            (
                "normalizer",
                json!({ "type": "Sequence", "normalizers": normalizers }),
            ),
            ("pre_tokenizer", pre_tokenizer),
            (
                "decoder",
                json!({ "type": "Sequence", "decoders": decoders }),
            ),
        ];
        Ok(parts
            .map(|(key, value)| (key.to_owned(), value))
            .into_iter()
            .collect())
    }

    /// Pieces by id. A piece takes the name in `names` for its id, unless another piece has that
    /// name.
    fn renamed(&self, names: &BTreeMap<u32, AddedToken>) -> HashMap<u32, String> {
        let ids = self.ids();
        let kept: HashSet<&str> = ids
            .iter()
            .filter(|(_, id)| !names.contains_key(id))
            .map(|(piece, _)| *piece)
            .collect();
        let name = |(piece, id): (&str, u32)| {
            let name = names.get(&id).map(|token| token.content.as_str());
            let name = name.filter(|name| !kept.contains(name)).unwrap_or(piece);
            (id, name.to_owned())
        };
        ids.into_iter().map(name).collect()
    }

    /// Merges of normal pieces, best score first.
    fn merges_by_score(&self, tokens: &HashMap<u32, String>) -> Value {
        let pieces = self.pieces.iter().zip(0..);
        let normal: HashMap<&str, (f32, u32)> = pieces
            .filter(|(piece, _)| piece.r#type() == NORMAL)
            .filter_map(|(piece, id)| Some((tokens.get(&id)?.as_str(), (piece.score, id))))
            .collect();
        let mut ranked: Vec<(f32, u32, &str, &str)> = Vec::new();
        for (token, (score, id)) in &normal {
            for (at, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(at);
                if normal.contains_key(left) && normal.contains_key(right) {
                    ranked.push((-score, *id, left, right));
                }
            }
        }
        ranked.sort_unstable_by(|a, b| match a.0.partial_cmp(&b.0) {
            Some(Ordering::Equal) | None => (a.1, a.2, a.3).cmp(&(b.1, b.2, b.3)),
            Some(order) => order,
        });
        ranked
            .into_iter()
            .map(|(_, _, left, right)| [left, right])
            .collect()
    }
}

fn vocabulary(ids: &HashMap<&str, u32>) -> Value {
    let entries = ids
        .iter()
        .map(|(token, id)| ((*token).to_owned(), Value::from(*id)));
    Value::Object(entries.collect())
}

fn replace_pattern(pattern: &str, content: &str) -> Value {
    json!({ "type": "Replace", "pattern": { "Regex": pattern }, "content": content })
}
