use std::time::Instant;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::*;

/// `fixtures/<question>.json`: an input that is allowed, the members it cannot do without, and what changes to it do.
#[derive(Deserialize)]
struct Fixture {
    input: Value,
    needs: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    comment: String,
    set: Map<String, Value>,
    allow: bool,
}

fn fixtures() -> [(QuestionName, Question, Fixture); 2] {
    let load = |name, rego, json| {
        let fixture = serde_json::from_str(json).expect("fixture parses");
        (name, Question::compile(name, rego).expect("built-in policy compiles"), fixture)
    };
    [
        load(QuestionName::Release, include_str!("../release.rego"), include_str!("../fixtures/release.json")),
        load(QuestionName::Token, include_str!("../token.rego"), include_str!("../fixtures/token.json")),
    ]
}

fn asks(question: &Question, input: &Value) -> bool {
    question.ask_json(&input.to_string()).expect("the built-in policies always decide")
}

/// Every member of the input, as `/section/member`.
fn members(input: &Value) -> Vec<String> {
    let sections = input.as_object().expect("object");
    let names = |section: &str, value: &Value| {
        value.as_object().expect("object").keys().map(|name| format!("/{section}/{name}")).collect::<Vec<_>>()
    };
    sections.iter().flat_map(|(section, value)| names(section, value)).collect()
}

fn without(input: &Value, path: &str) -> Value {
    let (section, name) = path[1..].split_once('/').expect("two segments");
    let mut changed = input.clone();
    changed[section].as_object_mut().expect("object").remove(name).expect("the fixture has it");
    changed
}

fn with(input: &Value, set: &Map<String, Value>) -> Value {
    let mut changed = input.clone();
    for (path, value) in set {
        *changed.pointer_mut(path).unwrap_or_else(|| panic!("the fixture has no {path}")) = value.clone();
    }
    changed
}

#[test]
fn only_the_whole_input_is_allowed() {
    for (name, question, fixture) in fixtures() {
        assert!(asks(&question, &fixture.input), "{name}");
        assert!(!asks(&question, &json!({})), "{name}: empty input");
        for section in fixture.input.as_object().expect("object").keys() {
            let mut missing = fixture.input.clone();
            missing.as_object_mut().expect("object").remove(section);
            assert!(!asks(&question, &missing), "{name}: without {section}");
            for other in [json!(null), json!({}), json!([]), json!(true), json!("x")] {
                let changed = with(&fixture.input, &Map::from_iter([(format!("/{section}"), other.clone())]));
                assert!(!asks(&question, &changed), "{name}: {section} is {other}");
            }
        }
    }
}

#[test]
fn each_needed_member_missing_or_null_denies_and_no_other_matters() {
    for (name, question, fixture) in fixtures() {
        for path in members(&fixture.input) {
            let needed = fixture.needs.contains(&path);
            assert_eq!(asks(&question, &without(&fixture.input, &path)), !needed, "{name}: without {path}");
            if needed {
                let null = with(&fixture.input, &Map::from_iter([(path.clone(), Value::Null)]));
                assert!(!asks(&question, &null), "{name}: {path} is null");
            }
        }
        for path in &fixture.needs {
            assert!(fixture.input.pointer(path).is_some(), "{name}: the fixture needs {path} but has it not");
        }
    }
}

#[test]
fn two_values_missing_together_are_not_equal() {
    for (name, question, fixture) in fixtures() {
        for (left, right) in [
            ("/evidence/host_data", "/enrollment/host_data"),
            ("/evidence/root_of_trust", "/service/root_of_trust"),
            ("/evidence/launch_digest", "/enrollment/launch_digests"),
        ] {
            let both = without(&without(&fixture.input, left), right);
            assert!(!asks(&question, &both), "{name}: without {left} and {right}");
        }
    }
}

#[test]
fn cases() {
    for (name, question, fixture) in fixtures() {
        for case in fixture.cases {
            assert_eq!(asks(&question, &with(&fixture.input, &case.set)), case.allow, "{name}: {}", case.comment);
        }
    }
}

/// The typed values of the fixture, so that a member renamed on one side only is noticed.
struct Typed {
    evidence: EvidenceFacts,
    record: Record,
    resource: Resource,
    token: TokenRequest,
}

