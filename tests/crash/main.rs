//! Crash tests: the real server is killed at random moments, its disk fails, its log is damaged; whatever happens,
//! what was acknowledged is there, once, and nothing else is half there.
//!
//! - [`kill`]: loaders of every kind write while the server is killed again and again;
//! - [`faults`]: a shim under the server makes its reads and writes of files fail, as a bad disk does;
//! - [`heavy`]: so do they in the middle of large units, of changes by key, of statements and of what spills;
//! - [`resumed`]: `duck-load` is killed and run again, as is the server;
//! - [`alter`]: tables are altered and renamed while rows come in, before a kill;
//! - [`any_step`]: the server is killed at every single step of a checkpoint, of a start and of its end. They take longest, and by their name
//!   begin early;
//! - [`claimed`]: tables are altered in two transactions at once;
//! - [`cut_off`]: checkpoints are cut off one after the other;
//! - [`index`]: tables with indexes are written in whole row groups before a kill;
//! - [`log`]: the log is damaged between two runs;
//! - [`nulls`]: values are set in the place of NULLs before a kill;
//! - [`power`]: the power is cut while loaders write: of what was not synced a part is lost;
//! - [`referred`]: tables of foreign keys are not taken away;
//! - [`replayed_alter`]: what an ALTER means must not change when it is replayed;
//! - [`replayed_script`]: scripts that end one transaction and commit another before a kill;
//! - [`replayed_type`]: types that are made in new schemas;
//! - [`taken_over`]: a stream takes over while a unit of the one before it is being committed;
//! - [`widened`]: columns get another type beside transactions that are open before a kill;
//! - [`with_index`]: indexes are made in transactions with more, and beside others;
//! - [`model`]: any interleaving of puts, retries, kills, restarts and schema changes equals a model in memory.

mod alter;
mod any_step;
mod claimed;
mod cut_off;
mod faults;
mod heavy;
mod index;
mod kill;
mod latest;
mod loader;
mod log;
mod model;
mod nulls;
mod plain;
mod plan;
mod power;
mod producer;
mod put;
mod referred;
mod replayed_alter;
mod replayed_script;
mod replayed_type;
mod resumed;
mod schemas;
mod shim;
mod sources;
mod table;
mod taken_over;
mod ways;
mod widened;
mod with_index;
mod world;
