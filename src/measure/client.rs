//! The parent's side of a worker process: starts it, sends requests, waits for answers.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

use super::memory::StageMemory;
use super::protocol::{
    OpenRequest, Opened, ParityCheck, ParityRequest, Request, Response, SwapRequest,
};
use super::serving::{Served, ServingRequest};
use super::swap::SwapTimes;
use super::timings::GenerationTimings;
use crate::machine::ended_by::{MemoryKills, ended_by};

/// Why a worker failed.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum WorkerError {
    #[error("cannot start a worker process (`{}`)", program.display())]
    Start {
        program: PathBuf,
        source: std::io::Error,
    },
    #[error("the worker process of `{variant}` {how}")]
    Died { variant: String, how: String },
    #[error("`{variant}`: {message}")]
    Failed { variant: String, message: String },
    #[error("the worker process of `{variant}` gave an answer that does not fit the request")]
    Protocol { variant: String },
    #[error("interrupted")]
    Interrupted,
}

/// A worker process. [`WorkerClient`] is the real one; tests script their own.
pub trait WorkerProcess {
    /// Opens a session.
    ///
    /// # Errors
    /// If the process fails or dies.
    fn open(&mut self, request: OpenRequest) -> Result<Opened, WorkerError>;

    /// Generates `new_tokens` tokens after the prompt. Returns them with their timings.
    ///
    /// # Errors
    /// If the process fails or dies.
    fn generate(
        &mut self,
        prompt_ids: &[u32],
        new_tokens: usize,
    ) -> Result<(Vec<u32>, GenerationTimings), WorkerError>;

    /// Ends the present memory stage and names it.
    ///
    /// # Errors
    /// If the process fails or dies.
    fn stage(&mut self, name: &str) -> Result<StageMemory, WorkerError>;

    /// Compares variants with each other.
    ///
    /// # Errors
    /// If the process fails or dies.
    fn parity(&mut self, request: ParityRequest) -> Result<ParityCheck, WorkerError>;

    /// Binds adapters in turn and times it.
    ///
    /// # Errors
    /// If the process fails or dies.
    fn swap(&mut self, request: SwapRequest) -> Result<SwapTimes, WorkerError>;

    /// Measures something of serving.
    ///
    /// # Errors
    /// If the process fails or dies.
    fn serve(&mut self, request: ServingRequest) -> Result<Served, WorkerError>;
}

/// Stops a measurement from another thread: kills all its workers. Every later request fails.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    raised: Arc<AtomicBool>,
    workers: Arc<Mutex<Vec<u32>>>,
}

impl Interrupt {
    /// Stops the measurement. Returns whether it had been stopped already.
    pub fn raise(&self) -> bool {
        let before = self.raised.swap(true, Ordering::SeqCst);
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.iter().for_each(|&id| kill(id));
        before
    }

    /// Whether the measurement was stopped.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }

    /// The numbers of the worker processes that run now.
    pub fn workers(&self) -> Vec<u32> {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.clone()
    }

    fn add(&self, id: u32) {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.push(id);
        // The measurement was stopped while the worker was being started.
        if self.is_raised() {
            kill(id);
        }
    }

    /// Waits for a child. It's removed from the list first: its process id may be reused
    /// afterwards, and must not be killed.
    fn wait(&self, child: &mut Child) -> std::io::Result<ExitStatus> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.retain(|&id| id != child.id());
        child.wait()
    }
}

/// Kills a child that wasn't waited for, so that its id isn't another process'.
#[expect(
    unsafe_code,
    reason = "the standard library kills only through the `Child` itself"
)]
fn kill(id: u32) {
    // SAFETY: see above.
    unsafe {
        libc::kill(id as i32, libc::SIGKILL);
    }
}

/// A running worker process.
#[derive(Debug)]
pub struct WorkerClient {
    variant: String,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    interrupt: Interrupt,
    /// The counts when it was started.
    memory_kills: MemoryKills,
}

