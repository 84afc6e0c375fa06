//! `coffer logs` on a bundle whose disk was written as a guest writes it.
#![allow(missing_docs)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Project, text};

/// Puts files on `applog.qcow2` with QEMU's and e2fsprogs' own tools.
fn write_to_applog(project: &Project, bundle: &Path, files: &[(&str, &str)]) {
    let (disk, raw) = (bundle.join("applog.qcow2"), project.path("applog.raw"));
    let convert = |from: &Path, format: &str, to: &Path| {
        let done = Command::new("qemu-img").args(["convert", "-O", format]).arg(from).arg(to).status().expect("qemu-img");
        assert!(done.success());
    };
    convert(&disk, "raw", &raw);
    for (name, contents) in files {
        project.write("local", contents);
        let request = format!("write {} {name}", project.path("local").display());
        let done =
            Command::new("/usr/sbin/debugfs").args(["-w", "-R", &request]).arg(&raw).stderr(Stdio::null()).status().expect("debugfs");
        assert!(done.success());
    }
    convert(&raw, "qcow2", &disk);
}

#[test]
fn a_new_bundle_has_no_logs() {
    let project = Project::new();
    let bundle = project.build().display().to_string();
    let output = project.run(&["logs", &bundle]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("has no logs yet\ncoffer: hint: "), "{}", text(&output.stderr));
}

#[test]
fn console_and_disk_are_read() {
    let project = Project::new();
    let bundle = project.build();
    fs::create_dir(bundle.join("run")).expect("mkdir");
    fs::write(bundle.join("run/boot.log"), "coffer-init: stage=config t=1.00").expect("writes");
    write_to_applog(&project, &bundle, &[("boot.log", "coffer-init: power-off\n"), ("workload.log", "flwr 1.19\n")]);
    let output = project.run(&["logs", &bundle.display().to_string()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "coffer-init: stage=config t=1.00\nflwr 1.19\n");
    assert!(text(&output.stderr).contains("==> applog.qcow2:workload.log <=="), "{}", text(&output.stderr));
    let output = project.run(&["logs", "--workload", &bundle.display().to_string()]);
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("flwr 1.19\n".into(), "".into()));
    fs::create_dir(project.path("elsewhere")).expect("mkdir");
    fs::write(project.path("elsewhere/boot.log"), "another console\n").expect("writes");
    let output = project.run(&["-q", "logs", &bundle.display().to_string(), "--run-dir", "elsewhere"]);
    assert_eq!(text(&output.stdout), "another console\nflwr 1.19\n");
    assert_eq!(text(&output.stderr), "");
    let output = project.run(&["logs", "--workload", &bundle.display().to_string()]);
    assert_eq!((text(&output.stdout).as_str(), text(&output.stderr).as_str()), ("flwr 1.19\n", ""));
    fs::remove_file(bundle.join("run/boot.log")).expect("removes");
    let output = project.run(&["logs", &bundle.display().to_string()]);
    assert_eq!(text(&output.stdout), "coffer-init: power-off\nflwr 1.19\n");
}

#[test]
fn a_running_bundle_is_left_alone() {
    let project = Project::new();
    let bundle = project.build();
    let disk = bundle.join("applog.qcow2");
    let mut holder = Command::new("flock").arg(&disk).args(["sleep", "30"]).spawn().expect("flock");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let output = project.run(&["logs", &bundle.display().to_string()]);
    holder.kill().expect("kill");
    holder.wait().expect("wait");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("is in use: the VM is running"), "{}", text(&output.stderr));
}

#[test]
fn what_is_no_disk_is_an_error_not_a_crash() {
    let project = Project::new();
    let bundle = project.build();
    for bytes in [&b""[..], b"QFI\xfb", &[0xff; 4096]] {
        fs::write(bundle.join("applog.qcow2"), bytes).expect("writes");
        let output = project.run(&["logs", &bundle.display().to_string()]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    }
    assert_eq!(project.run(&["logs", "nowhere"]).status.code(), Some(1));
}
