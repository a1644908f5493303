//! The binary: help, usage errors, and servers that are not there or go away.

mod process;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use process::Process;
use tokio::net::TcpSocket;

fn duck_load(flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_duck-load"))
        .args(flags)
        .env_remove("DUCK_FLIGHT_SERVER")
        .output()
        .expect("duck-load starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// An address on which nobody listens, and what keeps it from being given to others.
fn free_address() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

#[test]
fn help_names_every_flag_and_goes_to_stdout() {
    let output = duck_load(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = stdout(&output);
    for flag in [
        "--server",
        "--table",
        "--rows",
        "--batches",
        "--duration",
        "--interval",
        "--writers",
        "--commit",
        "--in-flight",
        "--seed",
        "--producer",
        "--resume",
        "--forget",
        "--give-up-after",
        "--verify",
        "--format",
    ] {
        assert!(help.contains(flag), "{flag} is missing in\n{help}");
    }
}

#[test]
fn bad_usage_exits_with_2_and_says_what_is_wrong() {
    for (flags, complaint) in [
        (vec!["--rows", "0"], "--rows"),
        (vec!["--writers", "0"], "--writers"),
        (vec!["--batches", "0"], "1 or more"),
        (vec!["--duration", "10"], "unit needed"),
        (vec!["--commit", "never"], "stream, batch"),
        (vec!["--table", ""], "--table"),
        (vec!["--producer", ""], "--producer"),
        (vec!["--resume"], "--producer"),
        (vec!["--forget"], "--producer"),
        (vec!["--forget", "--producer", "p", "--verify"], "--verify"),
        (vec!["--in-flight", "4"], "--commit batch"),
        (vec!["--give-up-after", "1m"], "--resume"),
        (vec!["--rows", "-1"], "1..=1000000"),
        (vec!["--server", "localhost"], "the port is missing"),
        (vec!["--no-such-flag"], "--no-such-flag"),
    ] {
        let output = duck_load(&flags);
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(stderr(&output).contains(complaint), "{flags:?}");
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn without_a_server_it_exits_with_1_and_names_the_address() {
    let (_held, address) = free_address();
    for format in ["text", "json"] {
        let output = duck_load(&["--server", &address, "--format", format]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(&address), "{}", stderr(&output));
        // As its help says: there is no summary.
        assert_eq!(stdout(&output), "");
    }
    let help = stdout(&duck_load(&["--help"]));
    let words: Vec<_> = help.split_whitespace().collect();
    let told = "A load that cannot connect at the start has none";
    assert!(words.join(" ").contains(told), "{help}");
}

#[test]
fn a_flag_may_come_from_the_environment() {
    let (_held, address) = free_address();
    let output = Command::new(env!("CARGO_BIN_EXE_duck-load"))
        .env("DUCK_FLIGHT_SERVER", &address)
        .env("DUCK_LOAD_ROWS", "none")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--rows"), "{}", stderr(&output));
}

#[test]
fn what_the_environment_says_for_other_runs_is_no_error() {
    let (_held, address) = free_address();
    let output = Command::new(env!("CARGO_BIN_EXE_duck-load"))
        .env("DUCK_FLIGHT_SERVER", &address)
        .env("DUCK_LOAD_IN_FLIGHT", "4")
        .env("DUCK_LOAD_GIVE_UP_AFTER", "1m")
        .output()
        .unwrap();
    // There is no server, which it asks for only then.
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
}

#[test]
fn a_switch_in_the_environment_may_be_on_or_off_by_any_usual_word() {
    let (_held, address) = free_address();
    for (value, code) in [("1", 2), ("true", 2), ("0", 1), ("false", 1)] {
        // Where it is on, it needs a producer.
        let output = Command::new(env!("CARGO_BIN_EXE_duck-load"))
            .env("DUCK_FLIGHT_SERVER", &address)
            .env("DUCK_LOAD_RESUME", value)
            .output()
            .unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{value}: {said}");
        assert_eq!(said.contains("--producer"), code == 2, "{value}: {said}");
    }
}

/// Takes connections, and closes each once it has sent more than the greeting of an idle client.
fn server_that_hangs_up() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for connection in listener.incoming() {
            thread::spawn(move || hang_up(connection.unwrap()));
        }
    });
    address
}

fn hang_up(mut connection: TcpStream) {
    // An empty SETTINGS frame, so that the client goes on.
    if connection.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).is_err() {
        return;
    }
    let mut buffer = [0; 4096];
    let mut received = 0;
    while received < 2000 {
        match connection.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(length) => received += length,
        }
    }
}

