//! Making a server forget a plan's producers.

use arrow_flight::Action;
use arrow_flight::error::FlightError;
use duck_flight_protocol::{
    ACTION_FORGET_PRODUCERS, ConnectOptions, ForgetProducers, ProducersForgotten,
};
use futures::TryStreamExt;

use crate::Plan;
use crate::target::{Failure, Outcome};
use crate::verify::unreachable_for_now;

/// Makes the server forget the producers of a plan, as far as its table goes, and answers with how many of them it knew. What
/// they send from then on counts as new, and is stored twice where it is in the table already.
///
/// # Errors
/// When the server cannot be asked or refuses; those that it was asked for before are forgotten all the same.
pub async fn forget(server: &ConnectOptions, plan: &Plan) -> Result<ProducersForgotten, Failure> {
    let mut client = server.connect().await.map_err(unreachable_for_now)?;
    let writers = u64::try_from(plan.writers.get()).unwrap_or(u64::MAX);
    let failed = |error: FlightError| Failure::of_call(error, &server.server);
    let mut forgotten = 0;
    for producer in (0..writers).filter_map(|writer| plan.producer_of(writer, writers)) {
        let which = ForgetProducers::Named {
            producer,
            table: Some(plan.table.clone()),
        };
        let body = serde_json::to_vec(&which).expect("names are always JSON");
        let action = Action::new(ACTION_FORGET_PRODUCERS, body);
        let mut answer = client.do_action(action).await.map_err(failed)?;
        while let Some(json) = answer.try_next().await.map_err(failed)? {
            forgotten += read(&json)?.forgotten;
        }
    }
    Ok(ProducersForgotten { forgotten })
}

fn read(json: &[u8]) -> Result<ProducersForgotten, Failure> {
    serde_json::from_slice(json).map_err(|error| {
        let message = format!("the server's answer cannot be read: {error}");
        Failure::of_all(Outcome::Refused, message)
    })
}
