//! A site boots under emulation with the real firmware, attests, opens its root and runs its workload.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use coffer_manifest::EnrollmentFile;
use data_encoding::{BASE64, HEXLOWER, HEXUPPER};
use system_tests::lab::{Lab, SECRET_MARK, Site, blob, run};

/// What the workload says of its surroundings, one fact a line.
const LOOK_AROUND: &str = r#"
id
pwd
env
sha256sum /data/blob /etc/kit/node.key
cat /etc/hosts /etc/resolv.conf
echo written > /tmp/file && cat /tmp/file
touch /home/new && echo the root is writable in RAM
touch /data/new || echo but not to everybody
grep -E 'NoNewPrivs|CapEff|CapBnd' /proc/self/status
ls /dev
ls /sys/kernel/config /dev/sev-guest /dev/virtio-ports 2>&1
busybox unshare -U true 2>&1 && echo all capabilities in a namespace of its own
cat /proc/sys/kernel/printk /proc/sys/kernel/io_uring_disabled
echo pid $$
"#;

/// How long a guest's shell may take to get to its `trap`: it says so nowhere a host could see.
const SHELL_START: Duration = Duration::from_secs(6);

#[test]
fn a_site_runs_its_workload_and_its_keys_are_found_nowhere() {
    let arguments = ArgumentWatch::start();
    let lab = Lab::new();
    let service = lab.serve();
    let site = Site {
        script: &LOOK_AROUND.replace("grep -E", "busybox grep -E"),
        more: "hosts_entries: {superlink: 10.9.8.7}\n",
        ..Site::default()
    };
    let bundle = lab.build(&site);
    lab.enroll(&bundle);

    let boot = lab.boot(&bundle);
    boot.assert_ran();
    assert!(boot.said_by_guest("verdict=affirming project=demo site=site-1 "), "{boot:#?}");
    assert!(boot.said_by_guest("power-off"), "{boot:#?}");

    let logs = bundle.logs();
    let blob_sum = HEXLOWER.encode(&<sha2::Sha256 as sha2::Digest>::digest(blob()));
    let expected = [
        "uid=1234(worker) gid=1234(worker) groups=4321(extra)",
        "/home",
        &blob_sum,
        "10.9.8.7",
        "written",
        "NoNewPrivs:\t1",
        "CapEff:\t0000000000000000",
        "the root is writable in RAM",
        "but not to everybody",
        "unshare: unshare(0x10000000): ",
        "0\t4\t1\t7\n2\n", // the kernel says nothing on the host's console; no io_uring
        "pid 2",           // after the namespace's own init
        "stage=workload t=",
    ];
    for text in expected {
        assert!(logs.contains(text), "no `{text}` in\n{logs}");
    }
    for text in ["sev-guest\n", "org.coffer.asp", "com.coffer", "all capabilities"] {
        assert!(!logs.replace("ls: /dev/sev-guest", "").contains(text), "the workload saw `{text}`:\n{logs}");
    }

    let secrets = Secrets::of(&bundle.enrollment);
    let unpacked = lab.path("unpacked");
    fs::create_dir(&unpacked).expect("a folder");
    run(std::process::Command::new("tar").arg("-zxf").arg(&bundle.tgz).arg("-C").arg(&unpacked));
    let places = [bundle.dir.clone(), bundle.tgz.clone(), unpacked, lab.path("service"), service.log.clone()];
    for place in places {
        secrets.assert_absent_below(&place);
    }
    // The disks as the guest sees them, not as qcow2 lays them out.
    for disk in ["applog", "user_config", "user_data", "crypt_root"] {
        let raw = lab.path(&format!("{disk}.raw"));
        run(std::process::Command::new("qemu-img").args(["convert", "-O", "raw"]).arg(bundle.file(&format!("{disk}.qcow2"))).arg(&raw));
        secrets.assert_absent_in(&raw, &fs::read(&raw).expect("a disk"));
        fs::remove_file(&raw).expect("the copy is removed");
    }
    secrets.assert_absent_in(Path::new("console and output"), (boot.console + &boot.said + &logs).as_bytes());
    secrets.assert_absent_in(Path::new("process arguments"), arguments.stop().as_bytes());
}

