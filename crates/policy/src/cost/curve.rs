//! Seconds of a pass over its rows, as measured: a rising polyline instead of a straight line.
//!
//! A pass over few rows reads the weights and little else, and takes the same time for one row as for several; beyond that
//! it is bound by arithmetic. What the next row costs depends on where the bend is, which [`CostLine`](super::CostLine)
//! averages away. Here every size that was seen keeps its own time: sizes up to `EXACT_ROWS` by themselves, larger ones
//! four to the doubling.
//!
//! Timings of a shared machine are noisy. The first few passes of a size count by their median, later ones with an
//! exponentially falling weight and moved to within `SURPRISE_MAX` of what is known. A size that was seen rarely leans on
//! the trend of its neighbours (local linear regression, weighted by evidence): one slow pass must not keep a size from being
//! tried again. And the polyline never falls, which averages
//! neighbours that contradict each other (pool adjacent violators).
//!
//! Where attending to stored positions has a price, a size also remembers how many its passes attended to in the mean, and its time
//! is that of such a pass. The polyline runs through what is left without them, so it follows when the price is learnt.

/// Sizes up to which every number of rows is measured by itself.
const EXACT_ROWS: u32 = 16;

/// Measured sizes per doubling beyond [`EXACT_ROWS`].
const PER_OCTAVE: u32 = 4;

/// Sizes in all; the last one takes whatever is larger.
pub(crate) const N_SIZES: usize = EXACT_ROWS as usize + 12 * PER_OCTAVE as usize;

/// Passes of a size that count by their median.
const MEDIAN_OF: usize = 5;

/// Passes of a size that are remembered, about.
const MEMORY: f64 = 64.0;

/// Factor by which a pass may miss what is known of its size; what misses it by more counts as that.
const SURPRISE_MAX: f64 = 1.5;

/// Share of the mean cost of a row that the next row is thought to cost where only one size was seen.
const MARGIN_UNSEEN: f64 = 0.15;

/// Logarithm of the ratio of rows at which a neighbour's say has fallen to `e^(-1/2)`.
const NEIGHBOURHOOD: f64 = 0.3;

/// Passes of a size at which its neighbours' say is halved.
const ALONE_AFTER: f64 = 8.0;

/// Passes of a size from which their median is sound; before, its neighbours may overrule it.
const SOUND_FROM: f64 = 3.0;

/// Least share of a pass that its rows are thought to take, whatever they attend to.
const OWN_SHARE_MIN: f64 = 0.1;

/// Positions attended: by the first rows of the sequences, and by their draft rows.
pub(crate) type Attended = [f64; 2];

/// Seconds that attending takes, at `prices` per attended position.
pub(crate) fn attending(prices: Attended, attended: Attended) -> f64 {
    prices[0] * attended[0] + prices[1] * attended[1]
}

/// A measured pass.
struct Pass {
    rows: f64,
    attended: Attended,
    seconds: f64,
}

/// What is known of one size.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    /// Weight of the passes taken in.
    n: f64,
    rows: f64,
    /// Positions that these passes attended to, in the mean.
    attended: Attended,
    /// What a pass takes that attends to as many.
    seconds: f64,
    /// The first passes, seconds.
    first: [f64; MEDIAN_OF],
    n_first: usize,
}

impl Size {
    /// The logarithm by which a settled size was missed, bounded.
    fn learn(&mut self, pass: &Pass, prices: Attended, weight: f64) -> Option<f64> {
        self.n += weight;
        let gain = weight / self.n.min(MEMORY).max(weight);
        self.rows += gain * (pass.rows - self.rows);
        let off = [0, 1].map(|i| pass.attended[i] - self.attended[i]);
        let attending = attending(prices, off);
        let missed = self.learn_seconds((pass.seconds - attending).max(OWN_SHARE_MIN * pass.seconds), gain);
        self.attended = [0, 1].map(|i| self.attended[i] + gain * off[i]);
        // Where what is known of the size contradicts the price, the size counts.
        for seconds in self.first.iter_mut().chain([&mut self.seconds]) {
            *seconds = (*seconds + gain * attending).max(OWN_SHARE_MIN * *seconds);
        }
        missed
    }

