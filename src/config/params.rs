//! One file of parameters, checked key by key.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::Value;

use super::ParametersError;
use super::quantization::{QuantizationKeys, schemes};
use crate::arch::LatentCache;
use crate::files::text_named;
use crate::json::check::{json_type, nearest_three, quoted, without_comments};
use crate::prompts::Category;
use crate::quantize::{Accuracy, FormatChoice};
use crate::weights::Dtype;

const KEYS: [&str; 18] = [
    "model_id",
    "dtype",
    "seed",
    "max_new_tokens",
    "num_inference_runs",
    "num_prompt_samples",
    "batch_size",
    "task_id",
    "mla",
    "use_4bit",
    "use_8bit",
    "quantization_scheme",
    "quantization_block_size",
    "quantization_head",
    "quantization_kv_proj",
    "quantization_embedding",
    "quantization_accuracy_level",
    "category_generation_params",
];

/// Keys of PEFT's benchmark, in current or earlier versions, that do nothing here, and why.
const WITHOUT_MEANING: [(&str, &str); 9] = [
    (
        "reserve_output_tokens",
        "no prompt is shortened; one that is too long is an error",
    ),
    ("prompts_file", "`--prompts FILE` chooses the prompts"),
    ("prompt_categories", "all categories are measured"),
    ("train_batch_size", NO_TRAINING),
    ("train_steps", NO_TRAINING),
    ("peft_method", IN_ADAPTER),
    ("peft_params", IN_ADAPTER),
    ("peft_config_variants", IN_ADAPTER),
    ("variant_name", IN_ADAPTER),
];
const NO_TRAINING: &str = "nothing is trained";
const IN_ADAPTER: &str = "the experiment's `adapter_config.json` says what is measured";

const DTYPES: [&str; 3] = ["float32", "float16", "bfloat16"];
const NEW_TOKENS: RangeInclusive<u64> = 1..=100_000;
const INFERENCE_RUNS: RangeInclusive<u64> = 1..=1_000;
const PROMPT_SAMPLES: RangeInclusive<u64> = 1..=100;
const TASKS: RangeInclusive<u64> = 0..=u32::MAX as u64;
const BATCH_SIZE: RangeInclusive<u64> = 1..=1_024;
const BLOCK_SIZE: RangeInclusive<u64> = 16..=256;

/// The content of one file, in which every key may be absent.
#[derive(Debug, Default)]
pub(super) struct Params {
    pub model_id: Option<String>,
    pub dtype: Option<Dtype>,
    pub seed: Option<u64>,
    pub max_new_tokens: Option<usize>,
    pub num_inference_runs: Option<usize>,
    pub num_prompt_samples: Option<usize>,
    pub batch_sizes: Option<Vec<usize>>,
    pub task_id: Option<usize>,
    pub mla: Option<LatentCache>,
    pub quantization: QuantizationKeys,
    pub categories: BTreeMap<Category, usize>,
}

impl Params {
    pub fn read(path: &Path, note: &dyn Fn(&str)) -> Result<Self, ParametersError> {
        let text = text_named(path).map_err(|source| ParametersError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&path.display().to_string(), &text, note)
    }

    pub fn parse(file: &str, text: &str, note: &dyn Fn(&str)) -> Result<Self, ParametersError> {
        let value: Value = serde_json::from_str(text).map_err(|source| ParametersError::Json {
            file: file.to_owned(),
            source,
        })?;
        let Value::Object(object) = &value else {
            return Err(ParametersError::NotAnObject {
                file: file.to_owned(),
                found: json_type(&value),
            });
        };
        let mut params = Self::default();
        for (key, value) in without_comments(object) {
            match WITHOUT_MEANING.iter().find(|(known, _)| *known == key) {
                Some((_, why)) => note(&format!("`{key}` in {file} does nothing: {why}")),
                None => params.set(&Entry { file, key, value })?,
            }
        }
        Ok(params)
    }

