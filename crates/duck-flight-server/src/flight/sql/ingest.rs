//! `CommandStatementIngest`: a put by another name, with the same promises.

use arrow_flight::sql::CommandStatementIngest;
use arrow_flight::sql::{TableDefinitionOptions, TableExistsOption, TableNotExistOption};
use duck_flight_protocol::{Create, PutOptions, TableName};

use crate::engine::TEMPORARY;
use crate::error::{Error, Result};
use crate::flight::put::put_stream;
use crate::flight::upload::Upload;
use crate::intake::Standing;
use crate::session::{Caller, Sessions};

/// Puts rows into a table, all or nothing; answers with their number.
pub(super) async fn ingest(
    sessions: &Sessions,
    caller: &Caller,
    command: CommandStatementIngest,
    upload: Upload,
) -> Result<u64> {
    let create = create(command.table_definition_options.as_ref())?;
    let some = |name: Option<String>| name.filter(|name| !name.is_empty());
    let mut table = TableName {
        catalog: some(command.catalog),
        schema: some(command.schema),
        table: command.table,
    };
    if table.table.is_empty() {
        return Err(Error::Malformed("the ingest names no table".into()));
    }
    if let Some(option) = command.options.keys().next() {
        return Err(Error::Malformed(format!(
            "unknown option `{option}` of the ingest; there are none"
        )));
    }
    let is_temporary = is_temporary(command.temporary, &mut table)?;
    let options = PutOptions {
        create,
        ..PutOptions::new(table)
    };
    let transaction = command.transaction_id.as_deref();
    let place = sessions.ingest_place(caller, transaction).await?;
    let engine = sessions.engine();
    let mut rows = upload.rows(engine.hold_bytes(0)?)?;
    if let Some(held) = engine.own_connection(&place, is_temporary).await? {
        let mut put = engine.put_on(held, options, rows.schema().clone())?;
        put.started().await;
        while let Some((batch, _)) = put
            .wait_for_client(&place, rows.next(Standing::Writing))
            .await?
        {
            put.push(batch.rows, batch.room).await?;
        }
        return Ok(put.commit().await.done().await?.rows);
    }
    let put = engine.put(&options, rows.schema().clone()).await?;
    Ok(put_stream(put, rows, None).await?.rows)
}

/// Whether the rows go into a temporary table, which is named in full then.
fn is_temporary(is_asked_for: bool, table: &mut TableName) -> Result<bool> {
    let is_named = |catalog: &String| catalog.eq_ignore_ascii_case(TEMPORARY);
    match &table.catalog {
        None if !is_asked_for => return Ok(false),
        Some(catalog) if !is_named(catalog) && is_asked_for => {
            return Err(Error::Malformed(format!(
                "temporary tables are in the catalog `{TEMPORARY}`, and the ingest names the catalog `{catalog}`: leave the \
                 catalog out"
            )));
        }
        Some(catalog) if !is_named(catalog) => return Ok(false),
        _ => {}
    }
    table.catalog = Some(TEMPORARY.into());
    table.schema.get_or_insert_with(|| "main".into());
    Ok(true)
}

fn create(options: Option<&TableDefinitionOptions>) -> Result<Create> {
    let not_exist = options.map_or(0, |options| options.if_not_exist);
    let exists = options.map_or(0, |options| options.if_exists);
    let not_exist =
        TableNotExistOption::try_from(not_exist).map_err(|_| unknown("if_not_exist"))?;
    let exists = TableExistsOption::try_from(exists).map_err(|_| unknown("if_exists"))?;
    match (not_exist, exists) {
        (TableNotExistOption::Create, TableExistsOption::Fail | TableExistsOption::Unspecified) => {
            Ok(Create::Always)
        }
        (TableNotExistOption::Create, TableExistsOption::Append)
        | (TableNotExistOption::Unspecified, TableExistsOption::Unspecified) => {
            Ok(Create::IfMissing)
        }
        (TableNotExistOption::Create, TableExistsOption::Replace) => Ok(Create::Replace),
        (_, TableExistsOption::Append) => Ok(Create::Never),
        (_, TableExistsOption::Replace) => Err(Error::Malformed(
            "an ingest that replaces a table also creates it: set if_not_exist to create".into(),
        )),
        (_, TableExistsOption::Fail | TableExistsOption::Unspecified) => Err(Error::Malformed(
            "an ingest that neither creates a table nor appends to one does nothing".into(),
        )),
    }
}

fn unknown(name: &str) -> Error {
    Error::Malformed(format!("the ingest's {name} is none of the protocol's"))
}
