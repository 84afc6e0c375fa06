//! `coffer inspect` on what `coffer build` wrote, whole and changed.
#![allow(missing_docs)]

mod support;

use std::fs;

use support::{Project, SITE, golden, text};

/// Random values of a build, each by a word of its own.
fn steady(said: &str, host_data: &str) -> String {
    said.replace(host_data, "HOST_DATA")
}

fn host_data(bundle: &std::path::Path) -> String {
    coffer_manifest::SiteConfig::host_data(&fs::read(bundle.join("site.json")).expect("site.json")).to_string()
}

fn with_kit(project: &Project) {
    let more =
        "kit: {/opt/kit: kit}\nallowed_ports: [9094]\nhosts_entries: {server1: 10.0.0.7}\ncontainer: {command: [/bin/app, \"a b\"]}\n";
    project.write("cc_site-1.yml", &format!("{SITE}{more}"));
}

#[test]
fn directory_and_archive_say_the_same() {
    let project = Project::new();
    with_kit(&project);
    let bundle = project.build();
    let path = bundle.display().to_string();
    let dir = project.run(&["inspect", &path]);
    assert!(dir.status.success(), "{}", text(&dir.stderr));
    assert!(dir.stderr.is_empty());
    let tgz = project.run(&["inspect", "out/site-1/site-1.tgz"]);
    assert_eq!(text(&dir.stdout), text(&tgz.stdout));
    golden("golden/inspect.txt", &steady(&text(&dir.stdout), &host_data(&bundle)));
    let json = project.run(&["inspect", "--json", &path]);
    assert!(json.status.success());
    let parsed: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(parsed["problems"], serde_json::json!([]));
    assert_eq!(parsed["container"]["command"], serde_json::json!(["/bin/app", "a b"]));
    golden("golden/inspect.json", &steady(&text(&json.stdout), &host_data(&bundle)));
}

#[test]
fn a_run_directory_is_not_a_problem() {
    let project = Project::new();
    let bundle = project.build();
    fs::create_dir(bundle.join("run")).expect("mkdir");
    fs::write(bundle.join("run/boot.log"), "x").expect("write");
    assert!(project.run(&["inspect", &bundle.display().to_string()]).status.success());
}

#[test]
fn every_change_is_named() {
    let project = Project::new();
    let bundle = project.build();
    let path = bundle.display().to_string();
    let refused = |what: &str, expected: &str| {
        for args in [&["inspect", &path][..], &["inspect", "--json", &path]] {
            let output = project.run(args);
            assert_eq!(output.status.code(), Some(2), "{what}");
            let said = text(&output.stderr);
            assert!(said.starts_with("coffer: ") && said.contains(expected), "{what}: {said}");
            assert_eq!(said.lines().filter(|line| line.starts_with("coffer: ") && !line.contains("hint")).count(), 1, "{said}");
        }
    };
    for file in ["OVMF.amdsev.fd", "vmlinuz", "initrd.img", "launch_vm.sh", "README.txt", "crypt_root.qcow2"] {
        let good = fs::read(bundle.join(file)).expect("reads");
        let mut bad = good.clone();
        *bad.last_mut().expect("bytes") ^= 1;
        fs::write(bundle.join(file), &bad).expect("writes");
        refused(file, &format!("\"{file}\" has SHA-256"));
        fs::write(bundle.join(file), &good[1..]).expect("writes");
        refused(file, &format!("\"{file}\" is {} bytes long", good.len() - 1));
        fs::remove_file(bundle.join(file)).expect("removes");
        refused(file, &format!("\"{file}\" is missing"));
        fs::write(bundle.join(file), &good).expect("writes");
    }
    let data = fs::read(bundle.join("user_data.qcow2")).expect("reads");
    let mut larger = data.clone();
    larger[27] = 9;
    fs::write(bundle.join("user_data.qcow2"), &larger).expect("writes");
    refused("disk", "\"user_data.qcow2\" holds a disk of ");
    fs::write(bundle.join("user_data.qcow2"), "raw").expect("writes");
    refused("disk", "\"user_data.qcow2\" is not a qcow2 disk");
    // Its contents are the site's own: a changed block is no problem.
    let mut written = data.clone();
    *written.last_mut().expect("bytes") ^= 1;
    fs::write(bundle.join("user_data.qcow2"), &written).expect("writes");
    assert!(project.run(&["inspect", &path]).status.success());
    fs::write(bundle.join("extra"), "x").expect("writes");
    refused("extra", "\"extra\" is not in manifest.json");
    fs::remove_file(bundle.join("extra")).expect("removes");
    let site = fs::read_to_string(bundle.join("site.json")).expect("reads");
    fs::write(bundle.join("site.json"), site.replace("\"site_svn\":1", "\"site_svn\":2")).expect("writes");
    refused("site.json", "site.json has SHA-256 ");
    fs::write(bundle.join("site.json"), format!("{site}\n")).expect("writes");
    refused("site.json", "not in RFC 8785 canonical form");
}

#[test]
fn what_is_not_a_bundle_is_said_to_be_none() {
    let project = Project::new();
    for (path, code, expected) in [
        ("conf", 2, "is not a bundle: it holds `deep`"),
        ("tls", 2, "is not a bundle: it has no manifest.json"),
        ("nowhere", 1, "cannot read nowhere"),
        ("app.tar", 1, "cannot read app.tar"),
    ] {
        let output = project.run(&["inspect", path]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{path}: {said}");
        assert!(said.contains(expected), "{path}: {said}");
    }
}

#[test]
fn archives_nobody_built_are_refused() {
    let project = Project::new();
    for (name, kind) in
        [("cvm_0/../x", tar::EntryType::Regular), ("/etc/x", tar::EntryType::Regular), ("cvm_0/link", tar::EntryType::Symlink)]
    {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o644);
        header.set_cksum();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        std::io::Write::write_all(&mut gzip, &[header.as_bytes(), &[0_u8; 1024][..]].concat()).expect("gzip");
        fs::write(project.path("bad.tgz"), gzip.finish().expect("gzip")).expect("writes");
        let output = project.run(&["inspect", "bad.tgz"]);
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(text(&output.stderr).contains("is not a bundle: it holds `"), "{name}: {}", text(&output.stderr));
    }
}
