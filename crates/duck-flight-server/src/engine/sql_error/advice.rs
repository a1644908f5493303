//! Advice of DuckDB's that no client of this server can follow, and what there is to do instead.

use super::{QUOTED, SPILL_LIMIT_REACHED, SqlErrorKind};
use crate::engine::SESSION_SETTINGS;

/// How DuckDB begins to tell how to get an extension.
const EXTENSION: &str = "\n\nPlease try installing and loading the ";

/// How DuckDB begins to tell what to do where memory is full: of a database without a file, of what is spilled, and of any.
const MEMORY: [&str; 3] = [
    "\n\nLaunch the database with a persistent storage back-end",
    "\nThis limit was set by the 'max_temp_directory_size' setting.",
    "\n\nPossible solutions:\n",
];

/// How DuckDB ends where a setting is not a session's own.
const LOCKED: &str = " - the configuration has been locked";

/// What DuckDB advises where others keep it from a checkpoint, which is nothing for clients of a server, and what they are told instead.
const FORCE_ADVICE: &str =
    "Try using FORCE CHECKPOINT to wait until all active transactions are finished";
const WAIT_ADVICE: &str = "The server makes one by itself once they have ended";

/// Puts what a client can do in the place of what it cannot.
pub(super) fn set_right(kind: SqlErrorKind, message: &mut String) {
    put_in_place(message, EXTENSION, "\n\nThis server loads no extensions.");
    if kind == SqlErrorKind::Exhausted {
        let is_spilled = message.contains(SPILL_LIMIT_REACHED);
        let begun = MEMORY.map(|beginning| put_in_place(message, beginning, ""));
        let instead = match (is_spilled, begun.contains(&true)) {
            (true, _) => {
                "\n\nOf this server that is --spill-limit: have it raised, or --memory-limit"
            }
            (false, true) => "\n\nOf this server that is --memory-limit: have it raised",
            (false, false) => "",
        };
        let end = end_of_words(message);
        message.insert_str(end, instead);
    }
    if kind == SqlErrorKind::Transaction {
        *message = message.replace(FORCE_ADVICE, WAIT_ADVICE);
    }
    let end = end_of_words(message);
    if kind == SqlErrorKind::Forbidden && message[..end].ends_with(LOCKED) {
        let instead = format!("; a session may set {}", SESSION_SETTINGS.join(", "));
        message.insert_str(end, &instead);
    }
}

/// Puts `instead` in the place of what DuckDB says from `beginning` on; false where it does not say that.
fn put_in_place(message: &mut String, beginning: &str, instead: &str) -> bool {
    let end = end_of_words(message);
    let Some(start) = message[..end].find(beginning) else {
        return false;
    };
    message.replace_range(start..end, instead);
    true
}

/// Where it begins to quote the statement.
fn end_of_words(message: &str) -> usize {
    message.find(QUOTED).unwrap_or(message.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sql_error::SqlError;

    fn told(message: &str) -> String {
        SqlError::from_message(message).message
    }

    #[test]
    fn no_client_is_told_to_load_an_extension() {
        let missing = "Catalog Error: Type with name \"inet\" is not in the catalog, but it exists in the inet extension.";
        let advice = "\n\nPlease try installing and loading the inet extension by running:\nINSTALL inet;\nLOAD inet;\n\n\
                      Alternatively, consider enabling auto-install and auto-load by running:\nSET autoload_known_extensions=1;";
        for quoted in ["", "\n\nLINE 1: SELECT x::inet\n                  ^"] {
            assert_eq!(
                told(&format!("{missing}{advice}{quoted}")),
                format!("{missing}\n\nThis server loads no extensions.{quoted}")
            );
        }
    }

    #[test]
    fn of_advice_for_full_memory_only_what_can_be_done_is_left() {
        let full = "Out of Memory Error: could not allocate block of size 256.0 KiB (18.9 MiB/19.0 MiB used)";
        let spilled = "Out of Memory Error: failed to offload data block of size 192.0 KiB (19.8 MiB/20.0 MiB used).";
        let file = "\n\nLaunch the database with a persistent storage back-end\nOr set SET temp_directory='/path/to/tmp.tmp'";
        let setting = "\nThis limit was set by the 'max_temp_directory_size' setting.\nYou can adjust this setting";
        let advice = "\n\nPossible solutions:\n* Reducing the number of threads (SET threads=X)\n\nSee also https://duckdb.org";
        for begun in ["", file] {
            assert_eq!(
                told(&format!("{full}{begun}{advice}")),
                format!("{full}\n\nOf this server that is --memory-limit: have it raised")
            );
        }
        for begun in ["", setting] {
            assert_eq!(
                told(&format!("{spilled}{begun}{advice}")),
                format!(
                    "{spilled}\n\nOf this server that is --spill-limit: have it raised, or --memory-limit"
                )
            );
        }
        let disk = "IO Error: Could not write file \"a.wal\": No space left on device";
        assert_eq!(told(disk), disk);
    }

    #[test]
    fn a_setting_that_is_locked_is_told_with_those_that_are_not() {
        let locked = "Invalid Input Error: Cannot change configuration option \"nosuch\" - the configuration has been locked";
        assert_eq!(
            told(locked),
            format!("{locked}; a session may set search_path, schema, TimeZone, Calendar")
        );
    }

    #[test]
    fn a_checkpoint_that_others_are_in_the_way_of_is_not_to_be_forced() {
        let told = "TransactionContext Error: Cannot CHECKPOINT: there are other write transactions active. ";
        let error = SqlError::from_message(&format!("{told}{FORCE_ADVICE}"));
        assert_eq!(error.kind, SqlErrorKind::Transaction);
        assert_eq!(error.message, format!("{told}{WAIT_ADVICE}"));
    }
}
