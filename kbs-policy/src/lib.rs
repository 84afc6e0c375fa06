//! May these verified claims have this resource, or a token, now? Rego, evaluated in process; it can only narrow.
//!
//! `verify` has already said that the evidence is genuine and within the enrollment. What is asked here is asked twice: of the
//! built-in policy (`release.rego`, `token.rego`) and, if there is one, of a project's own. Both must say yes.
//!
//! Policies are functions of their input: the builtins that reach a network, a clock, the environment or a random source are not
//! compiled in, and naming one is an error when the policy is loaded.
#![forbid(unsafe_code)]

mod allowed;
mod confined;
mod exact;
mod input;
mod question;
mod stock;
mod upload;

use coffer_verify::RootOfTrust;

pub use confined::{MAX_FRAME_BYTES, Sandbox, confine, read_frame, work, write_frame};
pub use exact::{ExactError, ExactName, ExactValues, MAX_EXACT_VALUES, NotListed};
pub use input::{EvidenceFacts, Record, Resource, TokenRequest};
pub use question::{EVALUATION_LIMIT, MAX_POLICY_BYTES, PolicyError, QuestionName};
pub use stock::{StockInput, stock_input};
pub use upload::{Fixture, MAX_FIXTURES, UploadError, test_upload};

use allowed::Allowed;
use question::{Input, Question, Request};

/// What a policy decided.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Decision {
    /// Hand out the secret or the token.
    Release,
    /// Hand out nothing.
    Refuse(Reason),
}

/// Who refused. For the log; a peer learns the reason code `policy` and nothing else.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The built-in policy does not allow it.
    #[error("{question}.rego does not allow it")]
    BuiltIn {
        /// Which policy.
        question: QuestionName,
    },
    /// The project's policy does not allow it.
    #[error("the project's {question}.rego does not allow it")]
    Project {
        /// Which policy.
        question: QuestionName,
    },
    /// A policy failed, ran too long or gave something other than true or false. Refused, as any other doubt.
    #[error("{question}.rego gave no decision: {detail}")]
    NoDecision {
        /// Which policy.
        question: QuestionName,
        /// What the evaluator says, shortened to 300 characters.
        detail: String,
    },
}

/// A project's own policies: each a rego file of the same package as the built-in one, with a rule `allow` that is false by default.
#[derive(Clone, Copy, Default, Debug)]
pub struct ProjectRego<'a> {
    /// Text of its `release.rego` (package `coffer.release`).
    pub release: Option<&'a str>,
    /// Text of its `token.rego` (package `coffer.token`).
    pub token: Option<&'a str>,
    /// Text of its `stock.rego`: a stock service's resource policy (package `policy`).
    pub stock: Option<&'a str>,
}

/// Compiled policies of one service. Compiled once, evaluated for each request; no state passes from one to the next.
#[derive(Debug)]
pub struct Policy {
    root_of_trust: String,
    release: Vec<(Origin, Question)>,
    token: Vec<(Origin, Question)>,
    stock: Option<Question>,
    allowed: Allowed,
}

#[derive(Clone, Copy, Debug)]
enum Origin {
    BuiltIn,
    Project,
}

impl Policy {
    /// The built-in policies alone, for a service with this root of trust.
    ///
    /// # Errors
    /// [`PolicyError`] never in practice: a test compiles the same text.
    pub fn builtin(root_of_trust: &RootOfTrust) -> Result<Self, PolicyError> {
        Self::compile(root_of_trust, ProjectRego::default())
    }

    /// The built-in policies, narrowed by a project's own.
    ///
    /// # Errors
    /// See [`PolicyError`]: a policy that does not deny the empty input is refused here.
    pub fn compile(root_of_trust: &RootOfTrust, project: ProjectRego<'_>) -> Result<Self, PolicyError> {
        let load = |name, builtin, project: Option<&str>| {
            let mut questions = vec![(Origin::BuiltIn, Question::compile(name, builtin)?)];
            if let Some(text) = project {
                questions.push((Origin::Project, Question::project(name, text)?));
            }
            Ok(questions)
        };
        Ok(Self {
            root_of_trust: root_of_trust.to_string(),
            release: load(QuestionName::Release, include_str!("../release.rego"), project.release)?,
            token: load(QuestionName::Token, include_str!("../token.rego"), project.token)?,
            allowed: Allowed::default(),
            stock: project.stock.map(|text| Question::project(QuestionName::Stock, text)).transpose()?,
        })
    }

    /// May this verified evidence have this resource, under this record as it stands now?
    pub fn release(&self, evidence: &EvidenceFacts, record: &Record, resource: &Resource) -> Decision {
        self.decide(&self.release, QuestionName::Release, evidence, record, Request::Resource(resource))
    }

    /// May this verified evidence have this token, under this record as it stands now?
    pub fn token(&self, evidence: &EvidenceFacts, record: &Record, token: &TokenRequest) -> Decision {
        self.decide(&self.token, QuestionName::Token, evidence, record, Request::Token(token))
    }

    /// May this verified evidence have this stock resource? The enrollment's list has said so already; a project's own policy in the
    /// stock form, if there is one, is asked as the stock service would ask it.
    pub fn stock(&self, evidence: &EvidenceFacts, record: &Record, path: [&str; 3]) -> Decision {
        let question = QuestionName::Stock;
        let Some(compiled) = &self.stock else { return Decision::Release };
        let StockInput { input, data } = stock_input(evidence, record, path);
        match compiled.ask_with_data(&input.to_string(), &data.to_string()) {
            Ok(true) => Decision::Release,
            Ok(false) => Decision::Refuse(Reason::Project { question }),
            Err(detail) => Decision::Refuse(Reason::NoDecision { question, detail }),
        }
    }

    fn decide(
        &self,
        questions: &[(Origin, Question)],
        question: QuestionName,
        evidence: &EvidenceFacts,
        record: &Record,
        request: Request<'_>,
    ) -> Decision {
        let input = match serde_json::to_string(&Input::new(&self.root_of_trust, evidence, record, request)) {
            Ok(input) => input,
            Err(error) => return Decision::Refuse(Reason::NoDecision { question, detail: error.to_string() }),
        };
        let key = Allowed::key(question, &input);
        if self.allowed.has(&key) {
            return Decision::Release;
        }
        for (origin, compiled) in questions {
            match (compiled.ask_json(&input), origin) {
                (Ok(true), _) => {}
                (Ok(false), Origin::BuiltIn) => return Decision::Refuse(Reason::BuiltIn { question }),
                (Ok(false), Origin::Project) => return Decision::Refuse(Reason::Project { question }),
                (Err(detail), _) => return Decision::Refuse(Reason::NoDecision { question, detail }),
            }
        }
        self.allowed.keep(key);
        Decision::Release
    }
}

#[cfg(test)]
mod tests;
