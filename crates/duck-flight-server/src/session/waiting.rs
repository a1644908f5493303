//! What waits to be fetched.

use parking_lot::Mutex;

use crate::engine::{HeldBytes, ResultStream, Rows, Sql};

/// What waits to be fetched.
pub(crate) enum Waiting {
    /// Rows of a statement that has run.
    Rows(Rows),
    /// A query, and the transaction it belongs to.
    Query {
        sql: Sql,
        transaction: Option<Vec<u8>>,
        _held: HeldBytes,
    },
    /// A result on its way, taken once.
    Stream {
        result: Mutex<Option<ResultStream>>,
        _held: HeldBytes,
    },
}
