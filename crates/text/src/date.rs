//! A calendar date, as chat templates print it.

/// Days of the year before each month of a common year.
const DAYS_BEFORE_MONTH: [u32; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A day of the Gregorian calendar, and a time on it in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    year: u32,
    month: u32,
    day: u32,
    /// Since midnight.
    seconds: u32,
}

impl Date {
    /// Midnight of a date, unless there is no such day; years 1 to 9999.
    pub fn new(year: u32, month: u32, day: u32) -> Option<Self> {
        let days = match month {
            2 if is_leap(year) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        let is_valid = (1..=9999).contains(&year) && (1..=days).contains(&day);
        is_valid.then_some(Self { year, month, day, seconds: 0 })
    }

    /// A time of the same day, unless there is no such time.
    pub fn at(self, hour: u32, minute: u32, second: u32) -> Option<Self> {
        let is_valid = hour < 24 && minute < 60 && second < 60;
        is_valid.then_some(Self { seconds: (hour * 60 + minute) * 60 + second, ..self })
    }

    /// The date in a `strftime` format, with the directives of C and the `-` of its GNU library.
    ///
    /// # Errors
    /// The first directive that is none of these.
    pub(super) fn format(self, format: &str) -> Result<String, String> {
        let mut text = String::new();
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let directive = rest.next();
            let written = match directive {
                Some('-') => rest.next().and_then(|directive| Some(self.number(directive)?.0.to_string())),
                Some(directive) => self.directive(directive),
                None => None,
            };
            text += &written.ok_or_else(|| {
                let end = format.len() - rest.as_str().len();
                format[format[..end].rfind('%').unwrap_or(0)..end].to_string()
            })?;
        }
        Ok(text)
    }

    fn directive(self, directive: char) -> Option<String> {
        let (month_name, weekday) = (MONTHS[self.month as usize - 1], WEEKDAYS[self.weekday() as usize]);
        let whole = |format: &str| self.format(format).ok();
        Some(match directive {
            'a' => weekday[..3].to_string(),
            'A' => weekday.to_string(),
            'b' | 'h' => month_name[..3].to_string(),
            'B' => month_name.to_string(),
            'p' => if self.seconds < 12 * 3600 { "AM" } else { "PM" }.to_string(),
            'f' => "000000".to_string(),
            // A time without a zone, as in Python.
            'z' | 'Z' => String::new(),
            'n' => "\n".to_string(),
            't' => "\t".to_string(),
            '%' => "%".to_string(),
            'c' => whole("%a %b %e %H:%M:%S %Y")?,
            'x' | 'D' => whole("%m/%d/%y")?,
            'X' | 'T' => whole("%H:%M:%S")?,
            'F' => whole("%Y-%m-%d")?,
            'R' => whole("%H:%M")?,
            'r' => whole("%I:%M:%S %p")?,
            'e' | 'k' | 'l' => format!("{:2}", self.number(directive)?.0),
            _ => {
                let (number, width) = self.number(directive)?;
                format!("{number:0width$}")
            }
        })
    }

    /// Value of a directive that writes a number, and its digits.
    fn number(self, directive: char) -> Option<(u64, usize)> {
        let (hour, minute, second) = (self.seconds / 3600, self.seconds / 60 % 60, self.seconds % 60);
        let hour_of_12 = (hour + 11) % 12 + 1;
        let since_monday = (self.weekday() + 6) % 7;
        let (number, width) = match directive {
            'd' | 'e' => (self.day, 2),
            'm' => (self.month, 2),
            'y' => (self.year % 100, 2),
            'Y' => (self.year, 4),
            'C' => (self.year / 100, 2),
            'j' => (self.day_of_year(), 3),
            'H' | 'k' => (hour, 2),
            'I' | 'l' => (hour_of_12, 2),
            'M' => (minute, 2),
            'S' => (second, 2),
            'u' => (since_monday + 1, 1),
            'w' => (self.weekday(), 1),
            'U' => ((self.day_of_year() + 6 - self.weekday()) / 7, 2),
            'W' => ((self.day_of_year() + 6 - since_monday) / 7, 2),
            'V' => (self.iso_week().1, 2),
            'G' => (self.iso_week().0, 4),
            'g' => (self.iso_week().0 % 100, 2),
            's' => return Some((self.seconds_since_epoch()?, 1)),
            _ => return None,
        };
        Some((u64::from(number), width))
    }

