//! What DuckDB takes for JSON: that of RFC 8259, and numbers that are none (`NaN`, `Infinity`, as Python writes them)
//! and a comma behind the last value.

/// Whether a text is one JSON value.
pub(super) fn is_json(text: &[u8]) -> bool {
    let mut scanner = Scanner { rest: text };
    scanner.document().is_some()
}

struct Scanner<'a> {
    rest: &'a [u8],
}

/// What a value stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Array,
    Object,
}

impl Scanner<'_> {
    /// Goes through the value without recursion: it may be nested to any depth.
    fn document(&mut self) -> Option<()> {
        let mut levels = Vec::new();
        loop {
            self.skip_space();
            let opened = match self.rest.first()? {
                b'[' => Some(Level::Array),
                b'{' => Some(Level::Object),
                _ => None,
            };
            let Some(level) = opened else {
                self.scalar()?;
                if !self.close(&mut levels)? {
                    break;
                }
                continue;
            };
            self.advance(1);
            self.skip_space();
            if self.eat(end_of(level)) {
                if !self.close(&mut levels)? {
                    break;
                }
            } else {
                levels.push(level);
                self.key(level)?;
            }
        }
        self.rest.is_empty().then_some(())
    }

    /// Goes behind a value, up to the next one; false where there is none.
    fn close(&mut self, levels: &mut Vec<Level>) -> Option<bool> {
        loop {
            self.skip_space();
            let Some(&level) = levels.last() else {
                return Some(false);
            };
            let goes_on = self.eat(b',');
            self.skip_space();
            if self.eat(end_of(level)) {
                levels.pop();
            } else if goes_on {
                self.key(level)?;
                return Some(true);
            } else {
                return None;
            }
        }
    }

    fn key(&mut self, level: Level) -> Option<()> {
        if level == Level::Object {
            self.string()?;
            self.skip_space();
            self.eat(b':').then_some(())?;
        }
        Some(())
    }

    fn scalar(&mut self) -> Option<()> {
        match self.rest.first()? {
            b'"' => self.string(),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' if self.rest.starts_with(b"null") => self.word(b"null"),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(word)?;
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        self.eat(b'-');
        if let Some(length) = self.no_number() {
            self.advance(length);
            return Some(());
        }
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        Some(())
    }

    /// The length of a word that is no number in the place of one.
    fn no_number(&self) -> Option<usize> {
        let words: [&[u8]; 3] = [b"infinity", b"inf", b"nan"];
        let is_next = |word: &&[u8]| {
            let start = self.rest.get(..word.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(word))
        };
        words.iter().copied().find(is_next).map(<[u8]>::len)
    }

    fn digits(&mut self) -> Option<()> {
        let count = self.rest.iter().take_while(|byte| byte.is_ascii_digit());
        let count = count.count();
        self.advance(count);
        (count > 0).then_some(())
    }

    fn string(&mut self) -> Option<()> {
        self.eat(b'"').then_some(())?;
        loop {
            let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
            let plain = self.rest.iter().position(is_special)?;
            let special = self.rest[plain];
            self.advance(plain + 1);
            match special {
                b'"' => return Some(()),
                b'\\' => self.escape()?,
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        let kind = *self.rest.first()?;
        self.advance(1);
        match kind {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => match self.unit()? {
                // Two halves of a character go together.
                0xD800..0xDC00 => {
                    self.word(b"\\u")?;
                    matches!(self.unit()?, 0xDC00..0xE000).then_some(())
                }
                0xDC00..0xE000 => None,
                _ => Some(()),
            },
            _ => None,
        }
    }

    fn unit(&mut self) -> Option<u32> {
        let digits = self.rest.get(..4)?;
        let digit = |unit: u32, byte: &u8| Some(unit << 4 | char::from(*byte).to_digit(16)?);
        let unit = digits.iter().try_fold(0, digit)?;
        self.advance(4);
        Some(unit)
    }

    fn skip_space(&mut self) {
        let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        let count = self.rest.iter().take_while(is_space).count();
        self.advance(count);
    }

    fn eat(&mut self, byte: u8) -> bool {
        let is_next = self.rest.first() == Some(&byte);
        if is_next {
            self.advance(1);
        }
        is_next
    }

    fn advance(&mut self, count: usize) {
        self.rest = &self.rest[count..];
    }
}

fn end_of(level: Level) -> u8 {
    match level {
        Level::Array => b']',
        Level::Object => b'}',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::catalog::literal;
    use crate::engine::ffi::Database;

    const TEXTS: &[&str] = &[
        "1",
        "-1.5e+10",
        "01",
        "+1",
        "-",
        ".5",
        "5.",
        "0x10",
        "1e",
        "1e999",
        "0",
        "-0",
        "00",
        "123456789012345678901234567890",
        "NaN",
        "nan",
        "-NaN",
        "inf",
        "-Infinity",
        "infinit",
        "+inf",
        "nano",
        "true",
        "tru",
        "True",
        "null",
        "nul",
        "NULL",
        "",
        "   ",
        " 1 ",
        "1 2",
        "\u{b}1",
        "\u{feff}1",
        "/*c*/1",
        "\"\"",
        "\"a",
        "\"a\tb\"",
        "\"\\t\"",
        "\"\\x\"",
        "\"\u{7f}\"",
        "'a'",
        "\"\\u12\"",
        "\"\\u00e9\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud83d\\u0041\"",
        "\"é🦆\"",
        "[]",
        "[ ]",
        "[1]",
        "[1,]",
        "[,]",
        "[1,,2]",
        "[1 2]",
        "[1",
        "1]",
        "[]]",
        "[[], {}]",
        "{}",
        "{ }",
        "{\"a\":1}",
        "{\"a\":1,}",
        "{,}",
        "{a:1}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\" : [1, {\"b\": null}] }",
        "{\"a\":1,\"a\":2}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":1]",
        "[1}",
        "{1:2}",
        "[INF, -nan]",
        "{\"a\":1,,}",
        "{bad",
    ];

    #[test]
    fn json_is_what_duckdb_takes_for_it() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        for text in TEXTS {
            let sql = format!("SELECT {}::JSON", literal(text));
            let expected = connection.execute(&sql);
            assert_eq!(is_json(text.as_bytes()), expected.is_ok(), "{text:?}");
        }
    }

    #[test]
    fn every_cut_of_a_text_is_judged_as_by_duckdb() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        let text = r#"{"a": [1, -2.5e3, "\u00e9\n", {"b": [[], {}]}], "c": [true, null,], }"#;
        for cut in 0..=text.len() {
            let sql = format!("SELECT {}::JSON", literal(&text[..cut]));
            let expected = connection.execute(&sql).is_ok();
            assert_eq!(
                is_json(&text.as_bytes()[..cut]),
                expected,
                "{}",
                &text[..cut]
            );
        }
    }

    #[test]
    fn depth_does_not_matter() {
        let depth = 1_000_000;
        let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_json(text.as_bytes()));
        assert!(!is_json(&text.as_bytes()[1..]));
    }
}
