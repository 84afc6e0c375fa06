//! A site without a gate whose renewals are refused, under emulation: quarantine, a second life of the workload, the power button.

use std::thread::sleep;
use std::time::{Duration, Instant};

use system_tests::lab::{Lab, Running, Site, eventually, run};

/// The shortest schedule a site can have: tokens of 30 s, renewed after 20.
const SCHEDULE: &str = "  check_frequency: 60\n  failure_action: stop_job\n";
/// Leaves a mark in its file system, and says how many it found.
const SCRIPT: &str = "
echo life >> /tmp/lives
echo lives: $(busybox wc -l < /tmp/lives)
trap 'echo stopping in order; exit 7' TERM
while true; do sleep 1; done
";
/// How long a guest's shell may take to get to its `trap`: it says so nowhere a host could see.
const SHELL_START: Duration = Duration::from_secs(6);

#[test]
fn long_a_refused_site_waits_in_quarantine_lives_again_on_the_same_root_and_goes_off_by_its_button() {
    let lab = Lab::new();
    let _service = lab.serve();
    let bundle = lab.build(&Site { script: SCRIPT, more: SCHEDULE, ..Site::default() });
    lab.enroll(&bundle);
    let mut vm = lab.start(&bundle, &[]);
    vm.wait_for("stage=workload");
    sleep(SHELL_START);

    suspend(&lab, &vm, 1);
    run(&mut lab.admin(&["site", "resume", "demo/site-1", "--reason", "the drill is over"]));
    vm.wait_for("workload started again");
    sleep(SHELL_START);

    suspend(&lab, &vm, 2);
    let pressed = Instant::now();
    vm.power_down();
    let boot = vm.wait();
    assert!(pressed.elapsed() < Duration::from_secs(10), "off only after {:?}: {boot:#?}", pressed.elapsed());
    assert!(boot.said_by_guest("workload exit=7") && boot.said_by_guest("power-off") && boot.code == Some(4), "{boot:#?}");
    assert!(boot.said_by_guest("renewed token_exp=") && !boot.said_by_guest("failed "), "{boot:#?}");
    let logs = bundle.logs();
    assert!(logs.contains("lives: 1\n") && logs.contains("lives: 2\n"), "one log, one file system: {logs}");
    assert_eq!(logs.matches("stopping in order").count(), 2, "{logs}");
}

/// Suspends the site and waits until the VM is in quarantine, for the `time`th time.
fn suspend(lab: &Lab, vm: &Running, time: usize) {
    run(&mut lab.admin(&["site", "suspend", "demo/site-1", "--reason", "a drill"]));
    for mark in ["refused code=site_suspended id=", "workload stopped by=refusal exit=7", "quarantine next=60"] {
        eventually(mark, Duration::from_secs(40), || (vm.console().matches(mark).count() >= time).then_some(()));
    }
}