    /// Year and week in which the week's Thursday lies.
    fn iso_week(self) -> (u32, u32) {
        let since_monday = (self.weekday() + 6) % 7;
        // Day of the year of the Thursday, counted from 1; below that it lies in the year before.
        let thursday = self.day_of_year() as i32 + 3 - since_monday as i32;
        let days_in = |year: u32| if is_leap(year) { 366 } else { 365 };
        match thursday {
            ..=0 => (self.year - 1, (thursday + days_in(self.year - 1) - 1) as u32 / 7 + 1),
            _ if thursday > days_in(self.year) => (self.year + 1, 1),
            _ => (self.year, (thursday - 1) as u32 / 7 + 1),
        }
    }

    fn seconds_since_epoch(self) -> Option<u64> {
        /// Days from 1 January of year 1 to 1 January 1970.
        const EPOCH: u64 = 719_162;
        let years = u64::from(self.year - 1);
        let days = 365 * years + years / 4 - years / 100 + years / 400 + u64::from(self.day_of_year()) - 1;
        Some(days.checked_sub(EPOCH)? * 86_400 + u64::from(self.seconds))
    }

    fn day_of_year(self) -> u32 {
        let leap_day = u32::from(self.month > 2 && is_leap(self.year));
        DAYS_BEFORE_MONTH[self.month as usize - 1] + leap_day + self.day
    }

    /// Days since Sunday: 1 January of year 1 was a Monday, and every year moves the weekday by its days modulo 7.
    fn weekday(self) -> u32 {
        let years = self.year - 1;
        (years + years / 4 - years / 100 + years / 400 + self.day_of_year()) % 7
    }
}

fn is_leap(year: u32) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(date: (u32, u32, u32), format: &str, expected: Result<&str, &str>) {
        let date = Date::new(date.0, date.1, date.2).unwrap();
        assert_eq!(date.format(format).as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn dates_print_as_in_c() {
        check((2024, 7, 26), "%d %b %Y", Ok("26 Jul 2024"));
        check((2025, 3, 5), "%Y-%m-%d %-d/%-m/%y [%e]", Ok("2025-03-05 5/3/25 [ 5]"));
        check((2000, 2, 29), "%A %a %B %j 100%%", Ok("Tuesday Tue February 060 100%"));
        check((1900, 3, 1), "%A %j", Ok("Thursday 060"));
        check((2024, 12, 31), "%a %j", Ok("Tue 366"));
        check((1, 1, 1), "%A", Ok("Monday"));
    }

    #[test]
    fn times_print_as_in_c() {
        check((2025, 3, 5), "%H:%M:%S %I %p", Ok("00:00:00 12 AM"));
        let date = Date::new(2025, 3, 5).unwrap();
        // 20 152 days after the epoch.
        assert_eq!(date.at(14, 7, 9).unwrap().format("%-I:%M:%S %p %s").unwrap(), "2:07:09 PM 1741183629");
        assert_eq!((date.at(24, 0, 0), date.at(0, 60, 0), date.at(0, 0, 60)), (None, None, None));
    }

    #[test]
    fn weeks_are_those_of_their_thursday() {
        for (date, expected) in [
            ((2021, 1, 3), "2020-53 01 00"),
            ((2021, 1, 4), "2021-01 01 01"),
            ((2024, 12, 30), "2025-01 52 53"),
            ((2022, 1, 1), "2021-52 00 00"),
        ] {
            check(date, "%G-%V %U %W", Ok(expected));
        }
    }

    #[test]
    fn other_directives_are_named() {
        check((2024, 7, 26), "%d %Q", Err("%Q"));
        check((2024, 7, 26), "%", Err("%"));
        check((2024, 7, 26), "%-q", Err("%-q"));
    }

    #[test]
    fn days_that_do_not_exist_are_refused() {
        for (year, month, day) in [
            (2023, 2, 29),
            (1900, 2, 29),
            (2024, 4, 31),
            (2024, 13, 1),
            (2024, 0, 1),
            (0, 1, 1),
            (2024, 1, 0),
        ] {
            assert_eq!(Date::new(year, month, day), None, "{year}-{month}-{day}");
        }
    }
}
