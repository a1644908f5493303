//! Runs SQL on a Duck Flight server and prints the result.
//!
//! The way of a query: [`run`] connects, sends the SQL as the ticket of a plain Flight `DoGet`, and
//! hands the record batches of the answer through a short channel to a thread that formats and writes
//! them. So decoding and formatting go on at the same time, a slow reader of the output slows the query
//! instead of filling memory, and a call that is dropped (Ctrl-C) or an output that is closed
//! (`duck-query ... | head`) cancels the query on the server.
//!
//! Invariants: no format holds a whole result; values are never changed to fit a format, only tables at
//! a terminal shorten text, and say so with `…`; results go to the writer given to [`run`] and nothing
//! else does.

pub mod args;
mod format;
mod query;
mod type_name;
mod value;

pub use format::{Format, OutputOptions};
pub use query::{Error, Query, Summary, run};
pub use value::texts;
