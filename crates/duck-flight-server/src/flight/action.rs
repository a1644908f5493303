//! `DoAction` and `ListActions`.

use arrow_flight::{Action, ActionType};
use duck_flight_protocol::{
    ACTION_FORGET_PRODUCERS, ACTION_PRODUCERS, ACTION_QUERY, ACTION_STATUS, ForgetProducers,
    ProducersForgotten, RowsChanged,
};
use futures::{StreamExt, stream};
use serde::Serialize;

use super::get::sql_text;
use super::{Answers, sql};
use crate::error::{Error, Result};
use crate::session::{Caller, Sessions};

const ACTIONS: &[(&str, &str)] = &[
    (
        ACTION_QUERY,
        "Run a script of SQL, the action's body; the result is {\"rows_changed\":N}.",
    ),
    (
        ACTION_STATUS,
        "Count what is kept for clients: {\"sessions\",\"transactions\",\"prepared_statements\",\"results\",\"running\"}.",
    ),
    (
        ACTION_PRODUCERS,
        "List producers: a result for each with one of its tables, {\"producer\",\"table\",\"last_sequence\",\"last_commit_at\"}.",
    ),
    (
        ACTION_FORGET_PRODUCERS,
        "Forget producers: {\"producer\":NAME}, {\"producer\":NAME,\"table\":TABLE} or {\"idle_seconds\":N}; the result is {\"forgotten\":N}.",
    ),
];

/// Runs one of our own actions.
pub(super) async fn run(
    sessions: &Sessions,
    caller: &Caller,
    action: Action,
) -> Result<Answers<arrow_flight::Result>> {
    let engine = sessions.engine();
    let results = match action.r#type.as_str() {
        ACTION_QUERY => {
            let sql = sql_text(&action.body, "action's body")?;
            vec![json(&RowsChanged {
                rows_changed: engine
                    .execute(&sessions.place(caller, None).await?, sql)
                    .await?,
            })?]
        }
        ACTION_PRODUCERS => {
            let producers = engine.producers().await?;
            producers.iter().map(json).collect::<Result<_>>()?
        }
        ACTION_FORGET_PRODUCERS => {
            let which: ForgetProducers = serde_json::from_slice(&action.body).map_err(|error| {
                Error::Malformed(format!(
                    "the body of `{ACTION_FORGET_PRODUCERS}` is {{\"producer\":NAME}}, {{\"producer\":NAME,\"table\":TABLE}} or {{\"idle_seconds\":N}}: {error}"
                ))
            })?;
            vec![json(&ProducersForgotten {
                forgotten: engine.forget_producers(which).await?,
            })?]
        }
        ACTION_STATUS => vec![json(&sessions.counts())?],
        unknown => {
            let known: Vec<_> = all().map(|(name, _)| *name).collect();
            return Err(Error::Unimplemented(format!(
                "unknown action `{unknown}`; this server has: {}",
                known.join(", ")
            )));
        }
    };
    Ok(stream::iter(results.into_iter().map(Ok)).boxed())
}

fn json(answer: &impl Serialize) -> Result<arrow_flight::Result> {
    let body = serde_json::to_vec(answer).map_err(|error| Error::Malformed(error.to_string()))?;
    Ok(arrow_flight::Result { body: body.into() })
}

fn all() -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    ACTIONS.iter().chain(sql::ACTIONS)
}

/// Lists the actions.
pub(super) fn list() -> Answers<ActionType> {
    let actions = all().map(|(name, description)| {
        Ok(ActionType {
            r#type: (*name).to_owned(),
            description: (*description).to_owned(),
        })
    });
    stream::iter(actions).boxed()
}
