//! One program, so that the simulated hierarchies' RSA keys are made once.

mod chains;
mod collateral;
mod documents;
mod every_bit;
mod negatives;
mod oracle;
mod scene;
mod vectors;
