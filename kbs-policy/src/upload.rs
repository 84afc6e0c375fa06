//! A project's own rego is tried before it counts: it must compile, decide, deny what is empty, and answer its fixtures as stated.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::ProjectRego;
use crate::question::{PolicyError, Question, QuestionName};

/// Fixtures of one document at most; each is one evaluation.
pub const MAX_FIXTURES: usize = 64;

/// A question with the answer its author expects.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixture {
    /// Which rego is asked.
    pub question: QuestionName,
    /// The document `input`.
    pub input: Value,
    /// The documents of `data`; only the stock form has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// The answer.
    pub allow: bool,
}

/// Why a project's rego is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UploadError {
    /// It does not load.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// It allows something empty.
    #[error(
        "{question}.rego allows {what}\nhint: compare with `== false` instead of `not`, and ask for every member that the decision rests on"
    )]
    Open {
        /// Which rego.
        question: QuestionName,
        /// What it was asked.
        what: &'static str,
    },
    /// It gives no decision on an ordinary question.
    #[error("{question}.rego gives no decision on {what}: {detail}")]
    Undecided {
        /// Which rego.
        question: QuestionName,
        /// What it was asked.
        what: String,
        /// What the evaluator says.
        detail: String,
    },
    /// A fixture comes out otherwise.
    #[error("fixture {number} of {question}.rego: allow is {got}, the fixture says {expected}")]
    Fixture {
        /// Which rego.
        question: QuestionName,
        /// Position in the list, from 1.
        number: usize,
        /// What it said.
        got: bool,
        /// What the fixture says.
        expected: bool,
    },
    /// A fixture for a rego that the document does not have.
    #[error("fixture {number} asks {question}.rego, which the document does not have")]
    FixtureWithoutRego {
        /// Which rego.
        question: QuestionName,
        /// Position in the list, from 1.
        number: usize,
    },
    /// `data` where the question has none.
    #[error("fixture {number} gives `data` to {question}.rego; only the stock form is given any")]
    FixtureData {
        /// Which rego.
        question: QuestionName,
        /// Position in the list, from 1.
        number: usize,
    },
    /// Too many fixtures.
    #[error("document has {got} fixtures, at most {MAX_FIXTURES} are evaluated")]
    Count {
        /// How many it has.
        got: usize,
    },
}

/// Tries a project's rego: whatever it is, it denies the empty input and its like, decides on an ordinary one, and answers each
/// fixture as stated.
///
/// # Errors
/// The first thing that is wrong.
pub fn test_upload(rego: &ProjectRego<'_>, fixtures: &[Fixture]) -> Result<(), UploadError> {
    if fixtures.len() > MAX_FIXTURES {
        return Err(UploadError::Count { got: fixtures.len() });
    }
    let texts = [(QuestionName::Release, rego.release), (QuestionName::Token, rego.token), (QuestionName::Stock, rego.stock)];
    let mut compiled = Vec::new();
    for (question, text) in texts {
        if let Some(text) = text {
            let loaded = Question::trial(question, text)?;
            try_builtin(question, &loaded)?;
            compiled.push((question, loaded));
        }
    }
    for (number, fixture) in (1..).zip(fixtures) {
        let question = fixture.question;
        let Some((_, loaded)) = compiled.iter().find(|(name, _)| *name == question) else {
            return Err(UploadError::FixtureWithoutRego { question, number });
        };
        try_fixture(number, fixture, loaded)?;
    }
    Ok(())
}

fn try_fixture(number: usize, fixture: &Fixture, loaded: &Question) -> Result<(), UploadError> {
    let question = fixture.question;
    if fixture.data.is_some() && question != QuestionName::Stock {
        return Err(UploadError::FixtureData { question, number });
    }
    let data = fixture.data.clone().unwrap_or_else(|| json!({}));
    let got = ask(question, loaded, &fixture.input, &data).map_err(|detail| UploadError::Undecided {
        question,
        what: format!("fixture {number}"),
        detail,
    })?;
    if got == fixture.allow { Ok(()) } else { Err(UploadError::Fixture { question, number, got, expected: fixture.allow }) }
}

