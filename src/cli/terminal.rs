//! What's told on stderr while a study runs, and its tables on stdout.

use super::measure_progress::MeasureProgress;
use super::notes::note_text;
use super::output::print;
use super::progress::{ByteProgress, message};
use super::quiet::QuietProgress;
use crate::report::{Labelled, terminal};
use crate::study::{CaseResult, Event, Observer};

/// The terminal, as the observer of a study.
#[derive(Debug, Default)]
pub struct Terminal {
    verbose: bool,
    bytes: ByteProgress,
    waiting: QuietProgress,
    steps: Option<MeasureProgress>,
    /// Why a table couldn't be printed.
    unprinted: Option<anyhow::Error>,
}

impl Terminal {
    /// A terminal on which more is said if `verbose`.
    pub fn new(verbose: bool) -> Self {
        Self {
            verbose,
            ..Self::default()
        }
    }

    /// Whether all tables could be printed.
    ///
    /// # Errors
    /// Why the first one couldn't.
    pub fn finish(self) -> anyhow::Result<()> {
        self.unprinted.map_or(Ok(()), Err)
    }

    fn verbose(&self, text: String) {
        if self.verbose {
            message(&text);
        }
    }
}

impl Observer for Terminal {
    fn observe(&mut self, event: Event<'_>) {
        match event {
            Event::Note(note) => message(&note_text(&note)),
            Event::Bytes { label, done, total } => self.bytes.report(label, done, total),
            Event::BytesEnded => self.bytes.finish(),
            Event::Install(event) => self.bytes.install(event),
            Event::AdapterFound { id, folder } => {
                self.verbose(format!("adapter {id} in {}", folder.display()));
            }
            Event::BaseOpened { id, folder } => {
                self.verbose(format!("base model {id} in {}", folder.display()));
            }
            Event::LibraryFound { library, provider } => self.verbose(format!(
                "ONNX Runtime {} from {}, on {provider}",
                library.version,
                library.path.display()
            )),
            Event::Quantizing { bytes } => {
                message(&format!(
                    "quantizing weights: {} MiB, once",
                    mebibytes(bytes)
                ));
            }
            Event::Repacking { bytes } => message(&format!(
                "re-packing the quantized base's weights: {} MiB, once",
                mebibytes(bytes)
            )),
            Event::LayingOut { bytes } => message(&format!(
                "laying out weights for this processor: {} MiB, once",
                mebibytes(bytes)
            )),
            Event::Waiting { gate, look } => self.waiting.report(gate, look),
            Event::Waited { gate, waited } => self.waiting.finish(gate, waited),
            Event::Progress(progress) => self.steps.get_or_insert_default().report(progress),
            Event::ProgressEnded => self.steps = None,
            Event::BatchSize(size) => message(&format!("batches of {size}")),
            Event::Swapping { adapters } => message(&format!("swapping {adapters} adapters")),
            Event::Mixing { adapters } => {
                message(&format!("batches with up to {adapters} adapters"));
            }
            Event::ColdStarts => message("starting an adapter from its file"),
            Event::SharedPrefixes => message("prompts with a common prefix"),
            Event::Measured { results } => {
                if let Err(error) = print(&tables(results, self.verbose)) {
                    self.unprinted.get_or_insert(error);
                }
            }
            Event::Interrupted { results } => {
                let paths = results.iter().map(|one| one.path.display().to_string());
                let paths: Vec<String> = paths.collect();
                let paths = paths.join(", ");
                message(&format!("interrupted; what was measured is in {paths}"));
            }
            Event::Failed { targets, error } => {
                message(&format!("error: {targets}: {}", error.in_full()));
            }
        }
    }
}

/// Tables of results that were measured together, lines for whatever else there is to say, and
/// where the results are.
fn tables(results: &[CaseResult], verbose: bool) -> String {
    let labelled = results.iter().map(|result| Labelled {
        name: &result.name,
        label: &result.label,
        report: &result.report,
    });
    let labelled: Vec<Labelled> = labelled.collect();
    let mut text = terminal::measurement(&labelled, verbose);
    text.push('\n');
    for result in results {
        text.push_str(&format!("result  {}\n", result.path.display()));
    }
    text
}

fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