    /// What is left without attending, a share at least.
    fn own_seconds(&self, prices: Attended) -> f64 {
        (self.seconds - attending(prices, self.attended)).max(OWN_SHARE_MIN * self.seconds)
    }

    fn learn_seconds(&mut self, seconds: f64, gain: f64) -> Option<f64> {
        if self.n_first < MEDIAN_OF {
            self.first[self.n_first] = seconds;
            self.n_first += 1;
            let mut sorted = self.first;
            let sorted = &mut sorted[..self.n_first];
            sorted.sort_unstable_by(f64::total_cmp);
            self.seconds = sorted[(self.n_first - 1) / 2];
            return None;
        }
        let missed = (seconds / self.seconds).ln().clamp(-SURPRISE_MAX.ln(), SURPRISE_MAX.ln());
        self.seconds *= (gain * missed).exp();
        Some(missed)
    }
}

/// A corner of the polyline; `weight` is the evidence that stands behind it.
#[derive(Clone, Copy, Debug)]
struct Corner {
    rows: f64,
    ln_rows: f64,
    seconds: f64,
    weight: f64,
}

/// Measured seconds over rows.
#[derive(Clone, Debug)]
pub struct CostCurve {
    sizes: [Size; N_SIZES],
    /// Seconds per attended position.
    prices: Attended,
    /// By rising rows, seconds never falling.
    corners: Vec<Corner>,
    /// Whether the corners lack what was taken in.
    is_stale: bool,
}

impl Default for CostCurve {
    fn default() -> Self {
        Self { sizes: [Size::default(); N_SIZES], prices: [0.0; 2], corners: Vec::new(), is_stale: false }
    }
}

impl CostCurve {
    /// Takes in one pass; it counts from the next [`settle`](Self::settle) on. Passes without a row, or over which the
    /// clock stood still, are ignored.
    ///
    /// * `weight`: evidence of this pass against an ordinary one, more than 0.
    /// * Returns the logarithm by which the pass missed what was known of its size, bounded by that of 1.5; `None` for the
    ///   first few passes of a size.
    pub fn learn(&mut self, rows: u32, seconds: f64, weight: f64) -> Option<f64> {
        self.learn_attending(rows, [0.0; 2], seconds, weight)
    }

    /// Prices attending from the next [`settle`](Self::settle) on; 0 at first.
    ///
    /// * `prices`: seconds per attended position.
    pub(crate) fn price(&mut self, prices: Attended) {
        self.is_stale |= self.prices != prices;
        self.prices = prices;
    }

    /// As [`learn`](Self::learn), of a pass that attended to so many positions.
    pub(crate) fn learn_attending(
        &mut self,
        rows: u32,
        attended: Attended,
        seconds: f64,
        weight: f64,
    ) -> Option<f64> {
        let is_usable = rows > 0 && seconds > 0.0 && seconds.is_finite();
        if !is_usable {
            return None;
        }
        self.is_stale = true;
        let pass = Pass { rows: f64::from(rows), attended, seconds };
        self.sizes[size_of(rows)].learn(&pass, self.prices, weight)
    }

    /// Expected seconds of a pass without what attending costs, never falling in `rows`; `None` before the first observation.
    ///
    /// Between measured sizes straight, below the smallest that size's time. Beyond the largest it continues with the mean
    /// slope over the last halving of rows, or with 15 % of the mean cost of a row where there is no such slope.
    pub fn seconds(&self, rows: u32) -> Option<f64> {
        let rows = f64::from(rows);
        let next = self.corners.partition_point(|corner| corner.rows < rows);
        let last = *self.corners.last()?;
        if next == self.corners.len() {
            return Some(last.seconds + self.slope_beyond() * (rows - last.rows));
        }
        let right = self.corners[next];
        if next == 0 {
            return Some(right.seconds);
        }
        let left = self.corners[next - 1];
        Some(left.seconds + (right.seconds - left.seconds) * (rows - left.rows) / (right.rows - left.rows))
    }

