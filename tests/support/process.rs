//! The real binary as a child.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::watch;

use crate::{Client, WORK_PATIENCE, soon};

/// How often a child that should end is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// How a process ended, and what it said.
#[derive(Debug)]
pub struct Exit {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// All it wrote on stdout.
    pub stdout: String,
    /// All it wrote on stderr.
    pub stderr: String,
}

/// A running `duck-flight-server` with a directory of its own. It is killed when it is dropped.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    address: String,
    stdout: Output,
    stderr: Output,
    directory: Option<TempDir>,
}

/// What a child writes, read as it comes.
#[derive(Debug, Default)]
struct Output {
    text: Arc<watch::Sender<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Output {
    fn read(&mut self, mut from: impl Read + Send + 'static, lines: Option<mpsc::Sender<String>>) {
        let output = self.text.clone();
        self.reader = Some(std::thread::spawn(move || {
            let mut from = BufReader::new(&mut from);
            let mut line = String::new();
            while from.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                output.send_modify(|text| text.push_str(&line));
                if let Some(lines) = &lines {
                    lines.send(line.trim_end().to_owned()).ok();
                }
                line.clear();
            }
        }));
    }

    /// Waits until all is read that a child wrote which has ended.
    fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
    }

    fn text(&self) -> String {
        self.text.borrow().clone()
    }

    /// Waits until it holds these words.
    async fn until_it_holds(&self, words: &str) {
        let mut text = self.text.subscribe();
        text.wait_for(|text| text.contains(words)).await.ok();
    }
}

impl ServerProcess {
    /// Starts one on a new database, with these flags.
    ///
    /// # Panics
    /// When it does not come to listen.
    pub fn start(flags: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary directory"), flags)
    }

    /// Starts one on the database `test.db` of a directory, with these flags.
    ///
    /// # Panics
    /// When it does not come to listen.
    pub fn start_in(directory: TempDir, flags: &[&str]) -> Self {
        match Self::try_start_in(directory, flags, &[]) {
            Ok(server) => server,
            Err((_, exit)) => panic!("the server did not start: {exit:?}"),
        }
    }

    /// Starts one on a new database under a limit, as the shell's `ulimit` takes it.
    ///
    /// # Panics
    /// When it does not come to listen.
    pub fn start_under(limit: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let server = server_command(directory.path(), &[]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")]);
        shell.arg(server.get_program()).args(server.get_args());
        match Self::listening(&mut shell) {
            Ok(mut server) => {
                server.directory = Some(directory);
                server
            }
            Err(exit) => panic!("the server did not start: {exit:?}"),
        }
    }

    /// As [`ServerProcess::start_in`], with these environment variables besides the test's own; answers with the
    /// directory and how it ended where it does not come to listen.
    ///
    /// # Errors
    /// When it ends before it listens.
    ///
    /// # Panics
    /// When there is no binary, or it neither listens nor ends.
    pub fn try_start_in(
        directory: TempDir,
        flags: &[&str],
        environment: &[(&str, &OsStr)],
    ) -> Result<Self, (TempDir, Exit)> {
        let mut command = server_command(directory.path(), flags);
        command.envs(environment.iter().copied());
        match Self::listening(&mut command) {
            Ok(mut server) => {
                server.directory = Some(directory);
                Ok(server)
            }
            Err(exit) => Err((directory, exit)),
        }
    }

    /// Starts one with nothing but these flags; answers how it ended where it does not come to listen.
    ///
    /// # Errors
    /// When it ends before it listens.
    ///
    /// # Panics
    /// When there is no binary, or it neither listens nor ends.
    pub fn try_start(flags: &[&str]) -> Result<Self, Exit> {
        Self::listening(Command::new(binary("duck-flight-server")).args(flags))
    }

    fn listening(command: &mut Command) -> Result<Self, Exit> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let (mut stdout, mut stderr) = (Output::default(), Output::default());
        let (sender, lines) = mpsc::channel();
        stdout.read(child.stdout.take().expect("piped"), Some(sender));
        stderr.read(child.stderr.take().expect("piped"), None);
        let mut server = Self {
            child,
            address: String::new(),
            stdout,
            stderr,
            directory: None,
        };
        match lines.recv_timeout(WORK_PATIENCE) {
            Ok(line) => {
                let address = line.strip_prefix("listening on ");
                server.address = address.expect("a ready line").to_owned();
                Ok(server)
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(server.wait()),
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("neither a ready line nor an end"),
        }
    }

    /// Where it listens: `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A new connection.
    pub async fn client(&self) -> Client {
        Client::connect(&self.address).await
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its directory, in which the database is `test.db`.
    ///
    /// # Panics
    /// When it was started without one.
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().expect("a directory").path()
    }

    /// What it wrote on stdout so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it wrote on stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until it has written these words on stderr.
    ///
    /// # Panics
    /// When they do not come.
    pub async fn until_told(&self, words: &str) {
        soon(words, self.stderr.until_it_holds(words)).await;
    }

    /// Whether it runs.
    ///
    /// # Panics
    /// When the system does not say.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Sends it a signal, by name: `TERM`, `INT`, `KILL`.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn signal(&self, name: &str) {
        let id = self.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.expect("kill runs").success(), "kill -s {name} {id}");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn wait(&mut self) -> Exit {
        let status = self.status();
        self.stdout.finish();
        self.stderr.finish();
        Exit {
            code: status.code(),
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }

    fn status(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            // The standard library offers no wait with an end to it.
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(start.elapsed() < WORK_PATIENCE, "the server does not end");
            std::thread::sleep(LOOK);
        }
    }

