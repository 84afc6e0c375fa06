//! What the gate knows of Flower: its versions, its ports, its commands, its forms of error.

pub mod config;
mod version;