    /// [`seconds`](Self::seconds) of `rows`, `rows + 1` and so on, without end; nothing before the first observation.
    pub fn seconds_from(&self, rows: u32) -> impl Iterator<Item = f64> {
        let beyond = self.slope_beyond();
        let mut next = 0;
        (rows..).map_while(move |rows| {
            let rows = f64::from(rows);
            while self.corners.get(next).is_some_and(|corner| corner.rows < rows) {
                next += 1;
            }
            Some(match (next.checked_sub(1).map(|left| self.corners[left]), self.corners.get(next)) {
                (None, right) => right?.seconds,
                (Some(last), None) => last.seconds + beyond * (rows - last.rows),
                (Some(left), Some(right)) => {
                    left.seconds
                        + (right.seconds - left.seconds) * (rows - left.rows) / (right.rows - left.rows)
                }
            })
        })
    }

    /// Whether enough passes of this size were measured for their median to be sound.
    pub fn is_sound(&self, rows: u32) -> bool {
        self.evidence(rows) >= SOUND_FROM
    }

    /// Whether this size is sound, or the nearest sizes on both sides that are: the larger of at most twice the smaller's
    /// rows, so that what lies between is no guess.
    pub fn is_sound_between(&self, rows: u32) -> bool {
        let sound = |size: &&Size| size.n >= SOUND_FROM;
        let (below, above) = self.sizes.split_at(size_of(rows));
        let around = below.iter().rev().find(sound).zip(above.iter().find(sound));
        self.is_sound(rows) || around.is_some_and(|(below, above)| above.rows <= 2.0 * below.rows)
    }

    /// Evidence about passes of this size, in passes; not more than are remembered.
    pub fn evidence(&self, rows: u32) -> f64 {
        self.sizes[size_of(rows)].n.min(MEMORY)
    }

    /// Mean rows of the largest size that was measured; 0 before the first observation.
    pub fn rows_max(&self) -> f64 {
        self.corners.last().map_or(0.0, |corner| corner.rows)
    }

    fn slope_beyond(&self) -> f64 {
        let Some(last) = self.corners.last() else { return 0.0 };
        let unseen = MARGIN_UNSEEN * last.seconds / last.rows;
        match self.corners.iter().rev().find(|corner| 2.0 * corner.rows <= last.rows) {
            Some(half) => (last.seconds - half.seconds) / (last.rows - half.rows),
            None => unseen,
        }
    }

    /// Lays the corners out anew if something was taken in.
    pub fn settle(&mut self) {
        if !std::mem::take(&mut self.is_stale) {
            return;
        }
        self.corners.clear();
        for size in self.sizes.iter().filter(|size| size.n > 0.0) {
            let weight = size.n.min(MEMORY);
            self.corners.push(Corner {
                rows: size.rows,
                ln_rows: size.rows.ln(),
                seconds: size.own_seconds(self.prices),
                weight,
            });
        }
        self.smooth();
        self.pool();
    }

    /// Moves every corner to the trend of its neighbourhood, the further the less is known of it.
    fn smooth(&mut self) {
        let measured = std::mem::take(&mut self.corners);
        self.corners.extend(measured.iter().map(|own| {
            let say = ALONE_AFTER / (ALONE_AFTER + own.weight);
            let bound = SURPRISE_MAX.powf((SOUND_FROM / own.weight).max(1.0));
            let seconds = trend(&measured, own, say).clamp(own.seconds / bound, own.seconds * bound);
            Corner { seconds, ..*own }
        }));
    }

    /// Replaces neighbours that fall by their weighted mean.
    fn pool(&mut self) {
        for i in 1..self.corners.len() {
            let Corner { mut seconds, mut weight, .. } = self.corners[i];
            let mut start = i;
            while start > 0 && self.corners[start - 1].seconds > seconds {
                let left = self.corners[start - 1];
                seconds = (seconds * weight + left.seconds * left.weight) / (weight + left.weight);
                weight += left.weight;
                start -= 1;
            }
            self.corners[start..=i].iter_mut().for_each(|corner| corner.seconds = seconds);
        }
    }
}

