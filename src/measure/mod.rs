//! Measuring: subjects take turns, each in its own worker process.
//!
//! ```text
//! session    runs the subjects in turn, decides when to stop, records every generation
//!   client   the parent's side of a worker        protocol   the messages between the two
//!   worker   the worker's side
//!     timings   the generation loop and its clock  memory, gpu  sampled while it runs
//! energy, interference   energy used, and load from other processes
//! quiet, rounds          waiting until other processes are quiet, and whether they stay so from round to round
//! bandwidth, roofline    memory bandwidth, and how close a decode step comes to it
//! swap        the time to replace a bound adapter with another
//! serving     several adapters in one batch, cold adapters, shared prefixes
//! executed    which nodes ran on which execution provider
//! drift       whether the base's time rises or falls from round to round
//! timed_tokens   do timed runs generate what was checked?
//! sweep       batch sizes and context lengths
//! break_even  the number of tokens after which merging has paid for itself
//! comparison  overheads from records          stats   medians, bootstrap intervals, outliers
//! ```

pub mod bandwidth;
pub mod break_even;
pub mod client;
pub mod comparison;
pub mod drift;
pub mod energy;
pub mod executed;
pub mod gpu;
pub mod interference;
pub mod memory;
pub mod prompt_group;
pub mod protocol;
pub mod quiet;
pub mod record;
pub mod roofline;
pub mod rounds;
pub mod schedule;
#[cfg(test)]
mod scripted_clock;
pub mod serving;
pub mod session;
pub mod stats;
pub mod subject;
pub mod swap;
pub mod sweep;
pub mod timed_tokens;
pub mod timings;
pub mod worker;
