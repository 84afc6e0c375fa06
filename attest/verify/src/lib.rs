//! Appraisal of SNP evidence: pure.
