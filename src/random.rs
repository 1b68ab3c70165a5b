//! Philox.
