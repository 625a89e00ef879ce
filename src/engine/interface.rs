//! What measuring and verifying ask of an engine. They know no more of it, so that they are tested with scripted ones.

/// Makes one token after another.
pub trait Engine {
    /// What can go wrong in it.
    type Error;

    /// Begins a new sequence: computes the prompt and returns the first new token.
    ///
    /// # Errors
    /// If the model can't be run on this prompt.
    fn prefill(&mut self, prompt_ids: &[u32]) -> Result<u32, Self::Error>;

    /// Computes `token`, the one returned last, and returns the one after it.
    ///
    /// # Errors
    /// If the model can't be run.
    fn decode(&mut self, token: u32) -> Result<u32, Self::Error>;
}

/// An engine whose adapter can be exchanged.
pub trait SwapEngine: Engine {
    /// An adapter in memory.
    type Adapter;

    /// Binds `adapter` in place of the present one.
    ///
    /// # Errors
    /// If it can't be bound.
    fn swap(&mut self, adapter: &Self::Adapter) -> Result<(), Self::Error>;
}
