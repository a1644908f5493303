//! Text of others for people: a terminal or a log shows it, and does not obey it.

use std::borrow::Cow;

/// The text without anything that moves the cursor or turns the direction of writing: such characters are
/// written as escapes.
pub fn escape_controls(text: &str) -> Cow<'_, str> {
    if !text.contains(moves_cursor) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other if !moves_cursor(other) => out.push(other),
            other if other.is_ascii() => out.push_str(&format!("\\x{:02X}", u32::from(other))),
            other => out.push_str(&format!("\\u{{{:X}}}", u32::from(other))),
        }
    }
    Cow::Owned(out)
}

/// As [`escape_controls`], for text that may have several lines.
pub fn escape_controls_in_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(escape_controls).collect();
    lines.join("\n")
}

fn moves_cursor(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_the_cursor_is_escaped() {
        assert_eq!(
            escape_controls("a\tb\n\u{1b}[31m\u{202E}é"),
            "a\\tb\\n\\x1B[31m\\u{202E}é"
        );
        assert!(matches!(escape_controls("plain é"), Cow::Borrowed(_)));
    }

    #[test]
    fn lines_stay_lines_where_there_may_be_several() {
        assert_eq!(escape_controls_in_lines("a\n\u{7}b\r\n"), "a\n\\x07b\\r\n");
    }
}
