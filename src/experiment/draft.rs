//! Begins an experiment: the configuration of a fresh adapter, with PEFT's defaults for what
//! isn't asked for.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::check::PARAMS;
use crate::adapter::folder::CONFIG;
use crate::adapter::{METHODS, Method, PEFT_TYPES, options_of};
use crate::files::temporary_folder;
use crate::json::check::{nearest, nearest_three};

/// Why an experiment can't be begun.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
pub enum DraftError {
    #[error("there is no method `{name}`; did you mean {nearest}? `peft-bench methods` lists all")]
    Method { name: String, nearest: String },

    #[error("{peft_type} has no {what}; {instead}")]
    Option {
        peft_type: &'static str,
        what: String,
        instead: String,
    },

    #[error("`{}` is there already; `--name` takes another name", path.display())]
    Exists { path: PathBuf },

    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Options that belong to the file itself.
const OF_THE_FILE: [&str; 7] = [
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
];

/// Virtual tokens, and tokens with rows of their own, unless a number is asked for.
const TOKENS: usize = 20;

/// Experts of an X-LoRA.
const EXPERTS: usize = 4;

/// An experiment that isn't written yet.
#[derive(Debug)]
pub struct Draft {
    method: &'static Method,
    config: Map<String, Value>,
    params: Map<String, Value>,
    /// Virtual tokens, or tokens with rows of their own, of a method that has some.
    tokens: Option<usize>,
}

impl Draft {
    /// An experiment of the method `name`, in any case, with hyphens or underscores.
    ///
    /// # Errors
    /// If there's no such method.
    pub fn of(name: &str) -> Result<Self, DraftError> {
        let wanted = name.to_uppercase().replace('-', "_");
        let mut methods = METHODS.iter().copied();
        let method = methods.find(|method| method.peft_type == wanted);
        let method = method.ok_or_else(|| DraftError::Method {
            name: name.to_owned(),
            nearest: nearest_three(&wanted, &PEFT_TYPES).to_lowercase(),
        })?;
        let mut config = options_of(method.peft_type).cloned().unwrap_or_default();
        config.insert("task_type".to_owned(), json!("CAUSAL_LM"));
        let mut draft = Self {
            method,
            config,
            params: Map::new(),
            tokens: None,
        };
        draft.complete();
        Ok(draft)
    }

    /// Sets what PEFT has no usable default for: it's required, or divides no common size.
    fn complete(&mut self) {
        let own: &[(&str, Value)] = match self.method.peft_type {
            "ADALORA" => &[("total_step", json!(1000))],
            "ADAPTION_PROMPT" => &[("adapter_layers", json!(16))],
            "C3A" => &[("block_size", json!(64))],
            "VBLORA" => &[("vector_length", json!(64))],
            "XLORA" => {
                let experts = (0..EXPERTS).map(|i| (i.to_string(), json!(format!("expert_{i}"))));
                &[("adapters", Value::Object(experts.collect()))]
            }
            _ => &[],
        };
        for (key, value) in own {
            self.config.insert((*key).to_owned(), value.clone());
        }
        if self.has_tokens() {
            self.put_tokens(TOKENS);
        }
    }

    /// Its `peft_type`.
    pub fn peft_type(&self) -> &'static str {
        self.method.peft_type
    }

    /// Options of the method that can be set.
    fn own_options(&self) -> Vec<&str> {
        let names = self.config.keys().map(String::as_str);
        names.filter(|name| !OF_THE_FILE.contains(name)).collect()
    }

