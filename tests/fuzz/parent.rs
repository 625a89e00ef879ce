//! Runs readers, each in a process of its own, and tells what was found.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::options::Options;
use crate::readers::READERS;
use crate::target::Reader;
use crate::worker::{BROKEN, Fault, STATE, State};

/// After so many deaths a reader is given up.
const MOST_DEATHS: usize = 20;

/// What came of a reader.
struct Found {
    executions: u64,
    state: State,
    faults: Vec<Fault>,
    seconds: f64,
}

/// Runs all readers that `options` ask for.
pub fn run(options: &Options) -> ExitCode {
    println!(
        "{:<20} {:>11} {:>9} {:>8} {:>11} {:>10} {:>7}",
        "reader", "inputs", "accepted", "slowest", "most memory", "time", "faults"
    );
    let asked = READERS.iter().filter(|of| options.asks_for(of.name));
    let queue: Mutex<VecDeque<&Reader>> = Mutex::new(asked.collect());
    let totals = Mutex::new((0_u64, 0_usize));
    thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                loop {
                    let Some(reader) = queue.lock().unwrap().pop_front() else {
                        return;
                    };
                    let found = run_one(reader, options);
                    let mut totals = totals.lock().unwrap();
                    totals.0 += found.executions;
                    totals.1 += found.faults.len();
                    tell(reader.name, &found);
                }
            });
        }
    });
    let (executions, faults) = totals.into_inner().unwrap();
    println!("{executions} inputs, {faults} faults");
    match faults {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn tell(name: &str, found: &Found) {
    let state = &found.state;
    println!(
        "{name:<20} {:>11} {:>7.1} % {:>5} ms {:>7.1} MiB {:>8.0} s {:>7}",
        found.executions,
        100.0 * state.accepted as f64 / found.executions.max(1) as f64,
        Duration::from_nanos(state.slowest[0]).as_millis(),
        state.most[0] as f64 / f64::from(1 << 20),
        found.seconds,
        found.faults.len()
    );
    for Fault { at, kind, place } in &found.faults {
        println!("  {kind} at input {at}: {place}");
    }
}

fn run_one(reader: &Reader, options: &Options) -> Found {
    let began = Instant::now();
    let executions = options.executions.div_ceil(reader.one_of);
    let first = options.from;
    let (mut from, to) = (first, first + executions);
    let state_file = tempfile::NamedTempFile::new().unwrap();
    let mut faults: Vec<Fault> = Vec::new();
    let mut deaths = 0;
    while from < to && deaths < MOST_DEATHS {
        let mut worker = Command::new(std::env::current_exe().unwrap())
            .args([reader.name, "--from", &from.to_string()])
            .args(["--worker-to", &to.to_string()])
            .env(STATE, state_file.path())
            .env("RUST_BACKTRACE", "0")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = worker.stderr.take().unwrap();
        let said = thread::spawn(move || {
            let mut said = Vec::new();
            let _ = stderr.read_to_end(&mut said);
            String::from_utf8_lossy(&said).trim().replace('\n', "; ")
        });
        for line in BufReader::new(worker.stdout.take().unwrap()).lines() {
            let fault: Fault = serde_json::from_str(&line.unwrap()).unwrap();
            if !faults.iter().any(|known| known.place == fault.place) {
                faults.push(fault);
            }
        }
        let status = worker.wait().unwrap();
        let said = said.join().unwrap();
        if status.success() {
            break;
        }
        let at = State::read(state_file.path()).at;
        deaths += 1;
        faults.push(Fault {
            at,
            kind: "death".to_owned(),
            place: format!("{status}: {said}"),
        });
        // It wasn't an input: a seed isn't accepted, or the worker itself is wrong.
        if status.code() == Some(BROKEN) {
            break;
        }
        from = at.max(from) + 1;
    }
    let state = State::read(state_file.path());
    Found {
        executions: state.at.saturating_sub(first).min(executions),
        state,
        faults,
        seconds: began.elapsed().as_secs_f64(),
    }
}
