//! Reports of scripted records, for tests of what reads them.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Figures, ReportInput};
use crate::engine::{EngineOptions, Provider, WeightsMode};
use crate::measure::executed::ExecutedGraph;
use crate::measure::record::SubjectRecord;
use crate::measure::sweep::SweepRun;
use crate::prepared::Variant;
use crate::report::model::{Report, Status};
use crate::system::{Hardware, SystemInfo};

/// The nodes that ran, by variant and session.
pub type Graphs = BTreeMap<Variant, BTreeMap<String, ExecutedGraph>>;

/// The report of `records` and `sweep`.
pub fn report(records: &[SubjectRecord], sweep: &[SweepRun], graphs: Option<&Graphs>) -> Report {
    let options = EngineOptions {
        provider: Provider::Cpu,
        threads: 2,
        weights: WeightsMode::Mapped,
        batch_size: records.first().map_or(1, |record| record.batch_size),
        max_length: 0,
        logits_on_host: false,
        gpu_layers: None,
        cuda_graph: false,
        profile: None,
    };
    let (hardware, system) = (Hardware::default(), SystemInfo::collect());
    let config = json!({"model_id": "synthetic/llama-135m", "dtype": "float32"});
    let timestamp = "2026-01-01T00:00:00Z".to_owned();
    let input = ReportInput {
        duration: 1.0,
        graphs,
        seed: 1,
        ..ReportInput::new(
            timestamp,
            Status::Success,
            config,
            &hardware,
            &system,
            &options,
        )
    };
    let figures = Figures::new(records, sweep, !input.base_is_cached, input.seed);
    Report::new(&input, &figures, None)
}
