use super::super::testing::{counting, printed, sample, unlimited, words};
use super::*;

fn terminal(width: usize, max_rows: usize) -> OutputOptions {
    OutputOptions {
        width: Some(width),
        max_rows: Some(max_rows),
        ..unlimited(Format::Table)
    }
}

#[test]
fn boxes_show_types_and_align_numbers_to_the_right() {
    let expected = r#"
┌─────────────────────┬────────┬─────────────┬───────────┐
│                  id │  value │ word        │ list      │
│              BIGINT │ DOUBLE │ VARCHAR     │ INTEGER[] │
├─────────────────────┼────────┼─────────────┼───────────┤
│                   1 │    1.0 │ a,"b" | c\n │ [1, NULL] │
│                 -20 │   NULL │             │ []        │
│ 9223372036854775807 │    2.5 │ NULL        │ NULL      │
└─────────────────────┴────────┴─────────────┴───────────┘
3 rows
"#;
    assert_eq!(
        printed(&unlimited(Format::Table), &[sample()]),
        expected.trim_start_matches('\n')
    );
}

#[test]
fn plain_tables_have_no_boxes_and_no_spaces_at_the_end() {
    let expected = r#"
                 id   value  word         list
             BIGINT  DOUBLE  VARCHAR      INTEGER[]
-------------------  ------  -----------  ---------
                  1     1.0  a,"b" | c\n  [1, NULL]
                -20    NULL               []
9223372036854775807     2.5  NULL         NULL
3 rows
"#;
    assert_eq!(
        printed(&unlimited(Format::Plain), &[sample()]),
        expected.trim_start_matches('\n')
    );
}

#[test]
fn a_long_table_shows_its_first_and_last_rows_and_says_how_many_there_are() {
    let batches = [
        counting(0, 3),
        counting(3, 60),
        counting(63, 1),
        counting(64, 0),
    ];
    let expected = r#"
┌────────┐
│      n │
│ BIGINT │
├────────┤
│      0 │
│      1 │
│      2 │
│      · │
│     62 │
│     63 │
└────────┘
5 of 64 rows
"#;
    assert_eq!(
        printed(&terminal(80, 5), &batches),
        expected.trim_start_matches('\n')
    );
}

#[test]
fn a_table_within_its_limit_has_no_gap() {
    let expected = r#"
┌────────┐
│      n │
│ BIGINT │
├────────┤
│      0 │
│      1 │
│      2 │
│      3 │
└────────┘
4 rows
"#;
    assert_eq!(
        printed(&terminal(80, 4), &[counting(0, 3), counting(3, 1)]),
        expected.trim_start_matches('\n')
    );
}

#[test]
fn a_wide_table_shortens_text_and_then_hides_columns_in_the_middle() {
    let long = "a rather long text that goes on";
    let expected = r#"
┌──────────────────┬─────────┐
│ first            │ second  │
│ VARCHAR          │ VARCHAR │
├──────────────────┼─────────┤
│ a rather long t… │ b       │
└──────────────────┴─────────┘
1 row
"#;
    let batch = words(&[("first", long), ("second", "b")]);
    assert_eq!(
        printed(&terminal(30, 40), &[batch]),
        expected.trim_start_matches('\n')
    );
    let expected = r#"
┌──────────────┬─────────┬───┬─────────┐
│ first        │ x       │ … │ last    │
│ VARCHAR      │ VARCHAR │   │ VARCHAR │
├──────────────┼─────────┼───┼─────────┤
│ a rather lo… │ 1       │ … │ d       │
└──────────────┴─────────┴───┴─────────┘
1 row, 3 of 5 columns
"#;
    let batch = words(&[
        ("first", long),
        ("x", "1"),
        ("y", long),
        ("z", long),
        ("last", "d"),
    ]);
    assert_eq!(
        printed(&terminal(40, 40), &[batch]),
        expected.trim_start_matches('\n')
    );
}

