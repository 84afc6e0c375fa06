//! An independent implementation must agree: `sev-snp-measure` from PyPI, on fifty random launches and on their ID blocks.
//!
//! Needs Python with venv and pip's index; a machine without them skips and says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use coffer_evidence::{GuestPolicy, LaunchDigest};
use coffer_measure::{CPU_MODELS, Firmware, HashTable, IdAuth, IdBlock, IdPrivateKey, Shape, Vmm, measure};
use data_encoding::BASE64;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const ORACLE: &str = "sev-snp-measure==0.0.13";
const CASES: usize = 50;

const SCRIPT: &str = "
import json, sys
from sevsnpmeasure import guest, vcpu_types
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vmm_types import VMMType
out = []
for c in json.load(open(sys.argv[1])):
    ld = guest.calc_launch_digest(SevMode.SEV_SNP, c['vcpus'], vcpu_types.CPU_SIGS[c['cpu']], c['ovmf'],
        c['kernel'], c['initrd'], c['append'], c['features'], vmm_type=VMMType[c['vmm']])
    out.append(ld.hex())
print(json.dumps(out))
";

/// Makes an ID block with the oracle's own code, and verifies ours: its structures, the signatures by `cryptography`.
const ID_SCRIPT: &str = "
import base64, json, sys
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from sevsnpmeasure import id_block
folder, ld, block, auth = sys.argv[1:5]
theirs = id_block.snp_calc_id_block(bytes.fromhex(ld), folder + '/id.pem', folder + '/author.pem')
block = base64.b64decode(block)
auth = id_block.IdAuth.from_buffer_copy(base64.b64decode(auth))
def verify(public, signature, message):
    public = id_block.ECPublicKey.from_buffer_copy(bytes(public))
    signature = id_block.SnpSignature.from_buffer_copy(bytes(signature))
    number = lambda field: int.from_bytes(bytes(field), 'little')
    assert public.curve == id_block.CurveP384
    point = ec.EllipticCurvePublicNumbers(number(public.qx), number(public.qy), ec.SECP384R1()).public_key()
    signature = utils.encode_dss_signature(number(signature.sig_r), number(signature.sig_s))
    point.verify(signature, bytes(message), ec.ECDSA(hashes.SHA384()))
assert (auth.id_key_algo, auth.auth_key_algo) == (1, 1)
verify(auth.id_key, auth.block_sig, block)
verify(auth.author_key, auth.id_key_sig, auth.id_key)
print(theirs)
";

/// A stream of bytes that is the same on every machine: SHA-256 of a counter.
struct Random(u64, Vec<u8>);

impl Random {
    fn bytes(&mut self, n: usize) -> Vec<u8> {
        while self.1.len() < n {
            self.0 += 1;
            self.1.extend(Sha256::digest(self.0.to_le_bytes()));
        }
        self.1.drain(..n).collect()
    }

    fn below(&mut self, n: u32) -> u32 {
        u32::from_le_bytes(self.bytes(4).try_into().unwrap()) % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }
}

/// A firmware image with random contents, 2 to 5 pages, and random metadata sections in random order.
fn firmware(random: &mut Random) -> Vec<u8> {
    let table_gpa = 0x81_0000 + 16 * random.below(240);
    let mut sections = vec![(0x81_0000_u32, 0x1000_u32, 0x10_u32)];
    for i in 0..random.below(8) {
        let kind = random.pick(&[1, 1, 2, 3, 4]);
        let pages = if kind == 1 { 1 + random.below(9) } else { 1 };
        let at = random.below(sections.len() as u32 + 1) as usize;
        sections.insert(at, (0x90_0000 + i * 0x1_0000, pages * 0x1000, kind));
    }
    let mut metadata = b"ASEV".to_vec();
    metadata.extend([16 + 12 * sections.len() as u32, 1, sections.len() as u32].map(u32::to_le_bytes).concat());
    metadata.extend(sections.iter().flat_map(|s| [s.0, s.1, s.2]).flat_map(u32::to_le_bytes));
    let entry = |data: &[u8], guid: &str| {
        let fields: Vec<Vec<u8>> = guid.split('-').map(|f| data_encoding::HEXLOWER.decode(f.as_bytes()).unwrap()).collect();
        let little = |f: &[u8]| f.iter().rev().copied().collect::<Vec<u8>>();
        let guid = [little(&fields[0]), little(&fields[1]), little(&fields[2]), fields[3].clone(), fields[4].clone()].concat();
        [data, &(data.len() as u16 + 18).to_le_bytes(), &guid].concat()
    };
    let entries = [
        entry(&random.bytes(8), "4c2eb361-7d9b-4cc3-8081-127c90d3d294"),
        entry(&(0x80_0000 + random.below(0x1_0000)).to_le_bytes(), "00f771de-1a7e-4fcb-890e-68c77e2fb44e"),
        entry(&[table_gpa, 0x400].map(u32::to_le_bytes).concat(), "7255371f-3a3b-4b04-927b-1da6efa8d454"),
        entry(&0x800_u32.to_le_bytes(), "dc886566-984a-4798-a75e-5585a7bf67cc"),
    ]
    .concat();
    let footer = entry(&[], "96b582de-1fb2-45f7-baea-a366c55a082d");
    let length = (entries.len() as u16 + 18).to_le_bytes();
    let table = [&entries[..], &length, &footer[2..]].concat();
    let pages = 2 + random.below(4) as usize;
    let mut image = random.bytes(pages * 4096);
    let end = image.len();
    image[end - 0x800..][..metadata.len()].copy_from_slice(&metadata);
    image[end - 32 - table.len()..end - 32].copy_from_slice(&table);
    image
}

