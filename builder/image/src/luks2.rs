//! Part of disk format 1.
