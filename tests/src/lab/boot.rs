//! One VM under emulation, from its start to its end.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Bundle;
use crate::repo;

/// The longest boot waited for: an emulated one takes 6 to 20 s on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(150);

/// A VM that has been started with `launch_vm.sh`; ended when dropped.
pub struct Running {
    child: Child,
    run_dir: PathBuf,
    began: Instant,
    limit: Duration,
}

/// How a VM's run went.
#[derive(Debug)]
pub struct Boot {
    /// Exit code of `launch_vm.sh`.
    pub code: Option<i32>,
    /// The console, whole.
    pub console: String,
    /// What `launch_vm.sh` said, both streams.
    pub said: String,
    /// From the start to the end.
    pub took: Duration,
}

impl Running {
    /// Starts `launch_vm.sh --simulate`; `--timeout S` among `args` is the longest the VM is waited for.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(bundle: &Bundle, simulator: &Path, args: &[&OsStr]) -> Self {
        let own = args.windows(2).find(|pair| pair[0] == "--timeout").and_then(|pair| pair[1].to_str()?.parse().ok());
        let limit = own.map_or(BOOT_LIMIT, Duration::from_secs);
        let run_dir = bundle.dir.join("run");
        let _ = fs::remove_dir_all(&run_dir);
        fs::create_dir_all(&run_dir).expect("a run folder");
        let said = fs::File::create(run_dir.join("said")).expect("a file");
        let mut launch = Command::new(bundle.file("launch_vm.sh"));
        launch.args(["--simulate", "--memory", "1024", "--timeout", &BOOT_LIMIT.as_secs().to_string(), "--simulator-state"]).arg(simulator);
        // A test's own `--simulator` or `--timeout` comes later and wins.
        launch.arg("--simulator").arg(repo::program("coffer-simulator")).args(args);
        launch.stdin(Stdio::null()).stdout(said.try_clone().expect("a handle")).stderr(said);
        Self { child: launch.spawn().expect("launch_vm.sh starts"), run_dir, began: Instant::now(), limit }
    }

    /// The console so far.
    #[must_use]
    pub fn console(&self) -> String {
        text(&self.run_dir.join("boot.log"))
    }

    /// Waits until the console has a line with `mark`.
    ///
    /// # Panics
    /// If the VM ends or the time is over before.
    pub fn wait_for(&mut self, mark: &str) {
        while !self.console().contains(mark) {
            let ended = self.child.try_wait().expect("its state");
            let late = self.began.elapsed() > self.limit;
            assert!(ended.is_none() && !late, "no `{mark}` ({ended:?})\n{}", text(&self.run_dir.join("said")) + &self.console());
            sleep(Duration::from_millis(50));
        }
    }

    /// Waits for the VM's end.
    ///
    /// # Panics
    /// If it takes longer than the limit; `launch_vm.sh` itself should have ended it before.
    #[must_use]
    pub fn wait(mut self) -> Boot {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("its state") {
                break status;
            }
            assert!(self.began.elapsed() < self.limit + Duration::from_secs(40), "launch_vm.sh does not end:\n{}", self.console());
            sleep(Duration::from_millis(50));
        };
        let said = text(&self.run_dir.join("said"));
        Boot { code: status.code(), console: self.console(), said, took: self.began.elapsed() }
    }

    /// Presses the VM's power button over QMP, as a site's own tools would.
    ///
    /// # Panics
    /// If QEMU refuses.
    pub fn power_down(&self) {
        let mut socket = UnixStream::connect(self.run_dir.join("qmp.sock")).expect("QEMU's QMP socket");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let mut lines = BufReader::new(socket.try_clone().expect("a handle")).lines();
        let mut answer = || lines.next().expect("a QMP line").expect("QMP text");
        assert!(answer().contains("\"QMP\""));
        for command in ["qmp_capabilities", "system_powerdown"] {
            writeln!(socket, "{{\"execute\":\"{command}\"}}").expect("a QMP command is taken");
            while !answer().contains("\"return\"") {}
        }
    }

    /// How many TCP connections QEMU holds open for this guest to a port of this machine's loopback.
    ///
    /// # Panics
    /// If the kernel's table of connections cannot be read.
    #[must_use]
    pub fn connections_to(&self, port: u16) -> usize {
        let bundle = self.run_dir.parent().map(|dir| dir.display().to_string()).unwrap_or_default();
        let is_qemu = |process: &Path| {
            let line = fs::read(process.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.starts_with("qemu-system") && line.contains(&bundle)
        };
        let processes = fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
        let files = processes.filter(|process| is_qemu(process)).flat_map(|process| fs::read_dir(process.join("fd")).into_iter().flatten());
        let own: Vec<PathBuf> = files.flatten().filter_map(|file| fs::read_link(file.path()).ok()).collect();
        // proc(5): `sl local remote state … inode`, in hexadecimal; state 01 is ESTABLISHED.
        let table = fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
        let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let remote = format!("0100007F:{port:04X}");
        let open = rows.filter(|row| row.len() > 9 && row[2] == remote && row[3] == "01");
        open.filter(|row| own.iter().any(|file| file.as_os_str() == format!("socket:[{}]", row[9]).as_str())).count()
    }

    /// The command lines of this VM's processes: QEMU and the simulator.
    #[must_use]
    pub fn command_lines(&self) -> String {
        let bundle = self.run_dir.parent().map(|dir| dir.display().to_string()).unwrap_or_default();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        let shown = lines.map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "));
        shown.filter(|line| line.contains(&bundle)).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // launch_vm.sh presses the power button at SIGTERM, and its clean-up must run; a second one ends the VM.
            let pid = self.child.id().to_string();
            for _ in 0..2 {
                let _ = Command::new("kill").args(["-TERM", &pid]).status();
                sleep(Duration::from_millis(700));
            }
            let _ = self.child.wait();
        }
    }
}

impl Boot {
    /// Whether a line of PID 1 has this text.
    #[must_use]
    pub fn said_by_guest(&self, text: &str) -> bool {
        self.console.lines().any(|line| line.contains("coffer-init: ") && line.contains(text))
    }

    /// Asserts that the guest stopped before its workload, at `stage`, its `failed` line having `cause`.
    ///
    /// # Panics
    /// If not, with everything that was said.
    pub fn assert_failed(&self, stage: &str, cause: &str) {
        let failed: Vec<&str> = self.console.lines().filter(|line| line.contains("coffer-init: failed ")).collect();
        let right = matches!(failed.as_slice(), [one] if one.contains(&format!("stage={stage} ")) && one.contains(cause));
        assert!(right && self.code == Some(3), "expected one `failed stage={stage} … {cause}` and exit code 3: {self:#?}");
        assert!(!self.said_by_guest("workload exit="), "the workload ran: {self:#?}");
    }

    /// Asserts that the workload ran and ended with 0.
    ///
    /// # Panics
    /// If not, with everything that was said.
    pub fn assert_ran(&self) {
        assert!(self.code == Some(0) && self.said_by_guest("workload exit=0"), "the workload did not end with 0: {self:#?}");
        for stage in ["config", "network", "attest", "unlock", "root", "workload"] {
            assert!(self.said_by_guest(&format!("stage={stage} t=")), "no stage {stage}: {self:#?}");
        }
    }
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