    fn rank_keys(&self) -> &'static [&'static str] {
        match self.method.peft_type {
            "ADALORA" => &["init_r"],
            // Its `r` is a number of blocks.
            "OFT" => &[],
            _ if self.config.contains_key("r") => &["r"],
            _ => &[],
        }
    }

    /// Sets the rank.
    ///
    /// # Errors
    /// If the method has none.
    pub fn set_rank(&mut self, rank: usize) -> Result<(), DraftError> {
        let [key] = self.rank_keys() else {
            return Err(self.lacks("rank (`--rank`)"));
        };
        self.config.insert((*key).to_owned(), json!(rank));
        if self.method.peft_type == "ADALORA" {
            // AdaLoRA prunes from `init_r` down to this.
            let target = (rank / 2).max(1);
            self.config.insert("target_r".to_owned(), json!(target));
        }
        Ok(())
    }

    /// Sets the numerator of the scaling factor.
    ///
    /// # Errors
    /// If the method has none.
    pub fn set_alpha(&mut self, alpha: f64) -> Result<(), DraftError> {
        const KEYS: [&str; 5] = [
            "lora_alpha",
            "alpha",
            "psoft_alpha",
            "randlora_alpha",
            "shadow_alpha",
        ];
        let key = KEYS.into_iter().find(|key| self.config.contains_key(*key));
        let key = key.ok_or_else(|| self.lacks("alpha (`--alpha`)"))?;
        let value = match alpha.fract() == 0.0 && alpha.abs() < 1e9 {
            true => json!(alpha as i64),
            false => json!(alpha),
        };
        self.config.insert(key.to_owned(), value);
        Ok(())
    }

    /// Sets the modules to adapt: `all-linear`, a regular expression, or names.
    ///
    /// # Errors
    /// If the method adapts no modules.
    pub fn set_targets(&mut self, targets: &[String]) -> Result<(), DraftError> {
        const KEY: &str = "target_modules";
        if !self.config.contains_key(KEY) {
            return Err(self.lacks("targets (`--targets`)"));
        }
        let is_pattern = |text: &String| text == "all-linear" || text.contains(['*', '(', '|']);
        let value = match targets {
            [one] if is_pattern(one) => json!(one),
            names => json!(names),
        };
        self.config.insert(KEY.to_owned(), value);
        Ok(())
    }

    /// Sets the number of tokens: virtual ones, or those that get rows of their own.
    ///
    /// # Errors
    /// If the method has none.
    pub fn set_tokens(&mut self, count: usize) -> Result<(), DraftError> {
        if !self.has_tokens() {
            return Err(self.lacks("tokens (`--tokens`)"));
        }
        self.put_tokens(count);
        Ok(())
    }

    fn has_tokens(&self) -> bool {
        let keys = ["num_virtual_tokens", "adapter_len", "token_indices"];
        keys.iter().any(|key| self.config.contains_key(*key))
    }

    fn put_tokens(&mut self, count: usize) {
        let ids: Vec<usize> = (0..count).collect();
        let values: &[(&str, Value)] = match self.method.peft_type {
            "ADAPTION_PROMPT" => &[("adapter_len", json!(count))],
            "TRAINABLE_TOKENS" => &[("token_indices", json!(ids))],
            "CPT" => &[
                ("num_virtual_tokens", json!(count)),
                ("cpt_token_ids", json!(ids)),
                ("cpt_mask", json!(vec![1; count])),
                ("cpt_tokens_type_mask", json!(vec![1; count])),
            ],
            _ => &[("num_virtual_tokens", json!(count))],
        };
        for (key, value) in values {
            self.config.insert((*key).to_owned(), value.clone());
        }
        self.tokens = Some(count);
    }

    /// Sets the option `key` of PEFT's configuration.
    ///
    /// # Errors
    /// If the method has no such option.
    pub fn set(&mut self, key: &str, value: Value) -> Result<(), DraftError> {
        let own = self.own_options();
        if !own.contains(&key) {
            let meant = nearest(key, &own);
            return Err(match meant {
                Some(meant) => DraftError::Option {
                    peft_type: self.method.peft_type,
                    what: format!("option `{key}`"),
                    instead: format!("did you mean `{meant}`?"),
                },
                None => self.lacks(&format!("option `{key}`")),
            });
        }
        self.config.insert(key.to_owned(), value);
        Ok(())
    }

    /// Sets a key of the experiment's `benchmark_params.json`, which isn't written without any.
    pub fn set_param(&mut self, key: &str, value: Value) {
        self.params.insert(key.to_owned(), value);
    }

    fn lacks(&self, what: &str) -> DraftError {
        let mut short = Vec::new();
        if !self.rank_keys().is_empty() {
            short.push("`--rank`");
        }
        if self.config.contains_key("target_modules") {
            short.push("`--targets`");
        }
        if self.has_tokens() {
            short.push("`--tokens`");
        }
        let own: Vec<String> = self
            .own_options()
            .iter()
            .map(|n| format!("`{n}`"))
            .collect();
        DraftError::Option {
            peft_type: self.method.peft_type,
            what: what.to_owned(),
            instead: format!(
                "it has {}, and for `--set KEY=VALUE` {}",
                short.join(", "),
                own.join(", ")
            ),
        }
    }

    /// The name for an experiment whose user gave none: `r16`, `tokens20`, or `default`.
    pub fn name(&self) -> String {
        let rank = self
            .rank_keys()
            .first()
            .and_then(|key| self.config[*key].as_u64());
        match (rank, self.tokens) {
            (Some(rank), _) => format!("r{rank}"),
            (None, Some(tokens)) => format!("tokens{tokens}"),
            (None, None) => "default".to_owned(),
        }
    }

    /// Its folder below `experiments`, by the name `name`.
    pub fn folder(&self, experiments: &Path, name: &str) -> PathBuf {
        let method = self.method.peft_type.to_lowercase();
        experiments.join(method).join(name)
    }

    /// Makes `folder`, which mustn't exist, with its files. It appears whole.
    ///
    /// # Errors
    /// If it exists, or can't be written.
    pub fn write(&self, folder: &Path) -> Result<(), DraftError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| match source.kind() {
                io::ErrorKind::AlreadyExists => DraftError::Exists { path },
                _ => DraftError::Write { path, source },
            }
        };
        let above = folder.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(above).map_err(failed(above))?;
        let partial = temporary_folder::create(above).map_err(failed(folder))?;
        self.write_into(partial.path())?;
        temporary_folder::give_name(partial.path(), folder).map_err(failed(folder))
    }

    fn write_into(&self, folder: &Path) -> Result<(), DraftError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| DraftError::Write { path, source }
        };
        let write = |path: PathBuf, json: &Map<String, Value>| {
            let text = format!("{:#}\n", Value::Object(json.clone()));
            fs::write(&path, text).map_err(failed(&path))
        };
        write(folder.join(CONFIG), &self.config)?;
        if !self.params.is_empty() {
            write(folder.join(PARAMS), &self.params)?;
        }
        if self.method.peft_type == "XLORA" {
            for index in 0..EXPERTS {
                let expert = folder.join(format!("expert_{index}"));
                fs::create_dir(&expert).map_err(failed(&expert))?;
                Self::of("lora")?.write_into(&expert)?;
            }
        }
        Ok(())
    }
}
