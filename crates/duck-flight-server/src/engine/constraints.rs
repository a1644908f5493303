//! Which rows of a unit break a constraint of their table: DuckDB's error tells the first, and not its number.
//!
//! The rows go into a temporary table, and each constraint becomes a query over it. What a query cannot tell
//! (foreign keys, constraints on columns that are not given) is left to DuckDB's own error.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use duck_flight_protocol::{TableName, quote};

use super::Lossless;
use super::appender::{STAGED, TableWriter};
use super::catalog::{is_name, rows, text};
use super::effect::{DELETES, Effect, ORDINAL};
use super::ffi::Connection;
use super::plan::Plan;
use super::types::same_name;
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
    let is_given = |name: &String| {
        plan.given()
            .any(|column| same_name(column.field.name(), name))
    };
    let mut constraints = constraints(connection, lossless, &put.table)?;
    constraints.retain(|constraint| constraint.columns.iter().all(is_given));
    for constraint in &constraints {
        let Some(sql) = constraint.sql(&put.table, &put.effect) else {
            continue;
        };
        let found = rows(connection, lossless, &sql)?;
        let ordinals = found.column(0).as_primitive::<UInt64Type>();
        offences.extend(ordinals.values().iter().map(|&row| constraint.offence(row)));
    }
    if put.effect == Effect::Append {
        constraints.retain(Constraint::is_unique);
        let at_fault = offences.iter().map(|offence| offence.row).collect();
        offences.extend(repetitions(connection, lossless, &constraints, &at_fault)?);
    }
    offences.sort_by_key(|offence| offence.row);
    offences.dedup_by_key(|offence| offence.row);
    Ok(offences)
}

/// Rows with a key of another row before them. One that is at fault itself takes no key from others.
fn repetitions(
    connection: &Connection,
    lossless: &Lossless,
    unique: &[Constraint],
    at_fault: &HashSet<u64>,
) -> Result<Vec<Offence>> {
    // A key is its constraint and the first row that has it.
    let mut keys: BTreeMap<u64, Vec<(usize, u64)>> = BTreeMap::new();
    for (index, constraint) in unique.iter().enumerate() {
        let found = rows(connection, lossless, &constraint.repeated_sql())?;
        let ordinals = |column| found.column(column).as_primitive::<UInt64Type>().values();
        for (&row, &first) in ordinals(0).iter().zip(ordinals(1)) {
            keys.entry(row).or_default().push((index, first));
        }
    }
    let mut taken = HashSet::new();
    let mut offences = Vec::new();
    for (row, keys) in keys {
        if at_fault.contains(&row) {
            continue;
        }
        match keys.iter().find(|key| taken.contains(*key)) {
            Some((index, _)) => offences.push(unique[*index].offence(row)),
            None => taken.extend(keys),
        }
    }
    Ok(offences)
}

/// The columns of a table's primary key, in their order; `None` where it has none.
pub(super) fn primary_key(
    connection: &Connection,
    lossless: &Lossless,
    table: &TableName,
) -> Result<Option<Vec<String>>> {
    let constraints = constraints(connection, lossless, table)?;
    let key = constraints
        .into_iter()
        .find(|constraint| constraint.kind == "PRIMARY KEY");
    Ok(key.map(|key| key.columns))
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
        "SELECT constraint_type, constraint_text, system.main.array_to_string(constraint_column_names, system.main.chr(0)),
             coalesce(expression, '')
         FROM system.main.duckdb_constraints()
         WHERE {is_table} AND {is_schema} AND {is_catalog}",
        is_table = is_name("table_name", &table.table),
        is_schema = is_name("schema_name", table.schema.as_deref().unwrap_or("main")),
        is_catalog = table.catalog.as_deref().map_or_else(
            || "database_name = system.main.current_database()".to_owned(),
            |catalog| is_name("database_name", catalog),
        ),
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
    fn is_unique(&self) -> bool {
        matches!(self.kind.as_str(), "PRIMARY KEY" | "UNIQUE")
    }

    fn offence(&self, row: u64) -> Offence {
        Offence {
            row,
            columns: self.columns.join(", "),
            reason: format!("breaks the table's {}", self.text),
        }
    }

    /// The query for the ordinals of staged rows that break it, each by itself.
    fn sql(&self, table: &TableName, effect: &Effect) -> Option<String> {
        let unless_deleted = match effect {
            // What is deleted breaks nothing, whatever else its row says.
            Effect::Delete { .. } => return None,
            Effect::Changes { .. } => format!(" AND NOT {DELETES}"),
            Effect::Append | Effect::Upsert { .. } => String::new(),
        };
        match self.kind.as_str() {
            "NOT NULL" => Some(format!(
                "SELECT {ORDINAL} FROM {STAGED} WHERE {} IS NULL{unless_deleted}",
                quote(self.columns.first()?)
            )),
            "CHECK" => Some(format!(
                "SELECT {ORDINAL} FROM {STAGED} WHERE NOT ({}){unless_deleted}",
                self.expression
            )),
            // Elsewhere a row with a key that is there replaces the other one.
            _ if self.is_unique() && *effect == Effect::Append => {
                let same: Vec<_> = self
                    .columns
                    .iter()
                    .map(|name| format!("old.{0} = new.{0}", quote(name)))
                    .collect();
                Some(format!(
                    "SELECT {ORDINAL} FROM {STAGED} AS new SEMI JOIN {} AS old ON {}",
                    table.to_sql(),
                    same.join(" AND ")
                ))
            }
            _ => None,
        }
    }

    /// The query for the ordinals of staged rows that share their key, each with that of the first such row.
    fn repeated_sql(&self) -> String {
        let columns: Vec<_> = self.columns.iter().map(|name| quote(name)).collect();
        let is_null: Vec<_> = columns
            .iter()
            .map(|name| format!("{name} IS NULL"))
            .collect();
        format!(
            "SELECT {ORDINAL}, system.main.min({ORDINAL}) OVER same_key FROM {STAGED} WHERE NOT ({nulls})
             WINDOW same_key AS (PARTITION BY {key}) QUALIFY system.main.count_star() OVER same_key > 1",
            nulls = is_null.join(" OR "),
            key = columns.join(", "),
        )
    }
}
