//! PID 1 beside the workload: waits for whatever happens, and does what the state machine of `quarantine.rs` says.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use coffer_manifest::SiteConfig;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;

use super::log::Log;
use super::running::{News, Running};
use super::{End, Outcome, WorkloadError, doing};
use crate::button::PowerButton;
use crate::console::{self, Stage};
use crate::network::Network;
use crate::quarantine::{Act, Event, Last, QUARANTINE, Refusal, Supervision};
use crate::renewal::REFUSED_PERIOD;
use crate::standing::{Standing, Verdict};

/// How often the loop looks around when nothing happens.
const IDLE: Duration = Duration::from_secs(60);

/// Everything PID 1 keeps an eye on while there is a workload, or may be one again.
pub struct Supervisor<'a> {
    site: &'a SiteConfig,
    log: Log,
    button: PowerButton,
    standing: Arc<Standing>,
    /// Becomes readable when the standing has changed.
    wake: io::PipeReader,
    supervision: Supervision,
    running: Option<Running>,
    /// Which lives there were: the first is a stage of the boot.
    started_before: bool,
    /// How the last life ended.
    end: End,
    /// The standing that was looked at last.
    seen: u64,
}

impl<'a> Supervisor<'a> {
    /// Starts the workload.
    ///
    /// # Errors
    /// See [`WorkloadError`].
    pub fn start(site: &'a SiteConfig, log: Log, button: PowerButton, standing: Arc<Standing>) -> Result<Self, WorkloadError> {
        let wake = wake_at_changes(standing.clone()).map_err(doing("watch this boot's standing"))?;
        let supervision = Supervision::new(site.attestation.failure_action);
        let mut supervisor =
            Self { site, log, button, standing, wake, supervision, running: None, started_before: false, end: End::Signal(9), seen: 0 };
        supervisor.run()?;
        Ok(supervisor)
    }

    /// Until the guest is to be powered off.
    ///
    /// # Errors
    /// See [`WorkloadError`]; only for what happens before a workload runs.
    pub fn watch(&mut self, network: &mut Network) -> Result<Outcome, WorkloadError> {
        loop {
            self.sleep(network.due())?;
            self.log.pump();
            network.keep();
            for event in self.events()? {
                if let Some(act) = self.supervision.on(event, Instant::now())
                    && let Some(outcome) = self.act(act)?
                {
                    return Ok(outcome);
                }
            }
        }
    }

    /// What has happened since the last turn, in the order in which it should be heard: a workload that ended by itself has ended,
    /// whatever else there is.
    fn events(&mut self) -> Result<Vec<Event>, WorkloadError> {
        let mut events = Vec::new();
        while let Some(running) = &mut self.running {
            match running.news()? {
                News::None => break,
                News::Started if self.started_before => console::line("workload started again"),
                News::Started => {
                    self.started_before = true;
                    console::finished(Stage::Workload);
                }
                News::Ended => {
                    self.bury();
                    events.push(Event::Ended);
                }
            }
        }
        events.extend(self.verdict());
        if self.button.was_pressed() {
            console::line("power button: stopping the workload");
            events.push(Event::Button);
        }
        events.push(Event::Tick);
        Ok(events)
    }

    /// The service's newest word, if there is one that was not heard yet.
    fn verdict(&mut self) -> Option<Event> {
        // More than a pipe has room for need not be read: one byte says it all.
        let _ = rustix::io::read(&self.wake, &mut [0; 64]);
        let state = self.standing.now();
        if state.serial == self.seen {
            return None;
        }
        self.seen = state.serial;
        match state.verdict {
            Verdict::Affirmed => Some(Event::Affirmed),
            Verdict::Refused { code, id } => Some(Event::Refused(Refusal { code, id })),
            Verdict::Unreached(_) => None,
        }
    }

    fn act(&mut self, act: Act) -> Result<Option<Outcome>, WorkloadError> {
        match act {
            Act::Stop => {
                if let Some(running) = &mut self.running {
                    running.stop();
                }
            }
            Act::Kill => {
                // First: the boot log is on the host's disk.
                self.bury();
                console::line("the workload did not stop in time, it is killed");
                if let Some(next) = self.supervision.on(Event::Ended, Instant::now()) {
                    return self.act(next);
                }
            }
            Act::Quarantine => {
                console::line(&format!("workload stopped by=refusal {}", self.end));
                self.say_when();
            }
            Act::StayInQuarantine => self.say_when(),
            Act::Start => self.run()?,
            Act::PowerOff(last) => {
                self.bury();
                return Ok(Some(self.outcome(last)));
            }
        }
        Ok(None)
    }

    fn outcome(&self, last: Last) -> Outcome {
        match last {
            Last::Ended => Outcome::Ended(self.end),
            Last::Refused(Refusal { code, id }) => Outcome::Refused { code, id },
        }
    }

    fn say_when(&self) {
        let left = self.supervision.due().map_or(QUARANTINE, |due| due.saturating_duration_since(Instant::now()));
        console::line(&format!("quarantine next={} left={}", REFUSED_PERIOD.as_secs(), left.as_secs()));
    }

    fn run(&mut self) -> Result<(), WorkloadError> {
        let (running, output) = Running::start(self.site)?;
        self.running = Some(running);
        self.log.attach(output).map_err(doing("set up the workload's log"))
    }

    /// Nothing of the workload outlives this.
    fn bury(&mut self) {
        if let Some(running) = self.running.take() {
            self.end = running.end();
            self.log.drain();
        }
    }

    /// Waits until there is something to do.
    fn sleep(&self, network_due: Option<Instant>) -> Result<(), WorkloadError> {
        let due = [network_due, self.supervision.due()].into_iter().flatten().min();
        let left = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()).min(IDLE));
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let workload = self.running.as_ref().map(Running::source);
        let sources = [workload, self.log.source(), Some(self.wake.as_fd())].into_iter().flatten();
        let mut fds: Vec<_> = sources.chain(self.button.devices()).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(doing("wait for events")(errno.into())),
        }
    }
}

/// A descriptor for poll(2) that becomes readable at every change, the state at the start included.
fn wake_at_changes(standing: Arc<Standing>) -> io::Result<io::PipeReader> {
    let (reader, writer) = io::pipe()?;
    fcntl_setfl(&reader, OFlags::NONBLOCK)?;
    fcntl_setfl(&writer, OFlags::NONBLOCK)?;
    thread::Builder::new().name("wake".into()).spawn(move || {
        let mut serial = 0;
        loop {
            // One that is full wakes as well; one without a reader ends this thread.
            if rustix::io::write(&writer, &[1]) == Err(Errno::PIPE) {
                return;
            }
            serial = loop {
                let now = standing.wait(serial, IDLE).serial;
                if now != serial {
                    break now;
                }
            };
        }
    })?;
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standing::Token;

    #[test]
    fn a_change_wakes_whoever_polls() {
        let standing = Standing::new(Token { text: "a.b.c".into(), issued_at: 1, expires_at: 2 }, false);
        let wake = wake_at_changes(standing.clone()).expect("a pipe");
        let woken = |seconds| {
            let mut fds = [PollFd::new(&wake, PollFlags::IN)];
            let count = poll(&mut fds, Some(&Timespec { tv_sec: seconds, tv_nsec: 0 })).expect("polls");
            let _ = rustix::io::read(&wake, &mut [0; 64]);
            count == 1
        };
        assert!(woken(20), "there is a state to look at");
        while woken(1) {}
        standing.refused("revoked", "r-1");
        assert!(woken(20));
        assert!(!woken(1), "and sleeps again");
    }
}
