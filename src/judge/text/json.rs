//! The same for programs.

use serde_json::{Value, json as object};

use super::conclusion;
use crate::judge::{Comparison, Judgement, Source};

/// Everything, with `exit_code` for those who read it later.
pub fn json(judgement: &Judgement, exit_code: u8) -> Value {
    let comparisons = judgement.comparisons.iter().map(one);
    object!({
        "outcome": judgement.outcome(),
        "exit_code": exit_code,
        "conclusion": conclusion(judgement),
        "margin_pct": judgement.margin_pct,
        "comparisons": comparisons.collect::<Vec<Value>>(),
        "missing": judgement.missing,
        "only_new": judgement.only_new,
    })
}

fn one(comparison: &Comparison) -> Value {
    let pair = &comparison.pair;
    let files = |side: &[Source]| -> Vec<Value> {
        let files = side.iter().map(|source| {
            object!({
                "file": source.file,
                "timestamp": source.report.run_info.timestamp,
            })
        });
        files.collect()
    };
    object!({
        "name": pair.name,
        "old": files(&pair.old),
        "new": files(&pair.new),
        "outcome": comparison.outcome(),
        "refusals": comparison.refusals,
        "warnings": comparison.warnings,
        "figures": comparison.figures,
    })
}
