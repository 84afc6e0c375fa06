//! Launch digests of a base, computed offline.
