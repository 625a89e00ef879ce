//! The random generators of PyTorch and NumPy, number for number.
//!
//! Some PEFT methods save a seed instead of a matrix or a list of indices, and draw it again when
//! the adapter is loaded. The generators here give the same numbers without Python.
//!
//! | generator | methods |
//! |---|---|
//! | [`TorchGenerator::uniform`] | VERA, PVERA, RANDLORA without saved projection |
//! | [`TorchGenerator::normal`] | TINYLORA without saved projection, ADAMSS, Arrow |
//! | [`TorchGenerator::permutation`] | FOURIERFT, WAVEFT, SHIRA, FROD |
//! | [`NumpyGenerator`] | UNILORA |
//! | [`RandomState`] | ADAMSS |
//!
//! `SplitMix64` serves the order of runs and the bootstrap intervals, which must be reproducible.
//!
//! Values that only have to be random (a fresh adapter's trained tensors) are drawn elsewhere, with
//! `rand`.

mod mt19937;
mod numpy;
mod pcg64;
mod permutation;
mod random_state;
#[cfg(test)]
mod recorded;
mod split_mix;
mod torch;

pub use numpy::NumpyGenerator;
pub use random_state::RandomState;
pub(crate) use split_mix::SplitMix64;
pub use torch::TorchGenerator;
