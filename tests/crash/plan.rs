//! When a life of the server ends.

use std::error::Error;
use std::time::Duration;

use duck_tests::Client;
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use crate::world::World;

/// What the kill of a life waits for, before a moment more.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Plan {
    /// So many units acknowledged.
    Acks(u64),
    /// Checkpoints that a client asks for, one after the other, after so many units.
    Checkpoint(u64),
    /// A unit that changes its table's schema.
    Evolution,
    /// A unit too large for the buffer.
    LargeUnit,
}

impl Plan {
    /// How many kinds there are.
    pub(crate) const KINDS: usize = 4;

    /// The plan of a kill. Each kind has its share of them.
    pub(crate) fn of(kill: u32, dice: &mut Xoshiro256PlusPlus) -> Self {
        match kill % 8 {
            0..3 => Self::Acks(dice.random_range(1..800)),
            3..5 => Self::Checkpoint(dice.random_range(1..400)),
            5..7 => Self::Evolution,
            _ => Self::LargeUnit,
        }
    }

    /// Whether nothing may be in the way of checkpoints for long.
    pub(crate) fn is_calm(self) -> bool {
        matches!(self, Self::Checkpoint(_))
    }

    /// Waits for what the plan says; what it began goes on.
    pub(crate) async fn wait(self, world: &World, client: &Client) {
        let before = world.counts();
        match self {
            Self::Acks(count) => world.until(|now| now.acks >= before.acks + count).await,
            Self::Checkpoint(count) => {
                world.until(|now| now.acks >= before.acks + count).await;
                tokio::spawn(checkpoints(client.clone(), world.clone()));
                // One at least is made, however much is in its way.
                world.until(|now| now.checkpoints > 0).await;
            }
            Self::Evolution => {
                let next = before.evolutions + 1;
                world.until(|now| now.evolutions >= next).await;
            }
            Self::LargeUnit => {
                world
                    .until(|now| now.large_units > before.large_units)
                    .await;
            }
        }
    }

    /// A moment between what the plan waits for and the kill.
    pub(crate) fn delay(self, dice: &mut Xoshiro256PlusPlus) -> Duration {
        let longest = match self {
            Self::Evolution => 15_000,
            Self::Acks(_) => 100_000,
            Self::Checkpoint(_) => 400_000,
            Self::LargeUnit => 600_000,
        };
        Duration::from_micros(dice.random_range(0..longest))
    }
}

/// Asks for checkpoints until there is no server: a transaction that changes rows is in the way of one.
async fn checkpoints(client: Client, world: World) {
    loop {
        match client.try_execute("CHECKPOINT").await {
            Ok(_) => world.count(|counts| counts.checkpoints += 1),
            Err(status) if status.source().is_some() => return,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}
