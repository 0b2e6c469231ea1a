//! Where drafting while verifying would pay: a simulation of FASER's frontiers (arXiv:2604.20503) against one pass after
//! the other.
//!
//! ```text
//! cargo run --release -p dsde-policy --example overlap
//! ```
//!
//! Two parts of one machine work at the same time: one verifies a chunk of every sequence's proposal, the other drafts the
//! chunk behind it, as if the first were accepted. A sequence whose chunk is accepted goes on without a gap and without a
//! bonus token; one that is rejected has to draft before it can verify again. All figures are simulated.
//!
//! What decides is how much of the machine a pass can use. A pass that can use all of it takes `1 / s` times as long on a share
//! `s`; one that waits for memory, or for the latency of many small kernels, takes no longer until the share is small.

/// Ticks of an overlapped run.
const TICKS: u32 = 20_000;
/// Longest proposal, tokens.
const LEN_MAX: u32 = 8;
/// Longest chunk, tokens.
const CHUNK_MAX: u32 = 4;
/// Shares of the machine that may go to the draft.
const SHARES: [f64; 7] = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6];

/// Costs of passes, in target passes over one row on the whole machine.
#[derive(Clone, Copy)]
struct Machine {
    name: &'static str,
    /// Share of the machine that a draft round can use.
    draft_use: f64,
    /// Share of the machine that a target pass can use.
    target_use: f64,
    /// A draft round.
    round: f64,
    /// Each row of the target beyond the first.
    row: f64,
}

const MACHINES: [Machine; 4] = [
    Machine { name: "cores, bound by arithmetic", draft_use: 1.0, target_use: 1.0, round: 0.15, row: 0.4 },
    Machine { name: "cores, bound by memory", draft_use: 1.0, target_use: 1.0, round: 0.05, row: 0.01 },
    Machine { name: "accelerator, small draft", draft_use: 0.1, target_use: 0.8, round: 0.1, row: 0.005 },
    Machine { name: "accelerator, large draft", draft_use: 0.2, target_use: 0.8, round: 0.25, row: 0.005 },
];

impl Machine {
    /// Time of a target pass on a share of the machine.
    fn target(&self, rows: u32, share: f64) -> f64 {
        (1.0 + self.row * (f64::from(rows) - 1.0)) * (self.target_use / share).max(1.0)
    }

    /// Time of `n` draft rounds on a share of the machine.
    fn rounds(&self, n: u32, share: f64) -> f64 {
        f64::from(n) * self.round * (self.draft_use / share).max(1.0)
    }

    /// Tokens per unit of time with the best length, one pass after the other, each on the whole machine.
    fn in_turns(&self, n_sequences: u32, acceptance: f64) -> f64 {
        let rate = |len: u32| {
            let emitted: f64 = (0..=len).map(|position| acceptance.powi(position as i32)).sum();
            let seconds = self.rounds(len, 1.0) + self.target(n_sequences * (len + 1), 1.0);
            f64::from(n_sequences) * emitted / seconds
        };
        (0..=LEN_MAX).map(rate).fold(0.0, f64::max)
    }

    /// The same with the best chunk and the best share for the draft, both parts at once.
    fn overlapped(&self, n_sequences: u32, acceptance: f64) -> f64 {
        let settings = (1..=CHUNK_MAX).flat_map(|chunk| SHARES.map(|share| (chunk, share)));
        settings
            .map(|(chunk, share)| self.pipeline(n_sequences, acceptance, chunk, share))
            .fold(0.0, f64::max)
    }

    /// Tokens per unit of time of one setting.
    fn pipeline(&self, n_sequences: u32, acceptance: f64, chunk: u32, draft_share: f64) -> f64 {
        let mut random = Random(1);
        // Whether a chunk waits to be verified, by sequence.
        let mut is_ready = vec![false; n_sequences as usize];
        let (mut tokens, mut seconds) = (0.0, 0.0);
        for _ in 0..TICKS {
            let rows = chunk * is_ready.iter().filter(|&&is_ready| is_ready).count() as u32;
            let verifying = if rows > 0 { self.target(rows, 1.0 - draft_share) } else { 0.0 };
            seconds += verifying.max(self.rounds(chunk, draft_share));
            for is_ready in &mut is_ready {
                if !*is_ready {
                    *is_ready = true;
                    continue;
                }
                let n_accepted = (0..chunk).take_while(|_| random.uniform() < acceptance).count() as u32;
                // What was drafted meanwhile continues an accepted chunk; behind a rejection it is worth nothing.
                *is_ready = n_accepted == chunk;
                tokens += f64::from(if *is_ready { chunk } else { n_accepted + 1 });
            }
        }
        tokens / seconds
    }
}

/// A reproducible stream of numbers (splitmix64).
struct Random(u64);

impl Random {
    /// Uniform in `0..1`.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn main() {
    println!(
        "Tokens per second of overlapped chunks over those of passes in turns, each with its best setting (simulated)\n"
    );
    let loads = [(1, 0.6), (1, 0.9), (16, 0.6), (16, 0.9)];
    let heads = loads.map(|(n, acceptance)| format!("{n} at {acceptance}"));
    println!("| machine | {} |", heads.join(" | "));
    println!("|---|{}", "---|".repeat(loads.len()));
    for machine in MACHINES {
        let ratio = |(n, acceptance)| machine.overlapped(n, acceptance) / machine.in_turns(n, acceptance);
        let cells = loads.map(|load| format!("{:.2}", ratio(load)));
        println!("| {} | {} |", machine.name, cells.join(" | "));
    }
}
