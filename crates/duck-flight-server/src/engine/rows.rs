//! From the rows of a stream to the rows of a table.
//!
//! [`plan`] says which column goes where, by the [`types`] of both; the table is made for the stream ([`sql_type`]) or altered
//! ([`evolve`], but for columns that are [`fixed`]) where it has to be. [`effect`] is what the mode of a put does with the rows: they are appended ([`appender`],
//! [`insert`]), or gathered first. Where the table refuses them, [`constraints`] and [`offences`] find out which.

pub(super) mod appender;
pub(super) mod constraints;
pub(super) mod effect;
pub(super) mod evolve;
pub(super) mod fixed;
pub(super) mod growth;
pub(super) mod insert;
pub(super) mod keys;
pub(super) mod offence_queries;
pub(super) mod offences;
pub(super) mod plan;
pub(super) mod ranges;
pub(super) mod row_bytes;
pub(super) mod sql_type;
pub(super) mod stored;
pub(super) mod types;
