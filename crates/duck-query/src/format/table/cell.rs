//! The text of one cell: made harmless, measured and shortened.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// What stands where text was cut off.
pub(super) const ELLIPSIS: &str = "…";

/// The text without anything that moves the cursor or turns the direction of writing: such characters are
/// written as escapes.
pub(in crate::format) fn escape_controls(text: &str) -> Cow<'_, str> {
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

fn moves_cursor(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// How many columns of a terminal the text takes.
pub(super) fn width(text: &str) -> usize {
    if text.is_ascii() {
        text.len()
    } else {
        text.width()
    }
}

/// The text, cut with an ellipsis where it is wider than `limit` columns.
pub(super) fn cut(text: &str, limit: usize) -> Cow<'_, str> {
    if width(text) <= limit {
        return Cow::Borrowed(text);
    }
    let mut used = 0;
    let kept = text.chars().take_while(|character| {
        used += character.width().unwrap_or(0);
        used < limit
    });
    let mut kept: String = kept.collect();
    kept.push_str(ELLIPSIS);
    Cow::Owned(kept)
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
    fn text_is_cut_by_the_columns_it_takes() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 5), "abcd…");
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("ab", 1), "…");
    }
}
