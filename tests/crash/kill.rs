//! Loaders of every kind write while the server is killed again and again.
//!
//! `DUCK_CRASH_KILLS` says how often (25), `DUCK_CRASH_SEED` with which dice, `DUCK_CRASH_LOADERS` with which
//! loaders, by their tables' names separated by commas (all). The seed repeats what is sent and when kills are
//! planned; what the threads do between is the machine's.

use std::error::Error;
use std::process::Stdio;
use std::time::{Duration, Instant};

use duck_flight_protocol::Commit;
use duck_tests::{Client, ServerProcess, server_command};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::loader::{Loader, drive};
use crate::plain::Plain;
use crate::producer::{Producer, Source};
use crate::sources::{Append, Bulk, Changes, Delete, Evolve, Rejects, Upsert};
use crate::table::Trouble;
use crate::world::World;

const KILLS: u32 = 25;

/// No life is longer, whatever its plan waits for.
const LONGEST_LIFE: Duration = Duration::from_secs(2);

/// How long loaders may take to come to their end.
const END: Duration = Duration::from_secs(60);

/// What the kill of a life waits for, before a moment more.
#[derive(Debug, Clone, Copy)]
enum Plan {
    /// So many units acknowledged.
    Acks(u64),
    /// A checkpoint that a client has asked for, after so many units.
    Checkpoint(u64),
    /// A unit that changes its table's schema.
    Evolution,
    /// A unit too large for the buffer.
    LargeUnit,
}

impl Plan {
    fn throw(dice: &mut Xoshiro256PlusPlus) -> Self {
        match dice.random_range(0..8) {
            0..3 => Self::Acks(dice.random_range(1..800)),
            3..5 => Self::Checkpoint(dice.random_range(1..400)),
            5..7 => Self::Evolution,
            _ => Self::LargeUnit,
        }
    }

