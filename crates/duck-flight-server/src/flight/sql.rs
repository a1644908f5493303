//! Flight SQL: told apart from plain Flight here. Its commands are yet to come.

use arrow_flight::sql::Any;
use prost::Message;

use crate::error::{Error, Result};

const TYPE_PREFIX: &str = "type.googleapis.com/arrow.flight.protocol.sql.";

/// The name of the Flight SQL command in a ticket or descriptor, or `None` where it is plain Flight.
fn command(bytes: &[u8]) -> Option<String> {
    let any = Any::decode(bytes).ok()?;
    any.type_url.strip_prefix(TYPE_PREFIX).map(str::to_owned)
}

/// Refuses a Flight SQL command by its name.
pub(super) fn refuse(bytes: &[u8]) -> Result<()> {
    let Some(command) = command(bytes) else {
        return Ok(());
    };
    Err(Error::Unimplemented(format!(
        "the Flight SQL command {command} is not supported yet; send SQL text as a plain Flight ticket"
    )))
}

#[cfg(test)]
mod tests {
    use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};

    use super::*;

    #[test]
    fn flight_sql_is_told_apart_from_sql_text() {
        let query = CommandStatementQuery {
            query: "SELECT 1".into(),
            transaction_id: None,
        };
        let any = query.as_any().encode_to_vec();
        assert_eq!(command(&any).as_deref(), Some("CommandStatementQuery"));
        for sql in ["SELECT 1", "", "\n", "from t", "{\"table\":\"t\"}"] {
            assert_eq!(command(sql.as_bytes()), None, "{sql}");
        }
    }
}
