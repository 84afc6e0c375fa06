//! `gate:` of project.yml, decided, and what it leaves of one site's own settings.

use std::collections::BTreeMap;

use coffer_manifest::{Gate, KeyService, KeyServiceKind, WorkloadEnd};
use serde_saphyr::Spanned;

use super::project::{authorities, is_host_and_port};
use super::values::{in_range, is_host_name};
use crate::fault::{Fault, SpecError};
use crate::spec::{GateSpec, KeyServiceSpec, Source};

/// Replicas of a gate, tried in order.
const MAX_ADDRESSES: usize = 8;
/// Below, ports are for privileged programs, as a SuperNode is none.
const WORKLOAD_PORT: (u64, u64) = (1024, 65_535);

/// The gate every client of the project is behind.
///
/// # Errors
/// The first wrong thing, with line and field.
pub fn gate(source: &Source, spec: &GateSpec, service: &KeyService, service_spec: &KeyServiceSpec) -> Result<Gate, SpecError> {
    if service.kind != KeyServiceKind::Coffer {
        let fault = Fault::GateNeedsCoffer { got: service_spec.kind.value.clone() };
        return Err(source.refuse(&service_spec.kind, "key_service.kind", fault));
    }
    if spec.addresses.value.is_empty() {
        return Err(source.refuse(&spec.addresses, "gate.addresses", Fault::Empty));
    }
    if let Some(extra) = spec.addresses.value.get(MAX_ADDRESSES) {
        let fault = Fault::TooMany { got: spec.addresses.value.len(), most: MAX_ADDRESSES };
        return Err(source.refuse(extra, "gate.addresses", fault));
    }
    for (i, address) in spec.addresses.value.iter().enumerate() {
        if !is_host_and_port(&address.value) {
            let fault = Fault::HostAndPort { got: address.value.clone() };
            return Err(source.refuse(address, format!("gate.addresses[{i}]"), fault));
        }
    }
    let ca = authorities(source, &spec.ca, "gate.ca")?;
    let port = in_range(source, &spec.workload.port, "gate.workload.port", WORKLOAD_PORT, "")?;
    Ok(Gate {
        addresses: spec.addresses.value.iter().map(|address| address.value.clone()).collect(),
        tls_name: name(source, &spec.tls_name, "gate.tls_name")?,
        ca,
        workload: WorkloadEnd {
            name: name(source, &spec.workload.name, "gate.workload.name")?,
            port: u16::try_from(port).unwrap_or(u16::MAX),
        },
        attested: spec.attested,
    })
}

/// A host name that is no address: nobody looks an address up in `/etc/hosts`, or finds it in a certificate as a name.
fn name(source: &Source, given: &Spanned<String>, field: &str) -> Result<String, SpecError> {
    if !is_host_name(&given.value) || given.value.parse::<std::net::IpAddr>().is_ok() {
        return Err(source.refuse(given, field, Fault::HostName { got: given.value.clone() }));
    }
    Ok(given.value.clone())
}

/// Refuses a line for `/etc/hosts` with the name that already means the gate: which of the two the workload would find is its
/// resolver's choice.
///
/// # Errors
/// [`Fault::GateName`].
pub fn refuse_its_name(source: &Source, gate: &Gate, entries: &BTreeMap<String, Spanned<String>>) -> Result<(), SpecError> {
    match entries.iter().find(|(name, _)| name.eq_ignore_ascii_case(&gate.workload.name)) {
        Some((name, address)) => {
            let fault = Fault::GateName { got: address.value.clone() };
            Err(source.refuse(address, format!("hosts_entries.{name}"), fault))
        }
        None => Ok(()),
    }
}

/// Refuses to forward a port into the guest that is the gate's on loopback: the workload could not listen on it.
///
/// # Errors
/// [`Fault::GatePort`].
pub fn refuse_its_port(source: &Source, gate: &Gate, ports: &[Spanned<u64>]) -> Result<(), SpecError> {
    match ports.iter().enumerate().find(|(_, port)| port.value == u64::from(gate.workload.port)) {
        Some((i, port)) => Err(source.refuse(port, format!("allowed_ports[{i}]"), Fault::GatePort { got: port.value })),
        None => Ok(()),
    }
}
