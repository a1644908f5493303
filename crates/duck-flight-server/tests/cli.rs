//! The binary as people and scripts meet it: flags, the ready line, exit codes.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long the binary may take to say that it listens, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often one that should end is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// The binary with these flags, none of this process' settings, and nothing of a developer's environment.
fn server(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_duck-flight-server"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DUCK_FLIGHT_")) {
        command.env_remove(name);
    }
    command
        .args(flags)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

/// Runs it to its end. What it says must fit into pipes.
fn output(command: &mut Command) -> Output {
    let mut running = Running::start(command);
    Output {
        status: running.wait(),
        stdout: rest(running.0.stdout.take()),
        stderr: rest(running.0.stderr.take()),
    }
}

/// What a process that has ended has left in a pipe.
fn rest(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut pipe = pipe.expect("piped");
    pipe.read_to_end(&mut bytes).expect("all it said");
    bytes
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// A server that runs, killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Self(child.expect("the binary runs"))
    }

    /// The first line on stdout; empty where the server ended without one.
    fn ready_line(&mut self) -> String {
        let stdout = self.0.stdout.take().expect("piped");
        let (sender, said) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            sender.send(BufReader::new(stdout).read_line(&mut line).map(|_| line))
        });
        let line = said.recv_timeout(PATIENCE).expect("a line, or an end");
        line.expect("UTF-8")
    }

    /// Waits for its end.
    fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            // The standard library offers no wait with an end to it.
            if let Some(status) = self.0.try_wait().expect("a child") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            thread::sleep(LOOK);
        }
    }

    fn terminate(&self) {
        let id = self.0.id().to_string();
        let sent = Command::new("kill").args(["-s", "TERM", &id]).status();
        assert!(sent.expect("kill runs").success());
    }

    fn stop(mut self) -> (Option<i32>, String) {
        self.terminate();
        let code = self.wait().code();
        (code, text(&rest(self.0.stderr.take())))
    }
}

fn is_ready_line(line: &str) -> bool {
    let port = line
        .strip_prefix("listening on 127.0.0.1:")
        .and_then(|port| port.strip_suffix('\n'));
    port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
}

#[test]
fn help_tells_every_flag_its_variable_and_its_default() {
    let output = output(&mut server(&["--help"]));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "");
    let help = text(&output.stdout);
    let flags = [
        (
            "--database <FILE>",
            "DUCK_FLIGHT_DATABASE",
            "duck_flight.db",
        ),
        ("--listen <IP:PORT>", "DUCK_FLIGHT_LISTEN", "127.0.0.1:8815"),
        ("--insecure", "DUCK_FLIGHT_INSECURE", ""),
        ("--threads <N>", "DUCK_FLIGHT_THREADS", "one for each core"),
        ("--memory-limit <SIZE>", "DUCK_FLIGHT_MEMORY_LIMIT", "80%"),
        (
            "--storage-version <VERSION>",
            "DUCK_FLIGHT_STORAGE_VERSION",
            "v1.4.0",
        ),
        (
            "--row-group-size <ROWS>",
            "DUCK_FLIGHT_ROW_GROUP_SIZE",
            "20480",
        ),
        ("--salvage-log", "DUCK_FLIGHT_SALVAGE_LOG", ""),
        ("--max-queries <N>", "DUCK_FLIGHT_MAX_QUERIES", "32"),
        (
            "--ingest-buffer <SIZE>",
            "DUCK_FLIGHT_INGEST_BUFFER",
            "256MiB",
        ),
        (
            "--min-free-disk <SIZE>",
            "DUCK_FLIGHT_MIN_FREE_DISK",
            "256MiB",
        ),
        ("--spill-limit <SIZE>", "DUCK_FLIGHT_SPILL_LIMIT", "half"),
        (
            "--max-message-size <SIZE>",
            "DUCK_FLIGHT_MAX_MESSAGE_SIZE",
            "64MiB",
        ),
        (
            "--session-timeout <TIME>",
            "DUCK_FLIGHT_SESSION_TIMEOUT",
            "1h",
        ),
        (
            "--transaction-timeout <TIME>",
            "DUCK_FLIGHT_TRANSACTION_TIMEOUT",
            "5m",
        ),
        ("--stall-timeout <TIME>", "DUCK_FLIGHT_STALL_TIMEOUT", "30s"),
        (
            "--shutdown-grace <TIME>",
            "DUCK_FLIGHT_SHUTDOWN_GRACE",
            "20s",
        ),
        ("--log-format <FORMAT>", "DUCK_FLIGHT_LOG_FORMAT", "text"),
    ];
    for (flag, variable, default) in flags {
        for word in [flag, variable, default] {
            assert!(help.contains(word), "`{word}` is missing in\n{help}");
        }
    }
    let told = help
        .lines()
        .filter(|line| line.trim_start().starts_with("--"))
        .count();
    assert_eq!(told, flags.len(), "a flag without a test in\n{help}");
}

