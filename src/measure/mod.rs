//! Measuring: variants of a model take turns, each in a worker process of its own.
//!
//! ```text
//! session    who runs when, and when it's enough; a record of every generation
//!   client   the parent's side of a worker        protocol   what they say to each other
//!   worker   the worker's side
//!     timings   the loop that generates           memory, gpu   sampled while it runs
//! energy, interference   what it took, and what else kept the cores busy
//! bandwidth, roofline    how fast memory is read, and how near a decode step comes to that
//! swap        adapters in place of one another
//! executed    which nodes ran where
//! sweep       batch sizes and context lengths
//! break_even  when merging has paid
//! comparison  pairs of runs       stats   overheads with their intervals
//! ```

pub mod bandwidth;
pub mod break_even;
pub mod client;
pub mod comparison;
pub mod energy;
pub mod executed;
pub mod gpu;
pub mod interference;
pub mod memory;
pub mod prompt_group;
pub mod protocol;
pub mod record;
pub mod roofline;
pub mod schedule;
pub mod session;
pub mod stats;
pub mod subject;
pub mod swap;
pub mod sweep;
pub mod timings;
pub mod worker;
