//! Tickets of statements: what `DoGet` is to do, in the handle that clients hand back unread.
//!
//! A query that reads is in its ticket as a whole, so nothing is kept for it until it is fetched, and there can be
//! any number of them. All else waits in the server, under a handle.

use arrow_flight::Ticket;
use arrow_flight::sql::{ProstMessageExt, TicketStatementQuery};
use prost::Message;

use crate::error::{Error, Result};
use crate::session::Handle;

/// What a ticket stands for.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StatementTicket {
    /// What to cancel it by.
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(oneof = "Work", tags = "2, 3, 4")]
    pub(super) work: Option<Work>,
}

/// What `DoGet` does.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Work {
    /// Runs a query.
    #[prost(message, tag = "2")]
    Query(Query),
    /// Hands out what waits under the ticket's id.
    #[prost(bool, tag = "3")]
    Waiting(bool),
    /// Answers with no columns and no rows: the statement has run, and has no result.
    #[prost(bool, tag = "4")]
    Nothing(bool),
}

/// A query without parameters.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Query {
    #[prost(string, tag = "1")]
    pub(super) sql: String,
    /// Empty where the client named none.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) transaction: Vec<u8>,
}

impl StatementTicket {
    pub(super) fn query(sql: String, transaction: Option<&[u8]>) -> Self {
        let transaction = transaction.unwrap_or_default().to_vec();
        Self::new(Handle::new(), Work::Query(Query { sql, transaction }))
    }

    pub(super) fn waiting(handle: Handle) -> Self {
        Self::new(handle, Work::Waiting(true))
    }

    pub(super) fn nothing() -> Self {
        Self::new(Handle::new(), Work::Nothing(true))
    }

    fn new(id: Handle, work: Work) -> Self {
        Self {
            id: id.to_bytes(),
            work: Some(work),
        }
    }

    pub(super) fn id(&self) -> Result<Handle> {
        Handle::from_bytes(&self.id).ok_or_else(unreadable)
    }

    /// As a client gets it.
    pub(super) fn to_ticket(&self) -> Ticket {
        let ticket = TicketStatementQuery {
            statement_handle: self.encode_to_vec().into(),
        };
        Ticket::new(ticket.as_any().encode_to_vec())
    }

    /// Reads the handle of a [`TicketStatementQuery`].
    pub(super) fn read(handle: &[u8]) -> Result<Self> {
        Self::decode(handle).map_err(|_| unreadable())
    }
}

fn unreadable() -> Error {
    Error::Malformed("the ticket is not one of this server's".into())
}
