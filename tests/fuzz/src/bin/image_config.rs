//! Image configs of container archives.
#![no_main]

use coffer_fuzz::plant;
use coffer_image::container::ImageConfig;
use coffer_manifest::Sha256Digest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    let Ok(image) = ImageConfig::parse(bytes) else { return };
    assert_eq!(image.digest, Sha256Digest::of(bytes));
    assert!((1..=64).contains(&image.stop_signal), "a signal: {}", image.stop_signal);
    assert!(image.workdir.starts_with('/') && image.workdir.split('/').all(|part| !matches!(part, "." | "..")), "{}", image.workdir);
    let mut names: Vec<&str> = image.env.iter().map(|entry| entry.split_once('=').expect("NAME=value").0).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|two| two[0] != two[1]) && !names.contains(&""), "{names:?}");
    let texts = image.entrypoint.iter().chain(&image.cmd).chain(&image.env).chain([&image.user, &image.workdir]);
    assert!(texts.into_iter().all(|text| !text.contains('\0')), "the kernel would cut it");
});

fn made() -> [&'static [u8]; 3] {
    [
        br#"{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/bin/sh","-c"],"Cmd":["x"],"Env":["PATH=/bin","A=1","A=2"],"User":"app:app","WorkingDir":"opt//x/.","StopSignal":"SIGRTMIN+3"},"rootfs":{"type":"layers","diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]},"history":[{"created_by":"x"}]}"#,
        br#"{"architecture":"amd64","os":"linux","config":{"StopSignal":"RTMAX-1","Env":null,"User":""},"rootfs":{"type":"layers","diff_ids":[]}}"#,
        br#"{"architecture":"amd64","os":"linux","config":null,"rootfs":{"type":"layers","diff_ids":[]}}"#,
    ]
}
