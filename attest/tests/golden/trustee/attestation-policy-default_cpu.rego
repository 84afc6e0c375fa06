# Attestation policy `default_cpu` for a stock Trustee, written by `coffer-attest policy export --trustee`.
#
# What it cannot say is in README.md beside it. Values are compared by membership in the lists of reference-values/.
package policy

import rego.v1

# AR4SI (draft-ietf-rats-ar4si): 97 and 33 are "not recognised", 36 is "unavailable"; 2 and 3 are affirming; 0 claims nothing.
default executables := 33

default hardware := 97

default configuration := 36

default instance_identity := 97

trust_claims := {
	"executables": executables,
	"hardware": hardware,
	"configuration": configuration,
	"instance-identity": instance_identity,
	"file-system": 0,
	"runtime-opaque": 0,
	"storage-opaque": 0,
	"sourced-data": 0,
}

extensions := []

# Claims lie in input.snp or, in later releases, in input.snp.evidence. Exactly one value must be there.
measurement contains value if value := input.snp.measurement

measurement contains value if value := input.snp.evidence.measurement

host_data contains value if value := input.snp.init_data

host_data contains value if value := input.snp.evidence.host_data

bootloader contains value if value := input.snp.reported_tcb_bootloader

bootloader contains value if value := input.snp.evidence.reported_tcb.bootloader

tee contains value if value := input.snp.reported_tcb_tee

tee contains value if value := input.snp.evidence.reported_tcb.tee

snp contains value if value := input.snp.reported_tcb_snp

snp contains value if value := input.snp.evidence.reported_tcb.snp

microcode contains value if value := input.snp.reported_tcb_microcode

microcode contains value if value := input.snp.evidence.reported_tcb.microcode

debug contains value if value := input.snp.policy_debug_allowed

debug contains value if value := input.snp.evidence.policy.debug_allowed

migration contains value if value := input.snp.policy_migrate_ma

migration contains value if value := input.snp.evidence.policy.migrate_ma_allowed

smt_allowed contains value if value := input.snp.policy_smt_allowed

smt_allowed contains value if value := input.snp.evidence.policy.smt_allowed

single_socket contains value if value := input.snp.policy_single_socket

single_socket contains value if value := input.snp.evidence.policy.single_socket_required

abi_major contains value if value := input.snp.policy_abi_major

abi_major contains value if value := input.snp.evidence.policy.abi_major

abi_minor contains value if value := input.snp.policy_abi_minor

abi_minor contains value if value := input.snp.evidence.policy.abi_minor

smt_enabled contains value if value := input.snp.platform_smt_enabled

smt_enabled contains value if value := input.snp.evidence.plat_info.smt_enabled

tsme_enabled contains value if value := input.snp.platform_tsme_enabled

tsme_enabled contains value if value := input.snp.evidence.plat_info.tsme_enabled

listed(values, name) if {
	count(values) == 1
	some value in values
	value in query_reference_value(name)
}

executables := 3 if listed(measurement, "snp_launch_measurement")

hardware := 2 if {
	listed(bootloader, "snp_bootloader")
	listed(tee, "snp_tee_svn")
	listed(snp, "snp_snp_svn")
	listed(microcode, "snp_microcode")
}

configuration := 2 if {
	debug == {false}
	migration == {false}
	listed(smt_enabled, "snp_smt_enabled")
	listed(tsme_enabled, "snp_tsme_enabled")
	listed(smt_allowed, "snp_smt_allowed")
	listed(single_socket, "snp_single_socket")
	abi_is_high_enough
}

abi_is_high_enough if {
	listed(abi_major, "snp_guest_abi_major")
	listed(abi_minor, "snp_guest_abi_minor")
}

instance_identity := 2 if listed(host_data, "coffer_host_data")
