//! The options of a put: JSON on the wire, types in the code.

use arrow_flight::FlightDescriptor;
use arrow_flight::flight_descriptor::DescriptorType;
use serde::{Deserialize, Serialize};

use crate::TableName;

/// What a put does with its rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Adds the rows.
    #[default]
    Append,
    /// Adds the rows, or updates those with the same key.
    Upsert,
    /// Deletes the rows with these keys.
    Delete,
    /// Inserts, updates or deletes, as each row says.
    Changes,
}

/// When the table is created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Create {
    /// When it is missing, from the stream's schema.
    #[default]
    IfMissing,
    /// Never: a missing table is an error.
    Never,
    /// Always: a table that exists is an error.
    Always,
    /// Always, and in place of the table that exists.
    Replace,
}

/// How the stream's schema may differ from the table's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemaMode {
    /// Columns match by name; missing ones take their default, unknown ones are refused.
    #[default]
    Match,
    /// The table gains missing columns, and wider types where no value can be lost.
    Evolve,
    /// As [`SchemaMode::Evolve`]; a column whose values fit no common type becomes `VARCHAR`.
    EvolveText,
}

/// What is one unit, committed and acknowledged as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Commit {
    /// The whole put: one acknowledgement at its end.
    #[default]
    Stream,
    /// Each record batch: acknowledged in order while the stream goes on.
    Batch,
}

/// What happens to rows that do not fit the table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The unit is refused, and the first such row is named.
    #[default]
    Fail,
    /// They go to the rejects, and the ack counts them; the others take effect.
    Reject,
}

/// The column of [`Mode::Changes`] that says what each row is, where the put names none.
const DEFAULT_OP: &str = "op";

/// The longest name of a producer, in bytes.
const MAX_PRODUCER_BYTES: usize = 256;

/// The JSON object in a put's `descriptor.cmd`. Every key but `table` is optional; unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutOptions {
    /// Where the rows go.
    pub table: TableName,
    /// What happens to the rows.
    #[serde(default)]
    pub mode: Mode,
    /// When the table is created.
    #[serde(default)]
    pub create: Create,
    /// How the stream's schema may differ from the table's.
    #[serde(default)]
    pub schema: SchemaMode,
    /// What is one unit.
    #[serde(default)]
    pub commit: Commit,
    /// Who sends, for exactly-once delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub producer: Option<String>,
    /// The sequence of this put, for exactly-once delivery with [`Commit::Stream`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The key columns of [`Mode::Upsert`], [`Mode::Delete`] and [`Mode::Changes`]; the table's primary key when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Vec<String>>,
    /// The column of [`Mode::Changes`] that says what each row is; `op` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// What happens to rows that do not fit the table.
    #[serde(default)]
    pub on_error: OnError,
}

impl PutOptions {
    /// The default options: append to `table`, created if missing, the whole stream one unit.
    pub fn new(table: impl Into<TableName>) -> Self {
        Self {
            table: table.into(),
            mode: Mode::default(),
            create: Create::default(),
            schema: SchemaMode::default(),
            commit: Commit::default(),
            producer: None,
            sequence: None,
            key: None,
            op: None,
            on_error: OnError::default(),
        }
    }

    /// Reads the options from the first message of a put: a path with the default options, or JSON in `cmd`.
    ///
    /// # Errors
    /// When the descriptor is neither, or the options are not what this type says; the message names the key.
    pub fn from_descriptor(descriptor: &FlightDescriptor) -> Result<Self, OptionsError> {
        match descriptor.r#type() {
            DescriptorType::Path => TableName::from_path(&descriptor.path).map(Self::new),
            DescriptorType::Cmd => {
                // An array would be read as the values of all keys.
                if !descriptor.cmd.trim_ascii_start().starts_with(b"{") {
                    return Err(OptionsError::NoObject);
                }
                let options: Self = serde_json::from_slice(&descriptor.cmd)?;
                options.check()?;
                Ok(options)
            }
            DescriptorType::Unknown => Err(OptionsError::UnknownDescriptor),
        }
    }

    /// The descriptor of a put with these options.
    pub fn descriptor(&self) -> FlightDescriptor {
        let json = serde_json::to_vec(self).expect("strings and numbers are always JSON");
        FlightDescriptor::new_cmd(json)
    }

    /// The column that says what each row of [`Mode::Changes`] is.
    pub fn op_column(&self) -> &str {
        self.op.as_deref().unwrap_or(DEFAULT_OP)
    }

    /// Finds options that do not go together, before one of them is silently ignored.
    fn check(&self) -> Result<(), OptionsError> {
        self.table.check()?;
        self.check_producer().map_err(OptionsError::Together)?;
        self.check_mode().map_err(OptionsError::Together)
    }

    fn check_producer(&self) -> Result<(), &'static str> {
        if let Some(producer) = &self.producer {
            if producer.is_empty() || producer.len() > MAX_PRODUCER_BYTES {
                return Err("`producer` is a name of 1 to 256 bytes");
            }
            if producer.contains('\0') {
                return Err("`producer` cannot hold the character NUL");
            }
        }
        match (self.commit, self.sequence, &self.producer) {
            (_, Some(0), _) => Err("`sequence` starts at 1"),
            (_, Some(_), None) => {
                Err("`sequence` needs `producer`: it counts what one producer sends")
            }
            (Commit::Batch, Some(_), _) => Err(
                "with `commit: batch` each record batch has its sequence, in its app_metadata: {\"sequence\":N}",
            ),
            (Commit::Stream, None, Some(_)) => Err(
                "`producer` with `commit: stream` needs `sequence`, so that the put can be told from another",
            ),
            _ => Ok(()),
        }
    }

    /// What belongs to some modes only.
    fn check_mode(&self) -> Result<(), &'static str> {
        if self.op.is_some() && self.mode != Mode::Changes {
            return Err("`op` belongs to `mode: changes`");
        }
        if self.mode == Mode::Delete {
            if matches!(self.create, Create::Always | Create::Replace) {
                return Err(
                    "`mode: delete` deletes from a table that is there: leave `create` out",
                );
            }
            if self.schema != SchemaMode::Match {
                return Err(
                    "`mode: delete` looks at the key's columns alone, and changes no table: leave `schema` out",
                );
            }
        }
        match &self.key {
            Some(_) if self.mode == Mode::Append => {
                Err("`key` belongs to `mode: upsert`, `delete` and `changes`")
            }
            Some(key) if key.is_empty() => {
                Err("`key` names no column; leave it out to use the table's primary key")
            }
            _ => Ok(()),
        }
    }
}

