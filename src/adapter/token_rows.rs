//! Replaced rows of the token embedding: LoRA's `trainable_token_indices`, and the method
//! `TRAINABLE_TOKENS`.
//!
//! | tensor | shape |
//! |---|---|
//! | `<embedding>.token_adapter.trainable_tokens_delta` | `[tokens, embedding_dim]` |
//!
//! Despite its name the tensor holds the rows themselves, not a difference. A tied head uses the
//! same rows. Source: PEFT, `tuners/trainable_tokens/layer.py`.

use std::collections::BTreeSet;

use ndarray::Array2;

use super::form::{Form, FormTensor, Native, TensorRole, TokenForm};
use super::replaced::leave_out_bias;
use super::{AdapterError, AdapterTensors, Effects, Init, ModuleAdapter};
use crate::arch::DecoderSpec;
use crate::json::JsonObject;
use crate::model::BaseModel;

/// Replaced rows of an embedding, or of a head.
#[derive(Debug)]
pub struct TokenRows {
    /// The tensor's key.
    pub key: String,
    /// Token ids.
    pub indices: Vec<usize>,
    /// `[indices.len(), embedding_dim]`
    pub rows: Array2<f32>,
    /// Whether the parameter counts include them: a tied head shares the embedding's.
    pub counted: bool,
    /// Whether they are a head's, which reads all of them in every step.
    pub head: bool,
}

impl ModuleAdapter for TokenRows {
    fn form(&self) -> Form<'_> {
        let role = if self.head {
            TensorRole::Term
        } else {
            TensorRole::Table
        };
        Form::Tokens(TokenForm {
            rows: FormTensor::stored(&self.key, &self.rows, role),
            indices: &self.indices,
        })
    }

    fn native(&self) -> Native<'_> {
        Native::Reduced
    }

    fn trainable_params(&self) -> usize {
        if self.counted { self.rows.len() } else { 0 }
    }
}

/// Adds the rows of `trainable_token_indices`, a list (for the token embedding) or an object from
/// modules to lists.
///
/// # Errors
/// If the option is wrong, or as [`replace_rows`].
pub fn trainable_token_indices(
    config: &JsonObject,
    base: &BaseModel,
    tensors: &mut AdapterTensors,
    spec: &DecoderSpec,
    effects: &mut Effects,
) -> Result<(), AdapterError> {
    const KEY: &str = "trainable_token_indices";
    let wrong = || {
        config.wrong(
            KEY,
            "a list of token ids, or an object from a module to such a list",
        )
    };
    let Some(value) = config.get(KEY) else {
        return Ok(());
    };
    let mut lists: Vec<(String, Vec<usize>)> = Vec::new();
    let ends = [&spec.embed_tokens.path, &spec.lm_head.path];
    if value.is_object() {
        let object = config.optional_object(KEY)?.ok_or_else(wrong)?;
        for (name, list) in object.json().as_object().into_iter().flatten() {
            let list = serde_json::from_value(list.clone()).map_err(|_| wrong())?;
            lists.push((name.clone(), list));
        }
    } else {
        let list = serde_json::from_value(value.clone()).map_err(|_| wrong())?;
        lists.push((spec.embed_tokens.path.clone(), list));
    }

    let mut found: [Option<&[usize]>; 2] = [None, None];
    for (name, indices) in &lists {
        let end = ends
            .iter()
            .position(|path| *path == name || path.ends_with(&format!(".{name}")))
            .ok_or_else(|| AdapterError::Targets {
                path: config.path().to_owned(),
                message: format!(
                    "`{KEY}` names `{name}`; supported are `{}` and `{}`",
                    ends[0], ends[1]
                ),
            })?;
        found[end] = Some(indices);
    }
    // A tied head shares the embedding's rows, unless it has another list.
    let mut head_follows = spec.says_tied();
    if let (true, [Some(embedding), Some(head)]) = (head_follows, found) {
        head_follows = embedding == head;
        if head_follows {
            found[1] = None;
        } else if config.flag("ensure_weight_tying", false)? {
            let reason = "the lists of a tied embedding and its head differ";
            return Err(config.refused("ensure_weight_tying", reason).into());
        }
    }
    for (path, indices) in ends.into_iter().zip(found) {
        let Some(indices) = indices else { continue };
        let rows = ReplacedRows {
            option: KEY,
            infix: ".token_adapter",
            path,
            indices,
            init: None,
            head_follows,
        };
        replace_rows(config, base, tensors, spec, effects, &rows)?;
    }
    Ok(())
}