    /// These parameters, completed by those of `below`.
    pub fn over(self, below: Self) -> Self {
        // `max_new_tokens` overrides the categories' values in `below`, and categories' values in
        // the same file override both.
        let mut categories = match self.max_new_tokens {
            Some(_) => BTreeMap::new(),
            None => below.categories,
        };
        categories.extend(self.categories);
        Self {
            model_id: self.model_id.or(below.model_id),
            dtype: self.dtype.or(below.dtype),
            seed: self.seed.or(below.seed),
            max_new_tokens: self.max_new_tokens.or(below.max_new_tokens),
            num_inference_runs: self.num_inference_runs.or(below.num_inference_runs),
            num_prompt_samples: self.num_prompt_samples.or(below.num_prompt_samples),
            batch_sizes: self.batch_sizes.or(below.batch_sizes),
            task_id: self.task_id.or(below.task_id),
            mla: self.mla.or(below.mla),
            quantization: self.quantization.or(below.quantization),
            categories,
        }
    }

    fn set(&mut self, entry: &Entry<'_>) -> Result<(), ParametersError> {
        match entry.key {
            "model_id" => self.model_id = Some(entry.text()?),
            "dtype" => self.dtype = Some(entry.dtype()?),
            "seed" => self.seed = Some(entry.integer(0..=u64::MAX)?),
            "max_new_tokens" => self.max_new_tokens = Some(entry.count(NEW_TOKENS)?),
            "num_inference_runs" => self.num_inference_runs = Some(entry.count(INFERENCE_RUNS)?),
            "num_prompt_samples" => self.num_prompt_samples = Some(entry.count(PROMPT_SAMPLES)?),
            "batch_size" => self.batch_sizes = Some(entry.batch_sizes()?),
            "task_id" => self.task_id = entry.task()?,
            "mla" => {
                let named = LatentCache::ALL.map(|cache| (cache.name(), cache));
                self.mla = Some(entry.one_of(&named)?);
            }
            "use_4bit" => self.quantization.use_4bit = Some(entry.boolean()?),
            "use_8bit" => self.quantization.use_8bit = Some(entry.boolean()?),
            "quantization_scheme" => self.quantization.scheme = Some(entry.scheme()?),
            "quantization_block_size" => {
                self.quantization.block_size = Some(entry.count(BLOCK_SIZE)?);
            }
            "quantization_head" => {
                self.quantization.head = Some(entry.one_of(&FormatChoice::of_head())?)
            }
            "quantization_kv_proj" => {
                self.quantization.kv_proj = Some(entry.one_of(&FormatChoice::of_kv_proj())?);
            }
            "quantization_embedding" => {
                self.quantization.embedding = Some(entry.one_of(&FormatChoice::of_embedding())?);
            }
            "quantization_accuracy_level" => {
                self.quantization.accuracy = Some(entry.accuracy()?);
            }
            // PEFT's benchmark writes `null` for an unset value.
            "category_generation_params" if entry.value.is_null() => {}
            "category_generation_params" => self.categories = entry.categories()?,
            _ => return Err(entry.unknown(&KEYS)),
        }
        Ok(())
    }
}

/// A key of a file and its value. `key` includes the parent keys, joined by dots.
struct Entry<'a> {
    file: &'a str,
    key: &'a str,
    value: &'a Value,
}

