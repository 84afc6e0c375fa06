//! Vectors, golden files, the QEMU tier, reproducibility, benchmarks.
