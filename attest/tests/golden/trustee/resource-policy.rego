# Resource policy for a stock Trustee, written by `coffer-attest policy export --trustee`.
#
# A path is released to the site configs (HOST_DATA) bound to it, each on the bases it was enrolled with. Equality, never a prefix.
package policy

import rego.v1

default allow := false

allow if {
	data.plugin == "resource"
	count(data["resource-path"]) == 3
	every submodule in input.submods {
		submodule["ear.status"] == "affirming"
	}
	cpu := input.submods.cpu0
	cpu["ear.status"] == "affirming"
	evidence := cpu["ear.veraison.annotated-evidence"].snp
	some binding in bindings[concat("/", data["resource-path"])]
	host_data(evidence) == binding.host_data
	measurement(evidence) in binding.launch_digests
}

# Claims lie in snp or, in later releases, in snp.evidence.
host_data(snp) := snp.init_data if not snp.evidence

host_data(snp) := snp.evidence.host_data if snp.evidence

measurement(snp) := snp.measurement if not snp.evidence

measurement(snp) := snp.evidence.measurement if snp.evidence

bindings := {
  "demo/disk/key1": [
    {
      "host_data": "1111111111111111111111111111111111111111111111111111111111111111",
      "launch_digests": [
        "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0"
      ]
    }
  ],
  "demo/site-1/1111111111111111111111111111111111111111111111111111111111111111": [
    {
      "host_data": "1111111111111111111111111111111111111111111111111111111111111111",
      "launch_digests": [
        "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0"
      ]
    }
  ],
  "demo/site-1/1111111111111111111111111111111111111111111111111111111111111111.kit": [
    {
      "host_data": "1111111111111111111111111111111111111111111111111111111111111111",
      "launch_digests": [
        "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0"
      ]
    }
  ],
  "demo/site-2/2222222222222222222222222222222222222222222222222222222222222222": [
    {
      "host_data": "2222222222222222222222222222222222222222222222222222222222222222",
      "launch_digests": [
        "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0"
      ]
    }
  ],
  "demo/site-2/2222222222222222222222222222222222222222222222222222222222222222.kit": [
    {
      "host_data": "2222222222222222222222222222222222222222222222222222222222222222",
      "launch_digests": [
        "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0"
      ]
    }
  ]
}
