//! Any interleaving of puts, retries, kills, restarts and schema changes equals a model in memory.

mod table;

use duck_flight_protocol::{Ack, Commit, Mode, OnError, PutOptions, SchemaMode};
use duck_tests::{Client, ServerProcess, soon};
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;
use tonic::Code;

use self::table::{LATE_DEFAULT, Late, Row, Table, Unit, one_of_each_key, orders};
use crate::put::Put;

/// Few cases by default, for each starts servers; `PROPTEST_CASES` says otherwise.
const CASES: u32 = 12;

/// Keys are few, so that they meet.
const KEYS: i64 = 6;

/// The two tables: rows of one are told apart by their key, the other one takes them as they come.
const TABLES: [&str; 2] = ["keyed", "heap"];

/// What one producer sends at a time.
#[derive(Debug, Clone)]
struct Sent {
    mode: Mode,
    units: Vec<Vec<Row>>,
    commit: Commit,
    rejects: bool,
}

#[derive(Debug, Clone)]
enum Step {
    /// New units of one producer for one table.
    Put {
        table: usize,
        producer: usize,
        sent: Sent,
        /// The server is killed before the acks are read; then all units are sent again.
        is_cut: bool,
    },
    /// New units of both producers for one table, at once.
    Together {
        table: usize,
        sent: [Sent; 2],
    },
    /// New units of one producer, which begins with one put and goes on with another one.
    Fence {
        table: usize,
        producer: usize,
        sent: Sent,
    },
    /// The last units of a producer once more.
    Again {
        table: usize,
        producer: usize,
    },
    /// From now on the units for a table have the next schema.
    Evolve {
        table: usize,
    },
    /// A client adds the late column by SQL, where the table has none yet.
    Alter {
        table: usize,
    },
    Checkpoint,
    Restart,
    Kill,
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (
        any::<bool>(),
        0..KEYS,
        0..1000_i64,
        prop::bool::weighted(0.3),
        any::<Option<i32>>(),
    );
    let row = row.prop_map(|(deletes, key, value, is_bad, late)| Row {
        deletes,
        key,
        value,
        is_bad,
        late,
    });
    vec(row, 1..6)
}

