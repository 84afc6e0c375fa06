//! How much memory a root disk takes, however large its image: this process and the programs it starts.

mod support;

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use coffer_image::container::Container;
use coffer_image::root::{RootRequest, build_root};
use coffer_manifest::disk::{DiskUuid, RootSecret};
use sha2::{Digest, Sha256};
use support::{Header, Tar};

/// What this process and its children may have between them.
const LIMIT_KIB: u64 = 300 * 1024;
/// One of many files; half of it compresses.
const FILE_BYTES: usize = 50_000;
const GIB: u64 = 1 << 30;

#[test]
fn a_root_disk_takes_less_than_300_mib_however_large_the_image() {
    measure(GIB);
    if std::env::var_os("COFFER_LONG").is_some() {
        measure(4 * GIB);
    } else {
        println!("skipped: 4 GiB, set COFFER_LONG=1");
    }
}

fn measure(bytes: u64) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let archive = directory.path().join("image.tar");
    write_image(&archive, bytes);
    let out = directory.path().join("crypt_root.qcow2");
    let children = Watch::start();
    let container = Container::open(&archive, directory.path()).expect("opens");
    assert!(container.content_bytes() > bytes * 9 / 10);
    build_root(RootRequest {
        container: &container,
        scratch: directory.path(),
        out: &out,
        virtual_size: 2 * bytes,
        secret: &RootSecret::new([1; 32]),
        uuid: &DiskUuid::from_random([2; 16]),
        kit: None,
    })
    .expect("builds");
    let (own, child) = (high_water_kib(Path::new("/proc/self")).expect("its own status"), children.stop());
    println!("{} GiB: {own} KiB here, {child} KiB in children", bytes / GIB);
    assert!(child > 0, "tar2sqfs was never seen");
    assert!(own + child <= LIMIT_KIB, "{own} + {child} KiB, the limit is {LIMIT_KIB}");
}

/// Writes an archive of one layer without ever holding it.
fn write_image(path: &Path, bytes: u64) {
    let files = bytes / (FILE_BYTES as u64 + 512);
    let member = Tar::default().file("f", &[0; FILE_BYTES]).0.len() as u64;
    let size = files * member + 1024;
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).expect("creates"));
    out.write_all(&[0; 512]).expect("writes");
    let mut hash = Sha256::new();
    let mut data = vec![0; FILE_BYTES];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for number in 0..files {
        for word in data[..FILE_BYTES / 2].chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let entry = Tar::default().file(&format!("d{:03}/file-{number}", number % 500), &data).0;
        hash.update(&entry);
        out.write_all(&entry).expect("writes");
    }
    hash.update([0; 1024]);
    out.write_all(&[0; 1024]).expect("writes");
    let diff_id = coffer_manifest::Sha256Digest::new(hash.finalize().into());
    let config = format!(r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["sha256:{diff_id}"]}}}}"#);
    let rest = Tar::default()
        .file("config.json", config.as_bytes())
        .file("manifest.json", br#"[{"Config":"config.json","Layers":["layer.tar"]}]"#)
        .end();
    out.write_all(&vec![0; (size.next_multiple_of(512) - size) as usize]).expect("writes");
    out.write_all(&rest).expect("writes");
    // The layer's header, now that its place is written; its size is known, so a header of nothing gets it.
    let mut header = Tar::default().entry("layer.tar", Header::new(b'0'), b"").0;
    header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.seek(SeekFrom::Start(0)).expect("seeks");
    out.write_all(&header).expect("writes");
    out.flush().expect("writes");
}

/// The most memory any child of this process was seen with.
struct Watch {
    thread: std::thread::JoinHandle<()>,
    stop: &'static AtomicBool,
    most: &'static AtomicU64,
}

impl Watch {
    fn start() -> Self {
        let (stop, most) = (Box::leak(Box::new(AtomicBool::new(false))), Box::leak(Box::new(AtomicU64::new(0))));
        let (stop, most) = (&*stop, &*most);
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let all: u64 = children().iter().filter_map(|child| high_water_kib(child)).sum();
                most.fetch_max(all, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { thread, stop, most }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watch ends");
        self.most.load(Ordering::Relaxed)
    }
}

fn children() -> Vec<PathBuf> {
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").expect("proc").filter_map(|entry| Some(entry.ok()?.path()));
    let is_child = |path: &PathBuf| {
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        // Behind the name, which may hold anything: state, parent.
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)) == Some(own.as_str())
    };
    processes.filter(is_child).collect()
}

fn high_water_kib(process: &Path) -> Option<u64> {
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}
