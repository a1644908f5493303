//! Which rows of a unit break a constraint of their table: DuckDB's error tells the first, and not its number.
//!
//! The rows go into a temporary table, and each constraint becomes a query over it. What a query cannot tell
//! (foreign keys, constraints on columns that are not given) is left to DuckDB's own error.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use duck_flight_protocol::{TableName, quote};

use super::Lossless;
use super::appender::{STAGED, TableWriter};
use super::catalog::{literal, rows, text};
use super::effect::{Effect, ORDINAL};
use super::ffi::Connection;
use super::types::{Plan, same_name};
use super::unit::Target;
use crate::error::Result;

/// A row that breaks a constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offence {
    /// Its place in the unit, from 0.
    pub(super) row: u64,
    /// The columns of the constraint.
    pub(super) columns: String,
    pub(super) reason: String,
}

/// The rows of a unit that break a constraint, in their order, each once; or, where there are some, those that
/// DuckDB cannot cast.
///
/// To be called outside of a transaction; leaves nothing behind.
pub(super) fn offences(
    connection: &Connection,
    lossless: &Lossless,
    put: &Target,
    plan: &Arc<Plan>,
    batches: &[RecordBatch],
) -> Result<Vec<Offence>> {
    connection.begin()?;
    let outcome = TableWriter::stage(connection, &put.table, plan).and_then(|mut staged| {
        let misfits = staged.sift(batches)?;
        if !misfits.is_empty() {
            return Ok(misfits);
        }
        staged.finish()?;
        find(connection, lossless, put, plan)
    });
    // The temporary table goes with the transaction.
    connection.roll_back();
    outcome
}

fn find(
    connection: &Connection,
    lossless: &Lossless,
    put: &Target,
    plan: &Plan,
) -> Result<Vec<Offence>> {
    let mut offences: Vec<Offence> = Vec::new();
    for constraint in constraints(connection, lossless, &put.table)? {
        let is_given = |name: &String| {
            plan.given()
                .any(|column| same_name(column.field.name(), name))
        };
        if !constraint.columns.iter().all(is_given) {
            continue;
        }
        let Some(sql) = constraint.sql(&put.table, &put.effect) else {
            continue;
        };
        let found = rows(connection, lossless, &sql)?;
        let ordinals = found.column(0).as_primitive::<UInt64Type>();
        offences.extend(ordinals.values().iter().map(|&row| Offence {
            row,
            columns: constraint.columns.join(", "),
            reason: format!("breaks the table's {}", constraint.text),
        }));
    }
    offences.sort_by_key(|offence| offence.row);
    offences.dedup_by_key(|offence| offence.row);
    Ok(offences)
}

struct Constraint {
    kind: String,
    text: String,
    columns: Vec<String>,
    expression: String,
}

fn constraints(
    connection: &Connection,
    lossless: &Lossless,
    table: &TableName,
) -> Result<Vec<Constraint>> {
    let sql = format!(
        "SELECT constraint_type, constraint_text, array_to_string(constraint_column_names, chr(0)),
             coalesce(expression, '')
         FROM duckdb_constraints()
         WHERE lower(table_name) = lower({table}) AND lower(schema_name) = lower({schema})
             AND lower(database_name) = lower({catalog})",
        table = literal(&table.table),
        schema = literal(table.schema.as_deref().unwrap_or("main")),
        catalog = table
            .catalog
            .as_deref()
            .map_or("current_database()".to_owned(), literal),
    );
    let found = rows(connection, lossless, &sql)?;
    let constraint = |row| Constraint {
        kind: text(found.column(0), row),
        text: text(found.column(1), row),
        columns: text(found.column(2), row)
            .split('\0')
            .map(str::to_owned)
            .collect(),
        expression: text(found.column(3), row),
    };
    Ok((0..found.num_rows()).map(constraint).collect())
}

impl Constraint {
    /// The query for the ordinals of staged rows that break it.
    fn sql(&self, table: &TableName, effect: &Effect) -> Option<String> {
        let columns: Vec<_> = self.columns.iter().map(|name| quote(name)).collect();
        match self.kind.as_str() {
            "NOT NULL" => Some(format!(
                "SELECT {ORDINAL} FROM {STAGED} WHERE {} IS NULL",
                columns.first()?
            )),
            "CHECK" => Some(format!(
                "SELECT {ORDINAL} FROM {STAGED} WHERE NOT ({})",
                self.expression
            )),
            // A row with a key that is there replaces the other one.
            "PRIMARY KEY" | "UNIQUE" if *effect == Effect::Append => {
                let same: Vec<_> = columns
                    .iter()
                    .map(|name| format!("old.{name} = new.{name}"))
                    .collect();
                let (same, key) = (same.join(" AND "), columns.join(", "));
                let is_null: Vec<_> = columns
                    .iter()
                    .map(|name| format!("{name} IS NULL"))
                    .collect();
                Some(format!(
                    "SELECT {ORDINAL} FROM {STAGED} AS new SEMI JOIN {table} AS old ON {same}
                     UNION
                     SELECT {ORDINAL} FROM {STAGED} WHERE NOT ({nulls})
                     QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {ORDINAL}) > 1",
                    table = table.to_sql(),
                    nulls = is_null.join(" OR "),
                ))
            }
            _ => None,
        }
    }
}
