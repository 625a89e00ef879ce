//! An adapter's tensors: read from its file or, for a fresh adapter, drawn from the distributions
//! that PEFT initialises them with.
//!
//! A method asks for each tensor once, with its shape and its initial distribution, and needn't
//! know where the values come from. A tensor of the file that nothing asked for is an error: an
//! adapter that's only partly used would be measured under a wrong name.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2, Array3};
use rand::SeedableRng;
use rand::rngs::ChaCha12Rng;
use rand_distr::{Distribution, StandardNormal, Uniform};

use super::AdapterError;
use super::folder::{self, ValuesFrom};
use super::keys::{Keys, Lookup, is_of_other_tower};
use crate::arch::DecoderSpec;
use crate::json::JsonObject;
use crate::weights::{TensorStore, WeightsError};

/// PEFT's prefix of every module's path.
pub const PREFIX: &str = "base_model.model.";

/// PEFT's prefix of tensors that all modules share.
pub const SHARED: &str = "base_model.";

/// The most elements that a fresh tensor may have.
const LARGEST_DRAWN: usize = 1 << 30;

/// The distribution that a fresh tensor is drawn from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All zeros.
    Zeros,
    /// One value for all elements.
    Constant(f32),
    /// Normal, with mean 0 and this standard deviation.
    Normal(f32),
    /// Normal, with this mean and this standard deviation.
    Around(f32, f32),
    /// Uniform between minus and plus this bound.
    Uniform(f32),
}

impl Init {
    /// PyTorch's `kaiming_uniform_(a=sqrt(5))`, the default of `nn.Linear`: `±1/sqrt(fan_in)`.
    pub fn linear_default(fan_in: usize) -> Self {
        Self::Uniform(1.0 / (fan_in as f32).sqrt())
    }

    /// Draws `count` values.
    pub fn draw(self, count: usize, rng: &mut ChaCha12Rng) -> Vec<f32> {
        match self {
            Self::Zeros => vec![0.0; count],
            Self::Constant(value) => vec![value; count],
            Self::Normal(deviation) => Self::Around(0.0, deviation).draw(count, rng),
            Self::Around(mean, deviation) => (0..count)
                .map(|_| {
                    let value: f32 = StandardNormal.sample(rng);
                    mean + value * deviation
                })
                .collect(),
            Self::Uniform(bound) => {
                let range = Uniform::new_inclusive(-bound, bound)
                    .expect("a bound made from a size is positive and finite");
                (0..count).map(|_| range.sample(rng)).collect()
            }
        }
    }
}

/// The tensors of one adapter.
#[derive(Debug)]
pub struct AdapterTensors {
    source: Source,
    keys: Keys,
    used: BTreeSet<String>,
    /// For messages: a clause with the base that the adapter's configuration names, or empty.
    made_for: String,
    seed: u64,
    values: ValuesFrom,
    /// Whether weights of the base may be read.
    reads_base: bool,
    notes: Vec<String>,
}

#[derive(Debug)]
enum Source {
    File(TensorStore),
    Fresh {
        config: PathBuf,
        /// A named algorithm, so that a seed's values don't change with a version of `rand`.
        rng: Box<ChaCha12Rng>,
    },
    /// A fresh adapter for its shapes alone.
    Shapes {
        config: PathBuf,
    },
}

impl AdapterTensors {
    /// Opens the weights in `folder`, or prepares to draw a fresh adapter with `seed`.
    ///
    /// # Errors
    /// If it was trained and its weights aren't there, or they can't be read.
    pub fn open(
        folder: &Path,
        config: &JsonObject,
        seed: u64,
        values: ValuesFrom,
    ) -> Result<Self, AdapterError> {
        let source = match folder::open(folder, config, values)? {
            Some(store) => Source::File(store),
            None => Source::Fresh {
                config: config.path().to_owned(),
                rng: Box::new(ChaCha12Rng::seed_from_u64(seed)),
            },
        };
        Self::from(source, config, seed, values)
    }

