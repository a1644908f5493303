//! `DoAction` and `ListActions`.

use arrow_flight::{Action, ActionType};
use duck_flight_protocol::{ACTION_QUERY, RowsChanged};
use futures::{StreamExt, stream};

use super::Answers;
use super::get::sql_text;
use crate::engine::Engine;
use crate::error::{Error, Result};

const ACTIONS: &[(&str, &str)] = &[(
    ACTION_QUERY,
    "Run a script of SQL, the action's body; the result is {\"rows_changed\":N}.",
)];

/// Runs an action.
pub(super) async fn run(engine: &Engine, action: Action) -> Result<Answers<arrow_flight::Result>> {
    match action.r#type.as_str() {
        ACTION_QUERY => {
            let sql = sql_text(&action.body, "action's body")?;
            let answer = RowsChanged {
                rows_changed: engine.execute(sql).await?,
            };
            let body =
                serde_json::to_vec(&answer).map_err(|error| Error::Malformed(error.to_string()))?;
            let result = arrow_flight::Result { body: body.into() };
            Ok(stream::once(async { Ok(result) }).boxed())
        }
        unknown => {
            let known: Vec<_> = ACTIONS.iter().map(|(name, _)| *name).collect();
            Err(Error::Unimplemented(format!(
                "unknown action `{unknown}`; this server has: {}",
                known.join(", ")
            )))
        }
    }
}

/// Lists the actions.
pub(super) fn list() -> Answers<ActionType> {
    let actions = ACTIONS.iter().map(|(name, description)| {
        Ok(ActionType {
            r#type: (*name).to_owned(),
            description: (*description).to_owned(),
        })
    });
    stream::iter(actions).boxed()
}