    /// Asks it to end, and waits until it has. Its directory stays.
    ///
    /// # Panics
    /// When it does not end with success.
    pub fn stop(mut self) -> TempDir {
        self.signal("TERM");
        let exit = self.wait();
        assert_eq!(exit.code, Some(0), "{exit:?}");
        self.directory.take().expect("a directory")
    }

    /// Kills it in the middle of whatever it does, if it still does anything. Its directory stays.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill(mut self) -> TempDir {
        // The standard library calls it a success where the process has ended already.
        self.child.kill().expect("it is ours");
        self.wait();
        self.directory.take().expect("a directory")
    }

    /// Its resident memory in bytes. Linux alone says so.
    pub fn memory_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most resident memory it ever had, in bytes. Linux alone says so.
    pub fn peak_memory_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// Sees that it never had more resident memory than this. Linux alone says so.
    ///
    /// # Panics
    /// When it had.
    #[track_caller]
    pub fn assert_peak_below(&self, bytes: u64) {
        let peak = self.peak_memory_bytes();
        let [peak_mib, most_mib] = [peak, bytes].map(|bytes| bytes >> 20);
        assert!(peak < bytes, "{peak_mib} MiB of {most_mib}");
    }

    fn status_bytes(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()));
        let status = status.expect("it runs, on Linux");
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|line| line.split_whitespace().next());
        kib.and_then(|kib| kib.parse::<u64>().ok()).expect("a size") * 1024
    }

    /// The processor time it has used, in ticks of a hundredth of a second. Linux alone says so.
    ///
    /// # Panics
    /// When it does not run.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id()));
        let stat = stat.expect("it runs, on Linux");
        // After the name, which may hold anything, the fields count from the third.
        let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks
            .map(|field| field.parse::<u64>().expect("ticks"))
            .sum()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The command that starts the binary on the database `test.db` of a directory, on a free port, for a test that
/// does not wait until it listens.
///
/// # Panics
/// When there is no binary.
pub fn server_command(directory: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(binary("duck-flight-server"));
    command.arg("--database").arg(directory.join("test.db"));
    command.args(["--listen", "127.0.0.1:0"]).args(flags);
    command
}

/// A binary of the workspace, which cargo puts into the folder above the tests'.
///
/// # Panics
/// When it is not built.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a file");
    let profile = test.parent().and_then(Path::parent).expect("a folder");
    let binary = profile.join(name);
    assert!(
        binary.exists(),
        "{} is missing: build it with `cargo build --profile testing --workspace --bins`",
        binary.display()
    );
    binary
}