/// The rows to replace.
#[derive(Debug)]
pub struct ReplacedRows<'a> {
    /// The option that lists them.
    pub option: &'static str,
    /// What stands between the module's path and the tensor's name.
    pub infix: &'static str,
    /// The path of the embedding or the head.
    pub path: &'a str,
    /// Token ids.
    pub indices: &'a [usize],
    /// How fresh rows are drawn; `None` for copies of the base's.
    pub init: Option<Init>,
    /// Whether the head uses the embedding's rows, too.
    pub head_follows: bool,
}

/// Adds the adapter that replaces `rows`, and the tied head's. A head with replaced rows has no
/// bias, as in PEFT's forward pass; PEFT's merge keeps the bias.
///
/// # Errors
/// If a token id is too large or listed twice, the module is changed in another way as well, or the
/// tensor is missing or has another shape.
pub fn replace_rows(
    config: &JsonObject,
    base: &BaseModel,
    tensors: &mut AdapterTensors,
    spec: &DecoderSpec,
    effects: &mut Effects,
    rows: &ReplacedRows,
) -> Result<(), AdapterError> {
    let ReplacedRows {
        option,
        infix,
        path,
        indices,
        ..
    } = *rows;
    let pair = [&spec.embed_tokens.path, &spec.lm_head.path].map(String::clone);
    if let Some(index) = indices.iter().find(|index| **index >= spec.vocab_size) {
        let expected = format!("token ids below {} (found {index})", spec.vocab_size);
        return Err(config.wrong(option, &expected).into());
    }
    let tied = rows.head_follows && path == pair[0];
    if tied && changes_head(effects, &pair[1]) {
        let reason = format!(
            "`{}` is tied to the embedding and is changed as well",
            pair[1]
        );
        return Err(config.refused(option, &reason).into());
    }
    let distinct: BTreeSet<&usize> = indices.iter().collect();
    if indices.is_empty() || distinct.len() < indices.len() {
        let expected = "at least one token id, and none twice";
        return Err(config.wrong(option, expected).into());
    }
    if effects.modules.contains_key(path) {
        let reason = format!("`{path}` is targeted by `target_modules` as well");
        return Err(config.refused(option, &reason).into());
    }
    let key = |path: &str| format!("{path}{infix}.trainable_tokens_delta");
    let shape = [indices.len(), spec.embed_tokens.embedding_dim];
    let source = match path == pair[0] {
        true => &spec.embed_tokens.source,
        false => &spec.lm_head.source,
    };
    let values = tensors.take_or(&key(path), &shape, |rng| {
        if let Some(init) = rows.init {
            return Ok(init.draw(shape[0] * shape[1], rng));
        }
        let weight = base.matrix(&format!("{source}.weight"))?;
        let row = |&index: &usize| weight.row(index).to_vec();
        Ok(indices.iter().flat_map(row).collect())
    })?;
    // Some methods save the tied head's copy, too.
    if tied && tensors.has(&key(&pair[1])) {
        tensors.claim(&key(&pair[1]), &shape)?;
    }
    let values =
        Array2::from_shape_vec(shape, values).expect("`take_or` gives as many values as asked for");
    let adapter = |counted, head| TokenRows {
        key: tensors.full_key(&key(path)),
        indices: indices.to_vec(),
        rows: values.clone(),
        counted,
        head,
    };
    if tied || path == pair[1] {
        leave_out_bias(effects, &spec.lm_head);
    }
    if tied {
        effects.keeps_tie = true;
        let head = Box::new(adapter(false, true));
        effects.modules.insert(pair[1].clone(), head);
    }
    let own = Box::new(adapter(true, path == pair[1]));
    effects.modules.insert(path.to_owned(), own);
    Ok(())
}

/// Whether the head is changed in another way.
fn changes_head(effects: &Effects, path: &str) -> bool {
    effects.modules.contains_key(path) || effects.replaced.contains_key(&format!("{path}.weight"))
}