#[test]
fn later_pieces_of_a_long_table_widen_its_columns() {
    let rows = i64::try_from(CHUNK_ROWS).unwrap();
    let batches = [counting(0, rows), counting(rows, 1)];
    let table = printed(&unlimited(Format::Plain), &batches);
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 3 + CHUNK_ROWS + 2);
    assert_eq!(lines[..4], ["     n", "BIGINT", "------", "     0"]);
    assert_eq!(lines[lines.len() - 2..], [" 10000", "10001 rows"]);
}

#[test]
fn a_table_of_many_pieces_is_one_box() {
    let rows = i64::try_from(CHUNK_ROWS).unwrap();
    let table = printed(&unlimited(Format::Table), &[counting(0, 2 * rows + 1)]);
    let corners = |corner: char| table.matches(corner).count();
    assert_eq!((corners('┌'), corners('├'), corners('└')), (1, 1, 1));
    assert!(
        table.ends_with("│  20000 │\n└────────┘\n20001 rows\n"),
        "{}",
        &table[table.len() - 200..]
    );
}

#[test]
fn a_value_of_many_characters_is_whole_where_no_width_is_given() {
    let long = "x".repeat(100_000);
    for format in [Format::Plain, Format::Table] {
        let table = printed(&unlimited(format), &[words(&[("a", &long), ("b", "y")])]);
        assert_eq!(table.matches('x').count(), long.len());
        assert!(table.lines().count() < 2_000);
    }
}

#[test]
fn of_the_last_rows_no_more_are_kept_than_there_is_memory_for() {
    let long = "x".repeat(CHUNK_BYTES / 5);
    let options = OutputOptions {
        max_rows: Some(20),
        ..unlimited(Format::Plain)
    };
    // Ten rows are the last, of which four fit.
    let row = |number: usize| {
        let long = if number < 20 { "" } else { long.as_str() };
        words(&[("n", &number.to_string()), ("long", long)])
    };
    let rows: Vec<_> = (0..40).map(row).collect();
    let table = printed(&options, &rows);
    let numbers: Vec<_> = table.lines().map(|line| line.split(' ').next()).collect();
    let shown = ["9", "·", "36", "37", "38", "39", "14"].map(Some);
    assert_eq!(numbers[numbers.len() - shown.len()..], shown);
    assert!(table.ends_with("\n14 of 40 rows\n"));
    // One that is larger than all memory for them is shown all the same.
    let longer = "x".repeat(CHUNK_BYTES + 1);
    let rows = ["a", "b", "c", longer.as_str()].map(|word| words(&[("word", word)]));
    let options = OutputOptions {
        max_rows: Some(2),
        ..unlimited(Format::Plain)
    };
    assert!(printed(&options, &rows).ends_with("x\n2 of 4 rows\n"));
}

#[test]
fn values_cannot_break_the_table() {
    let batch = words(&[("a\tb", "one\ntwo\u{1b}[31m"), ("日本", "語")]);
    let expected = r#"
┌──────────────────┬─────────┐
│ a\tb             │ 日本    │
│ VARCHAR          │ VARCHAR │
├──────────────────┼─────────┤
│ one\ntwo\x1B[31m │ 語      │
└──────────────────┴─────────┘
1 row
"#;
    assert_eq!(
        printed(&unlimited(Format::Table), &[batch]),
        expected.trim_start_matches('\n')
    );
}

#[test]
fn null_is_dimmed_where_styling_is_allowed() {
    let mut options = terminal(80, 40);
    options.color = true;
    options.null = Some("∅".to_owned());
    let table = printed(&options, &[sample()]);
    assert!(table.contains("\u{1b}[2m"), "{table:?}");
    assert!(table.contains('∅'), "{table:?}");
}

#[test]
fn an_empty_result_still_shows_its_columns() {
    let expected = r#"
┌────────┐
│      n │
│ BIGINT │
├────────┤
└────────┘
0 rows
"#;
    assert_eq!(
        printed(&terminal(80, 40), &[counting(0, 0)]),
        expected.trim_start_matches('\n')
    );
}
