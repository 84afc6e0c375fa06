//! launch_vm.sh: its QEMU command line, its checks, its exit codes.
#![allow(missing_docs)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use support::{Project, SITE, executable, golden, text};

/// A QEMU that says a version and plays one guest: writes its console and ends. With `button`, only when the power button is
/// pressed through the QMP pipe.
const FAKE_QEMU: &str = r#"#!/bin/bash
[[ $1 != --version ]] || { echo "QEMU emulator version @VERSION@ (fake)"; exit 0; }
printf '%s\n' "$@" >argv
[[ -z "@BUTTON@" ]] || while read -r line; do
	echo "$line" >>qmp-seen
	[[ $line != *system_powerdown* ]] || break
done <button.in
printf '@CONSOLE@' >>boot.log
echo "fake trouble" >&2
exit @STATUS@
"#;

struct Guest {
    version: &'static str,
    console: &'static str,
    button: &'static str,
    status: u8,
}

const GUEST: Guest = Guest { version: "10.0.2", console: "", button: "", status: 0 };

fn fake_qemu(project: &Project, guest: &Guest) {
    let script = FAKE_QEMU
        .replace("@VERSION@", guest.version)
        .replace("@CONSOLE@", guest.console)
        .replace("@BUTTON@", guest.button)
        .replace("@STATUS@", &guest.status.to_string());
    executable(&project.path("qemu"), &script);
}

/// A simulator that is ready at once.
fn fake_simulator(project: &Project) {
    let script = "#!/bin/bash\nprintf '%s\\n' \"$@\" >simulator-argv\necho addr=0x810c00 >loader\n: >hashes.bin\necho ready\nsleep 20\n";
    executable(&project.path("simulator"), script);
    fs::create_dir_all(project.path("state")).expect("mkdir");
    fs::copy(project.path("ark.pem"), project.path("state/ark.pem")).expect("ark");
}

fn launch(bundle: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(bundle.join("launch_vm.sh"));
    command.args(args).current_dir(bundle.parent().expect("site"));
    command
}

fn output(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("runs");
    (status.code().unwrap_or(-1), text(&stdout), text(&stderr))
}

/// `--simulate` with both fakes.
fn simulate(project: &Project, bundle: &Path, more: &[&str]) -> Command {
    let own = |name: &str| project.path(name).display().to_string();
    let mut command = launch(bundle, &["--simulate", "--simulator-state", &own("state")]);
    command.args(["--simulator", &own("simulator"), "--qemu", &own("qemu")]).args(more);
    command
}

fn without_paths(text: &str, bundle: &Path) -> String {
    text.replace(&bundle.canonicalize().expect("bundle").display().to_string(), "BUNDLE")
}

/// Ports, and a site whose names could trip a shell.
fn with_ports(project: &Project) {
    project.write("cc_site-1.yml", &format!("{SITE}allowed_ports: [9094, 8002]\nsite: site-1\n"));
}

#[test]
fn production_argv_is_golden() {
    let project = Project::new();
    with_ports(&project);
    let bundle = project.build();
    let (code, argv, said) = output(&mut launch(&bundle, &["--dry-run", "--cbitpos", "51", "--memory", "8192", "--cpus", "2"]));
    assert_eq!((code, said.as_str()), (0, ""));
    let argv: String = argv
        .lines()
        .map(|line| {
            line.split_once("host-data=").map_or(line.to_owned(), |(head, data)| {
                assert_eq!(data_encoding::BASE64.decode(data.as_bytes()).expect("base64").len(), 32);
                format!("{head}host-data=HOST_DATA")
            }) + "\n"
        })
        .collect();
    golden("golden/argv-production.txt", &without_paths(&argv, &bundle));
}

#[test]
fn simulated_argv_is_golden() {
    let project = Project::new();
    with_ports(&project);
    let bundle = project.build_simulated();
    let (code, argv, said) = output(&mut launch(&bundle, &["--dry-run", "--simulate", "--port-offset", "10000"]));
    assert_eq!((code, said.as_str()), (0, ""));
    golden("golden/argv-simulated.txt", &without_paths(&argv, &bundle));
}

