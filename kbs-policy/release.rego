# May this verified evidence have this resource?
#
# Asked after the verifier has appraised the evidence. This can only narrow: what the verifier refused never gets here.
# Compare with `== false`, never `not input.x`: where the member is missing, the first denies and the second allows.
package coffer.release

default allow := false

allow if {
	genuine
	enrolled
	own_resource
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

# Every segment of the path is the record's own.
own_resource if {
	input.resource.project == input.enrollment.project
	input.resource.site == input.enrollment.site
	input.resource.host_data == input.enrollment.host_data
	input.resource.secret in {"root", "kit"}
}
