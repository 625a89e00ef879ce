//! Forms: the few structures to which every method's change of a module is reduced.
//!
//! A method returns its change as a form. The nodes of the unmerged graph, the tensors bound to
//! them, the bytes that a decode step reads, and the merge follow from it. Among the exact forms
//! that keep the base's weight, a method chooses the one with the fewest bytes, then with the
//! fewest nodes. The weight is replaced only if none of them is smaller than the weight.
//!
//! | stage of a linear layer | nodes | tensors |
//! |---|---|---|
//! | input scale | `Mul` | `[in]` |
//! | input rotation | 2 `Reshape`, 2 `Transpose`, `MatMul` (, 2 `Gather`) | `[n, b, b]`, `n b = in` |
//! | replaced weight | none | `[out, in]` in place of the base's |
//! | low-rank pair | `MatMul`, `MatMul`, `Add` | `[r, in]`, `[out, r]` |
//! | Kronecker product | 2 `Reshape`, 2 `MatMul`, `Add` | `[p, q]`, `[out/p, in/q]` |
//! | folded input | (`Pad`,) `Reshape`, `ReduceSum`, `MatMul` (, `Tile`), `Add` | `[r, out]` |
//! | gain | `Mul` before the bias | `[out]` |
//! | replaced bias | `Add`, in place of the base's | `[out]` |
//! | output scale | `Mul` behind the bias | `[out]` |
//! | rotated pairs of outputs | `Gather`, `Mul`, `Mul`, `Add` | 2 × `[out]` |
//!
//! An adapter can also add a term to an attention as a whole, which no linear layer can express
//! ([`AttentionForm`]).

mod attention;
mod embedding;
mod linear;
mod native;
mod tensor;

pub use attention::AttentionForm;
pub use embedding::{EmbeddingForm, TokenForm};
pub use linear::{Delta, InputStage, LinearForm, OutputStage, inverse, rotate_input, scale_rows};
pub use native::{Native, NativeForm, NativeSite, keep_largest};
pub use tensor::{BaseModule, FormTensor, TensorName, TensorRole, elements};

use super::{AdapterError, ModuleWeights};

/// How an adapter changes one module.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "few exist at a time, and most are linear layers"
)]
pub enum Form<'a> {
    /// A linear layer.
    Linear(LinearForm<'a>),
    /// The token embedding.
    Embedding(EmbeddingForm<'a>),
    /// Rows of the token embedding or of the head.
    Tokens(TokenForm<'a>),
    /// A linear layer, by the method's own computation.
    Native(NativeForm<'a>),
    /// An attention as a whole, which can't be merged into a weight.
    Attention(AttentionForm<'a>),
}

/// Which nodes an unmerged adapter gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterForm {
    /// The cheapest form with the same result.
    #[default]
    Reduced,
    /// The method's own computation in every step.
    Native,
}

/// How the graph's inputs for a module are named.
#[derive(Debug, Clone)]
pub struct Naming {
    /// The module's path.
    pub path: String,
    /// The prefix of derived tensors' names: `<prefix><path>.<method>.`
    pub derived: String,
}

impl Naming {
    /// The name of the graph's input for `part`.
    pub fn input(&self, tensor: &FormTensor) -> String {
        match &tensor.name {
            TensorName::Key(key) => key.clone(),
            TensorName::Derived(name) => format!("{}{name}", self.derived),
        }
    }
}

impl Form<'_> {
    /// Its tensors.
    pub fn tensors(&self) -> Vec<&FormTensor<'_>> {
        match self {
            Self::Linear(form) => form.tensors(),
            Self::Embedding(form) => form.tensors(),
            Self::Tokens(form) => vec![&form.rows],
            Self::Native(form) => form.tensors.iter().collect(),
            Self::Attention(form) => form.tensors(),
        }
    }

    /// Whether merging changes or adds the module's bias. `has_bias`: whether the module has one.
    pub fn merges_bias(&self, has_bias: bool) -> bool {
        match self {
            Self::Linear(form) => form.bias.is_some() || (has_bias && form.output.is_some()),
            Self::Embedding(_) | Self::Tokens(_) | Self::Native(_) | Self::Attention(_) => false,
        }
    }

    /// Whether the form replaces the module's `weight` or `bias`, so that the base's own isn't
    /// used.
    pub fn replaces(&self, parameter: &str) -> bool {
        match (self, parameter) {
            (Self::Linear(form), "weight") => form.weight.is_some(),
            (Self::Linear(form), "bias") => form.bias.is_some(),
            _ => false,
        }
    }

    /// Merges the form into the module.
    ///
    /// # Errors
    /// If values that depend on the module can't be computed.
    pub fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        match self {
            Self::Linear(form) => form.merge_into(module),
            Self::Embedding(form) => form.merge_into(module),
            Self::Tokens(form) => form.merge_into(module),
            Self::Native(_) => unreachable!("only reduced forms are merged"),
            Self::Attention(_) => unreachable!("an adapter with such a form isn't merged"),
        }
    }
}
