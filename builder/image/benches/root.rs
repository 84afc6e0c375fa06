//! How long a root disk takes, stage by stage: `cargo bench -p coffer-image --bench root -- ARCHIVE [SCRATCH]`.
//!
//! Prints seconds and the most memory this process had; `tests/memory.rs` holds its children to a limit too. Without an archive it says so and does nothing.

use std::path::Path;
use std::time::Instant;

use coffer_image::container::Container;
use coffer_image::root::{RootRequest, build_root};
use coffer_manifest::disk::{DiskUuid, RootSecret};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let Some(archive) = args.next() else {
        println!("root: no archive given, nothing measured");
        return Ok(());
    };
    let scratch = args.next().unwrap_or_else(|| std::env::temp_dir().display().to_string());
    let work = tempfile::tempdir_in(&scratch)?;
    let (archive, scratch) = (Path::new(&archive), work.path());
    println!("estimate   {:?}", Container::space_needed(archive)?);
    let start = Instant::now();
    let container = Container::open(archive, scratch)?;
    println!("open       {:6.2} s   {} MB in files", start.elapsed().as_secs_f64(), container.content_bytes() / 1_000_000);
    let squashfs = Instant::now();
    let image = coffer_image::squashfs::make(&container, scratch)?;
    println!("squashfs   {:6.2} s   {} MB", squashfs.elapsed().as_secs_f64(), image.metadata()?.len() / 1_000_000);
    drop(image);
    let start = Instant::now();
    let (out, uuid, secret) = (scratch.join("crypt_root.qcow2"), DiskUuid::from_random([7; 16]), RootSecret::new([8; 32]));
    let built = build_root(RootRequest {
        container: &container,
        scratch,
        out: &out,
        virtual_size: 30 << 30,
        secret: &secret,
        uuid: &uuid,
        kit: None,
    })?;
    println!("root disk  {:6.2} s   {} MB used, squashfs included", start.elapsed().as_secs_f64(), built.used_bytes / 1_000_000);
    println!("memory     {} MiB here", high_water_mib("/proc/self/status"));
    println!("root hash  {}", built.root_hash);
    Ok(())
}

fn high_water_mib(status: &str) -> u64 {
    let text = std::fs::read_to_string(status).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024
}