/// Seconds at `own.rows` of the line through all corners, by evidence and nearness; others than `own` count `say` times.
fn trend(corners: &[Corner], own: &Corner, say: f64) -> f64 {
    let own_say = (own.weight / SOUND_FROM).min(1.0).powi(2);
    let (mut weight, mut rows, mut seconds) = (0.0, 0.0, 0.0);
    let (mut rows_squared, mut joint) = (0.0, 0.0);
    for corner in corners {
        let distance = (corner.ln_rows - own.ln_rows) / NEIGHBOURHOOD;
        if distance.abs() > 4.0 {
            continue;
        }
        let w =
            corner.weight * if distance == 0.0 { own_say } else { say * (-0.5 * distance * distance).exp() };
        let x = corner.rows - own.rows;
        weight += w;
        rows += w * x;
        seconds += w * corner.seconds;
        rows_squared += w * x * x;
        joint += w * x * corner.seconds;
    }
    let spread = rows_squared - rows * rows / weight;
    let slope = (joint - rows * seconds / weight) / (spread + 1e-9 * weight);
    (seconds - slope.max(0.0) * rows) / weight
}

/// Index of the size that holds this many rows, at least one.
pub(crate) fn size_of(rows: u32) -> usize {
    let rows = rows.max(1);
    if rows <= EXACT_ROWS {
        return rows as usize - 1;
    }
    let octave = rows.ilog2();
    let quarter = (rows >> (octave - 2)) & 3;
    let first_octave = EXACT_ROWS.ilog2();
    let idx = EXACT_ROWS + (octave - first_octave) * PER_OCTAVE + quarter;
    (idx as usize).min(N_SIZES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn curve(observations: &[(u32, f64)]) -> CostCurve {
        let mut curve = CostCurve::default();
        observations.iter().for_each(|&(rows, seconds)| {
            curve.learn(rows, seconds, 1.0);
        });
        curve.settle();
        curve
    }

    fn check(curve: &CostCurve, rows: u32, expected: f64) {
        let got = curve.seconds(rows).unwrap();
        assert!((got / expected - 1.0).abs() < 0.01, "{rows} rows: expected {expected}, got {got}");
    }

    #[test]
    fn a_run_of_sizes_costs_what_each_of_them_does() {
        let mut curve = CostCurve::default();
        assert_eq!(curve.seconds_from(1).next(), None);
        for rows in [2, 3, 7, 16, 40] {
            for _ in 0..5 {
                curve.learn(rows, 0.01 + 0.002 * f64::from(rows), 1.0);
            }
        }
        curve.settle();
        for (rows, got) in (1..80).zip(curve.seconds_from(1)) {
            assert_eq!(Some(got), curve.seconds(rows), "{rows}");
        }
    }

    #[test]
    fn nothing_is_known_before_the_first_pass() {
        let curve = curve(&[(0, 1.0), (3, 0.0), (3, f64::NAN), (3, f64::INFINITY)]);
        assert_eq!(curve.seconds(3), None);
        assert_eq!(curve.evidence(3), 0.0);
        assert_eq!(curve.rows_max(), 0.0);
    }

    #[test]
    fn a_bend_stays_where_it_is() {
        // Flat up to 4 rows, then 2 ms per row; sizes far enough apart to leave each other alone.
        let sizes = [(1, 0.010), (2, 0.010), (4, 0.010), (8, 0.018), (16, 0.034)];
        let curve = curve(&sizes.repeat(64));
        check(&curve, 3, 0.010);
        check(&curve, 6, 0.014);
        check(&curve, 12, 0.026);
        // Slope over the last halving, 8 to 16 rows.
        check(&curve, 20, 0.042);
    }

    #[test]
    fn one_size_alone_is_continued_by_a_share_of_its_mean_row() {
        // 0.15 * 8 ms / 4 rows = 0.3 ms per row.
        let curve = curve(&[(4, 0.008)]);
        check(&curve, 1, 0.008);
        check(&curve, 14, 0.011);
    }

    #[test]
    fn one_interrupted_pass_among_the_first_does_not_count() {
        check(&curve(&[(4, 0.030), (4, 0.010), (4, 0.010)]), 4, 0.010);
        check(&curve(&[(4, 0.010), (4, 0.030)]), 4, 0.010);
    }

    #[test]
    fn a_later_interrupted_pass_counts_as_half_more() {
        let mut curve = curve(&[(4, 0.010); 63]);
        curve.learn(4, 1.0, 1.0);
        curve.settle();
        // The 64th pass, as 15 ms with weight 1 / 64.
        check(&curve, 4, 0.010 * 1.5f64.powf(1.0 / 64.0));
    }

    #[test]
    fn a_size_seen_once_leans_on_its_neighbours() {
        let mut observations = vec![(20, 0.020); 40];
        observations.extend([(28, 0.028); 40]);
        observations.push((24, 0.036));
        let got = curve(&observations).seconds(24).unwrap();
        assert!((0.024..0.028).contains(&got), "{got}");
    }

    #[test]
    fn a_size_between_sound_ones_is_sound() {
        let mut observations = vec![(4, 0.004); 3];
        observations.extend([(8, 0.008); 3]);
        observations.extend([(12, 0.012); 2]);
        observations.extend([(20, 0.020); 3]);
        let curve = curve(&observations);
        let sound: Vec<u32> = (1..24).filter(|&rows| curve.is_sound_between(rows)).collect();
        // 20 is more than twice 8, and 12 was measured but twice; 20 to 23 are one size.
        assert_eq!(sound, [4, 5, 6, 7, 8, 20, 21, 22, 23]);
    }

    #[test]
    fn sizes_that_contradict_each_other_are_averaged_by_evidence() {
        // 12 ms once and 9 ms twice: (12 + 2 * 9) / 3 = 10.
        let curve = curve(&[(2, 0.012), (16, 0.009), (16, 0.009)]);
        check(&curve, 2, 0.010);
        check(&curve, 16, 0.010);
    }

    #[test]
    fn sizes_are_contiguous() {
        let mut last = size_of(1);
        assert_eq!(last, 0);
        for rows in 2..70_000 {
            let size = size_of(rows);
            assert!(size == last || size == last + 1, "{rows} rows: {last} then {size}");
            last = size;
        }
        assert_eq!(last, N_SIZES - 1);
        // 16 | 17..20 | 20..24 | 24..28 | 28..32 | 32..40
        assert_eq!([16, 17, 20, 31, 32, 39, 40].map(size_of), [15, 16, 17, 19, 20, 20, 21]);
    }

    proptest! {
        #[test]
        fn prices_that_contradict_the_passes_leave_expectations_positive(
            passes in prop::collection::vec((1u32..40, 0.0f64..1e5, 1e-6f64..1e-2, 0.0f64..1e-3), 1..60),
        ) {
            let mut curve = CostCurve::default();
            for (rows, context, seconds, price) in passes {
                curve.price([price, 0.5 * price]);
                curve.learn_attending(rows, [context, f64::from(rows) * context], seconds, 1.0);
                curve.settle();
                let got = curve.seconds(rows).unwrap();
                prop_assert!(got > 0.0 && got.is_finite(), "{rows} rows: {got}");
            }
        }

        #[test]
        fn expectations_are_positive_and_monotone(
            observations in prop::collection::vec((0u32..600, 0.0f64..2.0), 1..100),
            rows in 1u32..1000,
            more in 0u32..1000,
        ) {
            let curve = curve(&observations);
            if let (Some(few), Some(many)) = (curve.seconds(rows), curve.seconds(rows + more)) {
                prop_assert!(few > 0.0 && few.is_finite() && many.is_finite());
                prop_assert!(few <= many * (1.0 + 1e-9), "{} rows {}, {} more {}", rows, few, more, many);
            }
        }
    }
}
