//! The power is cut while loaders write: what the server wrote and did not sync is lost, or a part of it.
//!
//! A kill leaves what the server has written with the kernel. So a shim under the server keeps a journal of what it does to its
//! files, and after a kill directories are made of it as a power cut at that moment may leave them. `DUCK_CRASH_SEED` repeats
//! the dice; what the threads do is the machine's.

mod journal;

use std::time::Duration;

use duck_flight_protocol::Commit;
use duck_tests::{ServerProcess, soon};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use tempfile::TempDir;
use tokio::task::JoinSet;

use self::journal::Journal;
use crate::latest::{Latest, Replacing};
use crate::loader::{Loader, live};
use crate::plain::Plain;
use crate::plan::Plan;
use crate::producer::{Producer, Source};
use crate::sources::{Append, Bulk, Changes, Evolve, Rejects, Upsert};
use crate::table::Part;
use crate::ways::Way;
use crate::world::World;

/// What the kills wait for.
const PLANS: [Plan; 3] = [Plan::Checkpoint(50), Plan::Acks(300), Plan::Checkpoint(200)];

/// How many directories are made after each kill; with the last of them the loaders go on.
const CUTS: u32 = 4;

/// No life is longer, whatever its plan waits for.
const LONGEST_LIFE: Duration = Duration::from_secs(2);

/// Units that must be acknowledged after the last cut.
const LAST_ACKS: u64 = 200;

/// So many rows fill a row group, and begin another.
const FULL_GROUP: i64 = 25_000;

/// Loaders of every kind whose units are not large: the journal has every byte of them.
fn loaders(seed: u64) -> Vec<Box<dyn Loader>> {
    let plain =
        |part, way| -> Box<dyn Loader> { Box::new(Plain::new(Part::all_of(part), way, seed)) };
    let shared = |loader, number| Part::of("shared", loader, number);
    let mut all = vec![
        plain("plain_stream", Way::Put),
        plain("plain_batch", Way::Batches),
        plain("ingested", Way::Ingest),
        plain("transacted", Way::Transaction),
        plain("prepared", Way::Prepared),
        plain("inserted", Way::Statement),
        produced(Append::new(shared("shared_1", 1), Commit::Stream, seed)),
        produced(Append::new(shared("shared_2", 2), Commit::Batch, seed)),
        Box::new(Latest::new("remade", Replacing::Table, FULL_GROUP)),
        Box::new(Latest::new("renewed", Replacing::Upsert, FULL_GROUP)),
        produced(Bulk::Groups),
    ];
    for (commit, appended) in [
        (Commit::Stream, "appended_stream"),
        (Commit::Batch, "appended_batch"),
    ] {
        all.extend([
            produced(Append::new(Part::all_of(appended), commit, seed)),
            produced(Upsert::new(commit, seed)),
            produced(Changes::new(commit, seed)),
            produced(Evolve(commit)),
            produced(Rejects::new(commit, seed)),
        ]);
    }
    all
}

fn produced(source: impl Source) -> Box<dyn Loader> {
    Box::new(Producer::new(source))
}

/// Starts a server with a journal.
fn start(directory: TempDir, what: &str) -> (ServerProcess, Journal) {
    let journal = Journal::of(directory.path());
    let environment = journal.environment(directory.path());
    let environment = environment
        .each_ref()
        .map(|(name, value)| (*name, &**value));
    match ServerProcess::try_start_in(directory, &[], &environment) {
        Ok(server) => (server, journal),
        Err((_, exit)) => panic!("{what}: the server did not start: {exit:?}"),
    }
}