/// Writes the inputs of one launch and describes it for the oracle; also gives our own answer.
fn case(random: &mut Random, dir: &Path, i: usize) -> (Value, String) {
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.join(format!("{i}-{name}"));
        fs::write(&path, bytes).unwrap();
        path
    };
    let image = firmware(random);
    let (kernel_size, initrd_size, append_size) = (random.below(9000), random.below(9000), random.below(300));
    let (kernel, initrd) = (random.bytes(kernel_size as usize), random.bytes(initrd_size as usize));
    let append: String = random.bytes(append_size as usize).iter().map(|b| char::from(b' ' + b % 95)).collect();
    let with_kernel = random.below(5) > 0;
    let (vmm, vmm_name) = random.pick(&[(Vmm::Qemu, "QEMU"), (Vmm::Qemu, "QEMU"), (Vmm::Ec2, "ec2"), (Vmm::Gce, "gce")]);
    let cpu = random.pick(&CPU_MODELS);
    let vcpus = 1 + random.below(70);
    let guest_features = u64::from(random.pick(&[0x1_u32, 0x21, 0x5, random.0 as u32]));

    let table = with_kernel.then(|| HashTable::new(Sha256::digest(&kernel).into(), Sha256::digest(&initrd).into(), &append));
    let ours = measure(&Firmware::parse(&image).unwrap(), table.as_ref(), &Shape { vmm, vcpus, cpu, guest_features }).unwrap();
    let described = json!({
        "ovmf": file("ovmf", &image), "vcpus": vcpus, "cpu": cpu.name(), "features": guest_features, "vmm": vmm_name,
        "kernel": with_kernel.then(|| file("kernel", &kernel)), "initrd": with_kernel.then(|| file("initrd", &initrd)),
        "append": append,
    });
    (described, ours.to_string())
}

/// A Python with the oracle installed, kept beside the build; `Err` is why there is none.
fn python() -> Result<PathBuf, String> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sev-snp-measure");
    let python = venv.join("bin/python");
    let run = |command: &mut Command| match command.output() {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
        Err(error) => Err(error.to_string()),
    };
    let works = |python: &Path| run(Command::new(python).args(["-c", "import sevsnpmeasure"]));
    if works(&python).is_ok() {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", ORACLE]))?;
    works(&python)?;
    Ok(python)
}

#[test]
fn fifty_random_launches_agree_with_sev_snp_measure() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            println!("skipped: no {ORACLE} here: {}; hint: apt install python3-venv", why.trim());
            return;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(0, Vec::new());
    let (described, ours): (Vec<Value>, Vec<String>) = (0..CASES).map(|i| case(&mut random, dir.path(), i)).unzip();
    let list = dir.path().join("cases.json");
    fs::write(&list, serde_json::to_vec(&described).unwrap()).unwrap();
    let out = Command::new(python).args(["-c", SCRIPT]).arg(&list).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let theirs: Vec<String> = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(theirs.len(), CASES);
    for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(ours, theirs, "case {i}: {}", described[i]);
    }
}

#[test]
fn id_blocks_agree_with_sev_snp_measure() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            println!("skipped: no {ORACLE} here: {}; hint: apt install python3-venv", why.trim());
            return;
        }
    };
    let mut random = Random(7, Vec::new());
    for case in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let author_key = IdPrivateKey::from_scalar(&random.bytes(48).try_into().unwrap()).unwrap();
        let id_key = author_key.id_key_of("demo").unwrap();
        fs::write(dir.path().join("id.pem"), id_key.expose_pem().unwrap().as_bytes()).unwrap();
        fs::write(dir.path().join("author.pem"), author_key.expose_pem().unwrap().as_bytes()).unwrap();
        let launch_digest = LaunchDigest::try_from(random.bytes(48).as_slice()).unwrap();
        // What the oracle can say: no ids, SVN 0, its default policy. The other fields have tests of their own.
        let block = IdBlock { launch_digest, family_id: [0; 16], image_id: [0; 16], guest_svn: 0, policy: GuestPolicy(0x30000) };
        let auth = IdAuth::sign(&block, &id_key, &author_key);
        let out = Command::new(&python)
            .args(["-c", ID_SCRIPT])
            .arg(dir.path())
            .arg(launch_digest.to_string())
            .args([BASE64.encode(&block.to_bytes()), BASE64.encode(auth.as_bytes())])
            .output()
            .unwrap();
        assert!(out.status.success(), "case {case}: {}", String::from_utf8_lossy(&out.stderr));
        let theirs = String::from_utf8(out.stdout).unwrap();
        let part = |before: &str, after: &str| theirs.split(before).nth(1).unwrap().split(after).next().unwrap().trim().to_owned();
        assert_eq!(part("id-block=", ","), BASE64.encode(&block.to_bytes()), "case {case}");
        assert_eq!(part("id_key_hash: ", "\n"), BASE64.encode(id_key.public().digest().as_bytes()), "case {case}");
        assert_eq!(part("author_key: ", "\n"), BASE64.encode(author_key.public().digest().as_bytes()), "case {case}");
        let their_auth = IdAuth::from_bytes(&BASE64.decode(part("id-auth=", "\n").as_bytes()).unwrap()).unwrap();
        assert_eq!(their_auth.check(&block.to_bytes(), true), auth.check(&block.to_bytes(), true), "case {case}");
        assert!(their_auth.check(&block.to_bytes(), true).is_ok(), "case {case}");
    }
}
