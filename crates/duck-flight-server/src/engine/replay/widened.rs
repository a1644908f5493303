//! Columns that get another type beside open transactions.
//!
//! DuckDB 1.5.5 makes the new column of what the oldest open transaction of the database sees, whatever that reads or writes
//! (`RowGroup::AlterType`, `RowGroup::Scan` with `TABLE_SCAN_ALL_ROWS`): what was updated and committed since is undone for good, and what
//! that transaction itself has updated is committed. So the values are kept before, and put back where they differ, in the
//! transaction of the change. Rows are updated in their places, as no such column is of an index or has a nested type, and that
//! is logged, and replayed, behind the change.
//!
//! What clients alter by a statement [waits](super::open_transactions) for older transactions instead.

use duck_flight_protocol::TableName;

use super::hides_row_numbers;
use crate::engine::ffi::Connection;
use crate::engine::rows::evolve::{Alteration, Widened};
use crate::error::{Error, Result};

/// The temporary table for values as they are to be, and the numbers of their rows.
pub(in crate::engine) const KEPT: &str = "temp.main.duck_flight_widened";

/// What rows are told apart by, unless a column has the name.
const ROW_NUMBER: &str = "rowid";

/// Alters a table in the open transaction, which must have looked at the database since nobody else commits anything.
///
/// # Errors
/// Where others are too old beside it, and rows cannot be told apart.
pub(in crate::engine) fn alter(
    connection: &Connection,
    table: &TableName,
    alterations: &[Alteration],
) -> Result<()> {
    let widened = alterations.iter().filter_map(|one| one.widened.as_ref());
    let widened: Vec<_> = widened.collect();
    // Those that begin from here on are not the oldest one.
    let is_at_risk = !widened.is_empty() && connection.is_beside_others();
    let can_keep = is_at_risk && {
        let columns = connection.table_columns(table)?.unwrap_or_default();
        !hides_row_numbers(&columns)
    };
    if is_at_risk && !can_keep && connection.older_transactions().others {
        return Err(Error::TypeBesideOlder);
    }
    if can_keep {
        connection.execute(&keep_sql(table, &widened))?;
    }
    for alteration in alterations {
        connection.execute(&alteration.sql)?;
    }
    if can_keep {
        connection.execute(&put_back_sql(table, &widened))?;
        connection.execute(&format!("DROP TABLE {KEPT}"))?;
    }
    Ok(())
}

fn keep_sql(table: &TableName, widened: &[&Widened]) -> String {
    let values = widened.iter().zip(0..);
    let values = values.map(|(column, index)| format!("{} AS c{index}", column.value));
    format!(
        "CREATE OR REPLACE TEMP TABLE {KEPT} AS SELECT {ROW_NUMBER} AS id, {} FROM {}",
        values.collect::<Vec<_>>().join(", "),
        table.to_sql()
    )
}

fn put_back_sql(table: &TableName, widened: &[&Widened]) -> String {
    let (mut values, mut differences) = (Vec::new(), Vec::new());
    for (Widened { name, .. }, index) in widened.iter().zip(0..) {
        values.push(format!("{name} = kept.c{index}"));
        differences.push(format!("altered.{name} IS DISTINCT FROM kept.c{index}"));
    }
    format!(
        "UPDATE {} AS altered SET {} FROM {KEPT} AS kept WHERE altered.{ROW_NUMBER} = kept.id AND ({})",
        table.to_sql(),
        values.join(", "),
        differences.join(" OR ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::catalog::texts;
    use crate::engine::ffi::Database;

    fn widened(name: &str, sql_type: &str, value: &str) -> Alteration {
        Alteration {
            sql: format!("ALTER TABLE t ALTER {name} TYPE {sql_type} USING {value}"),
            widened: Some(Widened {
                column: name.into(),
                name: name.into(),
                value: value.into(),
            }),
        }
    }

    /// Alters `t` as a writer does, beside a transaction that is older than the update, and has updated a column itself.
    fn alter_beside_older(make: &str, update: &str, alterations: &[Alteration]) -> Result<String> {
        let database = Database::open(":memory:", &[])?;
        let [own, older] = [database.connect()?, database.connect()?];
        own.execute(make)?;
        older.begin()?;
        older.execute("UPDATE t SET uncommitted = 7")?;
        own.execute(update)?;
        own.begin()?;
        let altered = own
            .table_columns(&"t".into())
            .map_err(Error::from)
            .and_then(|_| alter(&own, &"t".into(), alterations));
        match altered {
            Ok(()) => own.commit()?,
            Err(error) => {
                own.roll_back();
                return Err(error);
            }
        }
        older.roll_back();
        let rows = texts(&own, "SELECT CAST(list(t ORDER BY k) AS VARCHAR) FROM t")?;
        Ok(rows.into_iter().map(|[all]| all).collect())
    }

    #[test]
    fn what_others_have_committed_or_not_is_as_it_was() {
        let kept = alter_beside_older(
            "CREATE TABLE t (k BIGINT PRIMARY KEY, n INTEGER, f FLOAT, \"a b\" DATE, x TIME, uncommitted INTEGER);
             INSERT INTO t VALUES (1, 1, 0.0, '2020-01-01', '10:00:00', 1), (2, 2, 0.0, NULL, NULL, NULL), (3, 3, 1.0, NULL, NULL, NULL)",
            "UPDATE t SET n = 10, f = 1.5, \"a b\" = '2021-02-03', x = '11:00:00.5' WHERE k = 1;
             UPDATE t SET n = NULL WHERE k = 2; DELETE FROM t WHERE k = 3",
            &[
                widened("n", "BIGINT", "CAST(n AS BIGINT)"),
                widened("f", "DOUBLE", "CAST(f AS DOUBLE)"),
                Alteration {
                    sql: "ALTER TABLE t ADD COLUMN more INTEGER".into(),
                    widened: None,
                },
                widened("\"a b\"", "VARCHAR", "CAST(\"a b\" AS VARCHAR)"),
                widened("x", "TIME_NS", "x::VARCHAR::TIME_NS"),
                widened("uncommitted", "BIGINT", "CAST(uncommitted AS BIGINT)"),
            ],
        );
        assert_eq!(
            kept.unwrap(),
            "[{'k': 1, 'n': 10, 'f': 1.5, 'a b': 2021-02-03, 'x': '11:00:00.5', 'uncommitted': 1, 'more': NULL}, \
             {'k': 2, 'n': NULL, 'f': 0.0, 'a b': NULL, 'x': NULL, 'uncommitted': NULL, 'more': NULL}]"
        );
    }

    #[test]
    fn a_table_whose_rows_cannot_be_told_apart_is_not_altered_beside_older_ones() {
        let make = "CREATE TABLE t (k BIGINT, n INTEGER, \"RowId\" INTEGER, uncommitted INTEGER);
             INSERT INTO t VALUES (1, 1, 7, 1), (2, 2, 7, 1)";
        let alterations = [widened("n", "BIGINT", "CAST(n AS BIGINT)")];
        let refused = alter_beside_older(make, "UPDATE t SET n = 3", &alterations);
        assert!(
            matches!(refused, Err(Error::TypeBesideOlder)),
            "{refused:?}"
        );
    }
}