/// The real QEMU parses every option and the SNP object, and stops where KVM has no SEV-SNP; that message is the last one.
#[test]
fn the_real_qemu_accepts_the_production_argv() {
    if !Path::new("/dev/kvm").exists() {
        println!("skipped: QEMU reaches the SNP check only where /dev/kvm exists");
        return;
    }
    if fs::read_to_string("/sys/module/kvm_amd/parameters/sev_snp").is_ok_and(|value| value.trim() == "Y") {
        println!("skipped: this host has SEV-SNP, QEMU would start the VM");
        return;
    }
    let project = Project::new();
    with_ports(&project);
    let made = project.run(&["author-key", "new", "--out", "author.pem"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    project.write("project.yml", &format!("{}author_key: author.pem\n", support::PROJECT));
    let bundle = project.build();
    let (_, argv, _) = output(&mut launch(&bundle, &["--dry-run", "--cbitpos", "51", "--memory", "512", "--cpus", "1"]));
    assert!(argv.contains(",author-key-enabled=on\n"), "{argv}");
    let run = project.path("run");
    fs::create_dir(&run).expect("mkdir");
    let pipes = Command::new("mkfifo").args(["button.in", "button.out"]).current_dir(&run).status().expect("mkfifo");
    assert!(pipes.success());
    let words: Vec<&str> = argv.lines().collect();
    let mut qemu = Command::new("timeout");
    let (code, _, said) = output(qemu.arg("60").args(&words).current_dir(&run));
    assert_eq!(code, 1, "{said}");
    assert!(said.trim_end().ends_with("vm-type SEV-SNP not supported by KVM"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    // The check has teeth: a byte too few or too many is refused by the same QEMU.
    for (name, length) in [("host-data=", 31), ("id-block=", 95), ("id-auth=", 4097)] {
        let short = |word: &&str| match word.split_once(name) {
            Some((head, rest)) => {
                let after = rest.split_once(',').map_or(String::new(), |(_, after)| format!(",{after}"));
                format!("{head}{name}{}{after}", data_encoding::BASE64.encode(&vec![0; length]))
            }
            None => (*word).to_owned(),
        };
        let short: Vec<String> = words.iter().map(short).collect();
        let (_, _, said) = output(Command::new("timeout").arg("60").args(&short).current_dir(&run));
        assert!(said.contains(&length.to_string()) && !said.contains("not supported by KVM"), "{name}: {said}");
    }
}

#[test]
fn shellcheck_is_content() {
    let project = Project::new();
    let bundle = project.build();
    let (code, said, _) = output(Command::new("shellcheck").arg(bundle.join("launch_vm.sh")));
    assert_eq!(code, 0, "{said}");
}

#[test]
fn help_is_golden() {
    let project = Project::new();
    let bundle = project.build();
    let (code, help, said) = output(&mut launch(&bundle, &["--help"]));
    assert_eq!((code, said.as_str()), (0, ""));
    golden("golden/launch-help.txt", &help);
}

#[test]
fn wrong_options_exit_1_with_one_line() {
    let project = Project::new();
    let bundle = project.build();
    for (args, expected) in [
        (&["--frobnicate"][..], "unknown option `--frobnicate`"),
        (&["--cpus"], "--cpus needs a value"),
        (&["--cpus", "3"], "--cpus 3: this base was measured for 1 2 4 vCPUs with EPYC-v4"),
        (&["--memory", "12MB"], "--memory 12MB: expected a whole number from 512 to 4194304"),
        (&["--memory", "0"], "--memory 0: expected a whole number from 512 to 4194304"),
        (&["--cbitpos", "08"], "--cbitpos 08: expected a whole number"),
        (&["--port-offset", "-1"], "--port-offset -1: expected a whole number"),
        (&["--bind", "::1,x=y"], "--bind ::1,x=y: expected an IPv4 address"),
        (&["--simulate"], "site site-1 has root of trust amd-sev-snp: it cannot run with --simulate"),
    ] {
        let (code, out, said) = output(&mut launch(&bundle, args));
        assert_eq!(code, 1, "{args:?}: {said}");
        assert!(out.is_empty(), "{args:?}: {out}");
        assert!(said.starts_with(&format!("launch_vm.sh: {expected}")), "{args:?}: {said}");
    }
    let simulated = Project::new();
    let bundle = simulated.build_simulated();
    let (code, _, said) = output(&mut launch(&bundle, &[]));
    assert_eq!((code, said.lines().count()), (1, 1), "{said}");
    assert!(said.contains("it runs only with --simulate"), "{said}");
}

#[test]
fn production_needs_a_newer_qemu_than_simulation() {
    let project = Project::new();
    let bundle = project.build();
    fake_qemu(&project, &Guest { version: "9.1.3", ..GUEST });
    let qemu = project.path("qemu").display().to_string();
    let (code, _, said) = output(&mut launch(&bundle, &["--check", "--qemu", &qemu]));
    assert_eq!(code, 1);
    assert!(said.contains("is version 9.1, expected 9.2 or newer"), "{said}");
}

/// Options of QEMU separate values by commas; a path may hold any.
#[test]
fn odd_paths_stay_whole() {
    let project = Project::new();
    let bundle = project.build();
    let odd = project.path("we,ird \"di'r");
    fs::rename(&bundle, &odd).expect("renames");
    let (code, argv, said) = output(&mut launch(&odd, &["--dry-run", "--cbitpos", "51"]));
    assert_eq!(code, 0, "{said}");
    let doubled = odd.canonicalize().expect("there").display().to_string().replace(',', ",,");
    assert!(argv.contains(&format!("file.filename={doubled}/crypt_root.qcow2\n")), "{argv}");
    assert!(argv.contains(&format!("-kernel\n{}/vmlinuz\n", odd.canonicalize().expect("there").display())), "{argv}");
}

#[test]
fn check_finds_what_is_wrong_here() {
    let project = Project::new();
    let bundle = project.build_simulated();
    fake_simulator(&project);
    fake_qemu(&project, &GUEST);
    let (code, out, said) = output(&mut simulate(&project, &bundle, &["--check"]));
    assert_eq!(code, 0, "{said}");
    assert!(out.ends_with("ok: 11 files are as manifest.json says\nok: site site-1 can be started\n"), "{out}");
    // Another simulator than the one the site names.
    fs::write(project.path("state/ark.pem"), fs::read(project.path("ca.pem")).expect("pem")).expect("write");
    let (code, _, said) = output(&mut simulate(&project, &bundle, &["--check"]));
    assert_eq!(code, 1);
    assert!(said.contains("this site's root of trust is simulated:"), "{said}");
    fake_simulator(&project);
    fake_qemu(&project, &Guest { version: "8.1.9", ..GUEST });
    let (code, _, said) = output(&mut simulate(&project, &bundle, &["--check"]));
    assert_eq!(code, 1);
    assert!(said.contains("is version 8.1, expected 8.2 or newer"), "{said}");
    fake_qemu(&project, &GUEST);
    for (file, change) in [("vmlinuz", "a byte"), ("site.json", "a byte"), ("crypt_root.qcow2", "a byte"), ("user_data.qcow2", "its size")]
    {
        let good = fs::read(bundle.join(file)).expect("reads");
        let mut bad = good.clone();
        bad[30] ^= 1;
        fs::write(bundle.join(file), &bad).expect("writes");
        let (code, _, said) = output(&mut simulate(&project, &bundle, &["--check"]));
        assert_eq!(code, 1, "{file}");
        assert!(said.contains(file) && said.contains("manifest.json says"), "{file}, {change}: {said}");
        fs::write(bundle.join(file), &good).expect("writes");
    }
    fs::remove_file(bundle.join("initrd.img")).expect("removes");
    let (code, _, said) = output(&mut simulate(&project, &bundle, &["--check"]));
    assert_eq!(code, 1);
    assert!(said.contains("initrd.img is missing"), "{said}");
}

#[test]
fn exit_codes_follow_the_guests_last_words() {
    let project = Project::new();
    let bundle = project.build_simulated();
    fake_simulator(&project);
    let ready = "coffer-init: stage=config t=1.20\\r\\n";
    for (console, status, code, expected) in [
        ("coffer-init: workload exit=0 \\r\\ncoffer-init: power-off\\r\\n", 0, 0, ""),
        ("coffer-init: workload exit=7 \\r\\n", 0, 4, "the workload ended with exit=7"),
        (
            "coffer-init: refused code=revoked id=r-7\\ncoffer-init: failed stage=workload cause=revoked id=r-7\\n",
            0,
            6,
            "the key service refused this site while its workload ran: cause=revoked id=r-7",
        ),
        ("coffer-init: refused code=revoked id=r-7\\ncoffer-init: workload exit=0\\n", 0, 0, ""),
        ("coffer-init: failed stage=workload cause=\"no program\" id=-\\n", 0, 3, "the guest stopped before the workload: failed"),
        ("coffer-init: workload exit=00\\n", 0, 4, "the workload ended with exit=00"),
        ("coffer-init: workload signal=9\\n", 0, 4, "the workload ended with signal=9"),
        (
            "coffer-init: failed stage=attest cause=launch_digest id=ab12\\r\\n",
            0,
            3,
            "the guest stopped before the workload: failed stage=attest cause=launch_digest id=ab12",
        ),
        ("no newline at the end: coffer-init: failed stage=config cause=x id=-", 0, 3, "failed stage=config cause=x id=-"),
        ("[    0.000000] Kernel panic\\n", 0, 5, "the VM ended without a word"),
        ("not the guest: workload exit=0\\n", 0, 5, "the VM ended without a word"),
        ("coffer-init: waiting stage=attest cause=\"coffer-init: workload exit=0 \"\\n", 0, 5, "hint: a changed block of crypt_root"),
    ] {
        fake_qemu(&project, &Guest { console, status, ..GUEST });
        let (got, _, said) = output(&mut simulate(&project, &bundle, &[]));
        assert_eq!(got, code, "{console}: {said}");
        assert!(said.contains(expected), "{console}: {said}");
    }
    fake_qemu(&project, &Guest { console: "", status: 1, ..GUEST });
    let (code, _, said) = output(&mut simulate(&project, &bundle, &[]));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("QEMU did not start the VM: fake trouble"), "{said}");
    fake_qemu(&project, &Guest { console: ready, ..GUEST });
    let (_, out, _) = output(&mut simulate(&project, &bundle, &[]));
    assert_eq!(out, "coffer-init: stage=config t=1.20\n", "control characters stay out");
}

#[test]
fn the_simulator_is_told_what_qemu_gets() {
    let project = Project::new();
    let bundle = project.build_simulated();
    fake_simulator(&project);
    fake_qemu(&project, &Guest { console: "coffer-init: workload exit=0\\n", ..GUEST });
    let (code, _, said) = output(&mut simulate(&project, &bundle, &["--cpus", "2"]));
    assert_eq!(code, 0, "{said}");
    let read = |name: &str| without_paths(&fs::read_to_string(bundle.join("run").join(name)).expect("reads"), &bundle);
    let told = read("simulator-argv").replace(&project.path("state").display().to_string(), "STATE");
    let host_data = fs::read(bundle.join("site.json")).map(|bytes| coffer_manifest::SiteConfig::host_data(&bytes)).expect("site");
    golden("golden/argv-simulator.txt", &told.replace(&host_data.to_string(), "HOST_DATA"));
    let argv = read("argv");
    assert!(argv.contains("loader,file=hashes.bin,addr=0x810c00,force-raw=on"), "{argv}");
    assert!(argv.contains("-smp\n2\n"), "{argv}");
}

/// Waits until a line of stderr says that the VM runs.
fn wait_until_running(child: &mut Child) {
    let mut lines = BufReader::new(child.stderr.take().expect("stderr")).lines();
    let line = lines.next().expect("a line").expect("text");
    assert!(line.contains("runs as process"), "{line}");
    std::thread::spawn(move || lines.for_each(drop));
}

fn wait(child: &mut Child, limit: Duration) -> i32 {
    let began = Instant::now();
    while began.elapsed() < limit {
        if let Some(status) = child.try_wait().expect("waits") {
            return status.code().unwrap_or(-1);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().expect("kills");
    panic!("still running after {limit:?}");
}

#[test]
fn a_signal_presses_the_power_button_and_a_second_start_is_refused() {
    let project = Project::new();
    let bundle = project.build_simulated();
    fake_simulator(&project);
    fake_qemu(&project, &Guest { console: "coffer-init: workload exit=0\\n", button: "yes", ..GUEST });
    for signal in ["TERM", "INT"] {
        let mut first = simulate(&project, &bundle, &[]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
        wait_until_running(&mut first);
        let other = project.path("elsewhere").display().to_string();
        let (code, _, said) = output(&mut simulate(&project, &bundle, &["--run-dir", &other]));
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("site site-1 is already running from this directory"), "{said}");
        let killed = Command::new("kill").args(["-s", signal, &first.id().to_string()]).status().expect("kill");
        assert!(killed.success());
        assert_eq!(wait(&mut first, Duration::from_secs(10)), 0, "{signal}");
        let seen = fs::read_to_string(bundle.join("run/qmp-seen")).expect("qmp");
        assert_eq!(seen, "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"system_powerdown\"}\n");
        fs::remove_file(bundle.join("run/qmp-seen")).expect("removes");
    }
}

#[test]
fn time_runs_out() {
    let project = Project::new();
    let bundle = project.build_simulated();
    fake_simulator(&project);
    fake_qemu(&project, &Guest { console: "power-off\\n", button: "yes", ..GUEST });
    let (code, _, said) = output(&mut simulate(&project, &bundle, &["--timeout", "1"]));
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("the VM has run for 1 s: pressing its power button"), "{said}");
}

#[test]
fn a_deaf_vm_is_ended_at_the_second_signal() {
    let project = Project::new();
    let bundle = project.build_simulated();
    fake_simulator(&project);
    executable(
        &project.path("qemu"),
        "#!/bin/bash\n[[ $1 != --version ]] || { echo 'QEMU emulator version 10.0.2'; exit 0; }\nexec sleep 60\n",
    );
    let mut child = simulate(&project, &bundle, &[]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
    wait_until_running(&mut child);
    for _ in 0..2 {
        let sent = Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().expect("kill");
        assert!(sent.success());
        std::thread::sleep(Duration::from_millis(600));
    }
    assert_eq!(wait(&mut child, Duration::from_secs(5)), 5);
}