#[test]
fn a_batch_whose_answer_got_lost_is_unknown_and_not_sent_again() {
    let server = server_that_hangs_up();
    for commit in ["stream", "batch"] {
        let flags = ["--server", &server, "--commit", commit, "--batches", "1"];
        let output = duck_load(&[&flags[..], &["--format", "json"]].concat());
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["unknown"], 1, "{report}");
        assert_eq!(report["batches"], 0, "{report}");
        assert_eq!(report["retries"], 0, "{report}");
        let said = stderr(&output);
        assert!(said.contains("1 batch may be stored or not"), "{said}");
    }
}

#[test]
fn an_endless_loss_of_connections_makes_a_writer_give_up() {
    let server = server_that_hangs_up();
    let output = duck_load(&["--server", &server, "--batches", "1000"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("giving up"), "{}", stderr(&output));
    let summary = stdout(&output);
    assert!(summary.contains("rows       0 acknowledged"), "{summary}");
    assert!(summary.contains("unknown 5"), "{summary}");
}

#[test]
fn a_producer_sends_again_until_its_retries_are_used_up() {
    let server = server_that_hangs_up();
    for commit in ["stream", "batch"] {
        let flags = ["--server", &server, "--commit", commit, "--retries", "2"];
        let producer = ["--producer", "p", "--ack-timeout", "200ms"];
        let output = duck_load(&[&flags[..], &producer, &["--format", "json"]].concat());
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["producer"], "p");
        assert_eq!(report["batches"], 0, "{report}");
        let said = stderr(&output);
        assert_eq!(said.matches("retrying in").count(), 2, "{said}");
    }
}

#[test]
fn a_resuming_loader_gives_up_when_there_is_no_server_for_too_long() {
    let (_held, address) = free_address();
    let flags = ["--producer", "p", "--resume", "--give-up-after", "100ms"];
    let output = duck_load(&[&flags[..], &["--server", &address]].concat());
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("connecting again in"), "{said}");
    assert!(said.contains("error: no server answers"), "{said}");
}

#[test]
fn a_proof_that_cannot_be_had_is_a_failure() {
    let server = server_that_hangs_up();
    let flags = ["--server", &server, "--batches", "1", "--retries", "0"];
    let output = duck_load(&[&flags[..], &["--verify", "--give-up-after", "200ms"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let summary = stdout(&output);
    let expected = "\nFAILED     no proof from the table: ";
    assert!(summary.contains(expected), "{summary}");
}

/// Takes connections, tells when a client has sent a batch over one, and says nothing itself.
fn server_that_says_nothing() -> (String, Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, loaded) = mpsc::channel();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut beginning = [0; 2000];
            if connection.read_exact(&mut beginning).is_ok() {
                sender.send(connection).ok();
            }
        }
    });
    (address, loaded)
}

/// Sends a signal again and again until the process ends, for several that come at once count as one.
fn signal_until_it_ends(process: &mut Process, name: &str) -> ExitStatus {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        process.signal(name);
        thread::sleep(Duration::from_millis(50));
        if let Some(status) = process.0.try_wait().unwrap() {
            return status;
        }
    }
    panic!("it does not end");
}

#[test]
fn a_second_signal_ends_it_even_when_nobody_reads_what_it_says() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let (server, loaded) = server_that_says_nothing();
        let mut process = Process::start(
            Command::new(env!("CARGO_BIN_EXE_duck-load"))
                .args(["--server", &server])
                .stdout(Stdio::null())
                .stderr(Stdio::piped()),
        );
        let _connection = loaded.recv_timeout(Duration::from_secs(10)).unwrap();
        drop(process.0.stderr.take());
        let status = signal_until_it_ends(&mut process, name);
        assert_eq!(status.code(), Some(code), "{status}");
    }
}
