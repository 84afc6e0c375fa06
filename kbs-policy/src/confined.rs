//! Projects' policies, evaluated where they can do no harm: in another process, whose memory and time have an end.
//!
//! Rego has no loops, and still forty lines like `x1 := concat("", [x0, x0])` ask for terabytes, forty like `x1 := [x0, x0]` take
//! an hour to compare, and one `sprintf` makes a gigabyte. The evaluator looks at the clock between steps, not within one, and
//! counts no memory. A list of harmless builtins would not help: list and object literals are enough.
//!
//! This side knows what is asked ([`work`] answers it); the other process, its bounds and its end are the caller's ([`Sandbox`]).

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::question::{PolicyError, Question, QuestionName};

/// The longest job or answer: a policy of 64 KiB and its input, as JSON.
pub const MAX_FRAME_BYTES: usize = 1024 * 1024;

/// Policies that one worker keeps compiled. Past that it begins anew: compiling takes a millisecond.
const KEPT_POLICIES: usize = 64;

/// Another process that runs [`work`].
pub trait Sandbox: Send + Sync + fmt::Debug {
    /// Hands one job over and gives the answer. `name` tells policies apart, and a policy in force from a trial of the same text.
    ///
    /// # Errors
    /// What kept it from answering, such as a bound, for the log.
    fn run(&self, name: &str, job: &[u8]) -> Result<Vec<u8>, String>;
}

static SANDBOX: OnceLock<Box<dyn Sandbox>> = OnceLock::new();

/// From here on, and for the rest of this process, projects' policies are compiled and evaluated by `sandbox` only. Without this,
/// as for an admin who tries a policy of their own, they are evaluated here. False if there is a sandbox already.
pub fn confine(sandbox: Box<dyn Sandbox>) -> bool {
    SANDBOX.set(sandbox).is_ok()
}

/// What a worker is asked.
#[derive(Serialize, Deserialize)]
struct Job<'a> {
    question: QuestionName,
    text: Cow<'a, str>,
    /// JSON texts; none to compile only.
    asked: Option<Asked<'a>>,
}

#[derive(Serialize, Deserialize)]
struct Asked<'a> {
    input: Cow<'a, str>,
    data: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Loaded,
    Allow(bool),
    NoDecision(String),
    Compile(String),
    Package(String),
    NotClosed(String),
}

/// A project's policy that lives in the sandbox.
pub(crate) struct Confined {
    sandbox: &'static dyn Sandbox,
    question: QuestionName,
    text: String,
    /// What the sandbox holds it to account under. Whoever tries a text with questions of their own says nothing about the same
    /// text in force elsewhere.
    name: String,
}

impl Confined {
    /// Has a policy compiled and asked about the empty input; none if this process has no sandbox.
    pub(crate) fn load(question: QuestionName, text: &str, is_trial: bool) -> Option<Result<Self, PolicyError>> {
        let sandbox = SANDBOX.get()?.as_ref();
        let name = if is_trial { format!("trial\n{text}") } else { text.to_owned() };
        let confined = Self { sandbox, question, text: text.to_owned(), name };
        Some(match confined.run(None) {
            Ok(Answer::Loaded) => Ok(confined),
            Ok(Answer::Package(got)) => Err(PolicyError::Package { question, got, expected: question.package() }),
            Ok(Answer::NotClosed(detail)) => Err(PolicyError::NotClosed { question, detail }),
            Ok(Answer::Compile(detail) | Answer::NoDecision(detail)) => Err(PolicyError::Compile { question, detail }),
            Ok(Answer::Allow(_)) => Err(PolicyError::NotClosed { question, detail: "it allows it".into() }),
            Err(detail) => Err(PolicyError::Bounds { question, detail }),
        })
    }

    pub(crate) fn ask(&self, input: &str, data: Option<&str>) -> Result<bool, String> {
        match self.run(Some(Asked { input: input.into(), data: data.map(Cow::from) }))? {
            Answer::Allow(allow) => Ok(allow),
            Answer::NoDecision(detail) | Answer::Compile(detail) | Answer::Package(detail) | Answer::NotClosed(detail) => Err(detail),
            Answer::Loaded => Err("the policy was not asked".to_owned()),
        }
    }

    fn run(&self, asked: Option<Asked<'_>>) -> Result<Answer, String> {
        let job = Job { question: self.question, text: Cow::from(&self.text), asked };
        let job = serde_json::to_vec(&job).map_err(|e| e.to_string())?;
        let answer = self.sandbox.run(&self.name, &job)?;
        // The worker ran a stranger's policy: what it says is read like a stranger's words.
        serde_json::from_slice(&answer).map_err(|e| format!("the evaluator's answer does not parse: {e}"))
    }
}

