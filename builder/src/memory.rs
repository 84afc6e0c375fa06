//! What this process does with keys in its memory.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Keys exist in this process's memory before they are anywhere else: whatever ends it, no core dump has them.
pub fn keep_keys_off_the_disk() {
    // Both give up a right of ours, which the kernel does not refuse. The second one also closes the door to a collector of core
    // dumps that does not ask for the limit.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
