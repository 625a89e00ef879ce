//! Alternating updates (AltUp), as data: a decoder with several residual streams, of which each
//! layer computes one and predicts the others.
//!
//! The streams `h_1` and further begin as `projections[j](h_0)` of the embeddings `h_0`, with the
//! root mean square of `h_0`; they end with `unembed[j](h_j)`, scaled alike, and the mean of all is
//! the decoder's output. A layer, with the active stream `a`:
//!
//! ```text
//! m(x) = tanh(router(router_norm(x) / hidden_size))
//! P_j  = h_j + sum_i prediction(m(h_a))[j, i] h_i
//! n    = attention_before(P_a)
//! u    = (P_a + attention_after(attention(n)) + n + laurel_norm(right(left(n)))) / sqrt(2)
//! v    = u + mlp_after(mlp(mlp_before(u)))
//! h_j  = P_j + (v - P_a) (1 + correction(m(v))[j])
//! ```
//!
//! The layer's per-layer input, computed from `h_a * output_scale`, is added to all streams but the
//! first.
//!
//! Source: Baykal et al., "Alternating Updates for Efficient Transformers", arXiv:2301.13310;
//! `modeling_gemma3n.py`, Hugging Face Transformers.

use super::{Linear, Module, Norm, PlainParameter};

/// The streams of a decoder.
#[derive(Debug, Clone)]
pub struct Streams {
    /// Number of streams.
    pub count: usize,
    /// The stream that layers compute.
    pub active: usize,
    /// `[hidden_size, hidden_size]` for each stream but the first.
    pub projections: Vec<Linear>,
    /// `[hidden_size, hidden_size]` for each stream but the first.
    pub unembed: Vec<Linear>,
    /// One entry per layer.
    pub layers: Vec<Alternation>,
}

/// How a layer predicts and corrects the streams.
#[derive(Debug, Clone)]
pub struct Alternation {
    /// The norm before the router.
    pub router_norm: Norm,
    /// `[count, hidden_size]`
    pub router: Linear,
    /// `[count * count, count]`
    pub prediction: Linear,
    /// `[count, count]`
    pub correction: Linear,
    /// A factor for each element of the active stream, before the per-layer input.
    pub output_scale: PlainParameter,
    /// Whether that factor is used.
    pub scales_output: bool,
    /// `[rank, hidden_size]`
    pub laurel_left: Linear,
    /// `[hidden_size, rank]`
    pub laurel_right: Linear,
    /// The norm of `laurel_right`'s output.
    pub laurel_norm: Norm,
    /// About this part of the gates becomes zero: those below the normal distribution's quantile.
    pub sparsity: f64,
}

impl Streams {
    /// The modules that belong to no layer, in Transformers' order.
    pub(super) fn modules(&self) -> Vec<Module> {
        let all = self.projections.iter().chain(&self.unembed);
        all.map(Linear::module).collect()
    }

    /// All linear layers, those of layers too.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        let inner = self.layers.iter().flat_map(Alternation::linears);
        self.projections.iter().chain(&self.unembed).chain(inner)
    }

    /// Path and source of every module, mutable.
    pub(super) fn names_mut(&mut self) -> Vec<(&mut String, &mut String)> {
        let mut all = Vec::new();
        for linear in self.projections.iter_mut().chain(&mut self.unembed) {
            all.push((&mut linear.path, &mut linear.source));
        }
        for layer in &mut self.layers {
            let Alternation {
                router_norm,
                router,
                prediction,
                correction,
                output_scale,
                scales_output: _,
                laurel_left,
                laurel_right,
                laurel_norm,
                sparsity: _,
            } = layer;
            for linear in [router, prediction, correction, laurel_left, laurel_right] {
                all.push((&mut linear.path, &mut linear.source));
            }
            for norm in [router_norm, laurel_norm] {
                all.push((&mut norm.path, &mut norm.source));
            }
            all.push((&mut output_scale.path, &mut output_scale.source));
        }
        all
    }
}

impl Alternation {
    /// The linear layers, in Transformers' order.
    pub(super) fn linears(&self) -> [&Linear; 5] {
        [
            &self.correction,
            &self.prediction,
            &self.router,
            &self.laurel_left,
            &self.laurel_right,
        ]
    }

    /// The modules, linear layers first.
    pub(super) fn modules(&self) -> Vec<Module> {
        let linears = self.linears().into_iter().map(Linear::module);
        let norms = [self.router_norm.module(), self.laurel_norm.module()];
        let scale = [self.output_scale.module()];
        linears.chain(norms).chain(scale).collect()
    }
}
