//! Date and time, for chat templates that mention them.

use std::time::{SystemTime, UNIX_EPOCH};

use dsde_text::Date;

const SECONDS_PER_DAY: u64 = 86_400;

/// Now in UTC; `None` if the machine's clock makes no sense.
pub(crate) fn today() -> Option<Date> {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    let of_day = (since_epoch % SECONDS_PER_DAY) as u32;
    date_of(since_epoch / SECONDS_PER_DAY)?.at(of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// The date so many days after 1 January 1970; found by asking for dates that may not exist.
fn date_of(days: u64) -> Option<Date> {
    let days_in_year = |year: u32| {
        if Date::new(year, 2, 29).is_some() { 366 } else { 365 }
    };
    let (mut year, mut left) = (1970, days);
    while left >= days_in_year(year) {
        left -= days_in_year(year);
        year += 1;
        if year > 9999 {
            return None;
        }
    }
    let dates = (1..=12).flat_map(|month| (1..=31).filter_map(move |day| Date::new(year, month, day)));
    dates.into_iter().nth(usize::try_from(left).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        // 1972 is a leap year: 2 * 365 + 31 + 28 = 789 days lead to its 29 February.
        for (days, date) in [
            (0, (1970, 1, 1)),
            (364, (1970, 12, 31)),
            (365, (1971, 1, 1)),
            (789, (1972, 2, 29)),
            (790, (1972, 3, 1)),
            (10_957, (2000, 1, 1)),
        ] {
            assert_eq!(date_of(days), Date::new(date.0, date.1, date.2), "{days}");
        }
        assert_eq!(date_of(u64::MAX / SECONDS_PER_DAY), None);
    }
}
