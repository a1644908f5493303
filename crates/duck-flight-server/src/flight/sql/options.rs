//! Session options: the catalog, the schema, and DuckDB's settings of a session.

use std::collections::HashMap;

use duck_flight_protocol::{
    CloseSessionResult, CloseSessionStatus, GetSessionOptionsResult, OptionValue,
    SessionOptionValue, SetSessionOptionError, SetSessionOptionReason, SetSessionOptionsRequest,
    SetSessionOptionsResult, quote,
};

use crate::engine::{SESSION_SETTINGS, literal};
use crate::error::{Error, Result, in_a_line};
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
            let catalog = current_catalog(sessions, caller).await;
            let catalog = catalog.map_err(|_| SetSessionOptionReason::Error)?;
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

async fn current_catalog(sessions: &Sessions, caller: &Caller) -> Result<String> {
    let place = sessions.place(caller, None).await?;
    let (catalog, _) = sessions.engine().current_names(&place).await?;
    Ok(catalog)
}

async fn run(
    sessions: &Sessions,
    caller: &Caller,
    sql: String,
) -> std::result::Result<(), SetSessionOptionReason> {
    let failed = |error: Error| {
        tracing::debug!(error = %in_a_line(&error), "a session option was not set");
        SetSessionOptionReason::InvalidValue
    };
    let place = sessions.place(caller, None).await.map_err(failed)?;
    let run = sessions.engine().execute(&place, sql).await;
    run.map(|_| ()).map_err(failed)
}

/// The options of the caller's session, or of one to be.
pub(super) async fn get(sessions: &Sessions, caller: &Caller) -> Result<GetSessionOptionsResult> {
    let place = sessions.place(caller, None).await?;
    let (catalog, schema) = sessions.engine().current_names(&place).await?;
    let own = [(CATALOG.to_owned(), catalog), (SCHEMA.to_owned(), schema)];
    let settings = sessions.engine().session_settings(&place).await?;
    let options = settings.into_iter().chain(own).map(|(name, value)| {
        let value = SessionOptionValue {
            option_value: Some(OptionValue::StringValue(value)),
        };
        (name, value)
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
