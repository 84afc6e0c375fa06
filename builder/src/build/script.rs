//! `launch_vm.sh` and `README.txt`: two templates and the values of one site.

use std::collections::BTreeMap;

use coffer_manifest::{Base, BaseRoot, HostData, LaunchDigest, SiteConfig};
use data_encoding::BASE64;

use super::id_block;

/// Guest policy: SMT allowed, bit 17 reserved and set; debug and migration off (AMD 56860, table Guest Policy).
pub const POLICY: u64 = 0x30000;
/// SEV_FEATURES that QEMU sets: SNP active, nothing else (AMD 24593, appendix B).
const QEMU_FEATURES: u64 = 1;
/// The CPU model used where a base was measured for several.
const PREFERRED_MODEL: &str = "EPYC-v4";
/// Memory where `--memory` does not say: a Flower client with its framework, its writable layer in RAM.
const DEFAULT_MEMORY_MIB: u32 = 4096;
/// vCPUs where `--cpus` does not say, if the base was measured for that many.
const DEFAULT_CPUS_SNP: u32 = 4;
/// Under emulation more vCPUs cost more than they give.
const DEFAULT_CPUS_SIMULATED: u32 = 1;

const SCRIPT: &str = include_str!("../launch_vm.sh");
const MARK: &str = "# @VALUES@\n";
const README: &str = include_str!("../README.txt");
/// The line of README.txt about ID blocks.
const ID_FILES: &str = "  id_*.block id_*.auth                      nobody: signed by the project, checked by the secure processor\n";

/// The CPU model of a bundle, and what its base measures to for each number of vCPUs.
pub fn shapes(base: &Base) -> (String, BTreeMap<u32, LaunchDigest>) {
    let models = base.launch_digests.iter().map(|shape| shape.cpu_model.as_str());
    let model = models.clone().find(|model| *model == PREFERRED_MODEL).or(models.clone().next()).unwrap_or(PREFERRED_MODEL);
    // Where a base was measured for several features, those QEMU sets come last and stay.
    let (own, other): (Vec<_>, Vec<_>) = base.launch_digests.iter().partition(|shape| shape.guest_features == QEMU_FEATURES);
    let of_model = other.into_iter().chain(own).filter(|shape| shape.cpu_model == model);
    (model.to_owned(), of_model.map(|shape| (shape.vcpus, shape.digest)).collect())
}

/// The script that starts a site, its values at the top; with ID blocks, the name of the one for each number of vCPUs.
pub fn launch_vm(site: &SiteConfig, base: &Base, host_data: &HostData, id_blocks: bool) -> String {
    let (model, shapes) = shapes(base);
    let cpus: Vec<u32> = shapes.keys().copied().collect();
    let stems = shapes.values().filter(|_| id_blocks).map(id_block::stem);
    let wanted = match base.root {
        BaseRoot::AmdSevSnp => DEFAULT_CPUS_SNP,
        BaseRoot::Simulated => DEFAULT_CPUS_SIMULATED,
    };
    let default_cpus = if cpus.contains(&wanted) { wanted } else { cpus.first().copied().unwrap_or(1) };
    let list = |numbers: &mut dyn Iterator<Item = String>| numbers.collect::<Vec<_>>().join(" ");
    let values = [
        ("PROJECT", quoted(site.project.as_str())),
        ("SITE", quoted(site.site.as_str())),
        ("ROOT_OF_TRUST", quoted(&site.root_of_trust.to_string())),
        ("HOST_DATA", quoted(&host_data.to_string())),
        ("HOST_DATA_BASE64", quoted(&BASE64.encode(host_data.as_bytes()))),
        ("POLICY", quoted(&format!("{POLICY:#x}"))),
        ("CMDLINE", quoted(&base.cmdline)),
        ("CPU_MODEL", quoted(&model)),
        ("CPUS", format!("({})", list(&mut cpus.iter().map(u32::to_string)))),
        ("ID_BLOCKS", format!("({})", list(&mut { stems }))),
        ("DEFAULT_CPUS", default_cpus.to_string()),
        ("DEFAULT_MEMORY_MIB", DEFAULT_MEMORY_MIB.to_string()),
        ("PORTS", format!("({})", list(&mut site.network.allowed_ports.iter().map(u16::to_string)))),
    ];
    let lines: String = values.iter().map(|(name, value)| format!("readonly {name}={value}\n")).collect();
    SCRIPT.replacen(MARK, &lines, 1)
}

/// What a site's operator reads first.
pub fn readme(site: &SiteConfig, base: &Base, host_data: &HostData, id_blocks: bool) -> String {
    let (model, shapes) = shapes(base);
    let simulate = if base.root == BaseRoot::Simulated { " --simulate --simulator-state DIR" } else { "" };
    let ports: Vec<String> = site.network.allowed_ports.iter().map(u16::to_string).collect();
    let cpus: Vec<String> = shapes.keys().map(u32::to_string).collect();
    let values = [
        ("@PROJECT@", site.project.to_string()),
        ("@SITE@", site.site.to_string()),
        ("@HOST_DATA@", host_data.to_string()),
        ("@ROOT_OF_TRUST@", site.root_of_trust.to_string()),
        ("@SIMULATE@", simulate.to_owned()),
        ("@URLS@", site.key_service.urls.join(" ")),
        (
            "@GATE@",
            site.gate.as_ref().map_or(String::new(), |gate| format!("\n           and TCP to the gate: {}", gate.addresses.join(" "))),
        ),
        ("@PORTS@", if ports.is_empty() { "none".to_owned() } else { ports.join(" ") }),
        ("@MODEL@", model),
        ("@CPUS@", cpus.join(" ")),
        ("@ID_FILES@", if id_blocks { ID_FILES.to_owned() } else { String::new() }),
    ];
    values.iter().fold(README.to_owned(), |text, (mark, value)| text.replace(mark, value))
}

/// One word for a shell, whatever it holds.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_is_one_word() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn the_mark_stands_once() {
        assert_eq!(SCRIPT.matches(MARK).count(), 1);
    }
}
