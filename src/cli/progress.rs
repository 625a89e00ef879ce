//! Prose on stderr: messages, and progress that's drawn on a terminal and told in lines elsewhere.

use std::cell::RefCell;
use std::io::{IsTerminal, Write, stderr};

use indicatif::{ProgressBar, ProgressStyle};

use super::output::harmless;
use crate::onnxruntime::install::InstallEvent;

/// Prints a line on stderr. A closed stderr is no reason to stop.
pub fn message(text: &str) {
    let _ = writeln!(stderr(), "{}", harmless(text));
}

/// Progress of something that has a size in bytes.
#[derive(Debug, Default)]
pub struct ByteProgress {
    current: RefCell<Option<(String, ProgressBar)>>,
}

impl ByteProgress {
    /// Shows that `done` of `total` bytes of `label` are done; a new label begins a new bar.
    pub fn report(&self, label: &str, done: u64, total: u64) {
        let mut current = self.current.borrow_mut();
        let same = current.as_ref().is_some_and(|(name, _)| name == label);
        if !same {
            if let Some((_, bar)) = current.take() {
                bar.finish_and_clear();
            }
            if !stderr().is_terminal() {
                message(&format!("{label} ({:.0} MiB)", total as f64 / 1_048_576.0));
            }
            let style =
                ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(total)
                .with_style(style)
                .with_message(label.to_owned());
            *current = Some((label.to_owned(), bar));
        }
        if let Some((_, bar)) = current.as_ref() {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    /// Shows what an installation of ONNX Runtime is at.
    pub fn install(&self, event: InstallEvent) {
        match event {
            InstallEvent::PassedOver { reason } => message(&format!("note: {reason}")),
            InstallEvent::Waiting => {
                message("waiting for another process that fetches ONNX Runtime")
            }
            InstallEvent::Downloading { bytes, total_bytes } => {
                self.report("downloading ONNX Runtime", bytes, total_bytes);
            }
            InstallEvent::Verifying | InstallEvent::Unpacking => {}
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some((_, bar)) = self.current.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for ByteProgress {
    fn drop(&mut self) {
        self.finish();
    }
}
