//! Producers: loaders that name themselves, so that what they send again is applied once.

use serde::{Deserialize, Deserializer, Serialize};

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
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "`producer` must be a name, which a `table` may go with, or else `idle_seconds` a whole number, and there is no other key"
)]
pub enum ForgetProducers {
    /// One producer. A stream it has open is fenced.
    Named {
        /// Its name.
        producer: String,
        /// The table it is forgotten with; all its tables when absent.
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            deserialize_with = "given"
        )]
        table: Option<TableName>,
    },
    /// Those that have been idle.
    Idle {
        /// They have committed nothing for so many seconds and have no stream open.
        idle_seconds: u64,
    },
}

/// A table that is there: `null` is not taken for an absent one, for a mistake would forget the producer of all tables.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TableName>, D::Error> {
    TableName::deserialize(deserializer).map(Some)
}

/// The body of the one result of [`ACTION_FORGET_PRODUCERS`], as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducersForgotten {
    /// How many pairs of a producer and a table were forgotten.
    pub forgotten: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_forgotten_is_never_guessed() {
        let read = |json| serde_json::from_str::<ForgetProducers>(json);
        let named = |table: Option<&str>| ForgetProducers::Named {
            producer: "p".into(),
            table: table.map(Into::into),
        };
        assert_eq!(read(r#"{"producer":"p"}"#).unwrap(), named(None));
        let of_one_table = r#"{"producer":"p","table":"t"}"#;
        assert_eq!(read(of_one_table).unwrap(), named(Some("t")));
        assert_eq!(
            serde_json::to_string(&named(Some("t"))).unwrap(),
            of_one_table
        );
        for json in [
            r#"{"producer":"p","tabel":"t"}"#,
            r#"{"producer":"p","table":null}"#,
            r#"{"producer":"p","idle_seconds":1}"#,
            r#"{"idle_seconds":1,"table":"t"}"#,
            r#"["p"]"#,
            "{}",
        ] {
            let error = read(json).unwrap_err().to_string();
            assert!(
                error.contains("`producer` must be a name"),
                "{json}: {error}"
            );
        }
    }
}
