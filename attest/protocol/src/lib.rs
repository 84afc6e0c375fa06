//! KBS 0.4 messages, runtime-data hashing, JWE.