fn typed() -> Typed {
    let [(_, _, release), (_, _, token)] = fixtures();
    let member = |fixture: &Fixture, name: &str| fixture.input[name].clone();
    Typed {
        evidence: serde_json::from_value(member(&release, "evidence")).expect("evidence"),
        record: serde_json::from_value(member(&release, "enrollment")).expect("enrollment"),
        resource: serde_json::from_value(member(&release, "resource")).expect("resource"),
        token: serde_json::from_value(member(&token, "token")).expect("token"),
    }
}

fn policy(project: ProjectRego<'_>) -> Policy {
    Policy::compile(&RootOfTrust::AmdSevSnp, project).expect("compiles")
}

#[test]
fn typed_values_reach_the_policy_under_the_names_of_the_fixture() {
    let Typed { evidence, record, mut resource, mut token } = typed();
    let policy = Policy::builtin(&RootOfTrust::AmdSevSnp).expect("compiles");
    assert_eq!(policy.release(&evidence, &record, &resource), Decision::Release);
    assert_eq!(policy.token(&evidence, &record, &token), Decision::Release);

    let question = QuestionName::Release;
    resource.site = "site-2".into();
    assert_eq!(policy.release(&evidence, &record, &resource), Decision::Refuse(Reason::BuiltIn { question }));
    token.bound_key = false;
    let question = QuestionName::Token;
    assert_eq!(policy.token(&evidence, &record, &token), Decision::Refuse(Reason::BuiltIn { question }));
    let revoked = Record { revoked: true, ..record };
    assert!(matches!(policy.release(&evidence, &revoked, &typed().resource), Decision::Refuse(_)));
}

#[test]
fn a_project_narrows() {
    let Typed { evidence, record, resource, token } = typed();
    let turin_only = "package coffer.release\ndefault allow := false\nallow if input.evidence.family == \"turin\"\n";
    let policy = policy(ProjectRego { release: Some(turin_only), ..ProjectRego::default() });
    let question = QuestionName::Release;
    assert_eq!(policy.release(&evidence, &record, &resource), Decision::Refuse(Reason::Project { question }));
    assert_eq!(policy.token(&evidence, &record, &token), Decision::Release, "the other question is not narrowed");
}

#[test]
fn a_project_cannot_widen() {
    let Typed { evidence, record, resource, .. } = typed();
    let generous = "package coffer.release\ndefault allow := false\nallow if input.resource\n";
    let policy = policy(ProjectRego { release: Some(generous), ..ProjectRego::default() });
    assert_eq!(policy.release(&evidence, &record, &resource), Decision::Release);
    let other = Resource { site: "site-2".into(), ..resource };
    let question = QuestionName::Release;
    assert_eq!(policy.release(&evidence, &record, &other), Decision::Refuse(Reason::BuiltIn { question }));
}

#[test]
fn policies_refused_at_load() {
    let rule = |body: &str| format!("package coffer.release\ndefault allow := false\nallow if {{ {body} }}\n");
    let not_closed = "does not deny the empty input";
    for (text, reason) in [
        (rule("not input.evidence.debug_allowed"), not_closed),
        (rule("true"), not_closed),
        ("package coffer.release\nallow if input.evidence\n".into(), not_closed),
        ("package coffer.release\ndefault allow := \"no\"\n".into(), not_closed),
        ("package coffer.release\n".into(), not_closed),
        ("package coffer.token\ndefault allow := false\n".into(), "expected `data.coffer.release`"),
        ("package coffer\nrelease.allow := false\n".into(), "expected `data.coffer.release`"),
        ("allow = {".into(), "does not compile"),
        (String::new(), "does not compile"),
        (rule("http.send({\"method\": \"get\", \"url\": \"http://x\"}).body"), "names `http.`"),
        (rule("opa.runtime().env.HOME"), "names `opa.`"),
        (rule("net.lookup_ip_addr(\"x\")"), "names `net.`"),
        (rule("time.now_ns() > 0"), "names `time.`"),
        (rule("rand.intn(\"x\", 2) == 1"), "names `rand.`"),
        (rule("uuid.rfc4122(\"x\")"), "names `uuid.`"),
        (rule("io.jwt.decode(\"x\")"), "names `io.`"),
        (rule("count(numbers.range(1, 1000000000)) > 0"), "names `numbers.range(`"),
        (rule(&"x".repeat(MAX_POLICY_BYTES)), "at most 65536"),
    ] {
        let error = Policy::compile(&RootOfTrust::AmdSevSnp, ProjectRego { release: Some(&text), ..ProjectRego::default() })
            .expect_err(&text[..text.len().min(120)]);
        assert!(error.to_string().contains(reason), "{error}\nexpected: {reason}");
    }
}

