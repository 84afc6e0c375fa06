//! Where projects' rego is evaluated: processes of this program that hold nothing, with a bound on memory and an end to time.
//!
//! They are started when the first project has a policy of its own, and again when one was stopped. A policy that stopped one is
//! not asked again for a while: it decides nothing meanwhile, and keeps no other project waiting.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use coffer_kbs_policy::{EVALUATION_LIMIT, MAX_FRAME_BYTES, Sandbox, confine, work, write_frame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};

/// The first argument of a worker. Not a command: nobody types it.
const WORKER: &str = "rego-worker";
/// All the memory a worker may map, its program included. The built-in policies need a few megabytes.
const MEMORY_BYTES: u64 = 512 << 20;
/// When a job is given up. The evaluator stops itself at [`EVALUATION_LIMIT`] where it can.
const DEADLINE: Duration = EVALUATION_LIMIT.saturating_mul(2);
/// How long a policy that stopped a worker is not asked again.
const PENANCE: Duration = Duration::from_secs(30);
/// Policies in penance that are remembered.
const MOST_STRUCK: usize = 1024;
/// Workers at most; each takes some 4 MiB once it has been used.
const MOST_WORKERS: usize = 8;

/// What stopped a worker.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("no answer within {} ms", DEADLINE.as_millis())]
    Deadline,
    #[error("the evaluator ended, as it does past {} MiB of memory", MEMORY_BYTES >> 20)]
    Ended,
    #[error("the evaluator cannot be used: {0}")]
    Io(#[from] io::Error),
}

/// Sends projects' policies to workers for the rest of this process, be it the service or an admin's command.
pub fn start() {
    let count = std::thread::available_parallelism().map_or(2, usize::from).min(MOST_WORKERS);
    // False only if somebody did so before; `main` is the one caller.
    let _ = confine(Box::new(Workers::new(count, this_program)));
}

/// Whether this process is a worker.
#[must_use]
pub fn is_worker() -> bool {
    std::env::args_os().nth(1).is_some_and(|arg| arg == WORKER)
}

