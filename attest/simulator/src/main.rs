//! A software AMD secure processor for machines without SEV-SNP.

fn main() {}