/// Loads until the plan is met and a moment more, and kills the server.
async fn load_and_kill(
    world: &World,
    loaders: Vec<Box<dyn Loader>>,
    server: ServerProcess,
    plan: Plan,
    dice: &mut Xoshiro256PlusPlus,
) -> Vec<Box<dyn Loader>> {
    let loading = load(world, loaders, &server, plan.is_calm()).await;
    let client = server.client().await;
    let before = world.counts().checkpoints;
    let planned = async {
        plan.wait(world, &client).await;
        if plan.is_calm() {
            world.until(|now| now.checkpoints > before).await;
        }
    };
    tokio::time::timeout(LONGEST_LIFE, planned).await.ok();
    // Chance chooses the moment: that is what this test is for.
    tokio::time::sleep(plan.delay(dice)).await;
    world.down();
    drop(server.kill());
    finish(loading).await
}

type Loading = JoinSet<(Box<dyn Loader>, Result<(), String>)>;

/// Lets loaders check and load on a server.
async fn load(
    world: &World,
    loaders: Vec<Box<dyn Loader>>,
    server: &ServerProcess,
    is_calm: bool,
) -> Loading {
    world.up(server.address(), is_calm);
    // Nobody looks for the life before this one any more.
    let life = world.next_life(0).await.expect("it is not the last");
    let mut loading = JoinSet::new();
    for mut loader in loaders {
        let life = life.clone();
        loading.spawn(async move {
            let outcome = live(loader.as_mut(), &life).await;
            (loader, outcome)
        });
    }
    loading
}

async fn finish(mut loading: Loading) -> Vec<Box<dyn Loader>> {
    let mut loaders = Vec::new();
    while let Some(loaded) = loading.join_next().await {
        let (loader, outcome) = loaded.expect("no panic");
        outcome.unwrap_or_else(|reason| panic!("{}: {reason}", loader.name()));
        loaders.push(loader);
    }
    loaders
}

/// Asserts that a server has everything that was acknowledged, once, and of the rest each unit once or not at all.
async fn assert_kept(loaders: &[Box<dyn Loader>], server: &ServerProcess, what: &str) {
    let client = server.client().await;
    for loader in loaders {
        // What of the rest is there is not the same in each directory.
        let checked = loader.fork().check(&client, true).await;
        checked.unwrap_or_else(|trouble| panic!("{what}: {}: {trouble:?}", loader.name()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_power_cut_once() {
    let seed = std::env::var("DUCK_CRASH_SEED").ok();
    let seed: u64 = seed.map_or_else(rand::random, |seed| seed.parse().expect("a number"));
    eprintln!("power: DUCK_CRASH_SEED={seed}");
    let mut dice = Xoshiro256PlusPlus::seed_from_u64(seed);
    let world = World::new();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (mut server, mut journal) = start(directory, "at first");
    let mut loaders = loaders(seed);
    for loader in &mut loaders {
        let set_up = loader.set_up(&server.client().await).await;
        set_up.unwrap_or_else(|error| panic!("set up {}: {error:?}", loader.name()));
    }
    for (kill, plan) in PLANS.into_iter().enumerate() {
        loaders = load_and_kill(&world, loaders, server, plan, &mut dice).await;
        for cut in 1..CUTS {
            let what = format!("seed {seed}, kill {kill}, cut {cut}");
            let server = ServerProcess::try_start_in(journal.cut(&mut dice), &[], &[]);
            match server {
                Ok(server) => assert_kept(&loaders, &server, &what).await,
                Err((_, exit)) => panic!("{what}: the server did not start: {exit:?}"),
            }
        }
        let what = format!("seed {seed}, kill {kill}, the last cut");
        (server, journal) = start(journal.cut(&mut dice), &what);
    }
    // Those that send again what they have sent before do so from where the last cut has left them.
    let before = world.counts().acks;
    let loading = load(&world, loaders, &server, false).await;
    let loaded = world.until(|now| now.acks >= before + LAST_ACKS);
    soon("enough acks", loaded).await;
    world.down();
    loaders = finish(loading).await;
    assert_kept(&loaders, &server, &format!("seed {seed}, at the end")).await;
    let counts = world.counts();
    assert!(counts.checkpoints > 0, "{counts:?}");
    for loader in &loaders {
        let progress = loader.progress();
        assert!(progress.committed > 0, "{}: {progress}", loader.name());
    }
    journal.assert_complete(server.stop().path());
}
