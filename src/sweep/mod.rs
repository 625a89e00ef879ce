//! Fleets of studies: many experiments, bases, dtypes and batch sizes, on this machine or on a
//! cluster.
//!
//! ```text
//! Spec        lists, whose cross product without exclusions are combinations
//!   Plan        a job for each combination that can be measured, under the key of its content
//!     Run         jobs one at a time in each lane (cores, or a GPU), each in a process of its own
//!       Attempt     one process' try at a job; what it measures is published by a rename
//! Status      how every job stands, from files alone
//! launch      what has an engine run the jobs: Slurm, HyperQueue, Kubernetes
//! ```
//!
//! An engine may start a task twice, kill it at any moment, or believe it's running when it isn't.
//! So nothing here depends on what it says: a job is done when its result is there.

mod ahead;
mod attempt;
mod claim;
mod device_lock;
mod digest;
pub mod engine_task;
mod estimate;
mod folder;
mod hardware;
mod inputs;
mod job;
pub mod lanes;
pub mod launch;
mod plan;
mod plan_index;
mod planner;
mod process;
mod run;
mod spec;
mod status;
mod time_left;
mod unchanged;

pub use claim::Owner;
pub use folder::{Published, SweepFolder, There};
pub use job::{Estimate, Job, Key, Parts, Refusal};
pub use plan::{Common, Plan, PlanFileError};
pub use planner::{Node, PlannerError, is_on_gpu, jobs};
pub use run::{Event, Progress, Settings, Summary, run};
pub use spec::{Combination, Exclusion, Spec, SpecError};
pub use status::{Standing, Status, named};
pub use unchanged::Inputs;
