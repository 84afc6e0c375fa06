//! One rego file: loaded once, asked often.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};
use serde::{Deserialize, Serialize};

use crate::confined::Confined;
use crate::input::{EvidenceFacts, Record, Resource, TokenRequest};

/// The longest policy text read. The built-in ones are under 2 KiB.
pub const MAX_POLICY_BYTES: usize = 64 * 1024;

/// How long one evaluation may take, by the wall clock. The built-in policies need some 100 µs; the rest is room for a machine so
/// busy that it stops the thread meanwhile.
pub const EVALUATION_LIMIT: Duration = Duration::from_secs(1);

/// Work units between two looks at the clock. A look costs as much as a few units.
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(32).expect("not zero");

/// Builtins a policy may not name: the world outside its input, or memory without work. Most are not compiled in; naming one is
/// refused at load so that it does not become a surprise at the first request.
const FORBIDDEN: [&str; 10] =
    ["http.", "net.", "opa.", "rand.", "time.", "uuid.", "io.", "trace(", "numbers.range(", "numbers.range_step("];

/// Which question a rego file answers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuestionName {
    /// May this verified evidence have this resource?
    Release,
    /// May this verified evidence have a token?
    Token,
    /// May this verified evidence have a resource that a stock tool stored? Asked in the form of the stock service's resource policy.
    Stock,
}

impl QuestionName {
    pub(crate) const fn package(self) -> &'static str {
        match self {
            Self::Release => "data.coffer.release",
            Self::Token => "data.coffer.token",
            Self::Stock => "data.policy",
        }
    }
}

impl fmt::Display for QuestionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Release => "release",
            Self::Token => "token",
            Self::Stock => "stock",
        })
    }
}

/// A policy cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Too long.
    #[error("{question}.rego is {got} bytes long, at most {MAX_POLICY_BYTES} are read")]
    TooLong {
        /// Which policy.
        question: QuestionName,
        /// Its size in bytes.
        got: usize,
    },
    /// It names a builtin that policies may not use.
    #[error("{question}.rego names `{builtin}`\nhint: a policy decides from its input alone; put what it needs into the enrollment")]
    Forbidden {
        /// Which policy.
        question: QuestionName,
        /// What it names.
        builtin: &'static str,
    },
    /// It took more memory or time than a policy gets, before it was asked anything that matters.
    #[error("{question}.rego does not stay within its bounds: {detail}")]
    Bounds {
        /// Which policy.
        question: QuestionName,
        /// Which bound.
        detail: String,
    },
    /// It does not parse.
    #[error("{question}.rego does not compile: {detail}")]
    Compile {
        /// Which policy.
        question: QuestionName,
        /// What the compiler says, shortened to 300 characters.
        detail: String,
    },
    /// Another package than the question's.
    #[error("{question}.rego is of package `{got}`, expected `{expected}`")]
    Package {
        /// Which policy.
        question: QuestionName,
        /// The package given.
        got: String,
        /// The one expected.
        expected: &'static str,
    },
    /// Asked about the empty input it does not say false.
    #[error(
        "{question}.rego does not deny the empty input: {detail}\nhint: begin with `default allow := false`, and compare with `== false` instead of `not`"
    )]
    NotClosed {
        /// Which policy.
        question: QuestionName,
        /// What it said.
        detail: String,
    },
}

/// The document a policy sees as `input`.
#[derive(Serialize)]
pub(crate) struct Input<'a> {
    service: Service<'a>,
    evidence: &'a EvidenceFacts,
    enrollment: &'a Record,
    #[serde(flatten)]
    request: Request<'a>,
}

#[derive(Serialize)]
struct Service<'a> {
    root_of_trust: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request<'a> {
    Resource(&'a Resource),
    Token(&'a TokenRequest),
}

impl<'a> Input<'a> {
    pub(crate) const fn new(root_of_trust: &'a str, evidence: &'a EvidenceFacts, enrollment: &'a Record, request: Request<'a>) -> Self {
        Self { service: Service { root_of_trust }, evidence, enrollment, request }
    }
}

/// A compiled policy.
pub(crate) struct Question {
    place: Place,
    rule: String,
}

/// Where a policy is evaluated.
enum Place {
    /// Ours, or anybody's where there is no sandbox. Prepared by the evaluation of the empty input. Cloned for each request, so
    /// that no state passes on; a clone shares the compiled rules and costs some microseconds.
    Here(Box<Engine>),
    /// A project's, in the sandbox.
    There(Confined),
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Question({})", self.rule)
    }
}

