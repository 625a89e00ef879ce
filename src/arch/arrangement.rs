//! How a layer combines its two sublayers, their norms and the residual stream, as data.

use super::Norm;

/// How a layer combines attention, MLP, their norms and the residual stream.
///
/// With everything present, for a sublayer `f` and the residual stream `x`:
///
/// ```text
/// y = norm_closing(x + norm_after(f(norm_before(x))))
/// ```
///
/// An absent norm is the identity. The MLP takes the output of attention, unless both are
/// [`parallel`](Self::parallel).
#[derive(Debug, Clone)]
pub struct Arrangement {
    /// The norms around attention.
    pub attention: SublayerNorms,
    /// The norms around the MLP.
    pub mlp: SublayerNorms,
    /// What a sublayer's output is added to.
    pub residual: Residual,
    /// Whether both sublayers take the layer's input, and both outputs are added to it.
    pub parallel: bool,
}

/// The norms of one sublayer.
#[derive(Debug, Clone, Default)]
pub struct SublayerNorms {
    /// Applied to the sublayer's input.
    pub before: Option<Norm>,
    /// Applied to the sublayer's output, before it's added to the residual.
    pub after: Option<Norm>,
    /// Applied to the sum with the residual; its output becomes the new residual.
    pub closing: Option<Norm>,
}

/// What a sublayer's output is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    /// The residual stream itself.
    Plain,
    /// The output of the norm before the sublayer.
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
    fn sequential(attention: SublayerNorms, mlp: SublayerNorms) -> Self {
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
        Self::sequential(attention, mlp)
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
        Self::sequential(attention, mlp)
    }

    /// `h = x + norm(attention(x))`, `y = h + norm(mlp(h))`
    pub fn after(attention: Norm, mlp: Norm) -> Self {
        let [attention, mlp] = [attention, mlp].map(|norm| SublayerNorms {
            after: Some(norm),
            ..SublayerNorms::default()
        });
        Self::sequential(attention, mlp)
    }

    /// `h = x + norm(attention(norm(x)))`, `y = h + norm(mlp(norm(h)))`. Each pair of norms is
    /// `[before, after]`.
    pub fn around(attention: [Norm; 2], mlp: [Norm; 2]) -> Self {
        let [attention, mlp] = [attention, mlp].map(|[before, after]| SublayerNorms {
            after: Some(after),
            ..SublayerNorms::before(before)
        });
        Self::sequential(attention, mlp)
    }

    /// `y = x + attention(norm(x)) + mlp(norm(x))`. Without a norm of its own, the MLP shares that
    /// of attention.
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

    /// `y = x + mixer(norm(x))`, in a layer without an MLP.
    pub fn mixer_alone(norm: Norm) -> Self {
        Self::sequential(SublayerNorms::before(norm), SublayerNorms::default())
    }

    /// `y = x + mlp(norm(x))`, in a layer without a mixer.
    pub fn mlp_alone(norm: Norm) -> Self {
        Self::sequential(SublayerNorms::default(), SublayerNorms::before(norm))
    }

    /// All norms, in order of computation.
    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        let sublayers = [&self.attention, &self.mlp].into_iter();
        sublayers.flat_map(|norms| {
            [&norms.before, &norms.after, &norms.closing]
                .into_iter()
                .flatten()
        })
    }

    /// All norms, mutable.
    pub fn norms_mut(&mut self) -> impl Iterator<Item = &mut Norm> {
        let sublayers = [&mut self.attention, &mut self.mlp].into_iter();
        sublayers.flat_map(|norms| {
            let all = [&mut norms.before, &mut norms.after, &mut norms.closing];
            all.into_iter().flatten()
        })
    }

    /// The first norm; every layer has one.
    pub fn first_norm(&self) -> &Norm {
        self.norms().next().expect("every constructor takes norms")
    }
}
