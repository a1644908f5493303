//! A disk that fails on demand: a shim under the server, and what was written through it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use duck_tests::{Answer, Client, Exit, ServerProcess, eventually, server_command};
use tempfile::TempDir;
use tonic::Code;

use crate::table::rows_if_there;
use crate::ways::Way;

/// The system's numbers of errors, as the shim's rules have them.
pub(crate) const EIO: &str = "5";
pub(crate) const EACCES: &str = "13";
pub(crate) const ENOSPC: &str = "28";
pub(crate) const EROFS: &str = "30";

/// The files rules are for.
pub(crate) const DATABASE: &str = "test.db";
pub(crate) const LOG: &str = ".wal";
pub(crate) const MARK: &str = ".mark";
pub(crate) const SPILLED: &str = ".tmp";

/// Compiles the shim, once; another process that runs tests never sees a part of it.
pub(crate) fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("crash/shim.c");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let draft = directory.join(format!("duck_crash_shim.{}.so", std::process::id()));
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-o"])
            .args([&draft, &source])
            .status();
        assert!(
            built.expect("a C compiler").success(),
            "{}",
            source.display()
        );
        let library = directory.join("duck_crash_shim.so");
        std::fs::rename(draft, &library).expect("the tests' own directory");
        library
    })
}

/// The disk of one server, good until it is told to fail.
pub(crate) struct Disk(TempDir);

impl Disk {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn rules(&self) -> PathBuf {
        self.0.path().join("rules")
    }

    /// The environment of a server on this disk.
    fn environment(&self) -> [(&'static str, OsString); 2] {
        [
            ("LD_PRELOAD", shim().into()),
            ("DUCK_FAULTS", self.rules().into()),
        ]
    }

    /// Starts a server on this disk.
    pub(crate) fn try_start(&self, directory: TempDir) -> Result<ServerProcess, (TempDir, Exit)> {
        self.try_start_with(directory, &[])
    }

    /// As [`Disk::try_start`], with these flags.
    pub(crate) fn try_start_with(
        &self,
        directory: TempDir,
        flags: &[&str],
    ) -> Result<ServerProcess, (TempDir, Exit)> {
        let environment = self.environment();
        let environment = environment
            .each_ref()
            .map(|(name, value)| (*name, &**value));
        ServerProcess::try_start_in(directory, flags, &environment)
    }

    /// The command that starts a server on this disk, for a test that does not wait until it listens.
    pub(crate) fn command(&self, directory: &Path) -> Command {
        let mut command = server_command(directory, &[]);
        command.envs(self.environment());
        command
    }

    /// As [`Disk::try_start`], of a server that must start.
    pub(crate) fn start(&self, directory: TempDir) -> ServerProcess {
        match self.try_start(directory) {
            Ok(server) => server,
            Err((_, exit)) => panic!("the server did not start: {exit:?}"),
        }
    }

    /// Fails from now on: a kind of call, on files with a suffix, by an action.
    pub(crate) fn fail(&self, call: &str, suffix: &str, action: &str) {
        self.fail_all(&[(call, suffix, action)]);
    }

    /// As [`Disk::fail`], by several rules at once.
    pub(crate) fn fail_all(&self, rules: &[(&str, &str, &str)]) {
        let lines = rules
            .iter()
            .map(|(call, suffix, action)| format!("{call} {suffix} {action}\n"));
        // Put in place at once: the shim never reads half a rule.
        let draft = self.0.path().join("draft");
        std::fs::write(&draft, lines.collect::<String>()).expect("a good disk");
        std::fs::rename(draft, self.rules()).expect("a good disk");
    }

    /// Is good again.
    pub(crate) fn heal(&self) {
        std::fs::remove_file(self.rules()).ok();
    }

    /// How often it has failed.
    pub(crate) fn failures(&self) -> u64 {
        let hits = self.0.path().join("rules.hits");
        hits.metadata().map_or(0, |hits| hits.len())
    }
}

/// Whether the server itself has promised that nothing of a unit is committed.
pub(crate) fn is_refusal(status: &tonic::Status) -> bool {
    let is_answer = std::error::Error::source(status).is_none();
    let promises = [Code::ResourceExhausted, Code::Unavailable, Code::Aborted];
    is_answer && promises.contains(&status.code())
}

/// What became of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Acknowledged,
    /// The server said no: it is not there.
    Refused,
    /// The server was lost, or does not know: it is there or not.
    Unknown,
}

/// The units that were appended to the table `t`: their rows, and what became of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    units: BTreeMap<i64, (i64, Fate)>,
    first: i64,
}

impl Ledger {
    /// A ledger whose units are not those of others.
    pub(crate) fn starting_at(first: i64) -> Self {
        Self {
            units: BTreeMap::new(),
            first,
        }
    }

    /// All units of two ledgers.
    pub(crate) fn merge(&mut self, other: Self) {
        self.units.extend(other.units);
    }

    /// Appends a unit that was never sent before, by a put.
    pub(crate) async fn append(&mut self, client: &Client, rows: i64) -> Answer<u64> {
        self.append_by(Way::Put, client, rows).await
    }

    /// As [`Ledger::append`], in another way.
    pub(crate) async fn append_by(&mut self, way: Way, client: &Client, rows: i64) -> Answer<u64> {
        let last = self.units.last_key_value().map(|(unit, _)| unit + 1);
        let unit = last.unwrap_or(self.first);
        let answer = eventually("an answer", way.send(client, "t", unit, rows)).await;
        let fate = match &answer {
            Ok(acknowledged) => {
                assert_eq!(*acknowledged, rows.unsigned_abs());
                Fate::Acknowledged
            }
            Err(status) if is_refusal(status) => Fate::Refused,
            Err(_) => Fate::Unknown,
        };
        self.units.insert(unit, (rows, fate));
        answer
    }

    /// Appends units that must be acknowledged.
    pub(crate) async fn append_all(&mut self, client: &Client, units: u64, rows: i64) {
        for _ in 0..units {
            self.append(client, rows).await.expect("a good disk");
        }
    }

    /// What is wrong with the table: a unit that was acknowledged and is not there, or that is there and not
    /// whole, not known or refused.
    pub(crate) async fn difference(&self, client: &Client) -> Answer<Option<String>> {
        let sql = "SELECT batch, count(*), count(DISTINCT \"row\"), min(\"row\"), max(\"row\") FROM t \
                   GROUP BY batch ORDER BY batch";
        let found = rows_if_there(client, sql).await?;
        let mut left = self.units.clone();
        for row in found {
            let unit = row.split('|').next().and_then(|unit| unit.parse().ok());
            let known = unit.and_then(|unit: i64| Some((unit, left.remove(&unit)?)));
            let whole = known.filter(|(_, (_, fate))| *fate != Fate::Refused);
            let whole =
                whole.map(|(unit, (rows, _))| format!("{unit}|{rows}|{rows}|0|{}", rows - 1));
            if whole.as_ref() != Some(&row) {
                return Ok(Some(format!("{row} found, of {known:?}")));
            }
        }
        left.retain(|_, (_, fate)| *fate == Fate::Acknowledged);
        let lost: Vec<_> = left.keys().collect();
        Ok((!lost.is_empty()).then(|| format!("acknowledged and lost: {lost:?}")))
    }

    /// Asserts that everything acknowledged is there once, and the rest once or not at all.
    pub(crate) async fn assert_kept(&self, client: &Client) {
        let difference = self.difference(client).await.expect("a good disk");
        assert_eq!(difference, None);
    }
}
