//! What a container archive may be, and what its layers make.

mod support;

use std::process::Command;

use coffer_image::container::{Container, ContainerError, EntryKind, ExtraKind, ExtraPath};
use coffer_manifest::User;
use proptest::prelude::{any, prop, proptest};
use support::{Header, Image, Layout, Saved, Tar, gzip, left_in, listing};

fn two_layers() -> Image {
    let base = Tar::default()
        .entry("./", Header { mode: 0o755, ..Header::new(b'5') }, b"")
        .dir("etc")
        .file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nann:x:1000:100::/:/bin/sh\n")
        .file("etc/group", b"users:x:100:\nvideo:x:44:ann\n")
        .dir("gone/")
        .file("gone/file", b"never seen")
        .file("kept", b"old");
    let top = Tar::default().file("kept", b"new").file(".wh.gone", b"");
    let mut image = Image::new([base, top]);
    image.run = r#"{"Entrypoint":["/run"],"User":"ann"}"#.to_owned();
    image
}

const TWO_LAYERS: [&str; 5] = [
    "5 755 0:0 ./",
    "5 755 0:0 ./etc",
    "0 644 0:0 ./etc/group = users:x:100:\nvideo:x:44:ann\n",
    "0 644 0:0 ./etc/passwd = root:x:0:0::/root:/bin/sh\nann:x:1000:100::/:/bin/sh\n",
    "0 644 0:0 ./kept = new",
];

#[test]
fn every_layout_and_compression_gives_the_same_tree() {
    for layout in [Layout::Flat, Layout::Folders, Layout::Blobs] {
        for (gzip_layers, gzip_outer) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut image = Image { layout, gzip_layers, gzip_outer, ..two_layers() };
            let equal = image.layers[1].clone();
            image.layers.push(equal); // as `docker save` has it when two build steps do the same
            let saved = image.save();
            let container = saved.open().unwrap_or_else(|error| panic!("{layout:?} {gzip_layers} {gzip_outer}: {error}"));
            assert_eq!(listing(&container), TWO_LAYERS, "{layout:?} {gzip_layers} {gzip_outer}");
            assert_eq!(container.config().entrypoint, ["/run"]);
            assert_eq!(left_in(saved.directory.path()), ["image.tar"], "scratch files have no names");
            let need = Container::space_needed(&saved.archive).expect("readable");
            assert!(need.output > 0 && (need.scratch > 0), "{need:?}");
        }
    }
}

#[test]
fn lookups_and_users_come_from_the_flattened_tree() {
    let mut image = two_layers();
    image.layers.push(Tar::default().symlink("etc/alias", "/../kept").symlink("loop", "loop").symlink("dir", "etc/.").end());
    let container = image.open().expect("opens");
    for (path, kind) in [
        ("/", Some(EntryKind::Directory)),
        ("/etc", Some(EntryKind::Directory)),
        ("/etc/passwd", Some(EntryKind::File)),
        ("/dir/passwd", Some(EntryKind::File)),
        ("/etc/alias", Some(EntryKind::File)),
        ("/etc/../../../kept", Some(EntryKind::File)),
        ("/loop", Some(EntryKind::DanglingSymlink)),
        ("/gone", None),
        ("/kept/below", None),
    ] {
        assert_eq!(container.kind(path), kind, "{path}");
    }
    assert_eq!(container.user("ann").expect("is there"), User { uid: 1000, gid: 100, groups: vec![44] });
    assert_eq!(container.read_file("/dir/alias", 100).expect("reads").as_deref(), Some(&b"new"[..]));
    assert!(matches!(container.read_file("/kept", 2), Err(ContainerError::TooLarge { got: 3, limit: 2, .. })));
    assert_eq!(container.read_file("/etc", 2).expect("reads"), None);
}

