//! Staged rows as their table would store them: with the columns that the stream does not send.

use duck_flight_protocol::{TableName, quote};

use super::appender::STAGED;
use super::constraints::is_in_schema;
use super::effect::{DELETES, ORDINAL};
use super::plan::Plan;
use super::types::same_name;
use crate::engine::catalog::{is_name, qualified, texts};
use crate::engine::ffi::Connection;
use crate::error::Result;

/// Ordinals of staged rows that are at fault: what was found of them so far.
pub(in crate::engine) const AT_FAULT: &str = "temp.main.duck_flight_at_fault";

/// Relations over [`STAGED`] without the rows [`AT_FAULT`], as SQL. Columns that cannot be known are not in them: those
/// that are generated, and those whose default has another value, or an effect, each time.
pub(super) struct Stored {
    /// All rows.
    pub(super) all: String,
    /// Those that count: of the rows with one key the last one.
    pub(super) effective: String,
    /// Those that are the only ones with their key.
    pub(super) only: String,
}

impl Stored {
    /// The rows with the columns that are sent, and no others.
    pub(super) fn as_sent(plan: &Plan) -> Self {
        Self::of(plan, Vec::new(), "")
    }

    pub(super) fn new(connection: &Connection, table: &TableName, plan: &Plan) -> Result<Self> {
        let key = plan.key_columns();
        let first_key = key.first().map(|name| quote(name));
        let mut columns = Vec::new();
        for column in unsent(connection, table, plan)? {
            let Some(default) = column.default else {
                continue;
            };
            let name = quote(&column.name);
            columns.push(match &first_key {
                // A key is never NULL: where it is, there is no such row yet.
                Some(key) => format!(
                    "CASE WHEN old.{key} IS NULL THEN {default} ELSE old.{name} END AS {name}"
                ),
                None => format!("{default} AS {name}"),
            });
        }
        if key.is_empty() {
            return Ok(Self::of(plan, columns, ""));
        }
        let (table, same_key) = (qualified(table), plan.same_key("new", "old"));
        let join = format!(" LEFT JOIN {table} AS old ON ({same_key})");
        Ok(Self::of(plan, columns, &join))
    }

    /// The rows with more columns, which may be those of a joined relation.
    fn of(plan: &Plan, more: Vec<String>, join: &str) -> Self {
        let staged =
            format!("(FROM {STAGED} AS staged ANTI JOIN {AT_FAULT} AS at_fault USING ({ORDINAL}))");
        let mut columns = vec![format!("new.{ORDINAL}")];
        columns.extend(plan.has_op().then(|| format!("new.{DELETES}")));
        let given = plan.given().map(|column| quote(column.field.name()));
        columns.extend(given.map(|name| format!("new.{name}")));
        columns.extend(more);
        let all = format!("(SELECT {} FROM {staged} AS new{join})", columns.join(", "));
        let key = plan.key_columns();
        let key: Vec<_> = key.iter().map(|name| quote(name)).collect();
        if key.is_empty() {
            return Self {
                effective: all.clone(),
                only: all.clone(),
                all,
            };
        }
        let key = key.join(", ");
        Self {
            effective: format!(
                "(FROM {all} QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {ORDINAL} DESC) = 1)"
            ),
            only: format!(
                "(FROM {all} QUALIFY system.main.count_star() OVER (PARTITION BY {key}) = 1)"
            ),
            all,
        }
    }
}

/// A column that the stream does not send.
struct Unsent {
    name: String,
    /// What a new row has there, as SQL; `None` where only DuckDB knows.
    default: Option<String>,
}

fn unsent(connection: &Connection, table: &TableName, plan: &Plan) -> Result<Vec<Unsent>> {
    let sql = format!(
        "SELECT table_name, column_name, coalesce(column_default, 'NULL'), data_type
         FROM system.main.duckdb_columns()
         WHERE {is_of} AND {place}
         ORDER BY column_index",
        is_of = is_name("table_name", &table.table),
        place = is_in_schema(table),
    );
    let found = texts::<4>(connection, &sql)?;
    let mut shapes = connection.table_columns(table)?.unwrap_or_default();
    connection.mark_generated(table, &mut shapes);
    let takes_values = |name: &str| {
        shapes
            .iter()
            .any(|shape| same_name(shape.field.name(), name) && !shape.is_generated)
    };
    let calls_some = found.iter().any(|[_, _, default, _]| default.contains('('));
    let unsteady = match calls_some {
        true => unsteady_functions(connection)?,
        false => Vec::new(),
    };
    let mut unsent = Vec::new();
    for [of, name, default, data_type] in found {
        let is_given = plan
            .given()
            .any(|column| same_name(column.field.name(), &name));
        let is_of_table = same_name(&of, &table.table);
        if is_given || !is_of_table || !takes_values(&name) {
            continue;
        }
        let is_steady = !calls_any(&default, &unsteady);
        unsent.push(Unsent {
            name,
            default: is_steady.then(|| format!("CAST({default} AS {data_type})")),
        });
    }
    Ok(unsent)
}

/// The functions that answer differently each time, or do something; macros, too, for they may call them.
fn unsteady_functions(connection: &Connection) -> Result<Vec<String>> {
    let sql = "SELECT DISTINCT system.main.lower(function_name) FROM system.main.duckdb_functions()
               WHERE stability = 'VOLATILE' OR function_type = 'macro'";
    let found = texts::<1>(connection, sql)?.into_iter();
    Ok(found.map(|[name]| name.replace('"', "")).collect())
}

/// Whether an expression calls one of these functions, or one whose name ends like theirs.
fn calls_any(expression: &str, functions: &[String]) -> bool {
    let expression = expression.to_lowercase().replace('"', "");
    let is_called = |name: &String| {
        let mut calls = expression.match_indices(name.as_str());
        calls.any(|(start, _)| expression[start + name.len()..].starts_with('('))
    };
    functions.iter().any(is_called)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_that_calls_an_unsteady_function_is_found() {
        let unsteady = ["nextval".to_owned(), "my own".to_owned()];
        for (default, is_found) in [
            ("nextval('s')", true),
            ("(1 + main.\"NextVal\"('s'))", true),
            ("\"my own\"(1)", true),
            ("'nextval'", false),
            ("lower('nextval')", false),
            ("NULL", false),
            ("(1 + 2)", false),
        ] {
            assert_eq!(calls_any(default, &unsteady), is_found, "{default}");
        }
    }
}
