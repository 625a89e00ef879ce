//! What's fuzzed: a reader, its seeds, and the file that each damaged one is put into.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::rngs::ChaCha12Rng;

use crate::mutate::{Form, mutated};

/// A reader of files.
pub struct Reader {
    /// What it's called.
    pub name: &'static str,
    /// Of how many inputs one is run: 1, or more if it does much more than reading.
    pub one_of: u64,
    /// Makes what it needs in an empty folder.
    pub make: fn(&Path) -> Target,
}

/// A reader that's ready.
pub struct Target {
    /// Files that it reads, intact.
    pub seeds: Vec<Seed>,
    /// Reads the file of a seed and what's beside it.
    pub read: Box<dyn Fn(&Seed) -> Outcome>,
}

/// `Err` if the reader refuses the input.
pub type Outcome = Result<(), String>;

/// An intact file.
pub struct Seed {
    /// Its place.
    pub path: PathBuf,
    /// Its content.
    pub bytes: Vec<u8>,
    /// What it's made of, so that it's damaged with its form in view.
    pub form: Form,
}

impl Seed {
    /// The file at `path`.
    pub fn at(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let form = Form::of(path, &bytes);
        Self::of(path.to_owned(), bytes, form)
    }

    /// A file that's made here.
    pub fn of(path: PathBuf, bytes: Vec<u8>, form: Form) -> Self {
        Self { path, bytes, form }
    }

    /// The folder that it's in.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap()
    }

    /// Puts `bytes` in its place. A new file, since the last one may be a link, or mapped.
    pub fn put(&self, bytes: &[u8]) {
        let _ = fs::remove_file(&self.path);
        fs::write(&self.path, bytes).unwrap();
    }
}

impl Target {
    /// The seed of the input number `number` of `reader`, and the input.
    pub fn input(&self, reader: &str, number: u64) -> (&Seed, Vec<u8>) {
        let index = (number % self.seeds.len() as u64) as usize;
        let seed = &self.seeds[index];
        // FNV-1a, so that readers with the same seeds get different inputs.
        let name = reader
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let mut rng = ChaCha12Rng::seed_from_u64(name.wrapping_add(number));
        let other = &self.seeds[(index + 1) % self.seeds.len()];
        (seed, mutated(seed, other, &mut rng))
    }
}

/// An error as the program tells it, with its causes.
pub fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    assert!(!text.trim().is_empty(), "an error without words");
    text
}
