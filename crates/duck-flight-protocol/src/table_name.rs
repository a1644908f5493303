//! The name of a table: a path or JSON on the wire, data and never SQL.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::OptionsError;

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

    pub(crate) fn check(&self) -> Result<(), OptionsError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_to_three_parts_and_none_is_empty() {
        let parts = |path: &[&str]| {
            TableName::from_path(&path.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(parts(&["c", "s", "t"]).unwrap().to_string(), "c.s.t");
        // A query names tables by paths, too.
        for wrong in ["", "a b c d"] {
            let path: Vec<_> = wrong.split_whitespace().collect();
            let error = parts(&path).unwrap_err().to_string();
            assert!(error.starts_with("a path is [table]"), "{error}");
        }
        assert!(parts(&["", "t"]).is_err());
    }

    #[test]
    fn names_are_quoted_whatever_they_hold() {
        let name = TableName::from("x\"; DROP TABLE y; --");
        assert_eq!(name.to_sql(), "\"x\"\"; DROP TABLE y; --\"");
    }
}
