//! End-to-end tests: real clients against a server in the test's process, or against the real binary.
//!
//! What the server says to which mistake is tested here; tests/clients proves that the calls of other clients work, and
//! tests/crash that what was acknowledged survives a kill.

mod altered;
mod bombs;
mod cancel;
mod commits;
mod connections;
mod deletes;
mod depth;
mod dictionaries;
mod evolve;
mod expansions;
mod express;
mod failure;
mod fairness;
mod files;
mod fuzz;
mod fuzz_sql;
mod gate;
mod get;
mod group;
mod in_the_way;
mod kept;
mod lifetime;
mod limits;
mod losses;
mod macros;
mod malformed;
mod memory;
mod mixed;
mod modes;
mod names;
mod ordered;
mod ordinary;
mod panics;
mod parameters;
mod peers;
mod places;
mod producer;
mod put;
mod references;
mod rejects;
mod session;
mod shutdown;
mod statement;
mod storage;
mod structs;
mod superseded;
mod ticket;
mod transaction;
mod values;
mod words;