#[test]
fn extra_paths_are_added_where_nothing_is() {
    let mut image = two_layers();
    let links = Tar::default().symlink("etc/resolv.conf", "../run/resolv.conf").symlink("link", "etc").symlink("sys", "nowhere");
    image.layers.push(links.end());
    let mut container = image.open().expect("opens");
    let extra = |path: &str, kind| ExtraPath { path: path.to_owned(), kind, mode: 0o750 };
    container
        .ensure(&[
            extra("/proc", ExtraKind::Directory),
            extra("/etc", ExtraKind::Directory),
            extra("/kept", ExtraKind::File),
            extra("/etc/resolv.conf", ExtraKind::File),
            extra("/link/deep/conf", ExtraKind::File),
            extra("/sys", ExtraKind::Directory),
            extra("/", ExtraKind::Directory),
        ])
        .expect("all possible");
    let lines = listing(&container);
    for expected in [
        "5 750 0:0 ./proc",
        "5 755 0:0 ./etc",
        "0 644 0:0 ./kept = new",
        "0 750 0:0 ./etc/resolv.conf",
        "5 755 0:0 ./etc/deep",
        "0 750 0:0 ./etc/deep/conf",
        "5 750 0:0 ./sys",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected} in {lines:#?}");
    }
    let refused = container.ensure(&[extra("/kept", ExtraKind::Directory)]);
    assert!(matches!(refused, Err(ContainerError::ExtraPath { .. })), "{refused:?}");
    assert!(container.ensure(&[extra("/kept/below", ExtraKind::File)]).is_err());
}

#[test]
fn whiteouts_reach_lower_layers_only() {
    let lower = Tar::default().dir("a").file("a/one", b"1").file("a/two", b"2").dir("b").file("b/x", b"x").file("c", b"c");
    let upper = Tar::default()
        // Behind what they must not touch, and before it.
        .file("a/three", b"3")
        .file("a/.wh..wh..opq", b"")
        .file("a/one", b"new")
        .file("b/.wh.x", b"")
        .file("b/x", b"again")
        .file(".wh.c", b"")
        .file(".wh.never-was", b"")
        .file("no/such/.wh.thing", b"")
        .file(".wh..wh.plnk", b"");
    let lines = listing(&Image::new([lower, upper]).open().expect("opens"));
    assert_eq!(
        lines,
        ["5 755 0:0 ./", "5 755 0:0 ./a", "0 644 0:0 ./a/one = new", "0 644 0:0 ./a/three = 3", "5 755 0:0 ./b", "0 644 0:0 ./b/x = again",]
    );
}

#[test]
fn later_layers_replace_and_merge() {
    let lower = Tar::default()
        .dir("keep")
        .file("keep/old", b"old")
        .dir("becomes-file")
        .file("becomes-file/lost", b"")
        .file("becomes-dir", b"")
        .dir("usr/lib")
        .symlink("lib", "usr/lib")
        .symlink("replaced", "usr");
    let upper = Tar::default()
        .entry("keep", Header { mode: 0o2775, uid: 1000, gid: 7, ..Header::new(b'5') }, b"")
        .pax(&[("uid", b"3000000000")])
        .entry("keep/new", Header { mode: 0o4755, ..Header::new(b'0') }, b"new")
        .file("becomes-file", b"f")
        .dir("becomes-dir")
        .file("lib/through", b"t")
        .dir("replaced")
        .hard_link("keep/linked", "keep/old")
        .entry("null", Header { device: (1, 3), mode: 0o666, ..Header::new(b'3') }, b"")
        .entry("disk", Header { device: (8, 0), mode: 0o660, ..Header::new(b'4') }, b"")
        .entry("pipe", Header::new(b'6'), b"");
    let upper = Tar(upper.0.clone());
    let lines = listing(&Image::new([lower, upper]).open().expect("opens"));
    assert_eq!(
        lines,
        [
            "5 755 0:0 ./",
            "5 755 0:0 ./becomes-dir",
            "0 644 0:0 ./becomes-file = f",
            "4 660 0:0 ./disk",
            "5 2775 1000:7 ./keep",
            "0 644 0:0 ./keep/linked = old",
            "0 4755 3000000000:0 ./keep/new = new",
            "1 644 0:0 ./keep/old -> keep/linked",
            "2 644 0:0 ./lib -> usr/lib",
            "3 666 0:0 ./null",
            "6 644 0:0 ./pipe",
            "5 755 0:0 ./replaced",
            "5 755 0:0 ./usr",
            "5 755 0:0 ./usr/lib",
            "0 644 0:0 ./usr/lib/through = t",
        ]
    );
}