    /// Waits for what the plan says; what it began goes on.
    async fn wait(self, world: &World, client: &Client) {
        let before = world.counts();
        match self {
            Self::Acks(count) => world.until(|now| now.acks >= before.acks + count).await,
            Self::Checkpoint(count) => {
                world.until(|now| now.acks >= before.acks + count).await;
                tokio::spawn(checkpoint(client.clone(), world.clone()));
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

    /// The longest moment between what the plan waits for and the kill.
    fn longest_delay(self) -> Duration {
        match self {
            Self::Evolution => Duration::from_millis(15),
            Self::Acks(_) | Self::Checkpoint(_) => Duration::from_millis(100),
            Self::LargeUnit => Duration::from_millis(150),
        }
    }
}

/// Asks for a checkpoint until there is one, or no server: a transaction that changes rows is in its way.
async fn checkpoint(client: Client, world: World) {
    loop {
        match client.try_execute("CHECKPOINT").await {
            Ok(_) => return world.count(|counts| counts.checkpoints += 1),
            Err(status) if status.source().is_some() => return,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// What the environment says.
struct Settings {
    kills: u32,
    seed: u64,
    loaders: Option<String>,
}

impl Settings {
    fn from_environment() -> Self {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            Some(
                text.parse::<u64>()
                    .unwrap_or_else(|_| panic!("{name}={text}")),
            )
        };
        let kills = number("DUCK_CRASH_KILLS").map(|kills| u32::try_from(kills).expect("fewer"));
        Self {
            kills: kills.unwrap_or(KILLS),
            seed: number("DUCK_CRASH_SEED").unwrap_or_else(rand::random),
            loaders: std::env::var("DUCK_CRASH_LOADERS").ok(),
        }
    }

    fn replay(&self) -> String {
        let loaders = self
            .loaders
            .iter()
            .map(|names| format!(" DUCK_CRASH_LOADERS={names}"));
        format!(
            "replay with:{} scripts/crash.sh --kills {} --seed {}",
            loaders.collect::<String>(),
            self.kills,
            self.seed
        )
    }

    fn loaders(&self) -> Vec<Box<dyn Loader>> {
        let seed = self.seed;
        let mut all: Vec<Box<dyn Loader>> = vec![
            Box::new(Plain::new("plain_stream", Commit::Stream, seed)),
            Box::new(Plain::new("plain_batch", Commit::Batch, seed)),
            produced(Append::new("appended_stream", Commit::Stream, seed)),
            produced(Append::new("appended_batch", Commit::Batch, seed)),
            produced(Upsert(seed)),
            produced(Changes(seed)),
            produced(Delete),
            produced(Evolve),
            produced(Rejects(seed)),
            produced(Bulk::Groups),
            produced(Bulk::Large),
            produced(Bulk::Wide),
        ];
        if let Some(names) = &self.loaders {
            all.retain(|loader| names.split(',').any(|name| name == loader.name()));
        }
        all
    }
}

fn produced(source: impl Source) -> Box<dyn Loader> {
    Box::new(Producer::new(source))
}

/// Says how to have the same again, when the test fails.
struct SayOnFailure(String);

impl Drop for SayOnFailure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("crash: FAILED; {}", self.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_every_kill_once() {
    let settings = Settings::from_environment();
    eprintln!("crash: {} kills; {}", settings.kills, settings.replay());
    let _say = SayOnFailure(settings.replay());
    let mut dice = Xoshiro256PlusPlus::seed_from_u64(settings.seed);
    let world = World::new();
    let mut server = ServerProcess::start(&[]);
    let mut loaders = JoinSet::new();
    for mut loader in settings.loaders() {
        let set_up = loader.set_up(&server.client().await).await;
        set_up.unwrap_or_else(|error| panic!("set up {}: {error:?}", loader.name()));
        loaders.spawn(drive(loader, world.clone()));
    }
    world.up(server.address());
    let start = Instant::now();
    for kill in 1..=settings.kills {
        let plan = Plan::throw(&mut dice);
        let delay = dice.random_range(0..plan.longest_delay().as_micros());
        let delay = Duration::from_micros(u64::try_from(delay).expect("short"));
        let client = server.client().await;
        tokio::select! {
            () = live(&world, &client, plan, delay) => {}
            Some(ended) = loaders.join_next() => fail(ended, &server),
        }
        assert!(server.is_alive(), "it ended by itself: {}", server.stderr());
        world.down();
        let directory = server.kill();
        if dice.random_bool(0.25) {
            let delay = Duration::from_micros(dice.random_range(0..200_000));
            kill_while_it_starts(&directory, delay).await;
        }
        let opening = Instant::now();
        server = ServerProcess::start_in(directory, &[]);
        world.up(server.address());
        eprintln!(
            "crash: {:6.1} s, restart {kill} of {} in {:3} ms, {} acks so far, killed at {plan:?}",
            start.elapsed().as_secs_f64(),
            settings.kills,
            opening.elapsed().as_millis(),
            world.counts().acks,
        );
    }
    eprintln!("crash: {:?}", world.counts());
    world.end();
    let loaders = finish(loaders, &server).await;
    check_all(loaders, server).await;
}

/// A life of the server, up to the moment of its kill.
async fn live(world: &World, client: &Client, plan: Plan, delay: Duration) {
    tokio::time::timeout(LONGEST_LIFE, plan.wait(world, client))
        .await
        .ok();
    // Chance chooses the moment: that is what this test is for.
    tokio::time::sleep(delay).await;
}

/// Kills a server that has just begun to replay its log.
async fn kill_while_it_starts(directory: &TempDir, delay: Duration) {
    let mut command = server_command(directory.path(), &[]);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    tokio::time::sleep(delay).await;
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
}

type Ended = Result<Result<Box<dyn Loader>, String>, tokio::task::JoinError>;

/// Fails, as a loader did that ended before its time.
fn fail(ended: Ended, server: &ServerProcess) -> ! {
    let reason = match ended {
        Ok(Ok(loader)) => format!("{} ended too early", loader.name()),
        Ok(Err(reason)) => reason,
        Err(error) => error.to_string(),
    };
    panic!("{reason}\nthe server said:\n{}", server.stderr());
}

async fn finish(
    mut loaders: JoinSet<Result<Box<dyn Loader>, String>>,
    server: &ServerProcess,
) -> Vec<Box<dyn Loader>> {
    let mut finished = Vec::new();
    let all = async {
        while let Some(ended) = loaders.join_next().await {
            match ended {
                Ok(Ok(loader)) => finished.push(loader),
                other => fail(other, server),
            }
        }
    };
    tokio::time::timeout(END, all)
        .await
        .expect("the loaders' end");
    finished
}

/// Looks at every row: in the running server, after one more kill, and after a clean end.
async fn check_all(mut loaders: Vec<Box<dyn Loader>>, mut server: ServerProcess) {
    check_each(&mut loaders, &server).await;
    server = ServerProcess::start_in(server.kill(), &[]);
    check_each(&mut loaders, &server).await;
    server = ServerProcess::start_in(server.stop(), &[]);
    check_each(&mut loaders, &server).await;
    for loader in &loaders {
        eprintln!("crash: {}", loader.progress());
    }
}

async fn check_each(loaders: &mut [Box<dyn Loader>], server: &ServerProcess) {
    let client = server.client().await;
    for loader in loaders {
        match loader.check(&client, true).await {
            Ok(()) => {}
            Err(Trouble::Broken(promise)) => panic!("{}: {promise}", loader.name()),
            Err(Trouble::Status(status)) => panic!("{}: {status:?}", loader.name()),
        }
    }
}
