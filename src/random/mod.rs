//! The generators of PyTorch and NumPy, number for number.
//!
//! Some PEFT methods save a seed instead of a matrix or a list of places: whoever loads the adapter draws
//! them again. To use such an adapter without Python, the same numbers have to come out here.
//!
//! | generator | methods |
//! |---|---|
//! | [`TorchGenerator::uniform`] | VERA, PVERA, RANDLORA without saved projection |
//! | [`TorchGenerator::normal`] | TINYLORA without saved projection, ADAMSS, Arrow |
//! | [`TorchGenerator::permutation`] | FOURIERFT, WAVEFT, SHIRA, FROD |
//! | [`NumpyGenerator`] | UNILORA |
//! | [`RandomState`] | ADAMSS |
//!
//! The order of runs and bootstrap intervals take their own, which can be made again: `SplitMix64`.
//!
//! What only has to look random (a fresh adapter's trained tensors) is drawn elsewhere, with `rand`.

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
