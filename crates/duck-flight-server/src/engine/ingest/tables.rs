//! The tables that rows go into, as the transaction which writes the rows sees them: made where the put says so, and given what
//! they lack for its rows.

use duck_flight_protocol::Create;

use super::queue::Turn;
use super::target::{TEMPORARY, Target};
use super::unit::Unit;
use crate::engine::catalog::Columns;
use crate::engine::ffi::Connection;
use crate::engine::replay::claim::claim;
use crate::engine::replay::referred;
use crate::engine::replay::widened;
use crate::engine::rows::effect::Effect;
use crate::engine::rows::evolve::{Alteration, alterations};
use crate::engine::rows::fixed::without_fixed_columns;
use crate::engine::rows::sql_type::create_table_sql;
use crate::error::{Error, Result};

/// How many changes of a table share a transaction: DuckDB keeps a whole table of column objects for each until its end.
pub(super) const ALTERATIONS_AT_ONCE: usize = 32;

/// How a table that others also see is made in the place of another one.
const REPLACE: &str = "CREATE OR REPLACE TABLE";

/// The columns of a put's table as this transaction sees it, made first where the put says so. `turn` is waited
/// for before.
pub(super) fn resolve(
    connection: &Connection,
    put: &Target,
    is_first: bool,
    turn: Option<&Turn>,
) -> Result<Columns> {
    let Target {
        table,
        create,
        schema,
        effect,
        schema_mode,
        ..
    } = put;
    let columns = connection.table_columns(table)?;
    let makes_anew = is_first && put.makes_anew();
    let is_temporary = table.catalog.as_deref() == Some(TEMPORARY);
    let verb = match (columns, create) {
        (Some(_), Create::Always) if makes_anew => return Err(Error::TableExists(table.clone())),
        (Some(_), Create::Replace) if makes_anew && is_temporary => "CREATE OR REPLACE TEMP TABLE",
        (Some(_), Create::Replace) if makes_anew => REPLACE,
        (Some(columns), _) => return Ok(columns.into()),
        (None, _) if matches!(effect, Effect::Delete { .. }) => {
            return Err(Error::NothingToDelete(table.clone()));
        }
        (None, Create::Never) => return Err(Error::NoTable(table.clone())),
        (None, _) if is_temporary => "CREATE TEMP TABLE",
        (None, _) => "CREATE TABLE",
    };
    if let Some(turn) = turn {
        turn.wait();
    }
    if verb == REPLACE {
        referred::check_replaced(connection, table)?;
        connection.changes().note_drop(Some(table.table.clone()));
    } else if !is_temporary {
        connection.changes().note_definition();
    }
    let sql = create_table_sql(verb, &table.to_sql(), schema, effect, *schema_mode)?;
    connection.execute(&sql)?;
    let columns = connection.table_columns(table)?;
    Ok(columns.ok_or_else(|| Error::NoTable(table.clone()))?.into())
}

/// Gives the table of a unit that may change it room for its rows, or a part of that; true where it has altered anything.
/// Calls `before` before the first change; from then on nobody else may commit anything.
pub(super) fn alter_table(
    connection: &Connection,
    unit: &Unit,
    before: impl FnOnce(),
) -> Result<bool> {
    if lacking(connection, unit)?.is_empty() {
        return Ok(false);
    }
    before();
    // The transaction is older than what others have committed since it looked, and would undo that where it changes a type.
    connection.restart_work()?;
    let alterations = lacking(connection, unit)?;
    if alterations.is_empty() {
        return Ok(false);
    }
    let table = &unit.put.table;
    claim(connection, table)?;
    connection
        .changes()
        .note_alteration(Some(table.table.clone()));
    let count = alterations.len().min(ALTERATIONS_AT_ONCE);
    widened::alter(connection, table, &alterations[..count])?;
    Ok(true)
}

/// What the table of a unit lacks for its rows and can be given, as the open transaction sees it; nothing where there is no table.
fn lacking(connection: &Connection, unit: &Unit) -> Result<Vec<Alteration>> {
    let Target {
        table,
        schema,
        effect,
        schema_mode,
        ..
    } = &*unit.put;
    let Some(columns) = connection.table_columns(table)? else {
        return Ok(Vec::new());
    };
    let cast = unit.cast.as_ref();
    if cast.is_some_and(|(plan, _)| plan.fits(&columns)) {
        return Ok(Vec::new());
    }
    let alterations = alterations(table, &columns, schema, effect, *schema_mode)?;
    without_fixed_columns(connection, table, alterations)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};
    use duck_flight_protocol::PutOptions;

    use super::*;
    use crate::engine::ffi::Database;
    use crate::engine::ingest::target::TableKey;

    #[test]
    fn who_deletes_from_a_table_that_is_gone_is_not_told_to_have_it_made() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        let schema = Arc::new(Schema::new(vec![Field::new("i", DataType::Int64, false)]));
        let delete = Effect::Delete {
            key: vec!["i".to_owned()],
        };
        for create in [Create::IfMissing, Create::Never] {
            let options = PutOptions {
                create,
                ..PutOptions::new("t")
            };
            let key = TableKey::new(&options.table, "");
            let put = Target::new(&options, key, delete.clone(), None, schema.clone());
            let refused = resolve(&connection, &put, true, None).err();
            assert!(
                matches!(refused, Some(Error::NothingToDelete(_))),
                "{create:?}: {refused:?}"
            );
        }
    }
}