/// What every rego is asked, whoever wrote it: ordinary questions it must decide, hollow ones it must deny.
fn try_builtin(question: QuestionName, loaded: &Question) -> Result<(), UploadError> {
    let (input, data) = ordinary(question);
    ask(question, loaded, &input, &data).map_err(|detail| UploadError::Undecided {
        question,
        what: "an ordinary question".into(),
        detail,
    })?;
    let emptied = |value: &Value| each_member(value, |_| json!({}));
    let hollow: [(&'static str, Value, Value); 4] = [
        ("the empty input", json!({}), json!({})),
        ("an input whose members are empty", emptied(&input), json!({})),
        ("an input whose members are null", each_member(&input, |_| Value::Null), json!({})),
        ("an input without any value", nulled(&input), nulled(&data)),
    ];
    for (what, input, data) in hollow {
        // An error is a refusal at each request as well.
        if let Ok(true) = ask(question, loaded, &input, &data) {
            return Err(UploadError::Open { question, what });
        }
    }
    Ok(())
}

fn ask(question: QuestionName, loaded: &Question, input: &Value, data: &Value) -> Result<bool, String> {
    match question {
        QuestionName::Stock => loaded.ask_with_data(&input.to_string(), &data.to_string()),
        QuestionName::Release | QuestionName::Token => loaded.ask_json(&input.to_string()),
    }
}

/// An input as requests have it, and `data`.
fn ordinary(question: QuestionName) -> (Value, Value) {
    const TWO_DIGESTS: [&str; 2] = ["dd", "de"];
    let evidence = json!({
        "root_of_trust": "amd-sev-snp", "family": "genoa", "chip_id": "c1", "host_data": "aa", "launch_digest": "dd", "report_id": "e1",
        "report_version": 5, "guest_svn": 0, "author_key_digest": null, "debug_allowed": false, "migration_allowed": false,
        "smt_allowed": true, "single_socket": false, "abi_major": 0, "abi_minor": 31, "platform_info": 39,
        "reported_tcb": { "fmc": null, "bootloader": 10, "tee": 0, "snp": 23, "microcode": 84 },
        "launch_mit_vector": null, "current_mit_vector": null,
    });
    let enrollment = json!({
        "project": "demo", "site": "site-1", "role": "client", "host_data": "aa", "launch_digests": TWO_DIGESTS,
        "root_of_trust": "amd-sev-snp", "site_svn": 1, "base_svn": 1, "revoked": false, "suspended": false,
    });
    let service = json!({ "root_of_trust": "amd-sev-snp" });
    match question {
        QuestionName::Release => {
            let resource = json!({ "project": "demo", "site": "site-1", "host_data": "aa", "secret": "root" });
            (json!({ "service": service, "evidence": evidence, "enrollment": enrollment, "resource": resource }), json!({}))
        }
        QuestionName::Token => {
            let token = json!({ "kind": "job", "bound_key": true, "purpose": "boot" });
            (json!({ "service": service, "evidence": evidence, "enrollment": enrollment, "token": token }), json!({}))
        }
        QuestionName::Stock => {
            let submodule = json!({
                "ear.status": "affirming",
                "ear.trustworthiness-vector": { "instance-identity": 2, "configuration": 2, "executables": 3, "hardware": 2 },
                "ear.veraison.annotated-evidence": { "snp": { "measurement": "dd", "policy_debug_allowed": false }, "init_data": "aa" },
            });
            let data = json!({ "plugin": "resource", "resource-path": ["demo", "disk", "key"], "query": {} });
            (json!({ "submods": { "cpu0": submodule } }), data)
        }
    }
}

fn each_member(value: &Value, change: impl Fn(&Value) -> Value) -> Value {
    let members = value.as_object().into_iter().flatten();
    Value::Object(members.map(|(name, member)| (name.clone(), change(member))).collect::<Map<_, _>>())
}

/// The same shape with null in the place of every value.
fn nulled(value: &Value) -> Value {
    match value {
        Value::Object(_) => each_member(value, nulled),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURIN: &str = "package coffer.release\ndefault allow := false\nallow if input.evidence.family == \"turin\"\n";
    const STOCK: &str = "package policy\n\ndefault allow = false\n\nplugin = data.plugin\n\nallow if {\n\tplugin == \"resource\"\n}\n";

    fn release(text: &str, fixtures: &[Fixture]) -> Result<(), String> {
        test_upload(&ProjectRego { release: Some(text), ..ProjectRego::default() }, fixtures).map_err(|e| e.to_string())
    }

    fn stock(text: &str, fixtures: &[Fixture]) -> Result<(), String> {
        test_upload(&ProjectRego { stock: Some(text), ..ProjectRego::default() }, fixtures).map_err(|e| e.to_string())
    }

    fn fixture(question: QuestionName, input: Value, data: Option<Value>, allow: bool) -> Fixture {
        Fixture { question, input, data, allow }
    }

    #[test]
    fn fixtures_must_answer_as_stated() {
        let says = |family: &str, allow| fixture(QuestionName::Release, json!({ "evidence": { "family": family } }), None, allow);
        assert_eq!(release(TURIN, &[says("turin", true), says("genoa", false)]), Ok(()));
        assert_eq!(
            release(TURIN, &[says("turin", true), says("genoa", true)]),
            Err("fixture 2 of release.rego: allow is false, the fixture says true".into())
        );
        let other = fixture(QuestionName::Token, json!({}), None, false);
        assert!(release(TURIN, &[other]).expect_err("no token.rego").contains("which the document does not have"));
        let data = fixture(QuestionName::Release, json!({}), Some(json!({})), false);
        assert!(release(TURIN, &[data]).expect_err("data").contains("only the stock form"));
        assert!(release(TURIN, &vec![says("genoa", false); MAX_FIXTURES + 1]).expect_err("many").contains("has 65 fixtures"));
    }

    #[test]
    fn whatever_is_hollow_is_denied() {
        let rule = |body: &str| format!("package coffer.release\ndefault allow := false\nallow if {{ {body} }}\n");
        for (body, says) in [
            ("true", "does not deny the empty input"),
            ("input.evidence; not input.evidence.debug_allowed", "an input whose members are empty"),
            ("input.evidence == null", "an input whose members are null"),
            ("input.evidence.debug_allowed != true", "an input without any value"),
            ("to_number(input.evidence.family) > 0", "gives no decision on an ordinary question"),
        ] {
            let error = release(&rule(body), &[]).expect_err(body);
            assert!(error.contains(says), "{body}: {error}");
        }
        assert_eq!(release(&rule("input.evidence.debug_allowed == false"), &[]), Ok(()));
    }

    #[test]
    fn the_stock_form_is_asked_as_the_stock_service_asks() {
        let data = |plugin: &str| Some(json!({ "plugin": plugin, "resource-path": ["demo", "disk", "key"], "query": {} }));
        let yes = fixture(QuestionName::Stock, json!({ "submods": {} }), data("resource"), true);
        let no = fixture(QuestionName::Stock, json!({ "submods": {} }), data("pkcs11"), false);
        assert_eq!(stock(STOCK, &[yes, no]), Ok(()));
        let affirming = "package policy\nimport rego.v1\ndefault allow = false\nallow if {\n not any_not_affirming\n count(input.submods) > 0\n}\n\
                         any_not_affirming if {\n some _, submod in input.submods\n submod[\"ear.status\"] != \"affirming\"\n}\n";
        let status = |status: &str| json!({ "submods": { "cpu0": { "ear.status": status } } });
        let fixtures = [
            fixture(QuestionName::Stock, status("affirming"), data("resource"), true),
            fixture(QuestionName::Stock, status("warning"), data("resource"), false),
        ];
        assert_eq!(stock(affirming, &fixtures), Ok(()));
        for (text, says) in [
            ("package policy\ndefault allow = true\n", "does not deny the empty input"),
            ("package policy\nallow if input.submods\n", "does not deny the empty input"),
            ("package coffer.release\ndefault allow := false\n", "expected `data.policy`"),
        ] {
            let error = stock(text, &[]).expect_err(says);
            assert!(error.contains(says), "{error}");
        }
    }
}
