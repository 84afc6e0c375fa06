//! Container layers, root file system, dm-verity, LUKS2, qcow2, cpio: bytes in, bytes out.
