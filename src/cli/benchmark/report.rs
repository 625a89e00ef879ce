//! What's printed at the end.

use super::{Benchmark, Job};
use crate::report::{Labelled, Report, terminal};

impl Benchmark<'_> {
    /// Everything that's printed: tables, lines for whatever else there is to say, and where the results are.
    pub(super) fn text(&self, jobs: &[Job], reports: &[Report], paths: &[String]) -> String {
        let results = jobs.iter().zip(reports).map(|(job, report)| Labelled {
            name: &job.stem,
            label: &job.label,
            report,
        });
        let results: Vec<Labelled> = results.collect();
        let mut text = terminal::measurement(&results, self.common.verbose);
        text.push('\n');
        for path in paths {
            text.push_str(&format!("result  {path}\n"));
        }
        text
    }
}
