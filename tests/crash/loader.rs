//! What all loaders have in common: they load, lose their server, check what the next one has, and go on.

use std::fmt;
use std::time::Duration;

use duck_tests::{Client, eventually};
use tonic::{Code, Status};

use crate::table::Trouble;
use crate::world::{Life, World};

/// How often a loader tries again in one life of the server, and how much longer it waits each time.
const TRIES: u32 = 50;
const RETRY_STEP: Duration = Duration::from_millis(5);

/// A client that writes to a table, and knows what must be in it, or in its part of it.
#[tonic::async_trait]
pub(crate) trait Loader: Send {
    /// Its name, which no other has.
    fn name(&self) -> &str;

    /// Prepares what it needs, once, on a server nobody kills yet.
    async fn set_up(&mut self, client: &Client) -> Result<(), Status>;

    /// Compares the table with what was sent and acknowledged. A thorough comparison looks at every row.
    async fn check(&mut self, client: &Client, thorough: bool) -> Result<(), Trouble>;

    /// Loads until the life of the server ends, or it has done enough in it.
    async fn load(&mut self, client: &Client, life: &Life) -> Result<(), Trouble>;

    fn progress(&self) -> Progress;

    /// Another one that knows the same: for one of several ways in which things may go on.
    fn fork(&self) -> Box<dyn Loader>;
}

/// How far a loader has come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    /// Units that it has sent, and that it knows to be committed.
    pub(crate) sent: u64,
    pub(crate) committed: u64,
    /// Units that it has sent again and that were acknowledged as duplicates.
    pub(crate) duplicates: u64,
}

impl fmt::Display for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sent,
            committed,
            duplicates,
        } = self;
        write!(
            formatter,
            "{committed} units committed, {sent} sent, {duplicates} duplicates"
        )
    }
}

/// Runs a loader through all lives of the server, the last of which nobody ends before it has done its share.
pub(crate) async fn drive(
    mut loader: Box<dyn Loader>,
    world: World,
) -> Result<Box<dyn Loader>, String> {
    let mut seen = 0;
    while let Some(life) = world.next_life(seen).await {
        seen = life.number();
        if let Err(reason) = live(loader.as_mut(), &life).await {
            return Err(format!(
                "{} in life {seen}: {reason}\n  {}",
                loader.name(),
                loader.progress()
            ));
        }
    }
    Ok(loader)
}

/// Checks and loads until the life is over; a refusal that invites to try again is tried again.
pub(crate) async fn live(loader: &mut dyn Loader, life: &Life) -> Result<(), String> {
    let mut refusals = Vec::new();
    for tries in 1..=TRIES {
        let status = match check_and_load(loader, life).await {
            Ok(()) => return Ok(()),
            Err(Trouble::Broken(promise)) => {
                return Err(format!("{promise}\n  refused before: {refusals:?}"));
            }
            Err(Trouble::Status(_)) if life.is_gone() => return Ok(()),
            Err(Trouble::Status(status)) => status,
        };
        if !is_retriable(&status) {
            return Err(format!("{status:?}"));
        }
        refusals.push(status);
        tokio::time::sleep(RETRY_STEP * tries).await;
    }
    Err(format!("refused again and again: {refusals:?}"))
}

async fn check_and_load(loader: &mut dyn Loader, life: &Life) -> Result<(), Trouble> {
    let client = Client::try_connect(&life.address)
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    eventually("a check", loader.check(&client, false)).await?;
    loader.load(&client, life).await
}

/// Whether the same may succeed on the same server. A broken connection is another matter: only a server that
/// is killed breaks it.
fn is_retriable(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::ResourceExhausted => true,
        Code::Aborted => !status.message().contains("fenced"),
        _ => false,
    }
}