/// A worker's whole life.
#[must_use]
pub fn be_worker() -> ExitCode {
    let bound = |resource, most| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    let bounded = bound(Resource::As, MEMORY_BYTES)
        .and_then(|()| bound(Resource::Core, 0))
        .and_then(|()| bound(Resource::Fsize, 0))
        .and_then(|()| set_parent_process_death_signal(Some(Signal::KILL)));
    let done = bounded.map_err(io::Error::from).and_then(|()| work(io::stdin().lock(), io::stdout().lock()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coffer-attest: {WORKER}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The very program that runs, even if its file was replaced meanwhile.
fn this_program() -> io::Result<Worker> {
    Worker::start(Command::new("/proc/self/exe").arg(WORKER))
}

/// The workers there may be.
struct Workers {
    slots: Vec<Mutex<Option<Worker>>>,
    next: AtomicUsize,
    spawn: fn() -> io::Result<Worker>,
    struck: Mutex<HashMap<u64, (Instant, String)>>,
    hasher: RandomState,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workers({})", self.slots.len())
    }
}

impl Workers {
    fn new(count: usize, spawn: fn() -> io::Result<Worker>) -> Self {
        let slots = (0..count.max(1)).map(|_| Mutex::new(None)).collect();
        Self { slots, next: AtomicUsize::new(0), spawn, struck: Mutex::default(), hasher: RandomState::new() }
    }

    /// A free slot, or the next one's turn.
    fn slot(&self) -> MutexGuard<'_, Option<Worker>> {
        for slot in &self.slots {
            match slot.try_lock() {
                Ok(free) => return free,
                Err(TryLockError::Poisoned(broken)) => return broken.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        // A panic in the middle leaves a worker that is killed with its slot's next failure.
        self.slots[turn].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn penance(&self, policy: u64) -> Option<String> {
        let struck = self.struck.lock().unwrap_or_else(PoisonError::into_inner);
        struck.get(&policy).filter(|(since, _)| since.elapsed() < PENANCE).map(|(_, why)| why.clone())
    }

    fn strike(&self, policy: u64, why: String) {
        let mut struck = self.struck.lock().unwrap_or_else(PoisonError::into_inner);
        struck.retain(|_, (since, _)| since.elapsed() < PENANCE);
        if struck.len() < MOST_STRUCK {
            struck.insert(policy, (Instant::now(), why));
        }
    }
}

impl Sandbox for Workers {
    fn run(&self, text: &str, job: &[u8]) -> Result<Vec<u8>, String> {
        let policy = self.hasher.hash_one(text);
        if let Some(why) = self.penance(policy) {
            return Err(format!("not asked for {} s: {why}", PENANCE.as_secs()));
        }
        let mut slot = self.slot();
        let mut worker = match slot.take() {
            Some(worker) => worker,
            None => (self.spawn)().map_err(|e| Stopped::Io(e).to_string())?,
        };
        match worker.answer(job) {
            Ok(answer) => {
                *slot = Some(worker);
                Ok(answer)
            }
            Err(stopped) => {
                tracing::warn!("a project's policy stopped its evaluator: {stopped}");
                self.strike(policy, stopped.to_string());
                Err(stopped.to_string())
            }
        }
    }
}

/// A process that evaluates; killed when dropped.
struct Worker {
    child: Child,
    jobs: ChildStdin,
    answers: ChildStdout,
}

impl Worker {
    fn start(command: &mut Command) -> io::Result<Self> {
        let mut child = command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let (jobs, answers) = (child.stdin.take(), child.stdout.take());
        let (Some(jobs), Some(answers)) = (jobs, answers) else {
            return Err(io::Error::other("a child without pipes"));
        };
        Ok(Self { child, jobs, answers })
    }

    fn answer(&mut self, job: &[u8]) -> Result<Vec<u8>, Stopped> {
        let until = Instant::now() + DEADLINE;
        // The worker waits for nothing else, so it takes even a job that is longer than the pipe.
        write_frame(&mut self.jobs, job).map_err(|e| if e.kind() == io::ErrorKind::BrokenPipe { Stopped::Ended } else { e.into() })?;
        let mut length = [0; 4];
        self.read(&mut length, until)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(io::Error::other(format!("an answer of {length} bytes")).into());
        }
        let mut answer = vec![0; length];
        self.read(&mut answer, until)?;
        Ok(answer)
    }

    /// `read_exact` with an end.
    fn read(&mut self, into: &mut [u8], until: Instant) -> Result<(), Stopped> {
        let mut filled = 0;
        while filled < into.len() {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs().try_into().unwrap_or(0), tv_nsec: left.subsec_nanos().into() };
            if poll(&mut [PollFd::new(&self.answers, PollFlags::IN)], Some(&timeout)).map_err(io::Error::from)? == 0 {
                return Err(Stopped::Deadline);
            }
            match self.answers.read(&mut into[filled..])? {
                0 => return Err(Stopped::Ended),
                read => filled += read,
            }
        }
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Gone already, perhaps; reaped in any case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> io::Result<Worker> {
        Worker::start(&mut Command::new("/bin/cat"))
    }

    fn silent() -> io::Result<Worker> {
        Worker::start(Command::new("/bin/sleep").arg("60"))
    }

    fn dead() -> io::Result<Worker> {
        Worker::start(&mut Command::new("/bin/true"))
    }

    #[test]
    fn a_worker_is_used_again_and_answers_what_it_was_asked() {
        let workers = Workers::new(2, echo);
        let long = vec![7; 300_000];
        // `cat` answers while it still reads; a real worker reads all first. 60 KiB fit a pipe.
        for job in [b"one".as_slice(), b"two", &long[..60_000]] {
            assert_eq!(workers.run("policy", job).unwrap(), job);
        }
        let used = workers.slots.iter().filter(|slot| slot.lock().unwrap().is_some()).count();
        assert_eq!(used, 1);
    }

    #[test]
    fn what_does_not_answer_is_killed_and_its_policy_not_asked_for_a_while() {
        let workers = Workers::new(1, silent);
        let begun = Instant::now();
        assert!(workers.run("bad", b"job").unwrap_err().starts_with("no answer within 2000 ms"));
        assert!(begun.elapsed() < DEADLINE + Duration::from_secs(2));
        let begun = Instant::now();
        assert!(workers.run("bad", b"job").unwrap_err().starts_with("not asked for 30 s: no answer within"));
        assert!(begun.elapsed() < Duration::from_millis(100));
        assert!(workers.slots[0].lock().unwrap().is_none());
    }

    #[test]
    fn one_that_ends_is_replaced() {
        let workers = Workers::new(1, dead);
        for policy in ["a", "b"] {
            let stopped = workers.run(policy, b"job").unwrap_err();
            assert!(stopped.starts_with("the evaluator ended"), "{stopped}");
        }
    }

    #[test]
    fn penance_takes_a_bounded_amount_of_memory() {
        let workers = Workers::new(1, dead);
        for n in 0..3000 {
            workers.strike(n, String::new());
        }
        assert!(workers.struck.lock().unwrap().len() <= MOST_STRUCK);
    }
}
