//! Progress of a measurement: a bar with the time left on a terminal, a line a group elsewhere.

use std::cell::RefCell;
use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};

use super::progress::message;
use crate::measure::prompt_group::PromptGroup;
use crate::measure::session::Progress;

/// Progress of a measurement.
#[derive(Debug, Default)]
pub struct MeasureProgress {
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    bar: Option<ProgressBar>,
    told: Option<PromptGroup>,
    /// The number of runs at which the precision is told next.
    next_told: usize,
    /// The groups come round once more, which isn't told.
    repeating: bool,
}

impl MeasureProgress {
    /// Shows a step.
    pub fn report(&self, step: Progress) {
        let mut state = self.state.borrow_mut();
        match step {
            Progress::Comparing if stderr().is_terminal() => {
                state.bar(0).set_message("comparing variants");
            }
            Progress::Comparing => {}
            Progress::Precision {
                half_width_pct,
                target_pct,
                runs,
            } => {
                let text = format!("±{half_width_pct:.1} % of ±{target_pct} %");
                if stderr().is_terminal() {
                    state.bar(0).set_prefix(text);
                } else if runs >= state.next_told {
                    message(&format!("{text} after {runs} runs of each prompt"));
                    state.next_told = runs + runs.div_ceil(4);
                }
                state.repeating = true;
            }
            Progress::Opening(variant) if stderr().is_terminal() => {
                state.bar(0).set_message(format!("opening {variant}"));
            }
            Progress::Opening(_) => {}
            Progress::Generating { done, total, group } if stderr().is_terminal() => {
                let bar = state.bar(total as u64);
                bar.set_message(group.prompts());
                bar.set_position(done as u64);
            }
            Progress::Generating { done, total, group } => {
                if !state.repeating && state.told != Some(group) {
                    message(&format!(
                        "measuring {} ({done}/{total} generations done)",
                        group.prompts()
                    ));
                    state.told = Some(group);
                }
            }
        }
    }
}

impl State {
    fn bar(&mut self, total: u64) -> &ProgressBar {
        let bar = self.bar.get_or_insert_with(|| {
            let template = "{msg:20} {prefix} {wide_bar} {pos}/{len} generations, {eta} left";
            let style = ProgressStyle::with_template(template);
            ProgressBar::new(total)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        if total > 0 {
            bar.set_length(total);
        }
        bar
    }
}

impl Drop for MeasureProgress {
    fn drop(&mut self) {
        if let Some(bar) = self.state.borrow_mut().bar.take() {
            bar.finish_and_clear();
        }
    }
}
