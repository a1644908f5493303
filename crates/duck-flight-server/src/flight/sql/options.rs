//! Session options: the catalog, the schema, and DuckDB's settings of a session.

use std::collections::HashMap;

use arrow::array::{Array, AsArray};
use duck_flight_protocol::{
    CloseSessionResult, CloseSessionStatus, GetSessionOptionsResult, OptionValue,
    SessionOptionValue, SetSessionOptionError, SetSessionOptionReason, SetSessionOptionsRequest,
    SetSessionOptionsResult, quote,
};

use crate::engine::{SESSION_SETTINGS, literal};
use crate::error::{Error, Result};
use crate::session::{Caller, Sessions};

const CATALOG: &str = "catalog";
const SCHEMA: &str = "schema";

/// Sets options; those that cannot be set are told apart in the answer.
pub(super) async fn set(
    sessions: &Sessions,
    caller: &Caller,
    request: SetSessionOptionsRequest,
) -> Result<SetSessionOptionsResult> {
    let mut errors = HashMap::new();
    let mut options: Vec<_> = request.session_options.into_iter().collect();
    // The catalog first: it brings its own schema.
    options.sort_by_key(|(name, _)| (name != CATALOG, name.clone()));
    for (name, value) in options {
        let outcome = match statement(sessions, caller, &name, value.option_value).await {
            Ok(sql) => run(sessions, caller, sql).await,
            Err(reason) => Err(reason),
        };
        if let Err(reason) = outcome {
            let value = reason.into();
            errors.insert(name, SetSessionOptionError { value });
        }
    }
    Ok(SetSessionOptionsResult { errors })
}

/// The statement that sets an option.
async fn statement(
    sessions: &Sessions,
    caller: &Caller,
    name: &str,
    value: Option<OptionValue>,
) -> std::result::Result<String, SetSessionOptionReason> {
    let text = match value {
        Some(OptionValue::StringValue(text)) => Some(text),
        Some(OptionValue::BoolValue(value)) => Some(value.to_string()),
        Some(OptionValue::Int64Value(value)) => Some(value.to_string()),
        Some(OptionValue::DoubleValue(value)) => Some(value.to_string()),
        Some(OptionValue::StringListValue(_)) => return Err(SetSessionOptionReason::InvalidValue),
        None => None,
    };
    match (name, text) {
        (CATALOG, Some(catalog)) => Ok(format!("USE {}.main", quote(&catalog))),
        (SCHEMA, Some(schema)) => {
            let catalog = current(sessions, caller).await;
            let catalog = catalog.map_err(|_| SetSessionOptionReason::Error)?.0;
            Ok(format!("USE {}.{}", quote(&catalog), quote(&schema)))
        }
        (CATALOG | SCHEMA, None) => Ok("RESET search_path".into()),
        (name, text) => {
            let known = SESSION_SETTINGS
                .iter()
                .find(|known| known.eq_ignore_ascii_case(name));
            let name = known.ok_or(SetSessionOptionReason::InvalidName)?;
            Ok(match text {
                Some(text) => format!("SET {name} = {}", literal(&text)),
                None => format!("RESET {name}"),
            })
        }
    }
}

async fn run(
    sessions: &Sessions,
    caller: &Caller,
    sql: String,
) -> std::result::Result<(), SetSessionOptionReason> {
    let failed = |error: Error| {
        tracing::debug!(%error, "a session option was not set");
        SetSessionOptionReason::InvalidValue
    };
    let place = sessions.place(caller, None).await.map_err(failed)?;
    let run = sessions.engine().execute(&place, sql).await;
    run.map(|_| ()).map_err(failed)
}

/// The options of the caller's session, or of one to be.
pub(super) async fn get(sessions: &Sessions, caller: &Caller) -> Result<GetSessionOptionsResult> {
    let (catalog, schema) = current(sessions, caller).await?;
    let names: Vec<_> = SESSION_SETTINGS.iter().map(|name| literal(name)).collect();
    let sql = format!(
        "SELECT name, value FROM system.main.duckdb_settings() WHERE name IN ({})",
        names.join(", ")
    );
    let settings = texts(sessions, caller, sql).await?;
    let own = [
        vec![CATALOG.to_owned(), catalog],
        vec![SCHEMA.to_owned(), schema],
    ];
    let options = settings.into_iter().chain(own).filter_map(|row| {
        let [name, value] = <[String; 2]>::try_from(row).ok()?;
        let value = SessionOptionValue {
            option_value: Some(OptionValue::StringValue(value)),
        };
        Some((name, value))
    });
    Ok(GetSessionOptionsResult {
        session_options: options.collect(),
    })
}

/// Ends the caller's session.
pub(super) async fn close(sessions: &Sessions, caller: &Caller) -> CloseSessionResult {
    sessions.close(caller).await;
    CloseSessionResult {
        status: CloseSessionStatus::Closed.into(),
    }
}

/// The catalog and the schema in which names are looked up first.
async fn current(sessions: &Sessions, caller: &Caller) -> Result<(String, String)> {
    let sql = "SELECT current_database(), current_schema()".to_owned();
    let rows = texts(sessions, caller, sql).await?;
    let row = rows.into_iter().next().and_then(|row| row.try_into().ok());
    let [catalog, schema]: [String; 2] = row.ok_or(Error::WorkerLost)?;
    Ok((catalog, schema))
}

async fn texts(sessions: &Sessions, caller: &Caller, sql: String) -> Result<Vec<Vec<String>>> {
    let place = sessions.place(caller, None).await?;
    let outcome = sessions.engine().run(&place, sql).await?;
    let batches = outcome.rows.map(|rows| rows.batches).unwrap_or_default();
    let mut texts = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let columns = batch.columns().iter().map(|column| {
                let column = column.as_string_opt::<i32>()?;
                column.is_valid(row).then(|| column.value(row).to_owned())
            });
            texts.push(columns.map(Option::unwrap_or_default).collect());
        }
    }
    Ok(texts)
}
