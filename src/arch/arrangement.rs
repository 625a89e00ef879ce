//! How a layer's two sublayers, their norms and the residual stream are put together, as data.

use super::Norm;

/// How attention and perceptron, their norms and the residual stream are put together.
///
/// With everything present, for a sublayer `f` and the residual stream `x`:
///
/// ```text
/// y = norm_closing(x + norm_behind(f(norm_before(x))))
/// ```
///
/// A norm that's absent does nothing. Attention is first, and the perceptron takes what it makes, unless both are
/// [`parallel`](Self::parallel).
#[derive(Debug, Clone)]
pub struct Arrangement {
    /// Attention's norms.
    pub attention: SublayerNorms,
    /// The perceptron's norms.
    pub mlp: SublayerNorms,
    /// What a sublayer's output is added to.
    pub residual: Residual,
    /// Whether both sublayers take the layer's input, and are added to it together.
    pub parallel: bool,
}

/// The norms of one sublayer.
#[derive(Debug, Clone, Default)]
pub struct SublayerNorms {
    /// Of the sublayer's input.
    pub before: Option<Norm>,
    /// Of the sublayer's output.
    pub behind: Option<Norm>,
    /// Of the sum with the residual, which it replaces.
    pub closing: Option<Norm>,
}

/// What a sublayer's output is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    /// The stream as it is.
    Plain,
    /// The stream behind the norm before the sublayer.
    Normed,
}

impl SublayerNorms {
    fn before(norm: Norm) -> Self {
        Self {
            before: Some(norm),
            ..Self::default()
        }
    }
}

impl Arrangement {
    fn one_behind_the_other(attention: SublayerNorms, mlp: SublayerNorms) -> Self {
        Self {
            attention,
            mlp,
            residual: Residual::Plain,
            parallel: false,
        }
    }

    /// `h = x + attention(norm(x))`, `y = h + mlp(norm(h))`
    pub fn before(attention: Norm, mlp: Norm) -> Self {
        let [attention, mlp] = [attention, mlp].map(SublayerNorms::before);
        Self::one_behind_the_other(attention, mlp)
    }

    /// `n = norm(x)`, `h = n + attention(n)`, `m = norm(h)`, `y = m + mlp(m)`
    pub fn normed_residual(attention: Norm, mlp: Norm) -> Self {
        Self {
            residual: Residual::Normed,
            ..Self::before(attention, mlp)
        }
    }

    /// `h = norm(x + attention(x))`, `y = norm(h + mlp(h))`
    pub fn after_residual(attention: Norm, mlp: Norm) -> Self {
        let [attention, mlp] = [attention, mlp].map(|norm| SublayerNorms {
            closing: Some(norm),
            ..SublayerNorms::default()
        });
        Self::one_behind_the_other(attention, mlp)
    }

    /// `h = x + norm(attention(x))`, `y = h + norm(mlp(h))`
    pub fn after(attention: Norm, mlp: Norm) -> Self {
        let [attention, mlp] = [attention, mlp].map(|norm| SublayerNorms {
            behind: Some(norm),
            ..SublayerNorms::default()
        });
        Self::one_behind_the_other(attention, mlp)
    }

    /// `h = x + norm(attention(norm(x)))`, `y = h + norm(mlp(norm(h)))`; each sublayer's norms are `[before, behind]`.
    pub fn around(attention: [Norm; 2], mlp: [Norm; 2]) -> Self {
        let [attention, mlp] = [attention, mlp].map(|[before, behind]| SublayerNorms {
            behind: Some(behind),
            ..SublayerNorms::before(before)
        });
        Self::one_behind_the_other(attention, mlp)
    }

    /// `y = x + attention(norm(x)) + mlp(norm(x))`; without a norm of its own, `mlp` takes what attention takes.
    pub fn parallel(attention: Norm, mlp: Option<Norm>) -> Self {
        Self {
            attention: SublayerNorms::before(attention),
            mlp: SublayerNorms {
                before: mlp,
                ..SublayerNorms::default()
            },
            residual: Residual::Plain,
            parallel: true,
        }
    }

    /// Its norms, in the order in which they're computed.
    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        let sublayers = [&self.attention, &self.mlp].into_iter();
        sublayers.flat_map(|norms| {
            [&norms.before, &norms.behind, &norms.closing]
                .into_iter()
                .flatten()
        })
    }

    /// Its norms, to change them.
    pub fn norms_mut(&mut self) -> impl Iterator<Item = &mut Norm> {
        let sublayers = [&mut self.attention, &mut self.mlp].into_iter();
        sublayers.flat_map(|norms| {
            let all = [&mut norms.before, &mut norms.behind, &mut norms.closing];
            all.into_iter().flatten()
        })
    }

    /// The first of its norms: every layer has one.
    pub fn first_norm(&self) -> &Norm {
        self.norms().next().expect("every constructor takes norms")
    }
}
