//! End-to-end tests: real clients against a server in the test's process, or against the real binary.

mod bombs;
mod cancel;
mod fuzz;
mod group;
mod malformed;
mod memory;
mod shutdown;
