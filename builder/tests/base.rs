//! `coffer base`, as the machine's surroundings make it hard.
#![allow(missing_docs)]

mod support;

use support::{Project, text};

#[test]
fn packages_are_never_kept_where_anybody_could_have_prepared_a_place() {
    let project = Project::new();
    let shared = project.path("tmp");
    std::fs::create_dir(&shared).expect("a folder");
    for args in [&["base", "build", "--init", "project.yml", "-o", "new"][..], &["base", "lock", "--update"]] {
        let mut coffer = project.coffer(args);
        let output = coffer.env_remove("HOME").env_remove("XDG_CACHE_HOME").env("TMPDIR", &shared).output().expect("runs");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("neither XDG_CACHE_HOME nor HOME is set\ncoffer: hint: "), "{said}");
        assert_eq!(std::fs::read_dir(&shared).expect("the folder").count(), 0, "{args:?}");
    }
}
