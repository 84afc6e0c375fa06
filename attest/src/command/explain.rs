//! `coffer-attest explain ID`: what was behind the code and the id that a peer was given.

use serde_json::Value;

use super::client::Client;
use crate::cli::{Access, Explain};
use crate::clock::rfc3339;
use crate::failure::Failure;

/// The longest name of a line, and a gap.
const LABEL_WIDTH: usize = 10;

/// Asks the service and prints.
///
/// # Errors
/// What the service or this machine says.
pub fn run(args: &Explain) -> Result<(), Failure> {
    let id: String = args.id.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let explanation: Value = Client::new(&args.access)?.get(&format!("/coffer/v1/refusals/{id}"))?;
    if args.access.json {
        println!("{explanation}");
    } else {
        print!("{}", render(&explanation, &reach(&args.access)));
    }
    Ok(())
}

/// What a command needs to reach the same service.
fn reach(access: &Access) -> String {
    let quoted = |path: &std::path::Path| path.display().to_string();
    match (&access.dir, &access.url, &access.ca, &access.admin_key) {
        (Some(dir), ..) => format!(" --dir {}", quoted(dir)),
        (_, Some(url), Some(ca), Some(key)) => {
            let name = access.tls_name.as_ref().map_or_else(String::new, |name| format!(" --tls-name {name}"));
            format!(" --url {url}{name} --ca {} --admin-key {}", quoted(ca), quoted(key))
        }
        _ => String::new(),
    }
}

/// The text for people.
fn render(explanation: &Value, reach: &str) -> String {
    let of = |name: &str| explanation[name].as_str();
    let mut text = format!("{} {} id={}\n", of("outcome").unwrap_or("?"), of("code").unwrap_or("?"), of("id").unwrap_or("?"));
    let mut line = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            text.push_str(&format!("  {name:<LABEL_WIDTH$}{value}\n"));
        }
    };
    line("when", explanation["at"].as_u64().map(rfc3339).as_deref());
    line("rule", of("meaning"));
    line("expected", of("expected"));
    line("got", of("got"));
    line("detail", of("detail"));
    let site = of("project").zip(of("site")).map(|(project, site)| format!("{project}/{site}"));
    line("site", site.as_deref());
    line("config", of("host_data"));
    line("from", of("source"));
    line("known", of("note"));
    let passed: Vec<&str> = explanation["passed"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    line("passed", Some(&passed.join(" ")));
    line("remedy", of("remedy"));
    for entry in explanation["entries"].as_array().into_iter().flatten() {
        let at = entry["at"].as_u64().map(rfc3339).unwrap_or_default();
        let (event, detail) = (entry["event"].as_str().unwrap_or("?"), entry["detail"].as_str().unwrap_or_default());
        line("entry", Some(&format!("{} {at} {event} {detail}", entry["seq"])));
    }
    for command in explanation["commands"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let (command, redirection) = command.split_once(" >").map_or((command, String::new()), |(c, to)| (c, format!(" >{to}")));
        let reach = if command.starts_with("coffer-attest ") { reach } else { "" };
        line("$", Some(&format!("{command}{reach}{redirection}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_explanation_is_aligned_and_its_commands_reach_the_service() {
        let explanation = json!({
            "id": "0123456789abcdef", "outcome": "refused", "code": "tcb_floor", "meaning": "is it new enough?", "at": 1_795_400_979,
            "authenticated": true, "note": "in the audit log", "detail": "reported TCB is 1, expected 2", "expected": "2", "got": "1",
            "project": "demo", "site": "site-1", "host_data": "ab", "remedy": "update", "passed": ["evidence", "signature"],
            "commands": ["coffer-attest policy show --project demo > policy.json"],
            "entries": [{ "seq": 7, "at": 1_795_400_979, "event": "refuse", "detail": "x" }],
        });
        let expected = "\
refused tcb_floor id=0123456789abcdef
  when      2026-11-23T02:29:39Z
  rule      is it new enough?
  expected  2
  got       1
  detail    reported TCB is 1, expected 2
  site      demo/site-1
  config    ab
  known     in the audit log
  passed    evidence signature
  remedy    update
  entry     7 2026-11-23T02:29:39Z refuse x
  $         coffer-attest policy show --project demo --dir service > policy.json
";
        assert_eq!(render(&explanation, " --dir service"), expected);
    }
}
