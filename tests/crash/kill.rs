//! Loaders of every kind write while the server is killed again and again.
//!
//! `DUCK_CRASH_KILLS` says how often (25), `DUCK_CRASH_SEED` with which dice, `DUCK_CRASH_LOADERS` with which
//! loaders, by their names separated by commas (all). The seed repeats what is sent and when kills are
//! planned; what the threads do between is the machine's.

use std::collections::HashSet;
use std::mem::discriminant;
use std::process::Stdio;
use std::time::{Duration, Instant};

use duck_flight_protocol::Commit;
use duck_tests::{Client, ServerProcess, server_command};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::latest::{Latest, Replacing};
use crate::loader::{Loader, drive};
use crate::plain::Plain;
use crate::plan::Plan;
use crate::producer::{Producer, Source};
use crate::sources::{Append, Bulk, Changes, Delete, Evolve, Rejects, Upsert, Wide};
use crate::table::{Part, Trouble};
use crate::ways::Way;
use crate::world::{Counts, World};

const KILLS: u32 = 25;

/// No life is longer, whatever its plan waits for. Until a kill of its kind has come as planned, a slow machine is given more.
const LONGEST_LIFE: Duration = Duration::from_secs(2);
const LONGEST_FIRST_LIFE: Duration = Duration::from_secs(20);

/// How long loaders may take to come to their end.
const END: Duration = Duration::from_secs(120);

/// In every other life the server has a small buffer, to which units of some MiB are large.
const FLAGS: [&[&str]; 2] = [&[], &["--ingest-buffer", "4MiB"]];

/// So many rows fill a row group, and begin another.
const FULL_GROUP: i64 = 25_000;

/// What the environment says.
struct Settings {
    kills: u32,
    seed: u64,
    loaders: Option<String>,
}

impl Settings {
    fn from_environment() -> Self {
        let kills = number("DUCK_CRASH_KILLS").map(|kills| u32::try_from(kills).expect("fewer"));
        Self {
            kills: kills.unwrap_or(KILLS),
            seed: seed(),
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
        let plain = |part, way| -> Box<dyn Loader> { Box::new(Plain::new(part, way, seed)) };
        let latest = |table, replacing| -> Box<dyn Loader> {
            Box::new(Latest::new(table, replacing, FULL_GROUP))
        };
        let shared = |loader, number| Part::of("shared", loader, number);
        let mut all = vec![
            plain(Part::all_of("plain_stream"), Way::Put),
            plain(Part::all_of("plain_batch"), Way::Batches),
            plain(Part::all_of("ingested"), Way::Ingest),
            plain(Part::all_of("transacted"), Way::Transaction),
            plain(Part::all_of("prepared"), Way::Prepared),
            plain(Part::all_of("inserted"), Way::Statement),
            // Several on one table, whose units share commits.
            plain(shared("shared_plain", 0), Way::Put),
            produced(Append::new(shared("shared_1", 1), Commit::Stream, seed)),
            produced(Append::new(shared("shared_2", 2), Commit::Batch, seed)),
            produced(Append::new(shared("shared_3", 3), Commit::Batch, seed ^ 1)),
            latest("remade", Replacing::Table),
            latest("renewed", Replacing::Upsert),
            produced(Bulk::Groups),
            produced(Bulk::Large),
            produced(Bulk::Wide),
            produced(Wide::Upsert),
            produced(Wide::Changes),
            produced(Wide::Rejects),
            produced(Wide::Evolve),
        ];
        for (commit, appended) in [
            (Commit::Stream, "appended_stream"),
            (Commit::Batch, "appended_batch"),
        ] {
            all.extend([
                produced(Append::new(Part::all_of(appended), commit, seed)),
                produced(Upsert::new(commit, seed)),
                produced(Changes::new(commit, seed)),
                produced(Delete(commit)),
                produced(Evolve(commit)),
                produced(Rejects::new(commit, seed)),
            ]);
        }
        if let Some(names) = &self.loaders {
            all.retain(|loader| names.split(',').any(|name| name == loader.name()));
        }
        all
    }
}

/// The dice of the environment, or others each time.
pub(crate) fn seed() -> u64 {
    number("DUCK_CRASH_SEED").unwrap_or_else(rand::random)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse::<u64>();
    Some(number.unwrap_or_else(|_| panic!("{name}={text}")))
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
    let mut plan = Plan::of(0, &mut dice);
    world.up(server.address(), plan.is_calm());
    let start = Instant::now();
    let mut met = HashSet::new();
    for (kill, flags) in (1..=settings.kills).zip(FLAGS.into_iter().cycle()) {
        let delay = plan.delay(&mut dice);
        let client = server.client().await;
        // Of some loaders alone none may ever do what the plan waits for.
        let longest = match settings.loaders {
            None if !met.contains(&discriminant(&plan)) => LONGEST_FIRST_LIFE,
            _ => LONGEST_LIFE,
        };
        tokio::select! {
            is_met = live(&world, &client, plan, longest, delay) => {
                met.extend(is_met.then(|| discriminant(&plan)));
            }
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
        server = ServerProcess::start_in(directory, flags);
        eprintln!(
            "crash: {:6.1} s, restart {kill} of {} in {:3} ms, {} acks so far, killed at {plan:?}",
            start.elapsed().as_secs_f64(),
            settings.kills,
            opening.elapsed().as_millis(),
            world.counts().acks,
        );
        plan = Plan::of(kill, &mut dice);
        world.up(server.address(), plan.is_calm() && kill < settings.kills);
    }
    world.end();
    let loaders = finish(loaders, &server).await;
    eprintln!("crash: {:?}", world.counts());
    for loader in &loaders {
        eprintln!("crash: {}: {}", loader.name(), loader.progress());
    }
    if settings.loaders.is_none() && settings.kills >= KILLS {
        assert_eq!(met.len(), Plan::KINDS, "no kill as planned: {met:?}");
        assert_tested(&loaders, world.counts());
    }
    check_all(loaders, server).await;
}

/// A life of the server, up to the moment of its kill; answers whether that is as planned.
async fn live(
    world: &World,
    client: &Client,
    plan: Plan,
    longest: Duration,
    delay: Duration,
) -> bool {
    let planned = tokio::time::timeout(longest, plan.wait(world, client)).await;
    // Chance chooses the moment: that is what this test is for.
    tokio::time::sleep(delay).await;
    planned.is_ok()
}

/// Asserts that there was something to lose, of every loader.
fn assert_tested(loaders: &[Box<dyn Loader>], counts: Counts) {
    assert!(counts.checkpoints > 0, "{counts:?}");
    let mut duplicates = 0;
    for loader in loaders {
        let progress = loader.progress();
        assert!(progress.committed > 0, "{}: {progress}", loader.name());
        duplicates += progress.duplicates;
    }
    assert!(duplicates > 0, "nothing was sent again");
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
