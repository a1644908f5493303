//! `ListFlights`: tables and views.

use arrow_flight::{Criteria, FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use futures::{StreamExt, stream};

use super::Answers;
use super::get::{encoding, select_all};
use crate::engine::{Engine, Relation};
use crate::error::{Error, Result};

/// Lists tables and views; the criteria's expression is a `LIKE` pattern on their names.
pub(super) async fn flights(engine: &Engine, criteria: &Criteria) -> Result<Answers<FlightInfo>> {
    let pattern = std::str::from_utf8(&criteria.expression)
        .map_err(|error| Error::Malformed(format!("the criteria are not UTF-8: {error}")))?;
    let pattern = (!pattern.is_empty()).then(|| pattern.to_owned());
    let flights: Result<Vec<_>> = engine
        .relations(pattern)
        .await?
        .into_iter()
        .map(flight)
        .collect();
    Ok(stream::iter(flights?.into_iter().map(Ok)).boxed())
}

fn flight(relation: Relation) -> Result<FlightInfo> {
    let Relation {
        name,
        schema,
        texts,
        rows_estimate,
    } = relation;
    let ticket = Ticket::new(select_all(&name, &texts));
    Ok(FlightInfo::new()
        .try_with_schema(&schema)
        .map_err(encoding)?
        .with_descriptor(FlightDescriptor::new_path(name.path()))
        .with_endpoint(FlightEndpoint::new().with_ticket(ticket))
        .with_total_records(rows_estimate.unwrap_or(-1)))
}
