//! What the documents at the top claim to be there, is there.

use std::fs;

use system_tests::repo;

/// `(text, target)` of each markdown link to a file of the repository.
fn links(document: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(repo::root().join(document)).unwrap_or_else(|error| panic!("{document}: {error}"));
    let mut found = Vec::new();
    for part in text.split("](").skip(1).zip(text.split("](")) {
        let (after, before) = part;
        let (Some(target), Some(label)) = (after.split(')').next(), before.rsplit('[').next()) else { continue };
        if !target.contains("://") {
            found.push((label.to_owned(), target.split('#').next().unwrap_or_default().to_owned()));
        }
    }
    found
}

#[test]
fn every_link_leads_somewhere() {
    assert!(links("README.md").len() > 10, "README.md leads nowhere");
    for document in [
        "README.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "builder/README.md",
        "guest-init/README.md",
        "attest/README.md",
        "attest/verify/roots/README.md",
        "examples/flower/README.md",
        "examples/quickstart/README.md",
        "tests/VALIDATION.md",
    ] {
        let folder = repo::root().join(document).with_file_name("");
        for (label, target) in links(document) {
            assert!(folder.join(&target).exists(), "{document}: [{label}]({target}) does not exist");
        }
    }
}

#[test]
fn every_test_named_in_security_exists() {
    let named: Vec<_> = links("SECURITY.md").into_iter().filter(|(label, _)| label.starts_with('`')).collect();
    assert!(named.len() > 20, "SECURITY.md names only {} tests", named.len());
    for (label, file) in named {
        let name = label.trim_matches('`');
        let text = fs::read_to_string(repo::root().join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(&format!("fn {name}(")), "SECURITY.md: {file} has no test `{name}`");
    }
}