#[test]
fn version_tells_the_name_and_the_version() {
    let output = output(&mut server(&["--version"]));
    assert_eq!(output.status.code(), Some(0));
    let version = format!("duck-flight-server {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(text(&output.stdout), version);
}

#[test]
fn flags_that_are_wrong_are_a_usage_error() {
    let cases: [(&[&str], &str); 23] = [
        (&["--listen", "0.0.0.0:0"], "--insecure"),
        (&["--database", "d/q?x.db"], "--database d/q?x.db"),
        (&["--database", "duckdb:x.db"], "./duckdb:x.db"),
        (&["--memory-limit", "1KiB"], "--memory-limit"),
        (&["--ingest-buffer", "1KiB"], "--ingest-buffer"),
        (&["--spill-limit", "1KiB"], "--spill-limit"),
        (&["--max-message-size", "8GiB"], "--max-message-size"),
        (&["--storage-version", "v9"], "v1.0.0, v1.1.0"),
        (&["--row-group-size", "1000"], "multiple of 2048"),
        (&["--row-group-size", "245760"], "up to 122880"),
        (&["--listen", "nowhere"], "such as 127.0.0.1:8815"),
        (&["--listen", "localhost:0"], "give 127.0.0.1:0"),
        (&["--threads", "0"], "--threads"),
        (&["--threads", "1025"], "from 1 to 1024"),
        (&["--threads", "-1"], "from 1 to 1024"),
        (&["--max-queries", "0"], "from 1 to 4096"),
        (&["--max-queries", "1000000000"], "from 1 to 4096"),
        (&["--row-group-size", "-1"], "multiple of 2048"),
        (&["--memory-limit", "much"], "such as 512MB"),
        (&["--memory-limit", "80%"], "no percentage"),
        (&["--log-format", "xml"], "--log-format"),
        (&["--unknown"], "--unknown"),
        (&["positional"], "positional"),
    ];
    for (flags, word) in cases {
        let output = output(&mut server(flags));
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert_eq!(text(&output.stdout), "");
        let said = text(&output.stderr);
        assert!(said.starts_with("error: ") && said.contains(word), "{said}");
    }
}

#[test]
fn settings_that_do_not_work_are_an_error_that_names_them() {
    let directory = tempfile::tempdir().unwrap();
    let not_a_database = directory.path().join("not.db");
    std::fs::write(&not_a_database, "not a database".repeat(1000)).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let memory = ["--database", ":memory:"];
    let cases: [(&[&str], &str); 3] = [
        (&["--listen", &taken], &taken),
        (
            &[
                "--listen",
                "127.0.0.1:0",
                "--database",
                "/nowhere/at/all.db",
            ],
            "/nowhere/at/all.db",
        ),
        (
            &[
                "--listen",
                "127.0.0.1:0",
                "--database",
                not_a_database.to_str().unwrap(),
            ],
            "not.db",
        ),
    ];
    for (flags, word) in cases {
        let flags: Vec<_> = if flags.contains(&"--database") {
            flags.to_vec()
        } else {
            [&memory, flags].concat()
        };
        let output = output(&mut server(&flags));
        assert_eq!(output.status.code(), Some(1), "{flags:?}");
        assert_eq!(text(&output.stdout), "", "{flags:?}");
        let said = text(&output.stderr);
        assert!(
            said.contains("error: ") && said.contains(word),
            "{flags:?}: {said}"
        );
    }
}

#[test]
fn a_ready_line_says_where_it_listens_and_a_signal_ends_it_with_success() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("d.db");
    let mut running =
        Running::start(server(&["--listen", "127.0.0.1:0", "--database"]).arg(&database));
    let line = running.ready_line();
    assert!(is_ready_line(&line), "{line}");
    let (code, said) = running.stop();
    assert_eq!(code, Some(0), "{said}");
    assert!(database.exists());
}

#[test]
fn a_port_that_is_taken_is_told_with_a_remedy_before_the_database_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let output = output(server(&["--listen", &taken]).current_dir(directory.path()));
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains(&taken) && said.contains("give another --listen"),
        "{said}"
    );
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn the_log_tells_what_was_started_unless_it_is_asked_for_less() {
    let flags = [
        "--listen",
        "127.0.0.1:0",
        "--database",
        ":memory:",
        "--threads",
        "2",
        "--memory-limit",
        "1GiB",
    ];
    for (asked, is_told) in [
        (None, true),
        (Some(""), true),
        (Some(" "), true),
        (Some("duck_flight_server=info, off"), true),
        (Some("warn"), false),
    ] {
        let mut command = server(&flags);
        command.envs(asked.map(|asked| ("RUST_LOG", asked)));
        let mut running = Running::start(&mut command);
        let line = running.ready_line();
        let address = line.trim_end().replace("listening on ", "address=");
        let (code, said) = running.stop();
        assert_eq!(code, Some(0), "{asked:?}: {said}");
        for word in [
            concat!("version=", env!("CARGO_PKG_VERSION")),
            "database=:memory:",
            "duckdb=v1.5.5",
            "threads=2",
            "memory_limit=1.0 GiB",
            &address,
        ] {
            assert_eq!(said.contains(word), is_told, "{asked:?}, {word}: {said}");
        }
    }
}