impl Entry<'_> {
    fn text(&self) -> Result<String, ParametersError> {
        match self.value.as_str() {
            Some(text) if !text.trim().is_empty() => Ok(text.to_owned()),
            _ => Err(self.wrong("a string that is not empty")),
        }
    }

    fn dtype(&self) -> Result<Dtype, ParametersError> {
        self.value
            .as_str()
            .filter(|name| DTYPES.contains(name))
            .and_then(|name| name.parse().ok())
            .ok_or_else(|| self.wrong(&format!("one of {}", quoted(&DTYPES))))
    }

    fn integer(&self, range: RangeInclusive<u64>) -> Result<u64, ParametersError> {
        self.value
            .as_u64()
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let (low, high) = (range.start(), range.end());
                self.wrong(&format!("an integer from {low} to {high}"))
            })
    }

    fn count(&self, range: RangeInclusive<u64>) -> Result<usize, ParametersError> {
        let number = self.integer(range)?;
        Ok(usize::try_from(number).expect("the ranges of counts end far below 2³²"))
    }

    /// A task's number, or `null` for the default.
    fn task(&self) -> Result<Option<usize>, ParametersError> {
        if self.value.is_null() {
            return Ok(None);
        }
        let found = self.value.as_u64().filter(|task| TASKS.contains(task));
        match found {
            Some(task) => Ok(Some(task as usize)),
            None => Err(self.wrong("the number of a task, counted from 0, or `null`")),
        }
    }

    /// A batch size, or a list of distinct ones.
    fn batch_sizes(&self) -> Result<Vec<usize>, ParametersError> {
        let (low, high) = (BATCH_SIZE.start(), BATCH_SIZE.end());
        let wrong = || {
            self.wrong(&format!(
                "an integer from {low} to {high}, or a list of different ones"
            ))
        };
        let values = match self.value {
            Value::Array(values) => values.as_slice(),
            single => std::slice::from_ref(single),
        };
        let mut sizes = Vec::new();
        for value in values {
            let size = value.as_u64().filter(|size| BATCH_SIZE.contains(size));
            let size = size.ok_or_else(wrong)? as usize;
            if sizes.contains(&size) {
                return Err(wrong());
            }
            sizes.push(size);
        }
        match sizes.is_empty() {
            true => Err(wrong()),
            false => Ok(sizes),
        }
    }

    fn boolean(&self) -> Result<bool, ParametersError> {
        let value = self.value.as_bool();
        value.ok_or_else(|| self.wrong("`true` or `false`"))
    }

    /// Looks up the value among the names in `choices`.
    fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, ParametersError> {
        let name = self.value.as_str();
        let found = choices.iter().find(|(known, _)| Some(*known) == name);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.wrong(&format!("one of {}", quoted(&names)))
        })
    }

    fn scheme(&self) -> Result<&'static str, ParametersError> {
        let named: Vec<_> = schemes().into_iter().map(|name| (name, name)).collect();
        self.one_of(&named)
    }

    fn accuracy(&self) -> Result<Accuracy, ParametersError> {
        let level = self
            .value
            .as_u64()
            .and_then(|level| u8::try_from(level).ok());
        level
            .and_then(|level| Accuracy::try_from(level).ok())
            .ok_or_else(|| self.wrong("1 (float32) or 4 (inputs rounded to 8 bits)"))
    }

    fn categories(&self) -> Result<BTreeMap<Category, usize>, ParametersError> {
        let mut categories = BTreeMap::new();
        for (name, value) in self.object("an object of categories")? {
            let entry = self.child(name);
            let entry = Entry {
                key: &entry,
                value,
                ..*self
            };
            let category = Category::from_name(name)
                .ok_or_else(|| entry.unknown(&Category::ALL.map(Category::name)))?;
            for (name, value) in entry.object("an object with `max_new_tokens`")? {
                let parameter = entry.child(name);
                let parameter = Entry {
                    key: &parameter,
                    value,
                    ..entry
                };
                if name != "max_new_tokens" {
                    return Err(parameter.unknown(&["max_new_tokens"]));
                }
                categories.insert(category, parameter.count(NEW_TOKENS)?);
            }
        }
        Ok(categories)
    }

    fn object(
        &self,
        expected: &str,
    ) -> Result<impl Iterator<Item = (&str, &Value)>, ParametersError> {
        match self.value {
            Value::Object(object) => Ok(without_comments(object)),
            _ => Err(self.wrong(expected)),
        }
    }

    fn child(&self, name: &str) -> String {
        format!("{}.{name}", self.key)
    }

    fn wrong(&self, expected: &str) -> ParametersError {
        ParametersError::Value {
            file: self.file.to_owned(),
            key: self.key.to_owned(),
            found: format!("`{}`", self.value),
            expected: expected.to_owned(),
        }
    }

    fn unknown(&self, allowed: &[&str]) -> ParametersError {
        let name = self.key.rsplit('.').next().unwrap_or(self.key);
        ParametersError::UnknownKey {
            file: self.file.to_owned(),
            key: self.key.to_owned(),
            nearest: nearest_three(name, allowed),
        }
    }
}
