//! Where values stand on an axis, and which of them are named.

/// An axis from the smallest to the largest value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scale {
    min: f64,
    max: f64,
    is_logarithmic: bool,
    /// Values with their names.
    pub(super) ticks: Vec<(f64, String)>,
}

/// Names on an axis, about.
const TICKS: f64 = 5.0;
/// Most values that are named as they are.
const NAMED_MAX: usize = 9;

impl Scale {
    /// From zero, unless values are negative.
    pub(super) fn linear(values: impl Iterator<Item = f64>) -> Self {
        let (min, max) =
            values.fold((0.0_f64, 0.0_f64), |(min, max), value| (min.min(value), max.max(value)));
        let max = if max > min { max } else { min + 1.0 };
        let step = nice((max - min) / TICKS);
        let (first, last) = ((min / step).floor() as i64, (max / step - 1e-9).ceil() as i64);
        let tick = |i| (i as f64 * step, named(i as f64 * step, step));
        Self {
            min: first as f64 * step,
            max: last as f64 * step,
            is_logarithmic: false,
            ticks: (first..=last).map(tick).collect(),
        }
    }

    /// Equal factors are equally far apart. Where there are few values each is named, else powers of ten.
    pub(super) fn logarithmic(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.filter(|&value| value > 0.0).collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        let (min, max) = (values.first().copied().unwrap_or(1.0), values.last().copied().unwrap_or(10.0));
        let (min, max) = if min < max { (min, max) } else { (min / 2.0, max * 2.0) };
        let is_crowded = values.len() > NAMED_MAX;
        let powers = (min.log10().ceil() as i32..=max.log10().floor() as i32).map(|power| 10f64.powi(power));
        let ticks: Vec<f64> = if is_crowded { powers.collect() } else { values };
        Self {
            min,
            max,
            is_logarithmic: true,
            ticks: ticks.into_iter().map(|tick| (tick, short(tick))).collect(),
        }
    }

    /// Place of a value between 0 and 1.
    pub(super) fn place(&self, value: f64) -> f64 {
        let place = |value: f64| if self.is_logarithmic { value.max(self.min).ln() } else { value };
        (place(value) - place(self.min)) / (place(self.max) - place(self.min))
    }
}

/// The smallest of 1, 2, 2.5 and 5 times a power of ten that is at least `step`.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 2.5, 5.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|nice| *nice >= step * 0.999)
        .unwrap_or(10.0 * power)
}

/// As many decimals as the step has.
fn named(value: f64, step: f64) -> String {
    let decimals =
        (0..6).find(|&n| (step * 10f64.powi(n)).fract().min(1.0 - (step * 10f64.powi(n)).fract()) < 1e-6);
    format!("{value:.*}", decimals.unwrap_or(6) as usize)
}

/// A value in few letters.
pub(super) fn short(value: f64) -> String {
    let text = match value.abs() {
        size if size >= 1e6 || (size > 0.0 && size < 1e-3) => return format!("{value:.0e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(scale: &Scale) -> Vec<&str> {
        scale.ticks.iter().map(|(_, name)| name.as_str()).collect()
    }

    #[test]
    fn linear_axes_begin_at_zero_and_have_round_names() {
        assert_eq!(names(&Scale::linear([3.0, 97.0].into_iter())), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(
            names(&Scale::linear([0.11].into_iter())),
            ["0.000", "0.025", "0.050", "0.075", "0.100", "0.125"]
        );
        assert_eq!(names(&Scale::linear([-1.0, 1.0].into_iter())), ["-1.0", "-0.5", "0.0", "0.5", "1.0"]);
        assert_eq!(names(&Scale::linear(std::iter::empty())).first(), Some(&"0.0"));
    }

    #[test]
    fn logarithmic_axes_name_few_values_and_powers_of_many() {
        let scale = Scale::logarithmic([1.0, 4.0, 16.0].into_iter());
        assert_eq!(names(&scale), ["1", "4", "16"]);
        assert!((scale.place(4.0) - 0.5).abs() < 1e-12);
        let many = (1..200).map(f64::from);
        assert_eq!(names(&Scale::logarithmic(many)), ["1", "10", "100"]);
    }

    #[test]
    fn values_are_short() {
        let cases =
            [(1234.5, "1234"), (12.34, "12.3"), (1.5, "1.5"), (0.25, "0.25"), (2.0, "2"), (1e7, "1e7")];
        for (value, expected) in cases {
            assert_eq!(short(value), expected);
        }
    }
}
