//! What an adapter adds to the model as a whole, beside what it does to modules.

use super::form::Part;
use super::methods::{Mixture, Shadow};

/// A network beside the decoder.
#[derive(Debug)]
pub enum Beside {
    /// X-LoRA's classifier, and the pass of the decoder that it takes the hidden states of.
    Mixture(Mixture),
    /// Shadow's backbone.
    Shadow(Box<Shadow>),
}

impl Beside {
    /// Its tensors.
    pub fn parts(&self) -> Vec<Part<'_>> {
        match self {
            Self::Mixture(mixture) => mixture.parts(),
            Self::Shadow(shadow) => shadow.parts(),
        }
    }
}
