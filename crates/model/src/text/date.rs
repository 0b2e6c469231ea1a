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

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    year: u32,
    month: u32,
    day: u32,
}

impl Date {
    /// A date, unless there is no such day; years 1 to 9999.
    pub fn new(year: u32, month: u32, day: u32) -> Option<Self> {
        let days = match month {
            2 if is_leap(year) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        let is_valid = (1..=9999).contains(&year) && (1..=days).contains(&day);
        is_valid.then_some(Self { year, month, day })
    }

    /// The date in a `strftime` format with the directives `%a %A %b %B %d %-d %e %j %m %-m %y %Y %%`.
    ///
    /// # Errors
    /// The first directive that is none of these.
    pub(super) fn format(self, format: &str) -> Result<String, String> {
        let Self { year, month, day } = self;
        let (month_name, weekday) = (MONTHS[month as usize - 1], WEEKDAYS[self.weekday() as usize]);
        let mut text = String::new();
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let mut directive: String = rest.next().into_iter().collect();
            if directive == "-" {
                directive.extend(rest.next());
            }
            text += &match directive.as_str() {
                "a" => weekday[..3].to_string(),
                "A" => weekday.to_string(),
                "b" => month_name[..3].to_string(),
                "B" => month_name.to_string(),
                "d" => format!("{day:02}"),
                "-d" => day.to_string(),
                "e" => format!("{day:2}"),
                "j" => format!("{:03}", self.day_of_year()),
                "m" => format!("{month:02}"),
                "-m" => month.to_string(),
                "y" => format!("{:02}", year % 100),
                "Y" => format!("{year:04}"),
                "%" => "%".to_string(),
                _ => return Err(format!("%{directive}")),
            };
        }
        Ok(text)
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
    fn other_directives_are_named() {
        check((2024, 7, 26), "%H:%M", Err("%H"));
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
