//! Singular components of a base weight.

use std::sync::OnceLock;

use half::{bf16, f16};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayBase, Axis, Data, Ix2, s};

use crate::adapter::AdapterError;
use crate::decomposition::{DecompositionError, Svd, svd};
use crate::weights::Dtype;

/// Names the module at `path` in an error of its decomposition.
pub fn failed(path: &str) -> impl Fn(DecompositionError) -> AdapterError {
    let module = path.to_owned();
    move |source| AdapterError::Decomposition {
        module: module.clone(),
        source,
    }
}

/// The singular value decomposition of `weight`, the largest component first.
///
/// # Errors
/// If it isn't finite; the error names the module at `path`.
pub fn components(weight: &Array2<f32>, path: &str) -> Result<Svd, AdapterError> {
    svd(weight).map_err(failed(path))
}

/// The `r` largest singular components of a module's weight, computed when they're first needed.
#[derive(Debug)]
pub struct LeadingComponents {
    path: String,
    r: usize,
    found: OnceLock<Svd>,
}

impl LeadingComponents {
    /// Those of the module at `path`.
    pub fn new(path: &str, r: usize) -> Self {
        Self {
            path: path.to_owned(),
            r,
            found: OnceLock::new(),
        }
    }

    /// Components that are known already.
    pub fn known(path: &str, r: usize, found: Svd) -> Self {
        Self {
            found: found.into(),
            ..Self::new(path, r)
        }
    }

    /// The components. `weight` is the module's.
    ///
    /// # Errors
    /// If the weight isn't finite.
    pub fn of(&self, weight: &Array2<f32>) -> Result<&Svd, AdapterError> {
        if let Some(found) = self.found.get() {
            return Ok(found);
        }
        let all = components(weight, &self.path)?;
        let leading = leading(&all, self.r);
        Ok(self.found.get_or_init(|| leading))
    }
}

/// The `r` largest of `all` components.
pub fn leading(all: &Svd, r: usize) -> Svd {
    Svd {
        u: all.u.slice(s![.., ..r]).to_owned(),
        s: all.s.slice(s![..r]).to_owned(),
        vt: all.vt.slice(s![..r, ..]).to_owned(),
    }
}

/// The `count` smallest of `all` components.
pub fn trailing(all: &Svd, count: usize) -> Svd {
    let start = all.s.len() - count;
    Svd {
        u: all.u.slice(s![.., start..]).to_owned(),
        s: all.s.slice(s![start..]).to_owned(),
        vt: all.vt.slice(s![start.., ..]).to_owned(),
    }
}

/// `W + factor * U diag(S) Vᵀ`
pub fn add_components(weight: &mut Array2<f32>, factor: f32, part: &Svd) {
    let left = scaled_columns(&part.u, &part.s);
    general_mat_mul(factor, &left, &part.vt, 1.0, weight);
}

/// `M diag(v)`
pub fn scaled_columns<D: Data<Elem = f32>>(
    matrix: &ArrayBase<D, Ix2>,
    by: &Array1<f32>,
) -> Array2<f32> {
    matrix * &by.view().insert_axis(Axis(0))
}

/// `diag(v) M`
pub fn scaled_rows<D: Data<Elem = f32>>(
    matrix: &ArrayBase<D, Ix2>,
    by: &Array1<f32>,
) -> Array2<f32> {
    matrix * &by.view().insert_axis(Axis(1))
}

/// `value` rounded to `dtype`.
pub fn rounded(value: f32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Float32 => value,
        Dtype::Float16 => f16::from_f32(value).to_f32(),
        Dtype::BFloat16 => bf16::from_f32(value).to_f32(),
    }
}