    fn from(
        source: Source,
        config: &JsonObject,
        seed: u64,
        values: ValuesFrom,
    ) -> Result<Self, AdapterError> {
        let made_for = match config.optional_text("base_model_name_or_path")? {
            Some(base) if !base.is_empty() => format!(" (it says `{base}`)"),
            _ => String::new(),
        };
        let names = match &source {
            Source::File(file) => file.names().map(str::to_owned).collect(),
            Source::Fresh { .. } | Source::Shapes { .. } => Vec::new(),
        };
        Ok(Self {
            keys: Keys::new(names),
            used: BTreeSet::new(),
            made_for,
            seed,
            values,
            reads_base: !matches!(source, Source::Shapes { .. }),
            source,
            notes: Vec::new(),
        })
    }

    /// A fresh adapter's tensors, for their shapes alone: values that would be drawn are zeros.
    ///
    /// # Errors
    /// If the base's name in the configuration isn't a string.
    pub fn without_values(config: &JsonObject) -> Result<Self, AdapterError> {
        let source = Source::Shapes {
            config: config.path().to_owned(),
        };
        Self::from(source, config, 0, ValuesFrom::Fresh)
    }

    /// The tensors in `folder`, or the shapes of a fresh adapter, to be checked without a weight of
    /// the base.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn without_base_weights(
        folder: &Path,
        config: &JsonObject,
        values: ValuesFrom,
    ) -> Result<Self, AdapterError> {
        match folder::open(folder, config, values)? {
            None => Self::without_values(config),
            Some(store) => Ok(Self {
                reads_base: false,
                ..Self::from(Source::File(store), config, 0, values)?
            }),
        }
    }

    /// Forgets which tensors were asked for, and all notes.
    pub fn begin_again(&mut self) {
        self.used.clear();
        self.notes.clear();
    }

    /// Whether the adapter is drawn fresh.
    pub fn is_fresh(&self) -> bool {
        matches!(self.source, Source::Fresh { .. } | Source::Shapes { .. })
    }

    /// Whether values matter. If not, only shapes do, and what values are computed from, such as a
    /// weight of the base, must not be read.
    pub fn has_values(&self) -> bool {
        self.reads_base
    }

    /// Keeps a note for the user about how the adapter is loaded; a repeated one is kept once.
    pub fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// All notes.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The seed of a fresh adapter.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The choice of values, which holds for the experts of this adapter, too.
    pub fn asked_values(&self) -> ValuesFrom {
        self.values
    }

    /// The file that the tensors, or the configuration of a fresh adapter, come from.
    pub fn path(&self) -> &Path {
        match &self.source {
            Source::File(file) => file.path(),
            Source::Fresh { config, .. } | Source::Shapes { config } => config,
        }
    }

    /// The configuration with its patterns adapted: if the file's module paths begin otherwise than
    /// those of `spec`, the patterns were written for the file's.
    pub fn spell(&self, config: &JsonObject, spec: &DecoderSpec) -> JsonObject {
        match self.keys.spelling(spec) {
            Some(spelling) => config.clone().spelled_as(spelling),
            None => config.clone(),
        }
    }

    /// The key with [`PREFIX`], which PEFT writes before every module's path. Adapters that were
    /// injected straight into a Transformers model lack it.
    pub fn full_key(&self, key: &str) -> String {
        match &self.source {
            Source::File(file) if file.find(key).is_some() => key.to_owned(),
            // Shared tensors are attributes of the wrapper itself.
            _ if key.starts_with(SHARED) => key.to_owned(),
            _ => format!("{PREFIX}{key}"),
        }
    }

    /// Whether the file has `key`. A fresh adapter has no optional tensors.
    pub fn has(&self, key: &str) -> bool {
        match &self.source {
            Source::File(_) => self.stored_key(key).is_some(),
            Source::Fresh { .. } | Source::Shapes { .. } => false,
        }
    }

    /// Whether the file has `key` under exactly this name.
    pub fn has_exactly(&self, key: &str) -> bool {
        match &self.source {
            Source::File(file) => file.find(&self.full_key(key)).is_some(),
            Source::Fresh { .. } | Source::Shapes { .. } => false,
        }
    }

    /// Whether the tensor `key` of the file was asked for.
    pub fn is_used(&self, key: &str) -> bool {
        let stored = self.stored_key(key);
        stored.is_some_and(|stored| self.used.contains(&stored))
    }

    /// The file's name of the tensor `key`, if it has it.
    fn stored_key(&self, key: &str) -> Option<String> {
        let Source::File(file) = &self.source else {
            return None;
        };
        let full = self.full_key(key);
        if file.find(&full).is_some() {
            return Some(full);
        }
        match self.keys.other(&full) {
            Lookup::Found(other) => Some(other.to_owned()),
            Lookup::Ambiguous(_) | Lookup::Absent => None,
        }
    }

    /// The error for a `key` that's absent, or that several of the file's keys may mean.
    fn missing(&self, key: &str) -> AdapterError {
        let key = self.full_key(key);
        let path = self.path().to_owned();
        if let Lookup::Ambiguous(found) = self.keys.other(&key) {
            let names: Vec<String> = found.iter().map(|name| format!("`{name}`")).collect();
            return AdapterError::Ambiguous {
                key,
                found: names.join(" and "),
                path,
            };
        }
        let Source::File(file) = &self.source else {
            return AdapterError::Missing {
                key,
                path,
                nearest: String::new(),
            };
        };
        let near = |name: &String| strsim::normalized_levenshtein(name, &key);
        let names = file.names().map(str::to_owned);
        let unused = names.filter(|name| !self.used.contains(name));
        let nearest = unused.max_by(|a, b| near(a).total_cmp(&near(b)));
        AdapterError::Missing {
            nearest: nearest.map_or_else(String::new, |name| {
                format!("; the most similar name there is `{name}`")
            }),
            key,
            path,
        }
    }

    /// Returns the tensor `key`, or draws it from `init`.
    ///
    /// # Errors
    /// If the file lacks it, or it has another shape.
    pub fn take(
        &mut self,
        key: &str,
        shape: &[usize],
        init: Init,
    ) -> Result<Vec<f32>, AdapterError> {
        let count = shape.iter().product();
        if let (Source::Shapes { .. }, Init::Constant(value)) = (&self.source, init) {
            return Ok(vec![value; count]);
        }
        self.take_or(key, shape, |rng| Ok(init.draw(count, rng)))
    }

    /// Returns the tensor `key`, or makes it with `fresh`.
    ///
    /// # Errors
    /// If the file lacks it, or it has another shape.
    pub fn take_or(
        &mut self,
        key: &str,
        shape: &[usize],
        fresh: impl FnOnce(&mut ChaCha12Rng) -> Result<Vec<f32>, AdapterError>,
    ) -> Result<Vec<f32>, AdapterError> {
        match &mut self.source {
            Source::Fresh { config, rng } => {
                check_drawn(config, shape)?;
                fresh(rng)
            }
            Source::Shapes { config } => {
                check_drawn(config, shape)?;
                // The kernel allocates no memory for pages that are never written.
                Ok(vec![0.0; shape.iter().product()])
            }
            Source::File(_) => {
                self.claim(key, shape)?;
                self.read(key)
            }
        }
    }

    /// Like [`take`](Self::take), as a matrix.
    ///
    /// # Errors
    /// If the file lacks it, or it has another shape.
    pub fn matrix(
        &mut self,
        key: &str,
        shape: [usize; 2],
        init: Init,
    ) -> Result<Array2<f32>, AdapterError> {
        let values = self.take(key, &shape, init)?;
        Ok(
            Array2::from_shape_vec(shape, values)
                .expect("`take` gives as many values as asked for"),
        )
    }

    /// Like [`take`](Self::take), as a vector.
    ///
    /// # Errors
    /// If the file lacks it, or it has another length.
    pub fn vector(
        &mut self,
        key: &str,
        length: usize,
        init: Init,
    ) -> Result<Array1<f32>, AdapterError> {
        Ok(self.take(key, &[length], init)?.into())
    }

    /// Like [`take`](Self::take), as an array of three axes.
    ///
    /// # Errors
    /// If the file lacks it, or it has another shape.
    pub fn cube(
        &mut self,
        key: &str,
        shape: [usize; 3],
        init: Init,
    ) -> Result<Array3<f32>, AdapterError> {
        let values = self.take(key, &shape, init)?;
        Ok(
            Array3::from_shape_vec(shape, values)
                .expect("`take` gives as many values as asked for"),
        )
    }

    /// Whether a tensor that PEFT draws from a seed has to be drawn here, too. `saved`: whether the
    /// configuration says that the file holds it.
    pub fn is_redrawn(&self, key: &str, saved: bool) -> bool {
        self.is_fresh() || (!saved && !self.has(key))
    }

    /// Returns the tensor `key` of the file, which holds integers in `0..below`.
    ///
    /// # Errors
    /// If the file lacks it, it has another shape, or holds other values.
    pub fn indices(
        &mut self,
        key: &str,
        shape: &[usize],
        below: usize,
    ) -> Result<Vec<usize>, AdapterError> {
        self.claim(key, shape)?;
        let full = self.stored_key(key).ok_or_else(|| self.missing(key))?;
        let numbers = match &self.source {
            Source::File(file) => file.find(&full).map(|tensor| tensor.to_i64()),
            Source::Fresh { .. } | Source::Shapes { .. } => None,
        };
        let numbers = numbers.ok_or_else(|| self.missing(key))??;
        let index = |number: i64| usize::try_from(number).ok().filter(|index| *index < below);
        if let Some(wrong) = numbers.iter().find(|number| index(**number).is_none()) {
            let message = format!("tensor `{full}` holds {wrong}, expected indices below {below}");
            return Err(self.layout(message));
        }
        Ok(numbers.into_iter().filter_map(index).collect())
    }

    /// Marks `key` as used and checks its shape, without reading it.
    ///
    /// # Errors
    /// If the file lacks it, or it has another shape.
    pub fn claim(&mut self, key: &str, expected: &[usize]) -> Result<(), AdapterError> {
        let Source::File(file) = &self.source else {
            return Ok(());
        };
        let stored = self.stored_key(key).ok_or_else(|| self.missing(key))?;
        let tensor = file.find(&stored).ok_or_else(|| self.missing(key))?;
        if tensor.shape != expected {
            return Err(AdapterError::Shape {
                path: file.path().to_owned(),
                actual: tensor.shape.to_owned(),
                expected: expected.to_owned(),
                made_for: self.made_for.clone(),
                key: stored,
            });
        }
        let full = self.full_key(key);
        if full != stored {
            self.keys.note(full, stored.clone());
        }
        self.used.insert(stored);
        Ok(())
    }

    /// Reads the tensor `key` of the file, widened to float32. In VB-LoRA's logits PEFT writes `-∞`
    /// for vectors that aren't chosen; elsewhere it's an error.
    ///
    /// # Errors
    /// If the adapter is fresh or lacks it, its dtype isn't a float type, or an element is NaN or
    /// infinite, also after rounding from float64.
    pub fn read(&self, key: &str) -> Result<Vec<f32>, AdapterError> {
        self.values(key, None)
    }

    /// Like [`read`](Self::read), for the elements `part`. The tensor's shape must have been
    /// checked.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_part(&self, key: &str, part: Range<usize>) -> Result<Vec<f32>, AdapterError> {
        self.values(key, Some(part))
    }

    fn values(&self, key: &str, part: Option<Range<usize>>) -> Result<Vec<f32>, AdapterError> {
        let missing = || self.missing(key);
        let Source::File(file) = &self.source else {
            return Err(missing());
        };
        let full = self.stored_key(key).ok_or_else(missing)?;
        let tensor = file.find(&full).ok_or_else(missing)?;
        let part = part.unwrap_or(0..tensor.shape.iter().product());
        let values = tensor.range_to_f32(part.clone())?;
        let absent = full
            .contains(super::methods::VBLORA_LOGITS)
            .then_some(f32::NEG_INFINITY);
        let wrong = |value: &f32| !value.is_finite() && Some(*value) != absent;
        match values.iter().position(wrong) {
            None => Ok(values),
            Some(index) => Err(AdapterError::NonFinite {
                path: file.path().to_owned(),
                index: part.start + index,
                value: values[index],
                key: full,
            }),
        }
    }

    /// The shape of `key` in the file, if it's there.
    pub fn shape(&self, key: &str) -> Option<Vec<usize>> {
        match &self.source {
            Source::File(file) => Some(file.find(&self.stored_key(key)?)?.shape.to_owned()),
            Source::Fresh { .. } | Source::Shapes { .. } => None,
        }
    }

    /// The dtype of `key` in the file, if it's there.
    pub fn stored_dtype(&self, key: &str) -> Option<safetensors::Dtype> {
        match &self.source {
            Source::File(file) => Some(file.find(&self.stored_key(key)?)?.stored),
            Source::Fresh { .. } | Source::Shapes { .. } => None,
        }
    }

    /// Bytes of the tensors in the file; `None` for a fresh adapter.
    pub fn stored_bytes(&self) -> Option<u64> {
        match &self.source {
            Source::File(file) => Some(
                file.names()
                    .filter_map(|name| file.find(name).map(|t| t.bytes.len() as u64))
                    .sum(),
            ),
            Source::Fresh { .. } | Source::Shapes { .. } => None,
        }
    }

    /// Checks that every tensor of the file was asked for, except those of modules that text
    /// doesn't pass through.
    ///
    /// # Errors
    /// If one was not.
    pub fn finish(&mut self) -> Result<(), AdapterError> {
        let Source::File(file) = &self.source else {
            return Ok(());
        };
        let names = file.names().map(str::to_owned);
        let left = names.filter(|name| !self.used.contains(name));
        let (others, unused): (Vec<String>, Vec<String>) =
            left.partition(|name| is_of_other_tower(name));
        if !others.is_empty() {
            let count = others.len();
            self.note(format!(
                "{count} of the adapter's tensors are of modules that text doesn't pass through (images, sounds), and are ignored"
            ));
        }
        if let Some(renamed) = self.keys.renamed() {
            self.note(renamed);
        }
        let Some(first) = unused.iter().min() else {
            return Ok(());
        };
        Err(AdapterError::Unused {
            path: self.path().to_owned(),
            count: unused.len(),
            first: first.clone(),
            advice: format!(
                "does `adapter_config.json` target these modules, and was the adapter made for this \
                 base model?{}",
                self.made_for
            ),
        })
    }
}

