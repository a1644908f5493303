//! End-to-end tests: real clients against a server in the test's process, or against the real binary.

mod bombs;
mod cancel;
mod depth;
mod express;
mod fairness;
mod fuzz;
mod fuzz_sql;
mod get;
mod group;
mod lifetime;
mod limits;
mod macros;
mod malformed;
mod memory;
mod mixed;
mod modes;
mod peers;
mod places;
mod producer;
mod put;
mod session;
mod shutdown;
mod statement;
mod storage;
mod ticket;
mod transaction;