impl Question {
    /// Compiles a project's policy, in the sandbox if this process has one.
    pub(crate) fn project(question: QuestionName, text: &str) -> Result<Self, PolicyError> {
        Self::of_project(question, text, false)
    }

    /// The same for a trial, in which it answers for nothing that decides.
    pub(crate) fn trial(question: QuestionName, text: &str) -> Result<Self, PolicyError> {
        Self::of_project(question, text, true)
    }

    fn of_project(question: QuestionName, text: &str, is_trial: bool) -> Result<Self, PolicyError> {
        check_text(question, text)?;
        match Confined::load(question, text, is_trial) {
            Some(loaded) => Ok(Self { place: Place::There(loaded?), rule: rule(question) }),
            None => Self::compile(question, text),
        }
    }

    /// Compiles a policy here.
    pub(crate) fn compile(question: QuestionName, text: &str) -> Result<Self, PolicyError> {
        check_text(question, text)?;
        let mut engine = Engine::new();
        engine.set_execution_timer_config(ExecutionTimerConfig { limit: EVALUATION_LIMIT, check_interval: CHECK_INTERVAL });
        engine.set_strict_builtin_errors(true);
        let package = engine
            .add_policy(format!("{question}.rego"), text.to_owned())
            .map_err(|error| PolicyError::Compile { question, detail: short(&error) })?;
        if package != question.package() {
            return Err(PolicyError::Package { question, got: package, expected: question.package() });
        }
        let rule = rule(question);
        match evaluate(engine, &rule, Value::new_object()) {
            Ok((false, engine)) => Ok(Self { place: Place::Here(Box::new(engine)), rule }),
            Ok((true, _)) => Err(PolicyError::NotClosed { question, detail: "it allows it".into() }),
            Err(detail) => Err(PolicyError::NotClosed { question, detail }),
        }
    }

    /// Whether the policy allows this input, a JSON text; an error is what the evaluator says, shortened.
    pub(crate) fn ask_json(&self, input: &str) -> Result<bool, String> {
        let engine = match &self.place {
            Place::Here(engine) => (**engine).clone(),
            Place::There(confined) => return confined.ask(input, None),
        };
        let input = Value::from_json_str(input).map_err(|error| short(&error))?;
        evaluate(engine, &self.rule, input).map(|(allow, _)| allow)
    }

    /// The same with documents of `data`, as the stock service passes them. `data` is of this one request: rules are scheduled
    /// anew for it, which costs more than [`Self::ask_json`].
    pub(crate) fn ask_with_data(&self, input: &str, data: &str) -> Result<bool, String> {
        let mut engine = match &self.place {
            Place::Here(engine) => (**engine).clone(),
            Place::There(confined) => return confined.ask(input, Some(data)),
        };
        let input = Value::from_json_str(input).map_err(|error| short(&error))?;
        engine.add_data_json(data).map_err(|error| short(&error))?;
        evaluate(engine, &self.rule, input).map(|(allow, _)| allow)
    }
}

fn rule(question: QuestionName) -> String {
    format!("{}.allow", question.package())
}

/// What the text alone shows.
fn check_text(question: QuestionName, text: &str) -> Result<(), PolicyError> {
    if text.len() > MAX_POLICY_BYTES {
        return Err(PolicyError::TooLong { question, got: text.len() });
    }
    match FORBIDDEN.into_iter().find(|name| names(text, name)) {
        Some(builtin) => Err(PolicyError::Forbidden { question, builtin }),
        None => Ok(()),
    }
}

fn evaluate(mut engine: Engine, rule: &str, input: Value) -> Result<(bool, Engine), String> {
    engine.set_input(input);
    match engine.eval_rule(rule.to_owned()) {
        Ok(Value::Bool(allow)) => Ok((allow, engine)),
        // Only its kind: what it is may be too large to write down.
        Ok(_) => Err("`allow` is neither true nor false".to_owned()),
        Err(error) => Err(short(&error)),
    }
}

/// Whether `text` names `builtin` as a word of its own: `http.send`, but not `input.http.x` or `myhttp.x`.
fn names(text: &str, builtin: &str) -> bool {
    text.match_indices(builtin).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        before.is_none_or(|c| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'))
    })
}

fn short(what: &impl fmt::Display) -> String {
    what.to_string().chars().take(300).collect()
}