#[test]
fn the_power_button_stops_the_workload_in_order() {
    let lab = Lab::new();
    let _service = lab.serve();
    let script = "trap 'echo stopping in order; exit 7' TERM; echo up; while true; do sleep 1; done";
    let bundle = lab.build(&Site { script, ..Site::default() });
    lab.enroll(&bundle);
    let mut running = lab.start(&bundle, &[]);
    running.wait_for("stage=workload");
    sleep(SHELL_START);
    let pressed = Instant::now();
    running.power_down();
    let boot = running.wait();
    assert!(pressed.elapsed() < Duration::from_secs(10), "off only after {:?}: {boot:#?}", pressed.elapsed());
    assert!(boot.said_by_guest("workload exit=7") && boot.code == Some(4), "{boot:#?}");
    let logs = bundle.logs();
    assert!(logs.contains("stopping in order"), "{logs}");
}

#[test]
fn the_power_button_ends_a_workload_that_does_not_listen() {
    let lab = Lab::new();
    let _service = lab.serve();
    let bundle = lab.build(&Site { script: "trap '' TERM; while true; do sleep 1; done", ..Site::default() });
    lab.enroll(&bundle);
    let mut running = lab.start(&bundle, &[]);
    running.wait_for("stage=workload");
    sleep(SHELL_START);
    let pressed = Instant::now();
    running.power_down();
    let boot = running.wait();
    assert!(pressed.elapsed() < Duration::from_secs(11), "off only after {:?}: {boot:#?}", pressed.elapsed());
    assert!(boot.said_by_guest("workload signal=9") && boot.code == Some(4), "{boot:#?}");
}

/// Each form a site's secrets might be written in.
struct Secrets(Vec<(String, Vec<u8>)>);

impl Secrets {
    fn of(enrollment: &Path) -> Self {
        let file = EnrollmentFile::from_bytes(&fs::read(enrollment).expect("the enrollment")).expect("an enrollment");
        let kit = file.secrets.kit.as_ref().expect("this site has a kit");
        let volume_key = file.secrets.root.volume_key(&disk_uuid(enrollment));
        let keys: [(&str, &[u8]); 3] =
            [("root secret", file.secrets.root.expose()), ("kit key", kit.expose()), ("volume key", volume_key.expose())];
        let mut forms = vec![("kit file".to_owned(), SECRET_MARK.as_bytes().to_vec())];
        for (name, key) in keys {
            forms.push((format!("{name}, raw"), key.to_vec()));
            forms.push((format!("{name}, hex"), HEXLOWER.encode(key).into_bytes()));
            forms.push((format!("{name}, HEX"), HEXUPPER.encode(key).into_bytes()));
            // Without padding and the last characters, which depend on what follows; base64url differs in two letters.
            let base64 = BASE64.encode(key);
            let stem = &base64[..base64.len() - 4];
            forms.push((format!("{name}, base64"), stem.as_bytes().to_vec()));
            forms.push((format!("{name}, base64url"), stem.replace('+', "-").replace('/', "_").into_bytes()));
        }
        Self(forms)
    }

    fn assert_absent_in(&self, place: &Path, bytes: &[u8]) {
        for (name, needle) in &self.0 {
            let found = memchr::memmem::find(bytes, needle);
            assert!(found.is_none(), "{} has the {name} at offset {found:?}", place.display());
        }
    }

    fn assert_absent_below(&self, place: &Path) {
        if place.is_dir() {
            for entry in fs::read_dir(place).expect("a folder") {
                self.assert_absent_below(&entry.expect("an entry").path());
            }
        } else if place.is_file() {
            self.assert_absent_in(place, &fs::read(place).expect("a file"));
        }
    }
}

/// The disk's UUID, from the site config beside the enrollment's bundle.
fn disk_uuid(enrollment: &Path) -> coffer_manifest::disk::DiskUuid {
    let out = enrollment.parent().and_then(Path::parent).expect("enroll/ lies in the output folder");
    let sites = fs::read_dir(out.join("site-1")).expect("the site's folder").flatten().map(|entry| entry.path().join("site.json"));
    let site: PathBuf = sites.into_iter().find(|path| path.is_file()).expect("a site config");
    let bytes = fs::read(site).expect("a site config");
    coffer_manifest::SiteConfig::from_bytes(&bytes).expect("a site config").disk_uuid
}

/// Collects the command lines of every process of the machine while a test runs.
struct ArgumentWatch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl ArgumentWatch {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = spawn(move || {
            let mut seen = std::collections::BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
                    if let Ok(line) = fs::read(process.path().join("cmdline")) {
                        seen.insert(String::from_utf8_lossy(&line).replace('\0', " "));
                    }
                }
                sleep(Duration::from_millis(40));
            }
            seen.into_iter().collect()
        });
        Self { stop, thread }
    }

    fn stop(self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        let lines = self.thread.join().expect("the watch ends");
        assert!(lines.iter().any(|line| line.contains("qemu-system")), "the watch saw no QEMU");
        lines.join("\n")
    }
}
