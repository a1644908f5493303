//! Producers: loaders that name themselves, so that what they send again is applied once.

use serde::{Deserialize, Serialize};

use crate::TableName;

/// The name of the `DoAction` that lists producers, one [`ProducerState`] in each result.
pub const ACTION_PRODUCERS: &str = "producers";

/// The name of the `DoAction` that forgets producers. Its body is a [`ForgetProducers`], its one result a
/// [`ProducersForgotten`].
pub const ACTION_FORGET_PRODUCERS: &str = "forget_producers";

/// How far a producer has come with one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerState {
    /// The name the producer gave itself.
    pub producer: String,
    /// The table.
    pub table: TableName,
    /// The last sequence that is durable.
    pub last_sequence: u64,
    /// When it was committed: UTC, RFC 3339.
    pub last_commit_at: String,
}

/// Which producers to forget: what they send from then on counts as new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForgetProducers {
    /// The producer of this name, with all its tables. A stream it has open is fenced.
    Producer(String),
    /// Those that have committed nothing for so many seconds and have no stream open.
    IdleSeconds(u64),
}

/// The body of the one result of [`ACTION_FORGET_PRODUCERS`], as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducersForgotten {
    /// How many pairs of a producer and a table were forgotten.
    pub forgotten: u64,
}
