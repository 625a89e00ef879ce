//! The process that runs a reader's inputs. What it's at stands in a file, so that its parent knows
//! of which input it died.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::allocations;
use crate::readers::reader;
use crate::target::{Seed, Target};

/// Processor time that an input may take.
pub const LONGEST: Duration = Duration::from_secs(1);

/// Wall-clock time after which a reader that uses no processor time waits for something.
const PATIENCE: u64 = 60;

/// Bytes that may be allocated beside twice the input's size.
pub const SLACK: usize = 64 << 20;

/// The stack of every thread but the main one.
const STACK: usize = 2 << 20;

/// An allocation of more is refused by the system, so that a fault doesn't stop the machine.
const ADDRESS_SPACE: u64 = 12 << 30;

/// The exit code of a worker that fails apart from its inputs.
pub const BROKEN: i32 = 101;

/// The variable with the path of the file of [`State`].
pub const STATE: &str = "PEFT_BENCH_FUZZ_STATE";

/// What was seen so far. Numbers in this order are the content of the worker's file.
#[derive(Debug, Clone, Copy, Default)]
pub struct State {
    /// The number of the input that's being read.
    pub at: u64,
    /// Inputs that were accepted.
    pub accepted: u64,
    /// The longest processor time of an input, in nanoseconds, and its number.
    pub slowest: [u64; 2],
    /// The most bytes that an input made its reader allocate, and its number.
    pub most: [u64; 2],
}

impl State {
    /// What the file at `path` says.
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_default();
        let numbers = bytes.as_chunks::<8>().0.iter();
        let numbers: Vec<u64> = numbers.map(|part| u64::from_le_bytes(*part)).collect();
        match numbers.as_slice() {
            &[at, accepted, slowest, slowest_at, most, most_at] => Self {
                at,
                accepted,
                slowest: [slowest, slowest_at],
                most: [most, most_at],
            },
            _ => Self::default(),
        }
    }

    fn write(&self, file: &File) {
        let numbers = [[self.at, self.accepted], self.slowest, self.most];
        let bytes: Vec<u8> = numbers
            .as_flattened()
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect();
        file.write_at(&bytes, 0).unwrap();
    }
}

/// A fault that was found. Of several with the same place, only the first is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The input's number.
    pub at: u64,
    /// `panic`, `time`, `memory` or `death`.
    pub kind: String,
    /// Where, or how.
    pub place: String,
}

/// Where the last panic was.
static PANIC: Mutex<String> = Mutex::new(String::new());

fn note_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let what = info
            .payload_as_str()
            .unwrap_or("something else")
            .replace('\n', " ");
        *PANIC.lock().unwrap() = format!("{place}: {what}");
    }));
}

/// Runs inputs `from` to `to` of the reader `name`; each new fault is a line on stdout.
pub fn run(name: &str, from: u64, to: u64) {
    limit_memory();
    note_panics();
    let state_file = PathBuf::from(std::env::var_os(STATE).unwrap());
    let name = name.to_owned();
    on_small_stack(move || inputs(&name, from, to, &state_file));
}

fn inputs(name: &str, from: u64, to: u64, state_file: &Path) {
    let folder = quick_folder();
    let target = (reader(name).make)(folder.path());
    put_intact(&target);
    let file = File::options().write(true).open(state_file).unwrap();
    let mut state = State::read(state_file);
    let watched = Arc::new([AtomicU64::new(u64::MAX), AtomicU64::new(0)]);
    watch(Arc::clone(&watched));
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut tell = |fault: Fault| {
        let known = seen
            .entry(format!("{} {}", fault.kind, fault.place))
            .or_default();
        *known += 1;
        if *known == 1 {
            println!("{}", serde_json::to_string(&fault).unwrap());
            let _ = std::io::stdout().flush();
        }
    };
    let mut changed: Option<&Seed> = None;
    for at in from..to {
        let (seed, input) = target.input(name, at);
        if let Some(other) = changed.filter(|other| other.path != seed.path) {
            other.put(&other.bytes);
        }
        changed = Some(seed);
        seed.put(&input);
        state.at = at;
        state.write(&file);
        let began = processor_time();
        watched[1].store(began.as_nanos() as u64, SeqCst);
        watched[0].store(at, SeqCst);
        let before = allocations::begin();
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.read)(seed)));
        let most = allocations::most(before);
        watched[0].store(u64::MAX, SeqCst);
        let took = processor_time() - began;
        state.accepted += u64::from(matches!(outcome, Ok(Ok(()))));
        state.slowest = state.slowest.max([took.as_nanos() as u64, at]);
        state.most = state.most.max([most as u64, at]);
        if let Err(cause) = outcome {
            tell(Fault {
                at,
                kind: "panic".to_owned(),
                place: panic_place(cause),
            });
        }
        if took > LONGEST {
            let place = format!("{} of {} bytes", seed.path.display(), input.len());
            tell(Fault {
                at,
                kind: "time".to_owned(),
                place,
            });
        }
        if most > SLACK + 2 * input.len() {
            tell(Fault {
                at,
                kind: "memory".to_owned(),
                place: format!("{} MiB", most >> 20),
            });
        }
    }
    state.at = to;
    state.write(&file);
}

