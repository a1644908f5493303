//! The binary: flags, stdout, stderr and exit codes, against a Flight server that lives in the test.

mod fake;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

use fake::{FakeServer, MANY_ROWS};

/// The command with a clean environment, aimed at `server`.
fn duck_query(server: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_duck-query"));
    for name in [
        "DUCK_FLIGHT_SERVER",
        "DUCK_QUERY_FORMAT",
        "DUCK_QUERY_MAX_ROWS",
        "DUCK_QUERY_NULL",
    ] {
        command.env_remove(name);
    }
    command
        .args(["--server", server])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs the command against `server`, and answers with its exit code, stdout and stderr.
fn run_at(server: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    outcome(duck_query(server, arguments).output().unwrap())
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    run_at(&FakeServer::start().address, arguments)
}

fn run_with_stdin(arguments: &[&str], stdin: &[u8]) -> (Option<i32>, String, String) {
    let server = FakeServer::start();
    let mut child = duck_query(&server.address, arguments)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    outcome(child.wait_with_output().unwrap())
}

fn outcome(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn done(stdout: &str) -> (Option<i32>, String, String) {
    (Some(0), stdout.to_owned(), String::new())
}

#[test]
fn help_goes_to_stdout_and_tells_every_flag() {
    let (code, stdout, stderr) = run_at("unused:1", &["--help"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let flags = [
        "--server",
        "--command",
        "--file",
        "--format",
        "--max-rows",
        "--null",
        "--timing",
        "Exit codes",
    ];
    for flag in flags {
        assert!(stdout.contains(flag), "{flag} is missing in:\n{stdout}");
    }
}

#[test]
fn wrong_usage_exits_with_2_and_prints_nothing_on_stdout() {
    let wrong: [&[&str]; 11] = [
        &["--no-such-flag"],
        &["--format", "parchment", "SELECT 1"],
        &["--max-rows", "few", "SELECT 1"],
        &["--max-rows", "-1", "SELECT 1"],
        &["--format", "csv", "--null", "a,b", "SELECT 1"],
        &["--format", "csv", "--null", "\"", "SELECT 1"],
        &["SELECT", "1"],
        &["SELECT 1", "-c", "SELECT 2"],
        &["SELECT 1", "-f", "file.sql"],
        &["-f", "/no/such/file.sql"],
        &[" \n"],
    ];
    for arguments in wrong {
        let (code, stdout, stderr) = run_at("unused:1", arguments);
        assert_eq!(
            (code, stdout.as_str()),
            (Some(2), ""),
            "{arguments:?}: {stderr}"
        );
        assert!(stderr.starts_with("error: "), "{arguments:?}: {stderr}");
    }
}

#[test]
fn an_address_that_leads_nowhere_is_wrong_usage() {
    let (code, _, stderr) = run_at("localhost", &["SELECT 1"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("the port is missing"), "{stderr}");
    let (code, _, stderr) = run_at("me:secret@localhost:1", &["SELECT 1"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("no users and passwords"), "{stderr}");
    assert!(!stderr.contains("secret"), "{stderr}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let (_, _, stderr) = run_at("unused:1", &["-f", "/no/such/file.sql"]);
    assert!(stderr.contains("/no/such/file.sql"), "{stderr}");
}

#[test]
fn a_server_that_does_not_answer_exits_with_1_and_is_named() {
    // Nobody listens on a port that was just given back.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (code, stdout, stderr) = run_at(&address, &["SELECT 1"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(
        stderr.starts_with("error: ") && stderr.contains(&address),
        "{stderr}"
    );
}

#[test]
fn the_result_of_the_argument_is_printed_without_boxes_into_a_pipe() {
    let expected =
        "     n  word\nBIGINT  VARCHAR\n------  -------\n     1  one\n     2  NULL\n2 rows\n";
    for arguments in [&["two rows"] as &[&str], &["-c", "two rows"]] {
        assert_eq!(run(arguments), done(expected));
    }
}

#[test]
fn a_table_that_is_asked_for_has_boxes_and_no_styling_in_a_pipe() {
    let expected = "\
        ┌────────┬─────────┐\n\
        │      n │ word    │\n\
        │ BIGINT │ VARCHAR │\n\
        ├────────┼─────────┤\n\
        │      1 │ one     │\n\
        │      2 │ NULL    │\n\
        └────────┴─────────┘\n\
        2 rows\n";
    assert_eq!(run(&["--format", "table", "two rows"]), done(expected));
}

#[test]
fn every_format_is_printed_as_its_name_says() {
    let cases = [
        ("csv", "n,word\n1,one\n2,\n"),
        (
            "json",
            "[{\"n\":1,\"word\":\"one\"},\n{\"n\":2,\"word\":null}]\n",
        ),
        (
            "ndjson",
            "{\"n\":1,\"word\":\"one\"}\n{\"n\":2,\"word\":null}\n",
        ),
        (
            "markdown",
            "| n | word |\n| ---: | --- |\n| 1 | one |\n| 2 | NULL |\n",
        ),
    ];
    for (format, expected) in cases {
        assert_eq!(run(&["--format", format, "two rows"]), done(expected));
    }
}

#[test]
fn settings_come_from_the_environment_too() {
    let server = FakeServer::start();
    let output = Command::new(env!("CARGO_BIN_EXE_duck-query"))
        .env("DUCK_FLIGHT_SERVER", &server.address)
        .env("DUCK_QUERY_FORMAT", "csv")
        .env("DUCK_QUERY_NULL", "-")
        .env("DUCK_QUERY_MAX_ROWS", "all")
        .arg("two rows")
        .output()
        .unwrap();
    assert_eq!(outcome(output), done("n,word\n1,one\n2,-\n"));
}

#[test]
fn sql_comes_from_stdin_or_a_file_as_it_is() {
    let sql = "echo 'é';\n-- end\n";
    let expected = done(&format!("sql\n\"{sql}\"\n"));
    for arguments in [
        &["--format=csv"] as &[&str],
        &["--format=csv", "-"],
        &["--format=csv", "-f", "-"],
    ] {
        assert_eq!(run_with_stdin(arguments, sql.as_bytes()), expected);
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), sql).unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(run(&["--format=csv", "-f", path]), expected);
}

#[test]
fn sql_that_is_not_utf8_is_wrong_usage() {
    let (code, _, stderr) = run_with_stdin(&[], b"SELECT '\xff'");
    assert_eq!(code, Some(2));
    assert!(stderr.contains("read SQL from stdin"), "{stderr}");
}

#[test]
fn an_error_of_the_server_is_shown_in_full_and_exits_with_1() {
    let (code, stdout, stderr) = run(&["fail at once"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert_eq!(
        stderr,
        "error: Parser Error: no such word\nLINE 1: fail at once\n             ^\n"
    );
}

#[test]
fn an_error_of_the_server_does_not_move_the_cursor() {
    let (code, _, stderr) = run(&["fail in red"]);
    assert_eq!(code, Some(1));
    assert_eq!(stderr, "error: \\x1B[31mred\\x07\\u{202E}\nLINE 1\n");
}

#[test]
fn an_error_in_the_middle_exits_with_1_and_leaves_json_unfinished() {
    let (code, stdout, stderr) = run(&["--format", "json", "fail later"]);
    assert_eq!((code, stderr.as_str()), (Some(1), "error: out of luck\n"));
    assert_eq!(
        stdout,
        "[{\"n\":1,\"word\":\"one\"},\n{\"n\":2,\"word\":null}"
    );
}

#[test]
fn an_empty_result_has_its_header_and_a_statement_without_columns_prints_nothing() {
    assert_eq!(run(&["--format", "csv", "no rows"]), done("n,word\n"));
    for format in ["table", "csv", "json", "ndjson", "markdown"] {
        assert_eq!(run(&["--format", format, "no columns"]), done(""));
    }
}

#[test]
fn a_statement_without_a_result_prints_nothing_but_an_empty_result_is_one() {
    for format in ["table", "plain", "csv", "json", "ndjson", "markdown"] {
        for sql in ["DROP TABLE t", "CREATE TABLE t"] {
            assert_eq!(run(&["--format", format, sql]), done(""), "{format}");
        }
    }
    assert_eq!(run(&["--format", "csv", "SELECT Count"]), done("Count\n"));
    assert_eq!(run(&["--format", "csv", "INSERT"]), done("Count\n7\n"));
}

#[test]
fn timing_is_told_on_stderr() {
    let (code, stdout, stderr) = run(&["--timing", "--format", "csv", "two rows"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "n,word\n1,one\n2,\n"));
    let seconds = stderr
        .strip_prefix("2 rows in ")
        .and_then(|rest| rest.strip_suffix(" s\n"));
    assert!(seconds.unwrap().parse::<f64>().is_ok(), "{stderr}");
}

#[test]
fn rows_beyond_the_limit_are_counted_and_not_printed() {
    let (code, stdout, stderr) = run(&[
        "--timing",
        "--format",
        "csv",
        "--max-rows",
        "1",
        "many rows",
    ]);
    assert_eq!((code, stdout.as_str()), (Some(0), "n\n0\n"));
    assert!(
        stderr.starts_with(&format!("{MANY_ROWS} rows in ")),
        "{stderr}"
    );
    for format in ["csv", "json", "ndjson", "markdown"] {
        for (most, expected) in [
            ("1", format!("the first of {MANY_ROWS} rows is printed; ")),
            (
                "2",
                format!("the first 2 of {MANY_ROWS} rows are printed; "),
            ),
        ] {
            let (_, _, stderr) = run(&["--format", format, "--max-rows", most, "many rows"]);
            assert!(stderr.starts_with(&expected), "{format}: {stderr}");
        }
        let (_, _, stderr) = run(&["--format", format, "--max-rows", "1", "an only row"]);
        assert_eq!(stderr, "", "{format}");
    }
    let (_, stdout, _) = run(&["--max-rows", "2", "many rows"]);
    let last = MANY_ROWS - 1;
    assert!(
        stdout.ends_with(&format!("{last}\n2 of {MANY_ROWS} rows\n")),
        "{stdout}"
    );
}

#[test]
fn a_reader_that_closes_the_pipe_ends_the_query_quietly() {
    let server = FakeServer::start();
    for format in ["csv", "ndjson", "json", "markdown", "table", "plain"] {
        let mut child = duck_query(&server.address, &["--format", format, "endless rows"])
            .spawn()
            .unwrap();
        first_line(&mut child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), output.stderr),
            (Some(0), Vec::new()),
            "{format}"
        );
        server.wait_until_cancelled();
    }
}

/// Reads the first line of what the command prints, and closes the pipe.
fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    line
}

#[test]
fn rows_are_shown_while_the_query_goes_on_and_ctrl_c_cancels_it() {
    let server = FakeServer::start();
    let mut child = duck_query(&server.address, &["--format", "csv", "wait after one row"])
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut lines = String::new();
    stdout.read_line(&mut lines).unwrap();
    stdout.read_line(&mut lines).unwrap();
    assert_eq!(lines, "n\n0\n");

    let interrupted = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupted.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    server.wait_until_cancelled();
}