/// The worker's loop: one answer for each job, until there are no more.
///
/// # Errors
/// If a job cannot be read or an answer not be written.
pub fn work(mut jobs: impl Read, mut answers: impl Write) -> io::Result<()> {
    let mut compiled: HashMap<(QuestionName, String), Question> = HashMap::new();
    while let Some(job) = read_frame(&mut jobs)? {
        let job: Job<'_> = serde_json::from_slice(&job)?;
        if compiled.len() >= KEPT_POLICIES {
            compiled.clear();
        }
        let answer = answer(&mut compiled, job);
        write_frame(&mut answers, &serde_json::to_vec(&answer)?)?;
    }
    Ok(())
}

fn answer(compiled: &mut HashMap<(QuestionName, String), Question>, job: Job<'_>) -> Answer {
    let key = (job.question, job.text.into_owned());
    if !compiled.contains_key(&key) {
        match Question::compile(key.0, &key.1) {
            Ok(question) => compiled.insert(key.clone(), question),
            Err(PolicyError::Package { got, .. }) => return Answer::Package(got),
            Err(PolicyError::NotClosed { detail, .. }) => return Answer::NotClosed(detail),
            Err(PolicyError::Compile { detail, .. }) => return Answer::Compile(detail),
            Err(other) => return Answer::Compile(other.to_string()),
        };
    }
    let (Some(question), Some(asked)) = (compiled.get(&key), job.asked) else { return Answer::Loaded };
    let decided = match &asked.data {
        None => question.ask_json(&asked.input),
        Some(data) => question.ask_with_data(&asked.input, data),
    };
    decided.map_or_else(Answer::NoDecision, Answer::Allow)
}

/// One frame: its length as four little-endian bytes, then as many bytes. None at the end.
///
/// # Errors
/// A frame that is cut off or longer than [`MAX_FRAME_BYTES`].
pub fn read_frame(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("frame of {length} bytes, at most {MAX_FRAME_BYTES} are read")));
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame)?;
    Ok(Some(frame))
}

/// Writes one frame.
///
/// # Errors
/// One longer than [`MAX_FRAME_BYTES`], or whatever writing gives.
pub fn write_frame(to: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).ok().filter(|_| frame.len() <= MAX_FRAME_BYTES);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("frame of {} bytes", frame.len())))?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(frame)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLOSED: &str = "package coffer.token\ndefault allow := false\nallow if input.ok == true\n";

    fn say(jobs: &[Job<'_>]) -> Vec<Answer> {
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        for job in jobs {
            write_frame(&mut asked, &serde_json::to_vec(job).unwrap()).unwrap();
        }
        work(asked.as_slice(), &mut answered).unwrap();
        let mut answers = answered.as_slice();
        std::iter::from_fn(|| read_frame(&mut answers).unwrap()).map(|frame| serde_json::from_slice(&frame).unwrap()).collect()
    }

    fn job<'a>(text: &'a str, input: Option<&'a str>) -> Job<'a> {
        Job { question: QuestionName::Token, text: text.into(), asked: input.map(|input| Asked { input: input.into(), data: None }) }
    }

    #[test]
    fn a_worker_answers_as_a_policy_here_would() {
        let answers = say(&[
            job(CLOSED, None),
            job(CLOSED, Some(r#"{"ok":true}"#)),
            job(CLOSED, Some("{}")),
            job(CLOSED, Some("no JSON")),
            job("package coffer.token\ndefault allow := true\n", None),
            job("package other\ndefault allow := false\n", None),
            job("package", None),
        ]);
        assert!(
            matches!(
                answers.as_slice(),
                [
                    Answer::Loaded,
                    Answer::Allow(true),
                    Answer::Allow(false),
                    Answer::NoDecision(_),
                    Answer::NotClosed(_),
                    Answer::Package(_),
                    Answer::Compile(_)
                ]
            ),
            "{}",
            serde_json::to_string(&answers).unwrap()
        );
    }

    #[test]
    fn it_keeps_a_bounded_number_of_policies() {
        let mut compiled = HashMap::new();
        for n in 0..KEPT_POLICIES * 3 {
            let text = format!("{CLOSED}x := {n}\n");
            if compiled.len() >= KEPT_POLICIES {
                compiled.clear();
            }
            assert!(matches!(answer(&mut compiled, job(&text, Some(r#"{"ok":true}"#))), Answer::Allow(true)));
            assert!(compiled.len() <= KEPT_POLICIES);
        }
    }

    proptest! {
        #[test]
        fn frames_never_panic(bytes: Vec<u8>) {
            let mut rest = bytes.as_slice();
            while let Ok(Some(_)) = read_frame(&mut rest) {}
            let _ = work(bytes.as_slice(), io::sink());
        }
    }
}
