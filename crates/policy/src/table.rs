//! A length for every batch size, written by hand.

use std::fmt;

/// Most rows of a table; bounds what a value of it costs, and nobody tunes more by hand.
const ROWS_MAX: usize = 16;

/// A step function from batch size to length.
///
/// Written `FIRST-LAST:LEN;...`, for example `1-4:3;5-8:1;9-:0`; the last row may leave out `LAST`. Rows ascend and do not
/// overlap. Batch sizes between two rows and beyond the last keep the length of the row before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LenTable {
    /// At least one and at most 16.
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    /// Smallest batch size.
    first: u32,
    /// Largest batch size; `None` if the row has no end.
    last: Option<u32>,
    /// Tokens to draft.
    len: u32,
}

impl LenTable {
    /// Reads a table; `None` if the text is not of the form above, does not begin with batch size 1, has more than 16 rows
    /// or asks for a length above `len_max`.
    pub fn parse(text: &str, len_max: u32) -> Option<Self> {
        let mut rows: Vec<Row> = Vec::new();
        for part in text.split(';') {
            let row = Row::parse(part)?;
            let is_next = match rows.last() {
                None => row.first == 1,
                Some(before) => before.last.is_some_and(|last| last < row.first),
            };
            if !is_next || row.len > len_max || rows.len() == ROWS_MAX {
                return None;
            }
            rows.push(row);
        }
        Some(Self { rows })
    }

    /// The length for a batch of this size, tokens. An empty batch counts as one of size 1.
    pub fn len(&self, batch_size: u32) -> u32 {
        let before = self.rows.iter().rev().find(|row| row.first <= batch_size);
        before.unwrap_or(&self.rows[0]).len
    }
}

impl Row {
    fn parse(text: &str) -> Option<Self> {
        let (sizes, len) = text.split_once(':')?;
        let (first, last) = sizes.split_once('-')?;
        let first = first.parse().ok()?;
        let last = if last.is_empty() { None } else { Some(last.parse().ok()?) };
        let is_ascending = last.is_none_or(|last| first <= last);
        Some(Self { first, last, len: len.parse().ok()? }).filter(|_| is_ascending)
    }
}

impl fmt::Display for LenTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, row) in self.rows.iter().enumerate() {
            let separator = if i == 0 { "" } else { ";" };
            match row.last {
                Some(last) => write!(f, "{separator}{}-{last}:{}", row.first, row.len)?,
                None => write!(f, "{separator}{}-:{}", row.first, row.len)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(u32, u32)]) {
        let table = LenTable::parse(text, 8).unwrap_or_else(|| panic!("{text} is a table"));
        for &(batch_size, len) in expected {
            assert_eq!(table.len(batch_size), len, "{text} at {batch_size}");
        }
        assert_eq!(LenTable::parse(&table.to_string(), 8).as_ref(), Some(&table), "{text}");
    }

    #[test]
    fn gaps_and_the_end_keep_the_length_before() {
        check("1-4:3;5-8:1;9-:0", &[(1, 3), (4, 3), (5, 1), (8, 1), (9, 0), (u32::MAX, 0)]);
        check("1-4:3;9-12:1", &[(4, 3), (5, 3), (8, 3), (9, 1), (12, 1), (13, 1), (4000, 1)]);
        check("1-1:8", &[(0, 8), (1, 8), (2, 8)]);
        check("1-:0", &[(0, 0), (7, 0)]);
    }

    #[test]
    fn what_is_not_a_table_is_refused() {
        let too_many: Vec<String> = (1..=17).map(|i| format!("{i}-{i}:1")).collect();
        let refused = [
            "",
            "1-4",
            "4:3",
            "1-4:",
            "-4:3",
            "1-4:9",
            "1-4:-1",
            "2-4:3",
            "1-4:3;",
            "1-4:3;4-8:1",
            "1-4:3;8-5:1",
            "1-:3;5-8:1",
            "1-4:3,5-8:1",
            &too_many.join(";"),
        ];
        for text in refused {
            assert_eq!(LenTable::parse(text, 8), None, "{text}");
        }
        assert!(LenTable::parse(&too_many[..16].join(";"), 8).is_some());
    }
}