#[test]
fn a_malformed_rust_log_is_a_usage_error() {
    for malformed in ["duck_flight_server=debgu", "info,=x=y"] {
        let output = output(server(&[]).env("RUST_LOG", malformed));
        assert_eq!(output.status.code(), Some(2), "{malformed}");
        let said = text(&output.stderr);
        assert!(
            said.starts_with(&format!("error: RUST_LOG={malformed}: ")),
            "{said}"
        );
    }
}

#[test]
fn it_serves_and_ends_well_when_nobody_reads_what_it_says() {
    for format in ["text", "json"] {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("d.db");
        let flags = ["--listen", "127.0.0.1:0", "--log-format", format];
        let mut running = Running::start(server(&flags).arg("--database").arg(&database));
        assert!(is_ready_line(&running.ready_line()));
        drop(running.0.stderr.take());
        running.terminate();
        let status = running.wait();
        assert_eq!(status.code(), Some(0), "{format}: {status}");
        assert!(database.exists() && !directory.path().join("d.db.wal").exists());
    }
}

#[test]
fn it_starts_on_the_file_of_its_default_and_again() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let mut command = server(&["--listen", "127.0.0.1:0"]);
        let mut running = Running::start(command.current_dir(directory.path()));
        let line = running.ready_line();
        let (code, said) = running.stop();
        assert!(is_ready_line(&line), "{said}");
        assert_eq!(code, Some(0), "{said}");
        assert!(directory.path().join("duck_flight.db").exists());
    }
}

#[test]
fn a_database_in_memory_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = server(&["--listen", "127.0.0.1:0", "--database", ":memory:"]);
    let mut running = Running::start(command.current_dir(directory.path()));
    assert!(is_ready_line(&running.ready_line()));
    assert_eq!(running.stop().0, Some(0));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_path_behind_a_dot_is_that_of_a_file_whatever_its_name() {
    for name in ["duckdb:x.db", ":memory:x"] {
        let directory = tempfile::tempdir().unwrap();
        let path = format!("./{name}");
        // Made, and then opened.
        for _ in 0..2 {
            let mut command = server(&["--listen", "127.0.0.1:0", "--database", &path]);
            let mut running = Running::start(command.current_dir(directory.path()));
            assert!(is_ready_line(&running.ready_line()), "{path}");
            let (code, said) = running.stop();
            assert_eq!(code, Some(0), "{path}: {said}");
            assert!(directory.path().join(name).is_file(), "{path}");
        }
    }
}

#[test]
fn every_flag_has_a_variable_and_the_flag_wins() {
    let directory = tempfile::tempdir().unwrap();
    let from_variable = |name: &str, value: &str| {
        let mut command = server(&[]);
        let command = command
            .current_dir(directory.path())
            .env("DUCK_FLIGHT_LISTEN", "127.0.0.1:0");
        output(command.env(name, value))
    };
    let cases = [
        ("DUCK_FLIGHT_LISTEN", "0.0.0.0:0", 2, "--insecure"),
        ("DUCK_FLIGHT_DATABASE", "/nowhere/at/all.db", 1, "/nowhere"),
        ("DUCK_FLIGHT_MEMORY_LIMIT", "1KiB", 2, "--memory-limit"),
        ("DUCK_FLIGHT_INGEST_BUFFER", "1KiB", 2, "--ingest-buffer"),
        (
            "DUCK_FLIGHT_MAX_MESSAGE_SIZE",
            "1KiB",
            2,
            "--max-message-size",
        ),
        ("DUCK_FLIGHT_THREADS", "0", 2, "--threads"),
        ("DUCK_FLIGHT_MAX_QUERIES", "0", 2, "--max-queries"),
        ("DUCK_FLIGHT_LOG_FORMAT", "xml", 2, "--log-format"),
        ("DUCK_FLIGHT_INSECURE", "perhaps", 2, "--insecure"),
    ];
    for (name, value, code, word) in cases {
        let output = from_variable(name, value);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{name}: {said}");
        assert!(said.contains(word), "{name}: {said}");
    }
    let mut command = server(&["--listen", "127.0.0.1:0", "--database", ":memory:"]);
    let command = command
        .env("DUCK_FLIGHT_LISTEN", "0.0.0.0:0")
        .env("DUCK_FLIGHT_DATABASE", "/nowhere/at/all.db")
        .env("DUCK_FLIGHT_INSECURE", "1");
    let mut running = Running::start(command);
    assert!(is_ready_line(&running.ready_line()));
    assert_eq!(running.stop().0, Some(0));
}

#[test]
fn log_lines_are_json_where_that_is_asked_for() {
    let flags = [
        "--listen",
        "127.0.0.1:0",
        "--database",
        ":memory:",
        "--log-format",
        "json",
    ];
    let mut running = Running::start(&mut server(&flags));
    assert!(is_ready_line(&running.ready_line()));
    let (code, said) = running.stop();
    assert_eq!(code, Some(0));
    assert!(!said.is_empty());
    for line in said.lines() {
        assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
    }
}
