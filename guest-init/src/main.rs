//! Static PID 1 of a confidential VM.

fn main() {}
