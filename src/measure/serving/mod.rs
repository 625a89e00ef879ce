//! What a server with many adapters asks: several adapters in one batch, an adapter that's still on
//! disk, prompts that begin alike.
//!
//! ```text
//! mixed          rows of a batch with different adapters, grouped or gathered
//! cold           an adapter from its file to its first token
//! shared_prefix  the cache of a prefix that several prompts have in common
//! ```
//!
//! Each is measured in a worker process of its own, which opens everything that takes part and lets
//! it take turns.

mod against;
pub mod cold;
mod cold_worker;
pub mod mixed;
mod mixed_worker;
mod page_cache;
mod prefix_worker;
pub mod request;
pub mod shared_prefix;

pub use against::Against;
pub use request::{
    Asked, MixedPlan, PrefixPlan, PromptsOfPrefix, Served, Serving, ServingRequest, ServingResult,
    serve,
};
