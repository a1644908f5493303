//! Metadata commands: what is in the catalog, and what the server can do.
//!
//! Nothing is kept for them: their tickets are the commands themselves.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::sql::Command;
use arrow_flight::{FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use futures::stream;

use super::info::{sql_info, sql_info_schema, xdbc_type_info, xdbc_type_info_schema};
use super::misplaced;
use crate::engine::{CatalogRequest, TableRef, TablesFilter};
use crate::error::Result;
use crate::flight::Answers;
use crate::flight::get::{encode, encoding};
use crate::session::{Caller, Sessions};

/// Where and how to get the answer to a metadata command.
pub(super) fn flight_info(command: &Command, descriptor: FlightDescriptor) -> Result<FlightInfo> {
    let schema = schema(command).ok_or_else(|| misplaced(command, "GetFlightInfo"))?;
    let ticket = Ticket::new(descriptor.cmd.clone());
    let info = FlightInfo::new()
        .with_endpoint(FlightEndpoint::new().with_ticket(ticket))
        .with_descriptor(descriptor);
    info.try_with_schema(&schema).map_err(encoding)
}

/// The schema of the answer; `None` where it is no metadata command.
pub(super) fn schema(command: &Command) -> Option<SchemaRef> {
    Some(match command {
        Command::CommandGetSqlInfo(_) => sql_info_schema(),
        Command::CommandGetXdbcTypeInfo(_) => xdbc_type_info_schema(),
        command => request(command)?.schema(),
    })
}

/// The answer to a metadata command.
pub(super) async fn get(
    sessions: &Sessions,
    caller: &Caller,
    command: Command,
) -> Result<Answers<FlightData>> {
    let batch: RecordBatch = match &command {
        Command::CommandGetSqlInfo(command) => sql_info(&command.info, sessions.expiry())?,
        Command::CommandGetXdbcTypeInfo(command) => xdbc_type_info(command.data_type)?,
        command => {
            let request = request(command).ok_or_else(|| misplaced(command, "DoGet"))?;
            let place = sessions.catalog_place(caller);
            sessions.engine().catalog(&place, request).await?
        }
    };
    Ok(encode(batch.schema(), stream::iter([Ok(batch)])))
}

/// What a command asks of the catalog; `None` where it asks something else.
fn request(command: &Command) -> Option<CatalogRequest> {
    Some(match command.clone() {
        Command::CommandGetCatalogs(_) => CatalogRequest::Catalogs,
        Command::CommandGetDbSchemas(command) => CatalogRequest::DbSchemas {
            catalog: command.catalog,
            schema_pattern: command.db_schema_filter_pattern,
        },
        Command::CommandGetTables(command) => CatalogRequest::Tables(TablesFilter {
            catalog: command.catalog,
            schema_pattern: command.db_schema_filter_pattern,
            table_pattern: command.table_name_filter_pattern,
            types: command.table_types,
            include_schema: command.include_schema,
        }),
        Command::CommandGetTableTypes(_) => CatalogRequest::TableTypes,
        Command::CommandGetPrimaryKeys(command) => CatalogRequest::PrimaryKeys(TableRef {
            catalog: command.catalog,
            schema: command.db_schema,
            table: command.table,
        }),
        Command::CommandGetExportedKeys(command) => CatalogRequest::ExportedKeys(TableRef {
            catalog: command.catalog,
            schema: command.db_schema,
            table: command.table,
        }),
        Command::CommandGetImportedKeys(command) => CatalogRequest::ImportedKeys(TableRef {
            catalog: command.catalog,
            schema: command.db_schema,
            table: command.table,
        }),
        Command::CommandGetCrossReference(command) => CatalogRequest::CrossReference {
            parent: TableRef {
                catalog: command.pk_catalog,
                schema: command.pk_db_schema,
                table: command.pk_table,
            },
            child: TableRef {
                catalog: command.fk_catalog,
                schema: command.fk_db_schema,
                table: command.fk_table,
            },
        },
        _ => return None,
    })
}