/// Refuses a size that only a broken configuration, the file at `path`, asks for.
///
/// # Errors
/// If it's too large.
pub fn check_drawn(path: &Path, shape: &[usize]) -> Result<(), AdapterError> {
    let elements = shape.iter().try_fold(1_usize, |n, &m| n.checked_mul(m));
    match elements {
        Some(..=LARGEST_DRAWN) => Ok(()),
        _ => Err(AdapterError::Fresh {
            path: path.to_owned(),
            message: format!(
                "it asks for {shape:?} numbers at once, and at most {LARGEST_DRAWN} are drawn"
            ),
        }),
    }
}

impl AdapterTensors {
    /// The error for a tensor that can't be used as it is.
    pub fn layout(&self, message: String) -> AdapterError {
        AdapterError::Weights(WeightsError::Layout {
            path: self.path().to_owned(),
            message,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_values_in_every_version() {
        let mut rng = ChaCha12Rng::seed_from_u64(7);
        let normal = Init::Normal(0.5).draw(4, &mut rng);
        assert_eq!(normal, [-0.5217883, -0.2883739, -0.35562715, 0.05814857]);
        let uniform = Init::Uniform(0.25).draw(4, &mut rng);
        assert_eq!(uniform, [0.059342414, -0.1137514, 0.11853346, 0.22556567]);
    }
}
