//! What's asked for on the command line. `cargo test` passes options of the usual harness too.

use std::env;

use crate::readers::READERS;

/// The number of inputs of each reader.
const EXECUTIONS: &str = "PEFT_BENCH_FUZZ";

/// Inputs of a reader in the short form.
const FEW: u64 = 1500;

/// What to do.
pub enum What {
    /// Run readers, each in a process.
    All,
    /// Be that process.
    Worker { reader: String, from: u64, to: u64 },
    /// Run one input here.
    One { reader: String, at: u64 },
}

/// What to do, and with how many inputs.
pub struct Options {
    pub what: What,
    /// Parts of readers' names; all readers if there are none.
    pub names: Vec<String>,
    /// The number of the first input.
    pub from: u64,
    /// The number of inputs of each reader.
    pub executions: u64,
    /// Readers that run at once.
    pub jobs: usize,
}

impl Options {
    /// Those of this process; `None` if nothing is to be done.
    pub fn of_process() -> Option<Self> {
        let from_variable = env::var(EXECUTIONS).ok();
        let executions = from_variable.map(|text| number(EXECUTIONS, &text));
        let mut options = Self {
            what: What::All,
            names: Vec::new(),
            from: 0,
            executions: executions.unwrap_or(FEW),
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
        };
        let (mut at, mut worker_to) = (None, None);
        let mut arguments = env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || {
                let text = arguments.next().unwrap_or_default();
                number(&argument, &text)
            };
            match argument.as_str() {
                "--executions" => options.executions = value(),
                "--from" => options.from = value(),
                "--at" => at = Some(value()),
                "--jobs" => options.jobs = value().max(1) as usize,
                "--worker-to" => worker_to = Some(value()),
                // Neither are any of the usual harness' tests here.
                "--list" | "--ignored" => return None,
                "--skip" | "--format" | "--color" => drop(arguments.next()),
                other if other.starts_with('-') => {}
                name => options.names.push(name.to_owned()),
            }
        }
        let reader = || options.names.first().cloned().unwrap_or_default();
        if let Some(to) = worker_to {
            let from = options.from;
            options.what = What::Worker {
                reader: reader(),
                from,
                to,
            };
        } else if let Some(at) = at {
            options.what = What::One {
                reader: reader(),
                at,
            };
        }
        let is_asked = READERS.iter().any(|reader| options.asks_for(reader.name));
        is_asked.then_some(options)
    }

    /// Whether the reader `name` is among those that are asked for.
    pub fn asks_for(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|part| name.contains(part.as_str()))
    }
}

fn number(option: &str, text: &str) -> u64 {
    let number = text.replace('_', "").parse();
    number.unwrap_or_else(|_| panic!("`{option}` takes a number, not `{text}`"))
}