impl WorkerClient {
    /// Starts `program worker`. `variant` is the name in error messages.
    ///
    /// # Errors
    /// If it can't be started.
    #[expect(unsafe_code, reason = "a hook between fork and exec has no safe form")]
    pub fn start(
        program: PathBuf,
        variant: &str,
        interrupt: &Interrupt,
    ) -> Result<Self, WorkerError> {
        let mut command = Command::new(&program);
        command
            .arg("worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // In its own process group, Ctrl-C in a terminal doesn't reach the worker; the parent
            // ends it.
            .process_group(0);
        // SAFETY: between fork and exec only `prctl` is called, which is async-signal-safe.
        #[cfg(target_os = "linux")]
        unsafe {
            command.pre_exec(|| {
                // The kernel kills the worker when the parent dies.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let memory_kills = MemoryKills::now();
        let mut child = command
            .spawn()
            .map_err(|source| WorkerError::Start { program, source })?;
        interrupt.add(child.id());
        let input = child.stdin.take();
        let output = child.stdout.take().expect("stdout was asked for");
        Ok(Self {
            variant: variant.to_owned(),
            child,
            input,
            output: BufReader::new(output),
            interrupt: interrupt.clone(),
            memory_kills,
        })
    }

    fn protocol(&self) -> WorkerError {
        WorkerError::Protocol {
            variant: self.variant.clone(),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Response, WorkerError> {
        let answer = self.exchange(request);
        if self.interrupt.is_raised() {
            return Err(WorkerError::Interrupted);
        }
        match answer {
            Some(Response::Failed(message)) => Err(WorkerError::Failed {
                variant: self.variant.clone(),
                message,
            }),
            Some(response) => Ok(response),
            None => Err(self.died()),
        }
    }

    fn exchange(&mut self, request: &Request) -> Option<Response> {
        let mut line = serde_json::to_vec(request).ok()?;
        line.push(b'\n');
        self.input.as_mut()?.write_all(&line).ok()?;
        let mut answer = String::new();
        self.output.read_line(&mut answer).ok()?;
        serde_json::from_str(&answer).ok()
    }

    fn died(&mut self) -> WorkerError {
        self.input = None;
        let how = match self.interrupt.wait(&mut self.child) {
            Ok(status) => match status.signal() {
                // A job scheduler ends all processes of a task at once, so it may be known here
                // before this process' own signal arrives.
                Some(libc::SIGTERM | libc::SIGINT | libc::SIGHUP) => {
                    self.interrupt.raise();
                    return WorkerError::Interrupted;
                }
                Some(signal) => ended_by(signal, &self.memory_kills),
                None => format!("ended early ({status})"),
            },
            Err(error) => format!("is gone ({error})"),
        };
        WorkerError::Died {
            variant: self.variant.clone(),
            how,
        }
    }
}

impl WorkerProcess for WorkerClient {
    fn open(&mut self, request: OpenRequest) -> Result<Opened, WorkerError> {
        match self.ask(&Request::Open(Box::new(request)))? {
            Response::Opened(opened) => Ok(opened),
            _ => Err(self.protocol()),
        }
    }

    fn generate(
        &mut self,
        prompt_ids: &[u32],
        new_tokens: usize,
    ) -> Result<(Vec<u32>, GenerationTimings), WorkerError> {
        let request = Request::Generate {
            prompt_ids: prompt_ids.to_vec(),
            new_tokens,
        };
        match self.ask(&request)? {
            Response::Generated { token_ids, timings } => Ok((token_ids, timings)),
            _ => Err(self.protocol()),
        }
    }

    fn stage(&mut self, name: &str) -> Result<StageMemory, WorkerError> {
        match self.ask(&Request::Stage(name.to_owned()))? {
            Response::Stage(stage) => Ok(stage),
            _ => Err(self.protocol()),
        }
    }

    fn parity(&mut self, request: ParityRequest) -> Result<ParityCheck, WorkerError> {
        match self.ask(&Request::Parity(Box::new(request)))? {
            Response::Compared(comparison) => Ok(comparison),
            _ => Err(self.protocol()),
        }
    }

    fn swap(&mut self, request: SwapRequest) -> Result<SwapTimes, WorkerError> {
        match self.ask(&Request::Swap(Box::new(request)))? {
            Response::Swapped(times) => Ok(times),
            _ => Err(self.protocol()),
        }
    }

    fn serve(&mut self, request: ServingRequest) -> Result<Served, WorkerError> {
        match self.ask(&Request::Serve(Box::new(request)))? {
            Response::Served(found) => Ok(*found),
            _ => Err(self.protocol()),
        }
    }
}

impl Drop for WorkerClient {
    fn drop(&mut self) {
        // A worker ends when its input closes. It's also killed, since `wait` would block on one
        // that hangs.
        self.input = None;
        let _ = self.child.kill();
        let _ = self.interrupt.wait(&mut self.child);
    }
}
