//! The options of a put and its acknowledgements: JSON on the wire, types in the code.

use std::fmt;

use arrow_flight::FlightDescriptor;
use arrow_flight::flight_descriptor::DescriptorType;
use serde::{Deserialize, Serialize};

/// Where the rows of a put go: a table, optionally with its schema and catalog.
///
/// On the wire it is either a plain string, which names a table of the default schema, or an object
/// `{"catalog", "schema", "table"}`. Names are data, never SQL: any character may stand in them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "TableNameOnWire", into = "TableNameOnWire")]
pub struct TableName {
    /// The catalog (attached database); the server's own database when absent.
    pub catalog: Option<String>,
    /// The schema; the catalog's default schema when absent.
    pub schema: Option<String>,
    /// The table itself.
    pub table: String,
}

#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "`table` must be a string, or an object with `table` and optionally `catalog` and `schema`"
)]
enum TableNameOnWire {
    Table(String),
    Parts(TableNameParts),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TableNameParts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    catalog: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schema: Option<String>,
    table: String,
}

impl From<TableNameOnWire> for TableName {
    fn from(wire: TableNameOnWire) -> Self {
        match wire {
            TableNameOnWire::Table(table) => table.into(),
            TableNameOnWire::Parts(TableNameParts {
                catalog,
                schema,
                table,
            }) => Self {
                catalog,
                schema,
                table,
            },
        }
    }
}

impl From<TableName> for TableNameOnWire {
    fn from(name: TableName) -> Self {
        let TableName {
            catalog,
            schema,
            table,
        } = name;
        if catalog.is_none() && schema.is_none() {
            return Self::Table(table);
        }
        Self::Parts(TableNameParts {
            catalog,
            schema,
            table,
        })
    }
}

impl<S: Into<String>> From<S> for TableName {
    fn from(table: S) -> Self {
        Self {
            catalog: None,
            schema: None,
            table: table.into(),
        }
    }
}

impl TableName {
    /// Reads a descriptor's path: `[table]`, `[schema, table]` or `[catalog, schema, table]`.
    ///
    /// # Errors
    /// When the path has another number of parts, or an empty part.
    pub fn from_path(path: &[String]) -> Result<Self, OptionsError> {
        let (catalog, schema, table) = match path {
            [table] => (None, None, table),
            [schema, table] => (None, Some(schema), table),
            [catalog, schema, table] => (Some(catalog), Some(schema), table),
            _ => return Err(OptionsError::PathLength(path.len())),
        };
        let name = Self {
            catalog: catalog.cloned(),
            schema: schema.cloned(),
            table: table.clone(),
        };
        name.check()?;
        Ok(name)
    }

    /// The parts that are present, outermost first: the inverse of [`TableName::from_path`].
    ///
    /// A catalog without a schema cannot be told in a path; use the JSON options for that.
    pub fn path(&self) -> Vec<String> {
        let parts = [
            self.catalog.as_ref(),
            self.schema.as_ref(),
            Some(&self.table),
        ];
        parts.into_iter().flatten().cloned().collect()
    }

    /// The name as SQL: every part quoted, joined by dots.
    pub fn to_sql(&self) -> String {
        let quoted: Vec<_> = self.path().iter().map(|part| quote(part)).collect();
        quoted.join(".")
    }

    fn check(&self) -> Result<(), OptionsError> {
        let path = self.path();
        if path.iter().any(String::is_empty) {
            return Err(OptionsError::EmptyName);
        }
        if path.iter().any(|part| part.contains('\0')) {
            return Err(OptionsError::NulInName);
        }
        Ok(())
    }
}

/// A name as a quoted SQL identifier.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The parts joined by dots, for people.
impl fmt::Display for TableName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.path().join("."))
    }
}

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
    /// The table gains missing columns and wider types.
    Evolve,
}

/// What is one unit, committed and acknowledged as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Commit {
    /// The whole put: one acknowledgement at its end.
    #[default]
    Stream,
    /// Each record batch: acknowledged in order while the stream goes on.
    Batch,
}

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
    /// The key columns of [`Mode::Upsert`], [`Mode::Delete`] and [`Mode::Changes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Vec<String>>,
    /// The column of [`Mode::Changes`] that says what each row is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
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
                let options: Self = serde_json::from_slice(&descriptor.cmd)?;
                options.table.check()?;
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

    /// The options in use that this version of the server does not have yet, as `key` or `key: value`.
    pub fn not_built_yet(&self) -> Vec<&'static str> {
        let mode = match self.mode {
            Mode::Append => None,
            Mode::Upsert => Some("mode: upsert"),
            Mode::Delete => Some("mode: delete"),
            Mode::Changes => Some("mode: changes"),
        };
        [
            mode,
            (self.schema == SchemaMode::Evolve).then_some("schema: evolve"),
            self.producer.is_some().then_some("producer"),
            self.sequence.is_some().then_some("sequence"),
            self.key.is_some().then_some("key"),
            self.op.is_some().then_some("op"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// What a record batch of a put may carry in its `app_metadata`, as JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchMetadata {
    /// The sequence of this batch in a put with [`Commit::Batch`].
    pub sequence: Option<u64>,
}

/// The acknowledgement of one unit: its rows are durable. It is `PutResult.app_metadata`, as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Rows of the unit.
    pub rows: u64,
    /// The unit's sequence, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Whether the unit had been committed before and was therefore not inserted again.
    pub duplicate: bool,
}

impl Ack {
    /// The ack as the bytes of `PutResult.app_metadata`.
    pub fn to_json(self) -> Vec<u8> {
        serde_json::to_vec(&self).expect("numbers are always JSON")
    }

    /// Reads `PutResult.app_metadata`.
    ///
    /// # Errors
    /// When it is not the JSON of an ack.
    pub fn from_json(json: &[u8]) -> Result<Self, OptionsError> {
        Ok(serde_json::from_slice(json)?)
    }
}

/// Why the options of a put, or an ack, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The JSON is malformed, has an unknown key, or a value of the wrong kind.
    #[error("bad put options: {0}")]
    Json(#[from] serde_json::Error),
    /// The path names no table.
    #[error("a put's path is [table], [schema, table] or [catalog, schema, table], not {0} parts")]
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
    fn an_unknown_key_is_refused_by_name() {
        let descriptor = FlightDescriptor::new_cmd(r#"{"table":"t","colour":"red"}"#);
        let error = PutOptions::from_descriptor(&descriptor)
            .unwrap_err()
            .to_string();
        assert!(error.contains("colour"), "{error}");
    }

    #[test]
    fn a_path_has_one_to_three_parts_and_none_is_empty() {
        let parts = |path: &[&str]| {
            TableName::from_path(&path.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(parts(&["c", "s", "t"]).unwrap().to_string(), "c.s.t");
        assert!(parts(&[]).is_err());
        assert!(parts(&["a", "b", "c", "d"]).is_err());
        assert!(parts(&["", "t"]).is_err());
    }

    #[test]
    fn names_are_quoted_whatever_they_hold() {
        let name = TableName::from("x\"; DROP TABLE y; --");
        assert_eq!(name.to_sql(), "\"x\"\"; DROP TABLE y; --\"");
    }

    #[test]
    fn an_ack_reads_as_the_contract_writes_it() {
        let ack = Ack {
            rows: 1000,
            sequence: Some(17),
            duplicate: false,
        };
        assert_eq!(
            ack.to_json(),
            br#"{"rows":1000,"sequence":17,"duplicate":false}"#
        );
        assert_eq!(Ack::from_json(&ack.to_json()).unwrap(), ack);
    }
}
