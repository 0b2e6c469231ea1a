//! Colours and marks. Every colour has a contrast of about four to one against white and against near-black.

use plotters::prelude::*;

/// Text and axes.
pub(crate) const INK: RGBColor = RGBColor(118, 123, 131);
/// Height of text, pixels.
pub(crate) const TEXT: i32 = 13;
/// Height of titles, pixels.
pub(crate) const TITLE: i32 = 16;
/// Width of a letter as a share of the height of its text, on average; figures do not know fonts.
const LETTER_WIDTH: f64 = 0.56;

/// For `auto`, which the others are compared with.
const AUTO: RGBColor = RGBColor(217, 72, 15);
/// For all other policies but fixed lengths, in the order of their appearance.
const OTHERS: [RGBColor; 8] = [
    RGBColor(37, 121, 204),
    RGBColor(31, 141, 82),
    RGBColor(146, 92, 214),
    RGBColor(201, 60, 137),
    RGBColor(0, 137, 150),
    RGBColor(158, 114, 0),
    RGBColor(165, 94, 60),
    RGBColor(98, 130, 26),
];

/// How a policy is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Look {
    pub(crate) colour: RGBColor,
    /// Pixels.
    pub(crate) width: u32,
    pub(crate) mark: Mark,
}

/// What stands at measured points: colours repeat, colours with marks do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    None,
    Circle,
    Triangle,
    Cross,
}

/// One look per policy. Plain fixed lengths and `off` are thin and of the colour of the axes: they are what the others are
/// judged by.
pub(crate) fn looks(policies: &[&str]) -> Vec<Look> {
    let mut n_others = 0;
    let look = |policy: &&str| match *policy {
        "auto" => Look { colour: AUTO, width: 3, mark: Mark::Circle },
        policy if crate::matrix::fixed_len(policy).is_some() => {
            Look { colour: INK, width: 1, mark: Mark::None }
        }
        _ => {
            let marks = [Mark::Circle, Mark::Triangle, Mark::Cross];
            let mark = marks[(n_others / OTHERS.len()).min(marks.len() - 1)];
            let colour = OTHERS[n_others % OTHERS.len()];
            n_others += 1;
            Look { colour, width: 2, mark }
        }
    };
    policies.iter().map(look).collect()
}

/// About how wide a text is, pixels.
pub(crate) fn text_width(text: &str, height: i32) -> i32 {
    (text.chars().count() as f64 * f64::from(height) * LETTER_WIDTH).ceil() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contrast as WCAG 2 defines it.
    fn contrast(a: RGBColor, b: RGBColor) -> f64 {
        let luminance = |RGBColor(r, g, b): RGBColor| {
            let linear = |value: u8| {
                let value = f64::from(value) / 255.0;
                if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
        };
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn colours_can_be_seen_on_light_and_dark() {
        let dark = RGBColor(13, 17, 23);
        for colour in OTHERS.into_iter().chain([AUTO, INK]) {
            for background in [WHITE, dark] {
                let contrast = contrast(colour, background);
                assert!(contrast >= 3.8, "{colour:?} on {background:?}: {contrast:.2}");
            }
        }
    }

    #[test]
    fn looks_of_many_policies_differ() {
        let names: Vec<String> = (0..24).map(|i| format!("p{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let looks = looks(&names);
        for (i, look) in looks.iter().enumerate() {
            assert!(!looks[..i].contains(look), "{i}");
        }
    }
}
