//! BD-LoRA: `A` or `B` is block-diagonal, and only its blocks are stored, one below the other.
//!
//! The lists of `use_bdlora` select modules by parts of their names. In those of
//! `target_modules_bd_a`, `A` is stored as `[r, in_features / nblocks]`; in those of
//! `target_modules_bd_b`, `B` as `[out_features, r / nblocks]`. There are `nblocks` blocks.
//!
//! Source: PEFT, `tuners/lora/variants.py`.

use ndarray::{Array2, s};

use crate::arch::last_name;
use crate::json::{ConfigError, JsonObject};

/// `use_bdlora`
#[derive(Debug)]
pub struct Blocks {
    count: usize,
    a: Vec<String>,
    b: Vec<String>,
    strict: bool,
}

/// The factor of a module that's block-diagonal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `A`
    A,
    /// `B`
    B,
}

impl Blocks {
    /// Reads the option, if it's present.
    ///
    /// # Errors
    /// If it has a wrong type or value.
    pub fn read(config: &JsonObject) -> Result<Option<Self>, ConfigError> {
        let Some(object) = config.optional_object("use_bdlora")? else {
            return Ok(None);
        };
        Ok(Some(Self {
            count: object.optional_size("nblocks")?.unwrap_or(1),
            a: object
                .optional_texts("target_modules_bd_a")?
                .unwrap_or_default(),
            b: object
                .optional_texts("target_modules_bd_b")?
                .unwrap_or_default(),
            strict: object.flag("match_strict", true)?,
        }))
    }

    /// The block-diagonal factor of the module at `path`, and its number of blocks. `sizes`: `r`,
    /// `in_features`, `out_features`.
    ///
    /// # Errors
    /// If both lists select the module, none does although `match_strict` requires it, or the
    /// number of blocks doesn't divide the sizes.
    pub fn of(
        &self,
        config: &JsonObject,
        path: &str,
        [r, in_features, out_features]: [usize; 3],
    ) -> Result<Option<(Side, usize)>, ConfigError> {
        const KEY: &str = "use_bdlora";
        let name = last_name(path);
        let named = |parts: &[String]| parts.iter().any(|part| name.contains(part.as_str()));
        let (side, other) = match (named(&self.a), named(&self.b)) {
            (true, true) => {
                let reason = format!("`{path}` is selected by both of its lists");
                return Err(config.refused(KEY, &reason));
            }
            (false, false) if self.strict => {
                let reason = format!("`{path}` is in none of its lists (`match_strict`)");
                return Err(config.refused(KEY, &reason));
            }
            (false, false) => return Ok(None),
            (true, false) => (Side::A, in_features),
            (false, true) => (Side::B, out_features),
        };
        if !r.is_multiple_of(self.count) || !other.is_multiple_of(self.count) {
            let reason = format!(
                "{} blocks divide neither or only one of {r} and {other}, the sizes of `{path}`",
                self.count
            );
            return Err(config.refused(KEY, &reason));
        }
        Ok(Some((side, self.count)))
    }
}

/// The block-diagonal matrix of `count` blocks that are stored one below the other.
pub fn block_diagonal(stored: &Array2<f32>, count: usize) -> Array2<f32> {
    let (rows, columns) = (stored.nrows() / count, stored.ncols());
    let mut whole = Array2::zeros((stored.nrows(), columns * count));
    for block in 0..count {
        let (top, left) = (block * rows, block * columns);
        let source = stored.slice(s![top..top + rows, ..]);
        let place = s![top..top + rows, left..left + columns];
        whole.slice_mut(place).assign(&source);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn blocks_lie_on_the_diagonal() {
        let stored = array![[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]];
        let whole = block_diagonal(&stored, 2);
        assert_eq!(whole.row(1), array![3.0, 4.0, 0.0, 0.0]);
        assert_eq!(whole.row(2), array![0.0, 0.0, 5.0, 6.0]);
    }
}
