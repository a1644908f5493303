//! Which columns a table shows, and how wide.

/// How wide a column that is not a number stays when there is little room.
const NARROW: usize = 10;

/// How wide a column gets when there is no limit. Longer values take more room only in their own row.
const WIDEST: usize = 200;

/// How much room a column asks for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Need {
    /// The width of its name and type.
    pub(super) header: usize,
    /// The width of its widest value.
    pub(super) values: usize,
    /// When its values are shortened.
    pub(super) shorten: Shorten,
}

/// Which columns give way first when there is little room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Shorten {
    /// Text, whose beginning tells most.
    #[default]
    First,
    /// Values of a fixed form, such as timestamps.
    Last,
    /// Numbers: half a number is another number.
    Never,
}

impl Need {
    fn most(self) -> usize {
        self.header.max(self.values)
    }

    /// The least width, where those that give way last may `yield_all` already or still stay whole.
    fn least(self, yield_all: bool) -> usize {
        let whole = self.values.max(self.header.min(NARROW));
        match self.shorten {
            Shorten::Never => whole,
            Shorten::Last if !yield_all => whole,
            Shorten::First | Shorten::Last => self.most().min(NARROW),
        }
    }
}

/// The room there is, and what the lines between the columns take of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// The width of the whole table; no limit when absent.
    pub(super) width: Option<usize>,
    /// What each column takes besides its content.
    pub(super) per_column: usize,
    /// What the table takes besides its columns.
    pub(super) around: usize,
}

/// A column that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    /// Its place in the result; absent for the one that stands for those hidden.
    pub(super) source: Option<usize>,
    /// The width of its content.
    pub(super) width: usize,
}

/// Lays the columns out: as wide as they need where that fits, otherwise the widest are shortened, and
/// otherwise columns in the middle are hidden.
pub(super) fn lay_out(needs: &[Need], room: Room) -> Vec<Shown> {
    let Some(width) = room.width else {
        let natural = needs.iter().map(|need| need.most().min(WIDEST));
        return shown(0..needs.len(), natural);
    };
    let kept = kept_columns(needs, room, width);
    let sources: Vec<Option<usize>> = match kept {
        Kept::All => (0..needs.len()).map(Some).collect(),
        Kept::Ends { left, right } => {
            let (left, right) = (
                (0..left).map(Some),
                (needs.len() - right..needs.len()).map(Some),
            );
            left.chain([None]).chain(right).collect()
        }
    };
    let needs: Vec<Need> = sources
        .iter()
        .map(|source| source.map_or(HIDDEN, |source| needs[source]))
        .collect();
    let available = width.saturating_sub(needs.len() * room.per_column + room.around);
    let widths = fit(&needs, available);
    let columns = sources.into_iter().zip(widths);
    columns
        .map(|(source, width)| Shown { source, width })
        .collect()
}

/// What the column that stands for the hidden ones asks for.
const HIDDEN: Need = Need {
    header: 1,
    values: 1,
    shorten: Shorten::First,
};

fn shown(sources: impl Iterator<Item = usize>, widths: impl Iterator<Item = usize>) -> Vec<Shown> {
    let columns = sources.zip(widths);
    columns
        .map(|(source, width)| Shown {
            source: Some(source),
            width,
        })
        .collect()
}

/// Widens the columns for rows that come later. A fitted table only widens its numbers.
pub(super) fn widen(columns: &mut [Shown], needs: &[Need], room: Room) {
    for column in columns {
        let Some(source) = column.source else {
            continue;
        };
        let need = needs[source];
        if room.width.is_none() || need.shorten == Shorten::Never {
            column.width = column.width.max(need.values.min(WIDEST));
        }
    }
}

enum Kept {
    All,
    Ends { left: usize, right: usize },
}

/// The columns that have room at their least width: all, or as many as possible from both ends.
fn kept_columns(needs: &[Need], room: Room, width: usize) -> Kept {
    let least = |need: &Need| need.least(true) + room.per_column;
    if needs.len() <= 1 || needs.iter().map(least).sum::<usize>() + room.around <= width {
        return Kept::All;
    }
    let mut used = room.around + least(&HIDDEN) + least(&needs[0]);
    let (mut left, mut right) = (1, 0);
    while left + right + 1 < needs.len() {
        let next = if right < left {
            needs.len() - 1 - right
        } else {
            left
        };
        used += least(&needs[next]);
        if used > width {
            break;
        }
        if right < left {
            right += 1;
        } else {
            left += 1;
        }
    }
    Kept::Ends { left, right }
}

/// Shortens the widest columns to one common width that makes all of them fit: text alone where that is
/// enough.
fn fit(needs: &[Need], available: usize) -> Vec<usize> {
    let widths = |cap: usize, yield_all: bool| {
        let width = move |need: &Need| need.most().min(cap.max(need.least(yield_all)));
        needs.iter().map(width)
    };
    let widest = needs.iter().map(|need| need.most()).max().unwrap_or(0);
    for yield_all in [false, true] {
        let fits = |cap: &usize| widths(*cap, yield_all).sum::<usize>() <= available;
        if let Some(cap) = (1..=widest).rev().find(fits) {
            return widths(cap, yield_all).collect();
        }
    }
    // Not even the least fits: a single wide column, or a very narrow terminal.
    let share = (available / needs.len().max(1)).max(1);
    widths(1, true).map(|width| width.min(share)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(width: usize) -> Need {
        Need {
            header: 4,
            values: width,
            shorten: Shorten::First,
        }
    }

    fn number(width: usize) -> Need {
        Need {
            shorten: Shorten::Never,
            ..word(width)
        }
    }

    fn widths(needs: &[Need], width: usize) -> Vec<(Option<usize>, usize)> {
        let room = Room {
            width: Some(width),
            per_column: 3,
            around: 1,
        };
        let columns = lay_out(needs, room);
        columns
            .iter()
            .map(|column| (column.source, column.width))
            .collect()
    }

    #[test]
    fn columns_that_fit_keep_their_width() {
        assert_eq!(
            widths(&[word(5), number(2)], 80),
            [(Some(0), 5), (Some(1), 4)]
        );
    }

    #[test]
    fn the_widest_words_are_shortened_first_and_numbers_never() {
        let expected = [(Some(0), 31), (Some(1), 20), (Some(2), 31)];
        assert_eq!(widths(&[word(100), number(20), word(70)], 92), expected);
    }

    #[test]
    fn times_give_way_after_words() {
        let time = Need {
            shorten: Shorten::Last,
            ..word(26)
        };
        assert_eq!(
            widths(&[word(60), time], 50),
            [(Some(0), 17), (Some(1), 26)]
        );
        assert_eq!(
            widths(&[word(60), time], 40),
            [(Some(0), 16), (Some(1), 16)]
        );
    }

    #[test]
    fn columns_in_the_middle_are_hidden_when_nothing_else_helps() {
        let expected = [(Some(0), 10), (None, 1), (Some(9), 10)];
        assert_eq!(widths(&[word(10); 10], 40), expected);
    }

    #[test]
    fn a_single_column_is_shortened_to_any_width() {
        assert_eq!(widths(&[word(100)], 9), [(Some(0), 5)]);
    }

    #[test]
    fn a_name_that_is_too_long_shrinks_even_over_numbers() {
        let mut long_name = number(3);
        long_name.header = 60;
        assert_eq!(widths(&[long_name], 40), [(Some(0), 36)]);
    }
}