/// Why the options of a put, or an ack, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The command is something else, such as a table's bare name.
    #[error(
        "a put's command is a JSON object such as {{\"table\":\"events\"}}; or name the table by a path"
    )]
    NoObject,
    /// The JSON is malformed, has an unknown key, or a value of the wrong kind.
    #[error("bad put options: {0}")]
    Json(#[from] serde_json::Error),
    /// Options that do not go together, or a value out of range.
    #[error("bad put options: {0}")]
    Together(&'static str),
    /// The `app_metadata` of a record batch cannot be read.
    #[error("bad app_metadata of a record batch: {0}")]
    BatchMetadata(serde_json::Error),
    /// What came back from a put cannot be read.
    #[error("bad answer to a put: {0}")]
    Ack(serde_json::Error),
    /// The path names no table.
    #[error("a path is [table], [schema, table] or [catalog, schema, table], not {0} parts")]
    PathLength(usize),
    /// A part of the table's name is empty.
    #[error("a part of the table's name is empty")]
    EmptyName,
    /// A part of the table's name holds the character NUL.
    #[error("a table's name cannot hold the character NUL")]
    NulInName,
    /// The descriptor has no type.
    #[error("the descriptor is neither a path nor a command: set path to [table], or cmd to JSON")]
    UnknownDescriptor,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_left_out_take_their_defaults() {
        let descriptor = FlightDescriptor::new_cmd(r#"{"table":"t"}"#);
        assert_eq!(
            PutOptions::from_descriptor(&descriptor).unwrap(),
            PutOptions::new("t")
        );
    }

    #[test]
    fn options_survive_the_wire() {
        let mut options = PutOptions::new(TableName {
            catalog: Some("c".into()),
            schema: None,
            table: "x\"; DROP TABLE y; --".into(),
        });
        options.commit = Commit::Batch;
        options.create = Create::Replace;
        assert_eq!(
            PutOptions::from_descriptor(&options.descriptor()).unwrap(),
            options
        );
    }

    #[test]
    fn options_that_do_not_go_together_are_refused() {
        let cases = [
            (r#"{"table":"t","sequence":1}"#, "needs `producer`"),
            (r#"{"table":"t","producer":"p"}"#, "needs `sequence`"),
            (
                r#"{"table":"t","producer":"p","sequence":0}"#,
                "starts at 1",
            ),
            (r#"{"table":"t","producer":"","sequence":1}"#, "1 to 256"),
            (
                r#"{"table":"t","producer":"p","sequence":1,"commit":"batch"}"#,
                "app_metadata",
            ),
            (r#"{"table":"t","key":["k"]}"#, "`key` belongs"),
            (r#"{"table":"t","mode":"upsert","key":[]}"#, "no column"),
            (r#"{"table":"t","mode":"upsert","op":"o"}"#, "`op` belongs"),
            (
                r#"{"table":"t","mode":"delete","create":"replace"}"#,
                "leave `create` out",
            ),
            (
                r#"{"table":"t","mode":"delete","create":"always"}"#,
                "leave `create` out",
            ),
            (
                r#"{"table":"t","mode":"delete","schema":"evolve"}"#,
                "leave `schema` out",
            ),
            (
                r#"{"table":"t","mode":"delete","schema":"evolve_text"}"#,
                "leave `schema` out",
            ),
        ];
        for (json, expected) in cases {
            let error = PutOptions::from_descriptor(&FlightDescriptor::new_cmd(json))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }

    #[test]
    fn a_command_that_is_no_object_is_told_what_to_be() {
        for command in ["events", "", "[]", r#"["t","append"]"#, "\"t\"", "null"] {
            let descriptor = FlightDescriptor::new_cmd(command);
            let error = PutOptions::from_descriptor(&descriptor).unwrap_err();
            assert!(
                error.to_string().contains(r#"{"table":"events"}"#),
                "{command}: {error}"
            );
        }
        let descriptor = FlightDescriptor::new_cmd(" \n{\"table\":\"t\"}");
        assert!(PutOptions::from_descriptor(&descriptor).is_ok());
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let descriptor = FlightDescriptor::new_cmd(r#"{"table":"t","colour":"red"}"#);
        let error = PutOptions::from_descriptor(&descriptor)
            .unwrap_err()
            .to_string();
        assert!(error.contains("colour"), "{error}");
    }
}