/// What a layer must be refused for: a name, the layer, and words of the message.
fn hostile_layers() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let device = |major, minor| Header { device: (major, minor), ..Header::new(b'3') };
    let tar = Tar::default;
    let mut cut = tar().file("f", &[1; 600]).end();
    cut.truncate(1024);
    let mut flipped = tar().file("f", b"x").end();
    flipped[3] ^= 1;
    let mut not_octal = tar().file("f", b"x").0;
    not_octal[124] = b'9';
    let sum: u32 = not_octal[..512].iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
    not_octal[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    vec![
        ("absolute path", tar().file("/etc/shadow", b"x").end(), "`/etc/shadow` is an absolute path"),
        ("dot dot", tar().file("a/../../b", b"x").end(), "has `..` in it"),
        ("dot dot at the end", tar().dir("a/..").end(), "has `..` in it"),
        ("absolute pax path", tar().pax(&[("path", b"/x")]).file("x", b"").end(), "is an absolute path"),
        ("dot dot in a pax path", tar().pax(&[("path", b"../x")]).file("x", b"").end(), "has `..` in it"),
        ("nul in a pax path", tar().pax(&[("path", b"a\0b")]).file("x", b"").end(), "has a NUL in it"),
        ("empty path", tar().entry("", Header::new(b'0'), b"").end(), "is an empty path"),
        ("root as a file", tar().file(".", b"x").end(), "makes the root something else"),
        ("name too long", tar().pax(&[("path", &[b'n'; 256])]).file("x", b"").end(), "is 256 bytes long, at most 255"),
        ("path too long", tar().pax(&[("path", &b"d/".repeat(2048))]).file("x", b"").end(), "is 4096 bytes long, at most 4095"),
        ("through an absolute link", tar().symlink("l", "/etc").file("l/shadow", b"x").end(), "symbolic link to `/etc`"),
        ("through a climbing link", tar().symlink("l", "../..").file("l/x", b"x").end(), "out of the container's root"),
        (
            "through a link that climbs later",
            tar().dir("d").symlink("d/l", "../../out").file("d/l/x", b"x").end(),
            "out of the container's root",
        ),
        ("through a loop", tar().symlink("l", "m").symlink("m", "l").file("l/x", b"").end(), "more than 40 symbolic links"),
        ("below a file", tar().file("f", b"x").file("f/g", b"x").end(), "lies below `f`"),
        ("empty link", tar().symlink("l", "").end(), "target of 0 bytes"),
        ("link too long", tar().pax(&[("linkpath", &[b't'; 4096])]).symlink("l", "x").end(), "target of 4096 bytes"),
        ("hard link to nothing", tar().hard_link("h", "nothing").end(), "hard link to `nothing`"),
        ("hard link to a directory", tar().dir("d").hard_link("h", "d").end(), "hard link to `d`"),
        ("hard link to outside", tar().hard_link("h", "/etc/shadow").end(), "is an absolute path"),
        ("hard link that climbs", tar().hard_link("h", "../x").end(), "has `..` in it"),
        ("hard link through a link", tar().symlink("l", "/etc").hard_link("h", "l/shadow").end(), "symbolic link to `/etc`"),
        ("whiteout of nothing", tar().file("a/.wh.", b"").end(), "is a whiteout of no name"),
        ("whiteout of the parent", tar().file("a/.wh...", b"").end(), "is a whiteout of no name"),
        ("device too large", tar().entry("d", device(4096, 0), b"").end(), "is a device 4096:0"),
        ("overlay attribute", tar().pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")]).dir("d").end(), "would steer the overlay"),
        (
            "overlay attribute of users",
            tar().pax(&[("SCHILY.xattr.user.overlay.redirect", b"/")]).dir("d").end(),
            "would steer the overlay",
        ),
        ("acl", tar().pax(&[("SCHILY.xattr.system.posix_acl_access", b"\x02")]).file("f", b"").end(), "cannot hold"),
        ("attribute too long", tar().pax(&[("SCHILY.xattr.user.x", &[0; 65536])]).file("f", b"").end(), "value 65536 of at most 65535"),
        (
            "attributes too large together",
            tar().pax(&[("SCHILY.xattr.user.a", &[0; 30_000]), ("SCHILY.xattr.user.b", &[0; 30_000])]).file("f", b"").end(),
            "bytes of attributes, at most 57344",
        ),
        ("unknown type", tar().entry("x", Header::new(b'V'), b"").end(), "unknown type `V`"),
        ("cut off", cut, "cut off after byte 512"),
        ("checksum", flipped, "wrong checksum"),
        ("number", not_octal, "no usable number in field `size`"),
        ("pax number", tar().pax(&[("size", b"-1")]).file("f", b"").end(), "no usable value for `size`"),
        ("pax record", tar().entry("p", Header::new(b'x'), b"99 path=x\n").file("f", b"").end(), "is malformed"),
        ("owner too large", tar().pax(&[("uid", b"4294967295")]).file("f", b"").end(), "field `uid`"),
        ("huge pax header", tar().entry("p", Header::new(b'x'), &vec![0; 1 << 21]).end(), "at most 1048576 are read"),
        ("dangling pax header", tar().pax(&[("path", b"x")]).end(), "ends after an extension header"),
        ("global pax header", tar().entry("g", Header::new(b'g'), b"10 path=x\n").file("f", b"").end(), "sets more than a comment"),
        ("size beyond the end", tar().pax(&[("size", b"9223372036854775807")]).file("f", b"").end(), "cut off"),
        (
            "sparse map overlap",
            tar().pax(&[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"4,1,0,1")]).file("f", b"ab").end(),
            "inconsistent map",
        ),
        (
            "sparse map past the end",
            tar().pax(&[("GNU.sparse.size", b"1"), ("GNU.sparse.map", b"0,2")]).file("f", b"ab").end(),
            "inconsistent map",
        ),
        (
            "sparse map of other size",
            tar().pax(&[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0,1")]).file("f", b"ab").end(),
            "inconsistent map",
        ),
        (
            "sparse map of odd length",
            tar().pax(&[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0,1,2")]).file("f", b"a").end(),
            "inconsistent map",
        ),
    ]
}

#[test]
fn hostile_layers_are_refused_by_name() {
    for (name, layer, words) in hostile_layers() {
        for gzip_outer in [false, true] {
            let saved = Image { gzip_outer, ..Image::raw_layers(vec![layer.clone()]) }.save();
            let message = match saved.open() {
                Ok(_) => panic!("{name} was accepted"),
                Err(error) => error.to_string(),
            };
            assert!(message.contains(words), "{name}: expected `{words}` in `{message}`");
            assert_eq!(left_in(saved.directory.path()), ["image.tar"], "{name}");
        }
    }
}

#[test]
fn whiteouts_do_not_leave_the_root_either() {
    let image = Image::new([Tar::default().symlink("l", "/etc").dir("etc"), Tar::default().file("l/.wh.x", b"")]);
    let message = image.open().expect_err("refused").to_string();
    assert!(message.contains("layer 1: `l/.wh.x` leads through the symbolic link to `/etc`"), "{message}");
}

type Members = Vec<(String, Vec<u8>)>;
type Change = fn(&mut Members);

/// What an archive must be refused for: a name, a change to a good one, and words of the message.
fn hostile_archives() -> Vec<(&'static str, Change, &'static str)> {
    fn rename(members: &mut Members, from: &str, to: &str) {
        members.iter_mut().filter(|(name, _)| name == from).for_each(|(name, _)| *name = to.to_owned());
    }
    fn replace(members: &mut Members, member: &str, from: &str, to: &str) {
        for (_, data) in members.iter_mut().filter(|(name, _)| name.ends_with(member)) {
            *data = String::from_utf8_lossy(data).replace(from, to).into_bytes();
        }
    }
    vec![
        ("no manifest", |m| rename(m, "manifest.json", "other.json"), "no `manifest.json`"),
        ("manifest is no JSON", |m| replace(m, "manifest.json", "[", "("), "is not valid"),
        ("no image", |m| m[3].1 = b"[]".to_vec(), "holds 0 images"),
        ("two images", |m| m[3].1 = [b"[", &m[3].1[1..m[3].1.len() - 1], b",", &m[3].1[1..]].concat(), "holds 2 images"),
        ("a layer is missing", |m| drop(m.remove(0)), "has no `"),
        ("the config is missing", |m| drop(m.remove(2)), "has no `"),
        ("a layer twice", |m| m.push(m[0].clone()), "twice"),
        ("manifest twice", |m| m.push(m[3].clone()), "`manifest.json` twice"),
        ("another layer under its name", |m| m[0].1 = m[1].1.clone(), "its name says"),
        (
            "layers swapped in the manifest",
            |m| {
                let (a, b) = (m[0].0.clone(), m[1].0.clone());
                replace(m, "manifest.json", &a, "A");
                replace(m, "manifest.json", &b, &a);
                replace(m, "manifest.json", "\"A\"", &format!("\"{b}\""));
            },
            "the image config says",
        ),
        (
            "fewer layers than the config has",
            |m| {
                let last = format!(",\"{}\"", m[1].0);
                replace(m, "manifest.json", &last, "");
            },
            "lists 1 layers, the image config 2",
        ),
        ("config changed", |m| replace(m, "json", "\"User\":\"ann\"", "\"User\":\"root\""), "its name says"),
        (
            "config of another machine",
            |m| {
                replace(m, "json", "amd64", "arm64");
                let (name, data) = (m[2].0.clone(), m[2].1.clone());
                let new = format!("{}.json", coffer_manifest::Sha256Digest::of(&data));
                replace(m, "manifest.json", &name, &new);
                rename(m, &name, &new);
            },
            "expected linux/amd64",
        ),
        ("huge manifest", |m| m[3].1 = vec![b' '; (1 << 20) + 1], "at most 1048576 are read"),
        ("zstd layer", |m| m[0].1 = b"\x28\xb5\x2f\xfd and more".to_vec(), "compressed with zstd"),
        ("xz layer", |m| m[0].1 = b"\xfd7zXZ\0 and more".to_vec(), "compressed with xz"),
        (
            "cut gzip layer",
            |m| {
                let packed = gzip(&m[0].1);
                m[0].1 = packed[..packed.len() / 2].to_vec();
            },
            "not intact gzip",
        ),
    ]
}

#[test]
fn hostile_archives_are_refused_by_name() {
    for (name, change, words) in hostile_archives() {
        for gzip_outer in [false, true] {
            let mut members = two_layers().members();
            change(&mut members);
            let message = match Saved::of(members, gzip_outer).open() {
                Ok(_) => panic!("{name} was accepted"),
                Err(error) => error.to_string(),
            };
            assert!(message.contains(words), "{name}: expected `{words}` in `{message}`");
        }
    }
    for (bytes, words) in [
        (&b""[..], "no `manifest.json`"),
        (b"hello", "cut off"),
        (b"BZh91AY", "compressed with bzip2"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03 not deflate", "cannot read"),
    ] {
        let message = Saved::bytes(bytes).open().expect_err("refused").to_string();
        assert!(message.contains(words), "{bytes:?}: expected `{words}` in `{message}`");
    }
}

/// GNU tar's own archives of a sparse file, a long name, a long link: each format it writes.
#[test]
fn gnu_tar_is_read_in_each_of_its_formats() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = directory.path().join("tree");
    let long = "n".repeat(150);
    std::fs::create_dir_all(tree.join("deep").join(&long)).expect("creates");
    std::fs::write(tree.join("deep").join(&long).join("file"), "in a long path").expect("writes");
    std::os::unix::fs::symlink("t".repeat(180), tree.join("long-link")).expect("links");
    std::fs::hard_link(tree.join("deep").join(&long).join("file"), tree.join("hard")).expect("links");
    let sparse = std::fs::File::create(tree.join("sparse")).expect("creates");
    sparse.set_len(40 << 20).expect("extends");
    let mut expected = vec![0; 40 << 20];
    // More pieces than one header holds, so that GNU's extension records are read.
    for piece in 0..40_usize {
        let at = (piece << 20) + 4096 * (piece % 7);
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[piece as u8 + 1; 4096], at as u64).expect("writes");
        expected[at..at + 4096].fill(piece as u8 + 1);
    }
    sparse.sync_all().expect("syncs");
    for options in [
        &["--format=gnu"][..],
        &["--format=gnu", "--sparse"],
        &["--format=posix"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
    ] {
        let output = Command::new("tar").args(options).args(["--owner=5:5", "--group=6:6", "-C"]).arg(&tree).args(["-c", "."]).output();
        let output = output.expect("tar runs");
        assert!(output.status.success(), "{options:?}");
        let saved = Image::raw_layers(vec![output.stdout]).save();
        let container = saved.open().unwrap_or_else(|error| panic!("{options:?}: {error}"));
        let path = format!("/deep/{long}/file");
        assert_eq!(container.read_file(&path, 100).expect("reads").as_deref(), Some(&b"in a long path"[..]), "{options:?}");
        assert_eq!(container.read_file("/hard", 100).expect("reads").as_deref(), Some(&b"in a long path"[..]), "{options:?}");
        assert!(container.read_file("/sparse", 1 << 30).expect("reads").as_deref() == Some(&expected[..]), "{options:?}");
        let lines = listing(&container);
        assert!(lines.contains(&format!("2 777 5:6 ./long-link -> {}", "t".repeat(180))), "{options:?}: {lines:#?}");
    }
}

/// What a sparse member of the outer archive claims to hold is not there: it is no part of an image, and counts for nothing.
#[test]
fn sparse_members_of_the_outer_archive_are_left_out() {
    let size = u64::MAX.to_string();
    let claim = [("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", &b"0,1"[..])];
    let members = two_layers().members();
    let outer = Tar::default().pax(&claim).file("one", b"a").pax(&claim).file("two", b"b");
    let outer = members.iter().fold(outer, |tar, (name, data)| tar.file(name, data)).end();
    for archive in [outer.clone(), gzip(&outer)] {
        let saved = Saved::bytes(&archive);
        let need = Container::space_needed(&saved.archive).expect("readable");
        assert!(need.scratch < 1 << 30, "{need:?}");
        assert_eq!(listing(&saved.open().expect("opens")), TWO_LAYERS);
    }
    let sparse = members.iter().fold(Tar::default(), |tar, (name, data)| {
        let map = format!("0,{}", data.len());
        let size = data.len().to_string();
        tar.pax(&[("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.as_bytes())]).file(name, data)
    });
    for archive in [sparse.clone().end(), gzip(&sparse.end())] {
        let message = Saved::bytes(&archive).open().expect_err("nothing is left").to_string();
        assert!(message.contains("manifest.json"), "{message}");
    }
}

/// A 9 GiB sparse file in a small archive, of which nothing is held in memory.
#[test]
fn a_large_sparse_file_streams() {
    const SIZE: u64 = 9 << 30;
    let map = format!("{},1", SIZE - 1);
    let pax = Tar::default().pax(&[("GNU.sparse.size", SIZE.to_string().as_bytes()), ("GNU.sparse.map", map.as_bytes())]).file("pax", b"z");
    let container = Image::new([pax]).open().expect("opens");
    assert_eq!(container.content_bytes(), SIZE);
    let mut count = Count(0, 0);
    container.write_tar(&mut count).expect("counts");
    assert!(count.0 > SIZE && count.1 == u64::from(b'z'), "{} bytes, sum {}", count.0, count.1);
}

/// Counts bytes of the members' data and sums what is not zero in it; headers are recognised by their size.
struct Count(u64, u64);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        if bytes.len() == 1 {
            self.1 += u64::from(bytes[0]);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_tar_that_is_written_reads_back_as_itself() {
    let long = "l".repeat(200);
    let layer = Tar::default()
        .pax(&[("path", long.as_bytes()), ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\n=\xff"), ("SCHILY.xattr.user.b", b"")])
        .file("x", b"data")
        .hard_link("a", "x-is-not-there");
    let mut layer = Tar(layer.0[..layer.0.len() - 512].to_vec());
    layer = layer.pax(&[("linkpath", long.as_bytes())]).hard_link("a", "x").symlink("s", "a");
    let container = Image::new([layer]).open().expect("opens");
    let mut once = Vec::new();
    container.write_tar(&mut once).expect("writes");
    let again = Image::raw_layers(vec![once.clone()]).open().expect("its own output");
    let mut twice = Vec::new();
    again.write_tar(&mut twice).expect("writes");
    assert_eq!(once, twice);
    let text = String::from_utf8_lossy(&once);
    assert!(text.contains("SCHILY.xattr.security.capability="), "{text}");
}

proptest! {
    #[test]
    fn opening_is_total(layer in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = Image::raw_layers(vec![layer]).open();
    }

    #[test]
    fn changed_bytes_are_read_or_refused(at in 0_usize..3000, byte: u8, fix_checksum: bool) {
        let mut layer = Tar::default().pax(&[("path", b"a/b"), ("SCHILY.xattr.user.x", b"1")]).file("x", b"data").symlink("l", "a").end();
        let at = at % layer.len();
        layer[at] = byte;
        if fix_checksum {
            for header in [0, 1024, 2048] {
                let block = &mut layer[header..header + 512];
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        if let Ok(container) = Image::raw_layers(vec![layer]).open() {
            container.write_tar(std::io::sink()).expect("what was accepted can be written");
        }
    }
}
