//! Columns that keep their type, for DuckDB 1.5.5 changes none on which something else depends.

use duck_flight_protocol::TableName;

use super::constraints::{describe, is_in_schema};
use super::evolve::Alteration;
use super::types::same_name;
use crate::engine::catalog::{is_name, texts};
use crate::engine::ffi::Connection;
use crate::error::Result;

/// Leaves out the changes of types that DuckDB refuses: such a column stays, and each value must fit it.
pub(in crate::engine) fn without_fixed_columns(
    connection: &Connection,
    table: &TableName,
    mut alterations: Vec<Alteration>,
) -> Result<Vec<Alteration>> {
    if alterations.iter().all(|one| one.widened.is_none()) {
        return Ok(alterations);
    }
    let fixed = Fixed::of(connection, table)?;
    alterations.retain(|one| match &one.widened {
        Some(widened) => !fixed.holds(&widened.column),
        None => true,
    });
    Ok(alterations)
}

/// The columns of a table that keep their type.
struct Fixed {
    /// Whether all of them do: it has an index, or another table refers to it.
    all: bool,
    /// Those of keys, of what is unique, and of checks; and the generated ones.
    names: Vec<String>,
    /// What the generated ones are computed by.
    expressions: Vec<String>,
}

impl Fixed {
    fn of(connection: &Connection, table: &TableName) -> Result<Self> {
        let mut fixed = Self {
            all: has_index(connection, table)?,
            names: Vec::new(),
            expressions: Vec::new(),
        };
        for constraint in describe(connection, table)? {
            let is_its_own = same_name(&constraint.table, &table.table);
            fixed.all |= !is_its_own;
            if is_its_own && constraint.kind != "NOT NULL" {
                fixed.names.extend(constraint.columns);
            }
        }
        for (name, expression) in generated(connection, table)? {
            fixed.names.push(name);
            fixed.expressions.push(expression);
        }
        Ok(fixed)
    }

    fn holds(&self, column: &str) -> bool {
        let mut names = self.names.iter();
        let mut expressions = self.expressions.iter();
        self.all
            || names.any(|name| same_name(name, column))
            || expressions.any(|expression| mentions(expression, column))
    }
}

fn has_index(connection: &Connection, table: &TableName) -> Result<bool> {
    let sql = format!(
        "SELECT index_name FROM system.main.duckdb_indexes() WHERE {is_of} AND {place}",
        is_of = is_name("table_name", &table.table),
        place = is_in_schema(table),
    );
    Ok(!texts::<1>(connection, &sql)?.is_empty())
}

/// The generated columns of a table, each with what it is computed by.
fn generated(connection: &Connection, table: &TableName) -> Result<Vec<(String, String)>> {
    let mut columns = connection.table_columns(table)?.unwrap_or_default();
    connection.mark_generated(table, &mut columns);
    let is_generated = |name: &str| {
        let mut generated = columns.iter().filter(|column| column.is_generated);
        generated.any(|column| same_name(column.field.name(), name))
    };
    let sql = format!(
        "SELECT column_name, coalesce(column_default, '') FROM system.main.duckdb_columns() WHERE {is_of} AND {place}",
        is_of = is_name("table_name", &table.table),
        place = is_in_schema(table),
    );
    let found = texts::<2>(connection, &sql)?.into_iter();
    let generated = found.filter(|[name, _]| is_generated(name));
    Ok(generated
        .map(|[name, expression]| (name, expression))
        .collect())
}

/// Whether a column's name stands in an expression: as that, or by chance, as in a text.
fn mentions(expression: &str, column: &str) -> bool {
    let expression = expression.to_ascii_lowercase();
    let name = column.replace('"', "\"\"").to_ascii_lowercase();
    let is_of_word = |char: char| char.is_alphanumeric() || char == '_';
    expression.match_indices(&name).any(|(start, _)| {
        let before = expression[..start].chars().next_back();
        let behind = expression[start + name.len()..].chars().next();
        !before.is_some_and(is_of_word) && !behind.is_some_and(is_of_word)
    })
}

#[cfg(test)]
mod tests {
    use duck_flight_protocol::quote;

    use super::*;
    use crate::engine::ffi::Database;
    use crate::engine::rows::evolve::Widened;

    fn wider(column: &str) -> Alteration {
        let name = quote(column);
        let value = format!("CAST({name} AS BIGINT)");
        Alteration {
            sql: format!("ALTER TABLE t ALTER COLUMN {name} SET DATA TYPE BIGINT USING {value}"),
            widened: Some(Widened {
                column: column.to_owned(),
                name,
                value,
            }),
        }
    }

    #[test]
    fn the_columns_that_stay_are_those_that_duckdb_does_not_alter() {
        let tables = [
            "CREATE TABLE t (a INTEGER, b INTEGER NOT NULL)",
            "CREATE TABLE t (a INTEGER PRIMARY KEY, b INTEGER)",
            "CREATE TABLE t (a INTEGER UNIQUE, b INTEGER)",
            "CREATE TABLE t (A INTEGER, b INTEGER, c INTEGER, UNIQUE (c, a))",
            "CREATE TABLE t (a INTEGER, b INTEGER, c INTEGER, CHECK (a > c))",
            "CREATE TABLE t (a INTEGER, b INTEGER, c INTEGER GENERATED ALWAYS AS (a + 1))",
            "CREATE TABLE t (a INTEGER, b INTEGER, c INTEGER GENERATED ALWAYS AS (\"A\" + 1), d INTEGER GENERATED ALWAYS AS (c))",
            "CREATE TABLE t (a INTEGER DEFAULT 1, b INTEGER, c VARCHAR DEFAULT 'a + b')",
            "CREATE TABLE t (a INTEGER, b INTEGER); CREATE INDEX i ON t (a)",
            "CREATE TABLE t (a INTEGER, b INTEGER); CREATE INDEX i ON t ((a + 1))",
            "CREATE TABLE p (a INTEGER PRIMARY KEY); CREATE TABLE t (a INTEGER REFERENCES p (a), b INTEGER)",
            "CREATE TABLE t (a INTEGER PRIMARY KEY, b INTEGER); CREATE TABLE child (a INTEGER REFERENCES t (a))",
            "CREATE TABLE t (a INTEGER PRIMARY KEY, b INTEGER, c INTEGER REFERENCES t (a))",
            "CREATE TABLE t (a INTEGER, b INTEGER); CREATE VIEW v AS FROM t",
            "CREATE TABLE other (a INTEGER PRIMARY KEY); CREATE INDEX i ON other (a); CREATE TABLE t (a INTEGER, b INTEGER)",
        ];
        for sql in tables {
            for column in ["a", "b"] {
                let database = Database::open(":memory:", &[]).unwrap();
                let connection = database.connect().unwrap();
                connection.execute(sql).unwrap();
                let alteration = wider(column);
                let alter = alteration.sql.clone();
                let table = TableName::from("t");
                let made = without_fixed_columns(&connection, &table, vec![alteration]).unwrap();
                let is_refused = connection.execute(&alter).is_err();
                assert_eq!(made.is_empty(), is_refused, "{column}: {sql}");
            }
        }
    }

    #[test]
    fn a_name_is_found_in_an_expression_as_a_whole() {
        let expression = "CAST((\"We\"\"ird\" + \"x Y\") + PLAIN AS INTEGER)";
        for column in ["we\"ird", "X y", "plain"] {
            assert!(mentions(expression, column), "{column}");
        }
        for column in ["i", "plai", "ird\"", "PLAIN_"] {
            assert!(!mentions(expression, column), "{column}");
        }
    }
}
