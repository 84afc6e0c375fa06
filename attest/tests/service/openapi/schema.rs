//! The part of JSON Schema that `openapi.json` uses. A keyword that this does not know is an error: nothing is passed over.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// An OpenAPI document.
pub struct Document(Value);

impl Document {
    pub fn new(document: Value) -> Self {
        assert_eq!(document["openapi"], "3.1.0");
        Self(document)
    }

    /// `(method, path, first security scheme)` of every operation.
    pub fn operations(&self) -> Vec<(String, String, Option<String>)> {
        let mut found = Vec::new();
        for (path, item) in self.0["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let scheme = operation["security"][0].as_object().and_then(|scheme| scheme.keys().next().cloned());
                found.push((method.clone(), path.clone(), scheme));
            }
        }
        found
    }

    /// `<method> <path> <status>` of every answer that is documented by its status.
    pub fn documented(&self) -> BTreeSet<String> {
        let statuses = |(method, path, _): (String, String, Option<String>)| {
            let responses = self.operation(&method, &path)["responses"].as_object().unwrap();
            responses.keys().filter(|status| *status != "default").map(|status| format!("{method} {path} {status}")).collect::<Vec<_>>()
        };
        self.operations().into_iter().flat_map(statuses).collect()
    }

    pub fn documents(&self, method: &str, path: &str, status: u16) -> bool {
        self.operation(method, path)["responses"].get(status.to_string()).is_some()
    }

    fn operation(&self, method: &str, path: &str) -> &Value {
        let operation = &self.0["paths"][path][method];
        assert!(operation.is_object(), "{method} {path} is not documented");
        operation
    }

    /// An answer's status, content type and body are as documented.
    #[track_caller]
    pub fn check_answer(&self, method: &str, path: &str, status: u16, content_type: &str, body: &[u8]) {
        let at = format!("{method} {path} {status}");
        let response = &self.operation(method, path)["responses"][status.to_string()];
        assert!(response.is_object(), "{at} is not documented");
        let Some(content) = self.resolve(response).get("content") else {
            assert!(body.is_empty(), "{at} has a body, documented is none");
            return;
        };
        let schema = &content[content_type]["schema"];
        assert!(!schema.is_null(), "{at}: `{content_type}` is not documented");
        let value = if content_type.ends_with("json") {
            serde_json::from_slice(body).unwrap_or_else(|e| panic!("{at}: {e}"))
        } else {
            Value::String(String::from_utf8(body.to_vec()).unwrap())
        };
        self.check(schema, &value, &at);
    }

    /// A body that the service has just taken is as documented.
    #[track_caller]
    pub fn check_request(&self, method: &str, path: &str, body: &[u8]) {
        let at = format!("{method} {path} request");
        let documented = &self.operation(method, path)["requestBody"]["content"];
        match documented["application/json"].get("schema") {
            Some(schema) => self.check(schema, &serde_json::from_slice(body).unwrap_or_else(|e| panic!("{at}: {e}")), &at),
            None => assert!(body.is_empty() || documented.is_object(), "{at}: a body, documented is none"),
        }
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        let Some(reference) = value.get("$ref").and_then(Value::as_str) else { return value };
        self.0.pointer(reference.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{reference} leads nowhere"))
    }

    #[track_caller]
    fn check(&self, schema: &Value, value: &Value, at: &str) {
        if let Err(why) = self.fits(schema, value, at) {
            panic!("{why}");
        }
    }

    fn fits(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let schema = self.resolve(schema);
        for (keyword, wanted) in schema.as_object().unwrap() {
            let holds = match keyword.as_str() {
                "description" | "properties" | "format" => true,
                "type" => is_type(wanted.as_str().unwrap(), value),
                "const" => wanted == value,
                "enum" => wanted.as_array().unwrap().contains(value),
                "pattern" => value.as_str().is_some_and(|text| matches(wanted.as_str().unwrap(), text)),
                "required" => wanted.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some()),
                "oneOf" => wanted.as_array().unwrap().iter().filter(|schema| self.fits(schema, value, at).is_ok()).count() == 1,
                "items" => {
                    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.fits(wanted, item, &format!("{at}[{n}]"))?;
                    }
                    true
                }
                "additionalProperties" => {
                    self.additional(schema, wanted, value, at)?;
                    true
                }
                other => panic!("{at}: this test does not know the keyword `{other}`"),
            };
            if !holds {
                return Err(format!("{at}: {value} is not as documented: {keyword} {wanted}"));
            }
        }
        let none = Map::new();
        for (name, schema) in schema["properties"].as_object().unwrap_or(&none) {
            if let Some(member) = value.get(name) {
                self.fits(schema, member, &format!("{at}.{name}"))?;
            }
        }
        Ok(())
    }

    /// Members that `properties` does not name.
    fn additional(&self, schema: &Value, wanted: &Value, value: &Value, at: &str) -> Result<(), String> {
        for (name, member) in value.as_object().into_iter().flatten() {
            if schema["properties"].get(name).is_some() {
                continue;
            }
            if *wanted == Value::Bool(false) {
                return Err(format!("{at}: member `{name}` is not documented"));
            }
            self.fits(wanted, member, &format!("{at}.{name}"))?;
        }
        Ok(())
    }
}

fn is_type(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("no such type: {other}"),
    }
}

/// The one form of pattern there is: so many hexadecimal digits.
fn matches(pattern: &str, text: &str) -> bool {
    let length = pattern.strip_prefix("^[0-9a-f]{").and_then(|rest| rest.strip_suffix("}$")).unwrap_or_else(|| panic!("{pattern}"));
    text.len() == length.parse::<usize>().unwrap() && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[test]
fn what_does_not_fit_is_noticed() {
    let document = Document(serde_json::json!({ "components": { "schemas": { "A": {
        "type": "object", "required": ["a"], "additionalProperties": false,
        "properties": { "a": { "type": "string", "pattern": "^[0-9a-f]{2}$" }, "b": { "type": "array", "items": { "enum": [1, 2] } } },
    } } } }));
    let schema = serde_json::json!({ "$ref": "#/components/schemas/A" });
    let fits = |text: &str| document.fits(&schema, &serde_json::from_str(text).unwrap(), "").is_ok();
    assert!(fits(r#"{"a":"ab","b":[1,2]}"#));
    for bad in ["1", "{}", r#"{"a":"abc"}"#, r#"{"a":"AB"}"#, r#"{"a":1}"#, r#"{"a":"ab","b":[3]}"#, r#"{"a":"ab","c":1}"#] {
        assert!(!fits(bad), "{bad}");
    }
}
