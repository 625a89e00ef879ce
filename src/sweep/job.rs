//! Jobs: what's measured, under a key of everything that its result depends on.

use serde::{Deserialize, Serialize};

use super::digest::of_json;
use super::spec::Combination;

/// Hexadecimal digits of the two parts of a key.
const DIGITS: [usize; 2] = [16, 8];

/// One measurement of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its number in the plan, from 0.
    pub job: usize,
    /// Its key.
    pub key: Key,
    /// What's measured.
    #[serde(flatten)]
    pub combination: Combination,
    /// The base model that this comes to.
    pub base: String,
    /// Whether the base was here, so that its content is in the key.
    pub base_is_here: bool,
    /// Digests of what the key is made of; they tell why a key is another one.
    pub parts: Parts,
    /// What it's expected to take.
    pub estimate: Estimate,
    /// What one should know of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A combination that can't be measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// The combination.
    #[serde(flatten)]
    pub combination: Combination,
    /// Why it can't be measured.
    pub refused: String,
}

/// Digests of what a job's result depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// The adapter's files.
    pub experiment: String,
    /// The base model's files.
    pub base: String,
    /// Parameters and options.
    pub parameters: String,
    /// Revisions of this program and of ONNX Runtime.
    pub program: String,
}

/// A job's key, `<work>-<program>`: the digest of what's measured, and that of the program that
/// measures it.
///
/// Folders are called by it, so nothing else is read as one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

/// What a job is expected to take. It's rough: times assume that memory is read at a fixed rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Time, in seconds.
    pub seconds: f64,
    /// Memory of all processes together, in bytes: RAM, or on a GPU its own.
    pub memory_bytes: u64,
    /// What's written for this job alone, in bytes.
    pub disk_bytes: u64,
    /// What's written once for all jobs with the same base, dtype and quantization, in bytes.
    pub shared_disk_bytes: u64,
}

impl Parts {
    /// The key of these parts.
    pub fn key(&self) -> Key {
        let Self {
            experiment,
            base,
            parameters,
            program,
        } = self;
        let work = of_json(&serde_json::json!([experiment, base, parameters]));
        let [work_digits, program_digits] = DIGITS;
        Key(format!(
            "{}-{}",
            &work[..work_digits],
            &program[..program_digits]
        ))
    }
}

impl Key {
    /// The key at the end of a result's name without its ending, `<name>--<key>`.
    pub fn at_end(stem: &str) -> Option<Self> {
        let (_, key) = stem.rsplit_once("--")?;
        Self::parse(key)
    }

    fn parse(key: &str) -> Option<Self> {
        let (work, program) = key.split_once('-')?;
        let is_hex = |text: &str, digits| {
            text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let [work_digits, program_digits] = DIGITS;
        (is_hex(work, work_digits) && is_hex(program, program_digits)).then(|| Self(key.to_owned()))
    }

    /// What's measured, whatever program measures it.
    pub fn work(&self) -> &str {
        self.0
            .split_once('-')
            .map_or(self.0.as_str(), |(work, _)| work)
    }

    /// The program that measures it.
    pub fn program(&self) -> &str {
        self.0.split_once('-').map_or("", |(_, program)| program)
    }

    /// The whole key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Key {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let [work, program] = DIGITS;
        Self::parse(&text).ok_or_else(|| {
            format!(
                "`{text}` is no key, which has {work} hexadecimal digits, `-` and {program} more"
            )
        })
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Combination {
    /// The arguments of `peft-bench measure` or `prepare` that stand for it.
    pub fn arguments(&self, of_measure: bool) -> Vec<String> {
        let mut arguments = vec![self.experiment.clone()];
        let mut add = |option: &str, value: Option<&String>| {
            if let Some(value) = value {
                arguments.extend([option.to_owned(), value.clone()]);
            }
        };
        add("--model", self.model.as_ref());
        add("--dtype", self.dtype.as_ref());
        add("--quantize", self.quantization.as_ref());
        let size = self.batch_size.map(|size| size.to_string());
        add("--batch-size", size.as_ref().filter(|_| of_measure));
        arguments
    }
}

impl std::fmt::Display for Combination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.experiment)?;
        if let Some(model) = &self.model {
            write!(f, " on {model}")?;
        }
        for (choice, usual) in [(&self.dtype, "float32"), (&self.quantization, "none")] {
            if let Some(choice) = choice.as_ref().filter(|choice| *choice != usual) {
                write!(f, ", {choice}")?;
            }
        }
        match self.batch_size.filter(|size| *size > 1) {
            Some(size) => write!(f, ", batches of {size}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(base: &str, program: &str) -> Parts {
        let program = of_json(&program.into());
        Parts {
            experiment: "a".to_owned(),
            base: base.to_owned(),
            parameters: "b".to_owned(),
            program,
        }
    }

    #[test]
    fn a_key_tells_what_is_measured_from_what_measures_it() {
        let key = parts("x", "1").key();
        assert_eq!(key, parts("x", "1").key());
        assert_eq!(key.work(), parts("x", "2").key().work());
        assert_ne!(key, parts("x", "2").key());
        assert_ne!(key.work(), parts("y", "1").key().work());
    }

    #[test]
    fn a_results_name_ends_with_its_key() {
        let key = parts("x", "1").key();
        assert_eq!(
            Key::at_end(&format!("lora--r8--m--float32--cpu--{key}")),
            Some(key)
        );
        assert_eq!(Key::at_end("lora--r8--m--float32--cpu--0011aabb"), None);
        assert_eq!(Key::at_end("lora--r8"), None);
        let text = serde_json::to_string(&parts("x", "1").key()).unwrap();
        assert_eq!(
            serde_json::from_str::<Key>(&text).unwrap(),
            parts("x", "1").key()
        );
        for other in ["\"\"", "\"../../0011223344-01234567\"", "\"/-/\"", "7"] {
            assert!(serde_json::from_str::<Key>(other).is_err(), "{other}");
        }
    }
}
