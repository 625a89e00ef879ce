//! The worker's side of cold starts.

use std::error::Error;
use std::rc::Rc;

use super::cold::{Cold, ColdSource, ColdTimes, time_cold_starts};
use super::page_cache::{cached_share, forget, read_through};
use super::request::ServingRequest;
use crate::engine::{DecoderEngine, EngineOptions, OnnxRuntime};
use crate::measure::timings::SystemClock;
use crate::prepared::{ADAPTER, PreparedVariant};

/// Starts the unmerged variant's adapter; `other` is the one that's used before each start.
pub(super) fn cold(
    request: &ServingRequest,
    other: &PreparedVariant,
) -> Result<ColdTimes, Box<dyn Error + Send + Sync>> {
    let runtime = OnnxRuntime::load(&request.library)?;
    let variant = &request.unmerged;
    let options = EngineOptions {
        max_length: variant.manifest.num_virtual_tokens() + request.prompt_ids.len() + 1,
        cuda_graph: false,
        ..request.options.clone()
    };
    let mut engine = DecoderEngine::open(&runtime, variant, &options)?;
    let resident = Rc::clone(engine.resident_adapter());
    let other = Rc::new(engine.load_adapter(other)?);
    let path = variant.folder.join(ADAPTER);
    let place = |source: ColdSource| match source {
        ColdSource::Memory => None,
        ColdSource::PageCache => {
            read_through(&path).ok()?;
            cached_share(&path)
        }
        ColdSource::Disk => {
            forget(&path).ok()?;
            cached_share(&path)
        }
    };
    let sources = time_cold_starts(
        &mut engine,
        &SystemClock::new(),
        &Cold {
            resident: &resident,
            other: &other,
            load: &|engine: &DecoderEngine| engine.load_adapter(variant).map(Rc::new),
            place: &place,
        },
        &request.prompt_ids,
        request.rounds,
        request.seed,
    )?;
    Ok(ColdTimes {
        adapter_bytes: resident.bytes(),
        prompt_tokens: request.prompt_ids.len(),
        sources,
    })
}
