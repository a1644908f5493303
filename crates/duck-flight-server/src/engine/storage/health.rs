//! Whether the database can still be used.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::{Error, Result};

/// Whether the database can still be used.
#[derive(Clone, Default)]
pub(in crate::engine) struct Health(Arc<watch::Sender<Option<String>>>);

impl Health {
    /// Takes note of an error after which nothing works until the database is opened again. It may be that of a commit,
    /// which is durable or not: it comes back as one that says so.
    pub(in crate::engine) fn observe(&self, error: Error) -> Error {
        match &error {
            Error::Sql(sql) | Error::Statement { source: sql, .. } if sql.is_fatal() => {
                self.fail(&sql.message);
                match sql.is_of_earlier() {
                    true => error,
                    false => Error::Undecided(sql.message.clone()),
                }
            }
            _ => error,
        }
    }

    /// Fails when the database cannot be used any more: nothing may be committed from then on.
    pub(in crate::engine) fn check(&self) -> Result<()> {
        match &*self.0.borrow() {
            None => Ok(()),
            Some(_) => Err(Error::ShuttingDown),
        }
    }

    /// Records that the database cannot be used any more; the first reason counts.
    pub(in crate::engine) fn fail(&self, why: &str) {
        self.0.send_if_modified(|reason| {
            let is_first = reason.is_none();
            reason.get_or_insert_with(|| why.to_owned());
            is_first
        });
    }

    /// Waits until the database has become unusable, and says why.
    pub(in crate::engine) async fn failed(&self) -> String {
        let mut health = self.0.subscribe();
        loop {
            if let Some(reason) = health.borrow_and_update().clone() {
                return reason;
            }
            if health.changed().await.is_err() {
                std::future::pending().await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::catalog::texts;
    use crate::engine::{Engine, EngineOptions, Place};

    /// As behind a log that ends with half an entry: DuckDB itself would go on.
    #[tokio::test(flavor = "multi_thread")]
    async fn no_statement_is_committed_once_the_database_cannot_be_used_any_more() {
        let engine = Engine::open(&EngineOptions::in_memory()).unwrap();
        let execute = async |sql: &str| engine.execute(&Place::Any, sql.to_owned()).await;
        execute("CREATE TABLE t (i BIGINT)").await.unwrap();
        engine.shared().health.fail("half an entry");
        for sql in [
            "INSERT INTO t VALUES (1)",
            "BEGIN; INSERT INTO t VALUES (1); COMMIT",
            "CREATE TABLE other (i BIGINT)",
        ] {
            let refused = execute(sql).await;
            assert!(
                matches!(refused, Err(Error::ShuttingDown)),
                "{sql}: {refused:?}"
            );
        }
        let kept = engine
            .0
            .lookups
            .run(|session, _| {
                let sql = "SELECT CAST(count(*) AS VARCHAR) FROM t";
                texts::<1>(&session.connection, sql)
            })
            .await
            .unwrap();
        assert_eq!(kept, [["0".to_owned()]]);
    }
}
