//! Memory in MiB, from records in bytes.

use super::MB;
use crate::measure::memory::StageMemory;
use crate::measure::record::SubjectRecord;
use crate::report::model::{Arena, Memory, Stage};

fn mb(bytes: u64) -> f64 {
    bytes as f64 / MB
}

pub(super) fn memory(record: &SubjectRecord) -> Memory {
    let peak = record.generation_memory();
    Memory {
        peak_accelerator_memory_mb: peak.peak_accelerator_bytes.map(mb),
        peak_ram_memory_mb: mb(peak.peak_rss_bytes),
        peak_anonymous_memory_mb: peak.peak_anonymous_bytes.map(mb),
        memory_logs: record.stages.iter().map(stage).collect(),
    }
}

pub(super) fn stage(stage: &StageMemory) -> Stage {
    let arena = stage.arena.map(|arena| Arena {
        in_use_mb: mb(arena.in_use),
        max_in_use_mb: mb(arena.max_in_use),
        reserved_mb: mb(arena.reserved),
    });
    Stage {
        stage: stage.stage.clone(),
        ram_mb: mb(stage.ram.rss_bytes),
        accelerator_allocated_mb: stage.accelerator_allocated_bytes.map(mb),
        accelerator_reserved_mb: stage.accelerator_reserved_bytes.map(mb),
        arena: arena.into(),
        anonymous_mb: stage.ram.anonymous_bytes.map(mb),
        file_backed_mb: stage.ram.file_backed_bytes.map(mb),
        peak_ram_mb: mb(stage.peak_rss_bytes),
        peak_ram_method: stage.peak_rss_method,
        peak_anonymous_mb: stage.peak_anonymous_bytes.map(mb),
        disk_waits: stage.disk_waits,
        peak_accelerator_mb: stage.peak_accelerator_bytes.map(mb),
        accelerator_method: stage.accelerator_method,
    }
}
