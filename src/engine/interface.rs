//! The interface that measurement and parity checks use, so that tests can script an engine.

/// Generates tokens one by one.
pub trait Engine {
    /// The engine's error.
    type Error;

    /// Starts a new sequence: runs the prompt and returns the first new token.
    ///
    /// # Errors
    /// If the model can't be run on this prompt.
    fn prefill(&mut self, prompt_ids: &[u32]) -> Result<u32, Self::Error>;

    /// Runs `token`, the last one returned, and returns the next.
    ///
    /// # Errors
    /// If the model can't be run.
    fn decode(&mut self, token: u32) -> Result<u32, Self::Error>;
}

/// An engine whose adapter can be swapped.
pub trait SwapEngine: Engine {
    /// An adapter in memory.
    type Adapter;

    /// Binds `adapter` instead of the present one.
    ///
    /// # Errors
    /// If it can't be bound.
    fn swap(&mut self, adapter: &Self::Adapter) -> Result<(), Self::Error>;
}