fn sent() -> impl Strategy<Value = Sent> {
    let mode = prop_oneof![
        Just(Mode::Append),
        Just(Mode::Upsert),
        Just(Mode::Delete),
        Just(Mode::Changes)
    ];
    let commit = prop_oneof![Just(Commit::Stream), Just(Commit::Batch)];
    let sent = (mode, vec(rows(), 1..4), commit, prop::bool::weighted(0.3));
    sent.prop_map(|(mode, units, commit, rejects)| Sent {
        mode,
        units,
        commit,
        rejects,
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = || (0..2_usize, 0..2_usize);
    let put = (who(), sent(), prop::bool::weighted(0.2));
    let put = put.prop_map(|((table, producer), sent, is_cut)| Step::Put {
        table,
        producer,
        sent,
        is_cut,
    });
    let together = (0..2_usize, [sent(), sent()]);
    let fence = (who(), sent());
    let fence = fence.prop_map(|((table, producer), sent)| Step::Fence {
        table,
        producer,
        sent,
    });
    let step = prop_oneof![
        8 => put,
        4 => together.prop_map(|(table, sent)| Step::Together { table, sent }),
        2 => fence,
        2 => who().prop_map(|(table, producer)| Step::Again { table, producer }),
        2 => (0..2_usize).prop_map(|table| Step::Evolve { table }),
        2 => (0..2_usize).prop_map(|table| Step::Alter { table }),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
    ];
    vec(step, 4..20)
}

fn options(table: usize, producer: usize, unit: &Unit, commit: Commit) -> PutOptions {
    PutOptions {
        mode: unit.mode,
        commit,
        // Deletes change no table.
        schema: match unit.mode {
            Mode::Delete => SchemaMode::Match,
            _ => SchemaMode::Evolve,
        },
        key: (unit.mode != Mode::Append).then(|| vec!["k".into()]),
        producer: Some(format!("p{producer}")),
        sequence: (commit == Commit::Stream).then_some(unit.sequence),
        on_error: match unit.rejects {
            true => OnError::Reject,
            false => OnError::Fail,
        },
        ..PutOptions::new(TABLES[table])
    }
}

/// The server, and what it must hold.
struct Pair {
    server: Option<ServerProcess>,
    client: Client,
    tables: [Table; 2],
}

impl Pair {
    async fn start() -> Self {
        let server = ServerProcess::start(&[]);
        Self {
            client: server.client().await,
            server: Some(server),
            tables: Default::default(),
        }
    }

    async fn kill(&mut self) {
        self.restart(ServerProcess::kill).await;
    }

    async fn restart(&mut self, end: fn(ServerProcess) -> TempDir) {
        let directory = end(self.server.take().expect("a server"));
        let server = ServerProcess::start_in(directory, &[]);
        self.client = server.client().await;
        self.server = Some(server);
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Put {
                table,
                producer,
                sent,
                is_cut,
            } => {
                let new = self.new_units(*table, *producer, sent);
                if new.is_empty() {
                    return;
                }
                if *is_cut {
                    self.send_into_a_kill(*table, *producer, sent.commit, &new)
                        .await;
                }
                let acks = self.send(*table, *producer, sent.commit, &new).await;
                check_acks(&new, &acks, *is_cut);
                self.take(*table, *producer, new);
            }
            Step::Together { table, sent } => {
                let both = [0, 1].map(|producer| self.new_units(*table, producer, &sent[producer]));
                if both.iter().all(|units| !units.is_empty()) {
                    self.send_together(*table, [sent[0].commit, sent[1].commit], both)
                        .await;
                }
            }
            Step::Fence {
                table,
                producer,
                sent,
            } => {
                let new = self.new_units(*table, *producer, sent);
                if new.len() > 1 {
                    self.fence(*table, *producer, new).await;
                }
            }
            Step::Again { table, producer } => {
                let old = self.tables[*table].sent[*producer].clone();
                let acks = self.send(*table, *producer, Commit::Stream, &old).await;
                assert!(acks.iter().all(|ack| ack.duplicate), "{acks:?}");
            }
            Step::Evolve { table } => {
                let next = &mut self.tables[*table].next;
                *next = match next {
                    Late::Missing => Late::Int,
                    Late::Int | Late::BigInt => Late::BigInt,
                };
            }
            Step::Alter { table } => self.alter(*table).await,
            Step::Checkpoint => self.client.checkpoint().await,
            Step::Restart => self.restart(ServerProcess::stop).await,
            Step::Kill => self.kill().await,
        }
    }

    async fn alter(&mut self, table: usize) {
        if self.tables[table].exists {
            let name = TABLES[table];
            let add = format!(
                "ALTER TABLE {name} ADD COLUMN IF NOT EXISTS late INTEGER DEFAULT {LATE_DEFAULT}"
            );
            self.client.execute(&add).await;
            self.tables[table].add_late();
        }
    }

    /// What is sent, as far as its table takes it.
    fn new_units(&self, table: usize, producer: usize, sent: &Sent) -> Vec<Unit> {
        let target = &self.tables[table];
        // Rows without a key are appended and deleted; rows with one are never there twice.
        let mode = match (TABLES[table], sent.mode) {
            ("keyed", Mode::Append) => Mode::Upsert,
            ("heap", Mode::Upsert | Mode::Changes) => Mode::Append,
            (_, mode) => mode,
        };
        if mode == Mode::Delete && !target.exists {
            return Vec::new();
        }
        let unit = |(index, rows): (usize, &Vec<Row>)| Unit {
            // Gaps are allowed.
            sequence: target.sequences[producer] + 1 + 2 * index as u64,
            mode,
            rows: if mode == Mode::Upsert {
                one_of_each_key(rows)
            } else {
                rows.clone()
            },
            // A table that is made with text takes any.
            rejects: sent.rejects && target.exists && mode != Mode::Delete,
            late: if mode == Mode::Delete {
                Late::Missing
            } else {
                target.next
            },
        };
        sent.units.iter().enumerate().map(unit).collect()
    }

    async fn send(
        &self,
        table: usize,
        producer: usize,
        commit: Commit,
        units: &[Unit],
    ) -> Vec<Ack> {
        let mut acks = Vec::new();
        for mut put in self.open(table, producer, commit, units) {
            put.end();
            if commit == Commit::Batch {
                let resume = soon("resume_after", put.resume()).await;
                let last = self.tables[table].sequences[producer];
                let resume = resume.expect("it is open");
                assert!(resume >= last && resume < units[units.len() - 1].sequence + 1);
            }
            while let Some(ack) = soon("an ack", put.ack()).await.expect("an ack") {
                acks.push(ack);
            }
        }
        assert_eq!(acks.len(), units.len());
        acks
    }

    /// Puts that hold these units, everything sent.
    fn open<'a>(
        &'a self,
        table: usize,
        producer: usize,
        commit: Commit,
        units: &'a [Unit],
    ) -> impl Iterator<Item = Put> + 'a {
        let each = if commit == Commit::Batch {
            units.len()
        } else {
            1
        };
        units.chunks(each.max(1)).map(move |chunk| {
            let options = options(table, producer, &chunk[0], commit);
            let put = Put::open(&self.client, &options, &chunk[0].batch().schema());
            for unit in chunk {
                let of_batch = (commit == Commit::Batch).then_some(unit.sequence);
                put.send(&unit.batch(), of_batch);
            }
            put
        })
    }

    /// Sends units to a server that is killed meanwhile: nobody knows which of them it has.
    async fn send_into_a_kill(
        &mut self,
        table: usize,
        producer: usize,
        commit: Commit,
        units: &[Unit],
    ) {
        let puts: Vec<_> = self.open(table, producer, commit, units).collect();
        let sending = tokio::spawn(async move {
            for mut put in puts {
                put.end();
                while let Ok(Some(_)) = put.ack().await {}
            }
        });
        // A round trip later the first of them is on its way at least.
        self.client.ping().await;
        self.kill().await;
        sending.await.expect("no panic");
    }

    /// Sends the units of both producers at once, and finds an order of theirs that comes to what is in the table.
    async fn send_together(&mut self, table: usize, commits: [Commit; 2], both: [Vec<Unit>; 2]) {
        let (one, other) = tokio::join!(
            self.send(table, 0, commits[0], &both[0]),
            self.send(table, 1, commits[1], &both[1])
        );
        check_acks(&both[0], &one, false);
        check_acks(&both[1], &other, false);
        let found = self.client.rows(&rows_sql(TABLES[table])).await;
        let before = &self.tables[table];
        let mut after = orders(&both[0], &both[1]).into_iter().map(|order| {
            let mut after = before.clone();
            order.into_iter().for_each(|unit| after.apply(unit));
            after
        });
        let Some(after) = after.find(|after| after.shown() == found) else {
            panic!("no order of {both:?} leads from {before:?} to {found:?}");
        };
        self.tables[table] = after;
        for (producer, units) in both.into_iter().enumerate() {
            self.advance(table, producer, units);
        }
    }

    /// Sends the first unit by a put that stays open, and the others by another put, which fences it.
    async fn fence(&mut self, table: usize, producer: usize, units: Vec<Unit>) {
        let open = |units: &[Unit]| self.open(table, producer, Commit::Batch, units).next();
        let mut old = open(&units[..1]).expect("a put");
        soon("resume_after", old.resume())
            .await
            .expect("it is open");
        let ack = soon("an ack", old.ack()).await.expect("an ack");
        let mut acks = vec![ack.expect("an ack")];
        let mut new = open(&units[1..]).expect("a put");
        let resume = soon("resume_after", new.resume()).await;
        assert!(resume.expect("it is open") >= units[0].sequence);
        old.send(&units[1].batch(), Some(units[1].sequence));
        let fenced = soon("the end", old.ack()).await.expect_err("it is fenced");
        assert_eq!(fenced.code(), Code::Aborted, "{fenced:?}");
        assert!(fenced.message().starts_with("fenced"), "{fenced:?}");
        new.end();
        while let Some(ack) = soon("an ack", new.ack()).await.expect("an ack") {
            acks.push(ack);
        }
        check_acks(&units, &acks, false);
        self.take(table, producer, units);
    }

    /// Applies units that were acknowledged to the model.
    fn take(&mut self, table: usize, producer: usize, units: Vec<Unit>) {
        for unit in &units {
            self.tables[table].apply(unit);
        }
        self.advance(table, producer, units);
    }

    fn advance(&mut self, table: usize, producer: usize, units: Vec<Unit>) {
        let target = &mut self.tables[table];
        target.sequences[producer] = units[units.len() - 1].sequence;
        target.sent[producer] = units;
    }

    async fn assert_equal(&self) {
        for (name, table) in TABLES.iter().zip(&self.tables) {
            if table.exists {
                assert_eq!(
                    self.client.rows(&rows_sql(name)).await,
                    table.shown(),
                    "{name}"
                );
            }
        }
        let rejected: u64 = self.tables.iter().map(|table| table.rejected).sum();
        assert_eq!(
            self.client.count("duck_flight.rejects").await,
            rejected,
            "rejects"
        );
    }
}

fn rows_sql(table: &str) -> String {
    format!("SELECT * FROM {table} ORDER BY ALL NULLS LAST")
}

/// Asserts that each unit is acknowledged in its turn; one that was sent before may be a duplicate.
fn check_acks(units: &[Unit], acks: &[Ack], may_repeat: bool) {
    assert_eq!(units.len(), acks.len());
    for (unit, ack) in units.iter().zip(acks) {
        assert_eq!(ack.sequence, Some(unit.sequence));
        assert!(may_repeat || !ack.duplicate, "{ack:?}");
        let rejected = if ack.duplicate { 0 } else { unit.rejected() };
        assert_eq!(ack.rejected, rejected, "{ack:?}");
    }
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        cases: cases.and_then(|cases| cases.parse().ok()).unwrap_or(CASES),
        max_shrink_iters: 100,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_interleaving_of_puts_retries_restarts_and_alterations_equals_the_model(steps in steps()) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let mut pair = Pair::start().await;
            for step in &steps {
                pair.step(step).await;
                pair.assert_equal().await;
            }
            pair.kill().await;
            pair.assert_equal().await;
        });
    }
}
