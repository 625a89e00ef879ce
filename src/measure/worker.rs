//! The worker process. Each runs one subject, so that its memory can be measured.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::executed::ExecutedGraph;
use super::gpu::GpuProbe;
use super::memory::{MemorySampler, StageMemory};
use super::protocol::{
    OpenRequest, Opened, ParityCheck, ParityRequest, PromptPicks, Request, Response, SwapRequest,
};
use super::serving;
use super::swap::{SwapTimes, time_swaps};
use super::timings::{Clock, SystemClock, time_generation};
use crate::engine::{DecoderEngine, EngineError, OnnxRuntime, Provider, Runner};
use crate::files::temporary_folder;
use crate::parity::{self, Checked, CheckedPrompt, Sides};
use crate::prepared::{PreparedVariant, Variant};

/// Time between two samples of memory. The kernel's high-water mark catches peaks between them.
const SAMPLING: Duration = Duration::from_millis(10);

type Failure = Box<dyn Error + Send + Sync>;

/// Answers requests until `input` ends.
///
/// # Errors
/// If `output` is closed. Errors of the variant are sent as an answer.
pub fn serve(input: impl BufRead, mut output: impl Write) -> std::io::Result<()> {
    let mut worker = Worker::default();
    for line in input.lines() {
        let answer = worker.answer(&line?);
        let failed = answer.is_err();
        let response = answer.unwrap_or_else(|error| Response::Failed(chain(error.as_ref())));
        serde_json::to_writer(&mut output, &response)?;
        output.write_all(b"\n")?;
        output.flush()?;
        if failed {
            break;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Worker {
    engine: Option<Runner>,
    sampler: Option<MemorySampler>,
    cuda: bool,
}

impl Worker {
    fn answer(&mut self, line: &str) -> Result<Response, Failure> {
        match serde_json::from_str(line)? {
            Request::Open(request) => self.open(*request),
            Request::Generate {
                prompt_ids,
                new_tokens,
            } => {
                let engine = self.engine.as_mut().ok_or("no session is open")?;
                let clock = SystemClock::new();
                let (token_ids, timings) =
                    time_generation(engine, &clock, &prompt_ids, new_tokens)?;
                Ok(Response::Generated { token_ids, timings })
            }
            Request::Stage(name) => {
                let sampler = self.sampler.as_mut().ok_or("no session is open")?;
                let stage = sampler.stage(&name)?;
                if let Some(engine) = &self.engine {
                    note_arena(stage, engine, self.cuda);
                }
                Ok(Response::Stage(stage.clone()))
            }
            Request::Parity(request) => parity(*request),
            Request::Swap(request) => swap(*request),
            Request::Serve(request) => {
                let found = serving::serve(&request)?;
                Ok(Response::Served(Box::new(found)))
            }
        }
    }

    fn open(&mut self, request: OpenRequest) -> Result<Response, Failure> {
        let gpu = match request.options.provider {
            Provider::Cuda(device) => GpuProbe::new(device),
            Provider::Cpu => None,
        };
        let mut sampler = MemorySampler::start(SAMPLING, gpu)?;
        let mut stages = vec![sampler.stage("start")?.clone()];
        let runtime = OnnxRuntime::load(&request.library)?;
        let start = Instant::now();
        self.engine = Some(Runner::open(&runtime, &request.variant, &request.options)?);
        let session_seconds = start.elapsed().as_secs_f64();
        let loaded = sampler.stage("session_loaded")?;
        self.cuda = matches!(request.options.provider, Provider::Cuda(_));
        if let Some(engine) = &self.engine {
            note_arena(loaded, engine, self.cuda);
        }
        stages.push(loaded.clone());
        self.sampler = Some(sampler);
        let step_graph = self.engine.as_ref().and_then(Runner::step_graph);
        Ok(Response::Opened(Opened {
            session_seconds,
            step_graph: step_graph.cloned(),
            stages,
        }))
    }
}

/// Adds the size of ONNX Runtime's arena.
fn note_arena(stage: &mut StageMemory, engine: &Runner, cuda: bool) {
    stage.arena = engine.arena_bytes();
    if cuda {
        stage.accelerator_allocated_bytes = stage.arena.map(|arena| arena.in_use);
    }
}

fn parity(request: ParityRequest) -> Result<Response, Failure> {
    let runtime = OnnxRuntime::load(&request.library)?;
    let prompts = request.prompts.iter().map(|prompt| CheckedPrompt {
        ids: &prompt.ids,
        count: prompt.new_tokens,
    });
    let prompts: Vec<CheckedPrompt> = prompts.collect();
    let lengths = prompts.iter().map(|prompt| prompt.ids.len() + prompt.count);
    let longest = lengths.max().unwrap_or(0);
    // Without a temporary folder there are no profiles; the check runs all the same.
    let profiles = temporary_folder::scratch().ok();
    let folder = |variant: Variant| {
        let folder = profiles.as_ref()?.path().join(variant.name());
        std::fs::create_dir_all(&folder).ok()?;
        Some(folder)
    };
    let not_lowered = RefCell::new(BTreeMap::new());
    let open = |variant: &PreparedVariant| {
        let mut options = request.options.clone();
        options.profile = folder(variant.manifest.variant);
        options.max_length = variant.manifest.num_virtual_tokens() + longest;
        options.logits_on_host = true;
        let engine = Runner::open(&runtime, variant, &options)?;
        let found = engine.not_lowered().to_vec();
        not_lowered
            .borrow_mut()
            .insert(variant.manifest.variant, found);
        Ok::<_, EngineError>(engine)
    };
    let pair = (
        &request.reference,
        request.variants.as_slice(),
        prompts.first(),
    );
    let (parity, picks) = match pair {
        (Some(name), [reference, exported], Some(prompt)) => {
            let sides = Sides {
                name,
                reference,
                exported,
            };
            let parity = parity::check_exported(sides, prompt.ids, prompt.count, open)?;
            (Some(parity), Vec::new())
        }
        _ => match parity::check_prompts(&request.variants, &prompts, open)? {
            Some(Checked { parity, picks }) => (Some(parity), picks),
            None => (None, Vec::new()),
        },
    };
    let variants = request.variants.iter().map(|one| one.manifest.variant);
    let graphs = variants
        .filter_map(|variant| Some((variant, ExecutedGraph::read_sessions(&folder(variant)?))));
    let picks = request.prompts.iter().zip(picks);
    let picks = picks.filter(|(prompt, _)| prompt.is_timed);
    let picks = picks.map(|(prompt, picks)| PromptPicks {
        group: prompt.group,
        index: prompt.index,
        picks,
    });
    Ok(Response::Compared(ParityCheck {
        parity,
        picks: picks.collect(),
        graphs: graphs.collect(),
        not_lowered: not_lowered.into_inner(),
    }))
}

fn swap(request: SwapRequest) -> Result<Response, Failure> {
    let OpenRequest {
        library,
        variant,
        options,
    } = &request.open;
    let runtime = OnnxRuntime::load(library)?;
    let mut engine = DecoderEngine::open(&runtime, variant, options)?;
    let clock = SystemClock::new();
    let (mut load, mut adapters) = (Vec::new(), Vec::new());
    for adapter in std::iter::once(variant).chain(&request.others) {
        let start = clock.now();
        adapters.push(Rc::new(engine.load_adapter(adapter)?));
        load.push(clock.now().saturating_sub(start).as_secs_f64());
    }
    let prompt_ids = &request.prompt_ids;
    let swaps = time_swaps(&mut engine, &clock, &adapters, prompt_ids, request.rounds)?;
    Ok(Response::Swapped(SwapTimes {
        load,
        adapter_bytes: adapters.first().map_or(0, |adapter| adapter.bytes()),
        prompt_tokens: prompt_ids.len(),
        swaps,
    }))
}

/// An error and its causes, in one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