#[test]
fn names_of_our_own_are_not_builtins() {
    let text = "package coffer.release\ndefault allow := false\nallow if input.enrollment.time.zone == input.lifetime.x\n";
    let _ = policy(ProjectRego { release: Some(text), ..ProjectRego::default() });
}

/// The text search is a courtesy; the real guard is that these builtins are not in the binary, however they are spelled.
#[test]
fn the_world_outside_is_not_compiled_in() {
    for call in [
        "http.send({\"method\": \"get\", \"url\": \"http://127.0.0.1:1\"})",
        "opa.runtime()",
        "net.lookup_ip_addr(\"localhost\")",
        "time.now_ns()",
        "uuid.rfc4122(\"x\")",
        "io.jwt.decode(\"x\")",
    ] {
        let mut engine = regorus::Engine::new();
        let text = format!("package p\ndefault allow := false\nallow if {{ x := {call}; x != 1 }}\n");
        let outcome = engine.add_policy("p.rego".into(), text).and_then(|_| engine.eval_rule("data.p.allow".into()));
        let error = outcome.expect_err(call).to_string();
        assert!(error.contains("could not find function"), "{call}: {error}");
    }
}

#[test]
fn no_decision_is_a_refusal() {
    let Typed { evidence, record, resource, .. } = typed();
    for (body, reason) in [
        ("allow if to_number(input.resource.site) > 0", "to_number"),
        ("allow := input.resource.site if input.resource", "`allow` is"),
        ("allow if unheard_of(input.resource.site)", "could not find function"),
    ] {
        let text = format!("package coffer.release\ndefault allow := false\n{body}\n");
        match Policy::compile(&RootOfTrust::AmdSevSnp, ProjectRego { release: Some(&text), ..ProjectRego::default() }) {
            Ok(policy) => match policy.release(&evidence, &record, &resource) {
                Decision::Refuse(Reason::NoDecision { detail, .. }) => assert!(detail.contains(reason), "{body}: {detail}"),
                other => panic!("{body}: {other:?}"),
            },
            Err(error) => assert!(error.to_string().contains(reason), "{body}: {error}"),
        }
    }
}

#[test]
fn an_endless_evaluation_is_cut() {
    let Typed { evidence, record, resource, .. } = typed();
    let loops = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"].map(|name| format!("some {name} in [0,1,2,3,4,5,6,7,8,9]")).join("; ");
    let text = format!(
        "package coffer.release\ndefault allow := false\nallow if {{ input.resource; {loops}; a + b + c + d + e + f + g + h + i + j == 91 }}\n"
    );
    let policy = policy(ProjectRego { release: Some(&text), ..ProjectRego::default() });
    let start = Instant::now();
    let decision = policy.release(&evidence, &record, &resource);
    assert!(matches!(decision, Decision::Refuse(Reason::NoDecision { .. })), "{decision:?}");
    assert!(start.elapsed() < EVALUATION_LIMIT * 20, "took {:?}", start.elapsed());
}

#[test]
fn one_request_leaves_nothing_to_the_next() {
    let Typed { evidence, record, resource, .. } = typed();
    let policy = Policy::builtin(&RootOfTrust::AmdSevSnp).expect("compiles");
    let other = Resource { project: "other".into(), ..resource.clone() };
    for _ in 0..3 {
        assert_eq!(policy.release(&evidence, &record, &resource), Decision::Release);
        assert!(matches!(policy.release(&evidence, &record, &other), Decision::Refuse(_)));
    }
}

#[test]
fn a_policy_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Policy>();
}
