//! The golden table of wrong inputs: `tests/bad/<name>.yml`, and beside it in `<name>.txt` what the reader sees.
#![allow(missing_docs)]

mod support;

use std::fs;
use std::path::Path;

use support::{GATE, PROJECT, Project, SITE, golden, text};

#[test]
fn every_bad_file_gives_one_error_that_names_line_field_values_and_a_hint() {
    let project = Project::new();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let mut names: Vec<String> = fs::read_dir(&dir)
        .expect("table")
        .filter_map(|entry| entry.expect("entry").file_name().to_string_lossy().strip_suffix(".yml").map(str::to_owned))
        .collect();
    names.sort();
    assert!(names.len() >= 30, "{} files", names.len());
    for name in names {
        let bad = fs::read_to_string(dir.join(format!("{name}.yml"))).expect("reads");
        let gated = format!("{PROJECT}{GATE}");
        let (site, settings) = match name.split('-').next() {
            Some("project") => (SITE, bad.as_str()),
            Some("gated") => (bad.as_str(), gated.as_str()),
            _ => (bad.as_str(), PROJECT),
        };
        project.write("cc_site-1.yml", site);
        project.write("project.yml", settings);
        let output = project
            .coffer(&["build", "--base", "base", "-o", "out", "cc_site-1.yml"])
            .env("HOME", "/home/admin")
            .output()
            .expect("coffer runs");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        assert!(output.stdout.is_empty(), "{name}");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 2, "{name}: one error and one hint, got:\n{said}");
        let file = if name.starts_with("project-") { "project.yml" } else { "cc_site-1.yml" };
        let rest = lines[0].strip_prefix(&format!("coffer: {file}:")).unwrap_or_else(|| panic!("{name}: {said}"));
        let line = rest.split(':').next().expect("line").parse::<usize>().unwrap_or_else(|_| panic!("{name}: {said}"));
        assert!(line >= 1 && line <= bad.lines().count().max(1), "{name}: line {line} is not in the file");
        assert!(lines[1].starts_with("coffer: hint: "), "{name}: {said}");
        assert!(!project.path("out").exists(), "{name}: something was written");
        golden(&format!("bad/{name}.txt"), &said);
    }
}

#[test]
fn the_seed_samples_parse() {
    let project = Project::new();
    for name in ["cc_server1_local.yml", "cc_site-1_local.yml"] {
        let sample = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(name)).expect("sample");
        project.write(name, &sample);
        let output = project.coffer(&["build", "--base", "base", "-o", "out", name]).env("HOME", "/home/admin").output().expect("runs");
        let said = text(&output.stderr);
        // Its archive is not here; everything before that is accepted.
        let archive = "/home/admin/NVFlare/examples/advanced/cc_provision/docker/nvflare-site.tar.gz";
        assert!(said.contains(&format!("docker_archive: no such file: {archive}")), "{said}");
        // With an archive and a kit that holds keys, as NVFLARE's does, the reader is told where it belongs.
        let here = sample.replace("~/NVFlare/examples/advanced/cc_provision/docker/nvflare-site.tar.gz", "app.tar");
        project.write(name, &here.replace("/tmp/startup_kits", "startup_kits"));
        let output = project.run(&["build", "--base", "base", "-o", "out", name]);
        let said = text(&output.stderr);
        assert!(said.contains("user_config.nvflare: ") && said.contains("holds a private key"), "{said}");
        assert!(said.contains("hint: move it to `kit:"), "{said}");
        project.write(name, &here.replace("/tmp/startup_kits", "conf").replace("_drive_size: 30", "_drive_size: 1"));
        let output = project.run(&["build", "--base", "base", "-o", "out", name]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
}