/// Where the panic with this payload was; the hook has it.
fn panic_place(_: Box<dyn Any + Send>) -> String {
    PANIC.lock().unwrap().clone()
}

/// Puts every seed in its place, and checks that it's accepted as it is.
fn put_intact(target: &Target) {
    assert!(!target.seeds.is_empty());
    for seed in &target.seeds {
        seed.put(&seed.bytes);
        if let Err(message) = (target.read)(seed) {
            panic!("{} is intact: {message}", seed.path.display());
        }
    }
}

/// Runs the input `at` of the reader `name` here, and says everything about it.
pub fn again(name: &str, at: u64) {
    limit_memory();
    let name = name.to_owned();
    on_small_stack(move || {
        let folder = quick_folder();
        let target = (reader(&name).make)(folder.path());
        put_intact(&target);
        let (seed, input) = target.input(&name, at);
        let kept = std::env::temp_dir().join(format!("{name}-{at}"));
        std::fs::write(&kept, &input).unwrap();
        println!("input {at}: {} bytes in {}", input.len(), kept.display());
        println!("in the place of {}", seed.path.display());
        seed.put(&input);
        let began = processor_time();
        allocations::trap(SLACK + 2 * input.len());
        let before = allocations::begin();
        let outcome = (target.read)(seed);
        let took = processor_time() - began;
        println!("{outcome:?}");
        println!("{} KiB, {took:?}", allocations::most(before) >> 10);
    });
}

/// A folder in memory, if there's one.
fn quick_folder() -> TempDir {
    let in_memory = tempfile::tempdir_in("/dev/shm");
    in_memory.or_else(|_| tempfile::tempdir()).unwrap()
}

fn on_small_stack(work: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().stack_size(STACK).spawn(work);
    if let Err(cause) = thread.unwrap().join() {
        let place = panic_place(cause);
        eprintln!("{place}");
        std::process::exit(BROKEN);
    }
}

/// Ends the process if an input takes far too long. `watched` has the input's number and the
/// processor time at which it began.
fn watch(watched: Arc<[AtomicU64; 2]>) {
    thread::spawn(move || {
        let (mut last, mut seconds) = (u64::MAX, 0);
        loop {
            thread::sleep(Duration::from_secs(1));
            let at = watched[0].load(SeqCst);
            seconds = if at == last { seconds + 1 } else { 0 };
            last = at;
            let began = Duration::from_nanos(watched[1].load(SeqCst));
            let took = processor_time().saturating_sub(began);
            if at != u64::MAX && (took > 5 * LONGEST && seconds > 1 || seconds > PATIENCE) {
                eprintln!("no end after {took:?} of processor time");
                std::process::exit(102);
            }
        }
    });
}

/// Processor time of this process.
fn processor_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the clock exists on Linux, and `time` is a `timespec`.
    #[expect(unsafe_code, reason = "the standard library doesn't tell it")]
    let told = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(told, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn limit_memory() {
    let limit = libc::rlimit {
        rlim_cur: ADDRESS_SPACE,
        rlim_max: ADDRESS_SPACE,
    };
    // SAFETY: `limit` is an `rlimit`, and only this process gets it.
    #[expect(unsafe_code, reason = "the standard library can't set it")]
    let set = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
    assert_eq!(set, 0);
}
