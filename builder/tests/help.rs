//! The help texts are part of the interface: a change is a diff somebody reads.
#![allow(missing_docs)]

mod support;

use support::{Project, golden, text};

#[test]
fn help_is_golden() {
    let project = Project::new();
    let mut all = String::new();
    for words in [
        &[][..],
        &["author-key"],
        &["author-key", "new"],
        &["author-key", "show"],
        &["build"],
        &["inspect"],
        &["logs"],
        &["base"],
        &["base", "build"],
        &["base", "measure"],
        &["base", "lock"],
    ] {
        let args: Vec<&str> = words.iter().copied().chain(["--help"]).collect();
        let output = project.coffer(&args).env("COLUMNS", "110").output().expect("runs");
        assert!(output.status.success());
        all.push_str(&format!("$ coffer {}\n{}\n", args.join(" "), text(&output.stdout)));
    }
    golden("golden/help.txt", &all);
}

#[test]
fn usage_errors_exit_2() {
    let project = Project::new();
    for args in [&["frobnicate"][..], &["build"], &["build", "--base", "base"], &["inspect"], &["build", "--supersedes", "xyz"]] {
        let output = project.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}
