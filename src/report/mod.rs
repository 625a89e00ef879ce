//! Results: what a measurement came to, as a file and as text.
//!
//! ```text
//! records ─ build ─▶ Report ─ write ─▶ results/<name>.json ─ read ─▶ Report
//!                      └─ table, columns ─▶ rows of typed values ─▶ terminal
//! ```
//!
//! A [`Report`] has the sections and keys of PEFT's suite, and this program's own. Every figure is
//! computed once, when it's built; whatever shows it reads it from there. Tables of many results are
//! those of [`list`]; another format of them is another file there.
//!
//! A result has the [name](ResultName) of its configuration, so that only a later run of the same
//! configuration replaces it. One that failed or was cancelled is written under `results/failed/`,
//! with its error, and never replaces a good one.

mod build;
mod caveats;
mod columns;
pub mod comparable;
mod file;
pub mod html;
pub mod list;
mod many;
mod measured;
pub mod model;
mod name;
mod overview;
mod peft;
pub mod quality;
mod table;
pub mod terminal;
mod variants;

pub use build::{Figures, ReportInput};
pub use file::{ReadError, WriteError, check_writable, read, rescue, write};
pub use measured::Labelled;
pub use model::{Report, Status};
pub use name::ResultName;
pub use overview::target_name;
pub use table::{Heading, Scale, Table, Unit, Value};
pub use variants::Source;
