# May this verified evidence have a token?
#
# A job token is bound to a key that the report binds; a token for a stock client is bound to none and opens no gate.
# Compare with `== false`, never `not input.x`: where the member is missing, the first denies and the second allows.
package coffer.token

default allow := false

allow if {
	genuine
	enrolled
	binding
}

# Signed under this service's own root of trust, for a guest nobody can look into.
genuine if {
	input.evidence.root_of_trust == input.service.root_of_trust
	input.evidence.debug_allowed == false
	input.evidence.migration_allowed == false
}

# The record still stands, and it is the record of this site config on this base.
enrolled if {
	input.enrollment.revoked == false
	input.enrollment.suspended == false
	input.enrollment.root_of_trust == input.service.root_of_trust
	input.enrollment.host_data == input.evidence.host_data
	input.evidence.launch_digest in input.enrollment.launch_digests
}

binding if {
	input.token.kind == "job"
	input.token.bound_key == true
	input.token.purpose in {"boot", "gpu", "renew"}
}

binding if {
	input.token.kind == "kbs"
	input.token.bound_key == false
}
