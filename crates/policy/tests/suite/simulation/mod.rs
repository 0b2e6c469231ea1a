//! An imaginary engine with known costs and known acceptance, to measure what a policy is worth.
//!
//! Times that the policy sees are noisy; what it achieves is counted at the true times. What is accepted is a property of
//! the request and the place in its text, the same for all policies, so that a short run tells lengths apart that differ
//! by a percent.

mod experts;

use std::time::Duration;

pub(crate) use experts::Mixture;

use dsde_policy::{
    DraftPosition, ExpertsWoken, Outcome, PlanView, Planned, Policy, SeqId, SequenceView, StepFeedback,
};

/// A reproducible stream of numbers (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Uniform in `0..1`.
    pub(crate) fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A stream of its own for every place of a text, so that all policies read the same texts.
    fn of_place(seq: SeqId, place: u32) -> Self {
        let mut random = Self::new(seq.0 << 20 | u64::from(place));
        random.uniform();
        random
    }

    /// Close to standard normal: twelve uniforms less six.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// True times, in target passes over one row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// A draft round over one row.
    pub(crate) round: f64,
    /// Rows up to which a pass takes as long as over one row.
    pub(crate) knee: f64,
    /// Each row beyond.
    pub(crate) row: f64,
    /// Of a target that has them; they come on top of the rows.
    pub(crate) mixture: Option<Mixture>,
    /// Each verified draft token, for its verdict.
    pub(crate) verdict: f64,
    /// Every thousand positions that a sequence has stored, for its first row and for each further one: keys and values
    /// are read once, but every row attends to them.
    pub(crate) stored: [f64; 2],
    /// Half-width of the uniform noise of a timing.
    pub(crate) noise: f64,
    /// Share of timings that are three times too long.
    pub(crate) spikes: f64,
}

/// Rows of a prompt chunk.
const CHUNK: u32 = 32;

/// Seconds of a target pass over one row.
const PASS: f64 = 0.010;

impl Machine {
    fn pass(&self, rows: f64) -> f64 {
        1.0 + self.row * (rows - self.knee).max(0.0)
    }

    /// * `attended`: positions of the sequences' first rows, and of their further ones.
    fn target(&self, rows: u32, n_verified: u32, attended: [f64; 2], experts: Option<ExpertsWoken>) -> f64 {
        let attention = (self.stored[0] * attended[0] + self.stored[1] * attended[1]) / 1000.0;
        let experts = self.mixture.zip(experts).map_or(0.0, |(mixture, woken)| mixture.passes(woken) - 1.0);
        PASS * (self.pass(f64::from(rows)) + experts + attention + self.verdict * f64::from(n_verified))
    }

    fn draft(&self, rows: u32) -> f64 {
        PASS * self.round * self.pass(f64::from(rows))
    }

    fn noisy(&self, seconds: f64, random: &mut Random) -> f64 {
        let factor = 1.0 + self.noise * (2.0 * random.uniform() - 1.0);
        if random.uniform() < self.spikes { 3.0 * seconds } else { factor * seconds }
    }
}

/// What is asked of the engine at a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    pub(crate) n_sequences: u32,
    /// Mean probability that a draft is accepted, roughly.
    pub(crate) acceptance: f64,
    /// Prompt rows to read for each emitted token.
    pub(crate) prompts: f64,
    /// Lengths of prompts, evenly spread between these.
    pub(crate) prompt_lens: (u32, u32),
    /// Tokens of answers, likewise.
    pub(crate) answer_lens: (u32, u32),
}

impl Default for Demand {
    fn default() -> Self {
        Self {
            n_sequences: 1,
            acceptance: 0.5,
            prompts: 0.0,
            prompt_lens: (100, 100),
            answer_lens: (100, 300),
        }
    }
}

/// Acceptance of drafts around the mean, in log-odds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variety {
    /// Standard deviation over requests.
    pub(crate) requests: f64,
    /// Standard deviation over positions.
    pub(crate) positions: f64,
    /// Whether the draft's top probability tells the positions apart.
    pub(crate) has_shape: bool,
}

struct Sequence {
    seq: SeqId,
    /// Log-odds of this request beyond the mean.
    own: f64,
    prompt_len: u32,
    left: u32,
    emitted: u32,
    lag: u32,
}

impl Sequence {
    fn context_len(&self) -> u32 {
        self.prompt_len + self.emitted
    }
}

/// What a step drafted for one sequence.
#[derive(Default)]
struct Proposal {
    positions: Vec<DraftPosition>,
    is_accepted: Vec<bool>,
}

pub(crate) struct Simulation {
    pub(crate) machine: Machine,
    pub(crate) variety: Variety,
    sequences: Vec<Sequence>,
    n_requests: u64,
    random: Random,
    now: f64,
    step: u64,
    prompt_rows_owed: f64,
}

/// What a stretch of steps achieved.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Achieved {
    /// Emitted tokens.
    pub(crate) tokens: f64,
    /// True seconds.
    pub(crate) seconds: f64,
    /// Tokens verified.
    pub(crate) n_verified: u64,
}

impl Achieved {
    pub(crate) fn rate(&self) -> f64 {
        self.tokens / self.seconds
    }

    pub(crate) fn add(&mut self, other: Achieved) {
        self.tokens += other.tokens;
        self.seconds += other.seconds;
        self.n_verified += other.n_verified;
    }
}

impl Simulation {
    pub(crate) fn new(machine: Machine, variety: Variety, seed: u64) -> Self {
        let random = Random::new(seed);
        Self {
            machine,
            variety,
            sequences: Vec::new(),
            n_requests: 0,
            random,
            now: 0.0,
            step: 0,
            prompt_rows_owed: 0.0,
        }
    }

    /// Steps until that many tokens per sequence were emitted.
    pub(crate) fn run(&mut self, policy: &mut dyn Policy, n_tokens: u32, demand: Demand) -> Achieved {
        let mut achieved = Achieved::default();
        let enough = f64::from(n_tokens * demand.n_sequences);
        while achieved.tokens < enough {
            let step = self.step(policy, demand);
            self.prompt_rows_owed += demand.prompts * step.tokens;
            achieved.add(step);
        }
        achieved
    }

    fn step(&mut self, policy: &mut dyn Policy, demand: Demand) -> Achieved {
        self.admit(policy, demand);
        let prefill_rows = if self.prompt_rows_owed >= f64::from(CHUNK) { CHUNK } else { 0 };
        self.prompt_rows_owed -= f64::from(prefill_rows);
        let views: Vec<SequenceView> = self.sequences.iter().map(view_of).collect();
        let view = PlanView {
            step: self.step,
            sequences: &views,
            foreseen: &[],
            prefill_rows,
            n_waiting: 0,
            blocks_free: 1000,
            blocks_total: 1000,
            block_len: 16,
            now: Duration::from_secs_f64(self.now),
        };
        let mut plan = vec![Planned::none(); views.len()];
        policy.plan(&view, &mut plan);
        let planned: Vec<u32> =
            plan.iter().zip(&views).map(|(planned, view)| planned.len.min(view.limit)).collect();
        let (proposals, rounds) = self.draft(policy, &planned, demand.acceptance);
        let mut verified: Vec<u32> =
            proposals.iter().map(|proposal| proposal.positions.len() as u32).collect();
        if verified.iter().any(|&len| len > 0) {
            let drafted: Vec<&[DraftPosition]> =
                proposals.iter().map(|proposal| &proposal.positions[..]).collect();
            policy.trim(&view, &drafted, &mut verified);
        }
        self.verify(policy, &planned, &proposals, &verified, &rounds, prefill_rows)
    }

    /// Keeps as many sequences running as are wanted.
    fn admit(&mut self, policy: &mut dyn Policy, demand: Demand) {
        let n = demand.n_sequences as usize;
        let between = |(low, high): (u32, u32), random: &mut Random| {
            low + (f64::from(high - low) * random.uniform()) as u32
        };
        while self.sequences.len() > n {
            policy.forget(self.sequences.pop().expect("more than n").seq);
        }
        while self.sequences.len() < n {
            let seq = SeqId(self.n_requests);
            let mut random = Random::of_place(seq, 0);
            let own = self.variety.requests * random.normal();
            let left = between(demand.answer_lens, &mut random);
            let prompt_len = between(demand.prompt_lens, &mut random);
            self.sequences.push(Sequence { seq, own, prompt_len, left, emitted: 1, lag: 41 });
            self.n_requests += 1;
        }
    }

    /// Drafts round by round; the rows of every round.
    fn draft(&mut self, policy: &mut dyn Policy, planned: &[u32], mean: f64) -> (Vec<Proposal>, Vec<u32>) {
        let mut proposals: Vec<Proposal> = planned.iter().map(|_| Proposal::default()).collect();
        let mut drafting: Vec<usize> = (0..planned.len()).filter(|&i| planned[i] > 0).collect();
        let mut rounds = Vec::new();
        let has_shape = self.variety.has_shape && policy.signals().draft_shape;
        if !drafting.is_empty() {
            rounds.push(drafting.iter().map(|&i| self.sequences[i].lag).sum());
        }
        while !drafting.is_empty() {
            for &i in &drafting {
                self.draw(&mut proposals[i], &self.sequences[i], mean, has_shape);
            }
            drafting.retain(|&i| {
                let positions = &proposals[i].positions;
                (positions.len() as u32) < planned[i]
                    && policy.keep_drafting(self.sequences[i].seq, positions.last().expect("just drawn"))
            });
            if !drafting.is_empty() {
                rounds.push(drafting.len() as u32);
            }
        }
        (proposals, rounds)
    }

    fn draw(&self, proposal: &mut Proposal, sequence: &Sequence, mean: f64, has_shape: bool) {
        let index = proposal.positions.len() as u32;
        let mut random = Random::of_place(sequence.seq, sequence.emitted + index);
        let easy = self.variety.positions * random.normal();
        let odds = (mean / (1.0 - mean)).ln();
        let probability = 1.0 / (1.0 + (-(odds + sequence.own + easy)).exp());
        // The draft is more sure of itself than it should be, and knows nothing of the request.
        let top_prob = 1.0 / (1.0 + (-(1.0 + odds + 1.5 * easy)).exp());
        let (top_prob, entropy) =
            if has_shape { (top_prob as f32, 2.0 * (1.0 - top_prob as f32)) } else { (1.0, 0.0) };
        proposal.positions.push(DraftPosition { index, entropy, top_prob, path_log_prob: 0.0 });
        proposal.is_accepted.push(random.uniform() < probability);
    }

    fn verify(
        &mut self,
        policy: &mut dyn Policy,
        planned: &[u32],
        proposals: &[Proposal],
        verified: &[u32],
        rounds: &[u32],
        prefill_rows: u32,
    ) -> Achieved {
        let places = self.sequences.iter().zip(verified).map(|(seq, &len)| (seq.seq, seq.emitted, 1 + len));
        let experts = self.machine.mixture.map(|mixture| mixture.woken(places));
        let mut tokens = 0.0;
        let mut attended = [0.0; 2];
        let mut outcomes = Vec::new();
        for (i, proposal) in proposals.iter().enumerate() {
            let kept = &proposal.is_accepted[..verified[i] as usize];
            let accepted = kept.iter().take_while(|&&is_accepted| is_accepted).count() as u32;
            tokens += f64::from(accepted + 1);
            let drafted = proposal.positions.len() as u32;
            let sequence = &mut self.sequences[i];
            let context_len = sequence.context_len();
            attended[0] += f64::from(context_len);
            attended[1] += f64::from(verified[i] * context_len);
            sequence.lag =
                if drafted > 0 { accepted + 1 - accepted.min(drafted - 1) } else { sequence.lag + 1 };
            sequence.emitted += accepted + 1;
            sequence.left = sequence.left.saturating_sub(accepted + 1);
            outcomes.push(Outcome {
                seq: sequence.seq,
                planned: planned[i],
                drafted,
                verified: verified[i],
                accepted,
                temperature: 0.0,
                context_len,
                is_foreseen: false,
                signals: &[],
            });
        }
        let n_verified: u32 = verified.iter().sum();
        let target_rows = n_verified + outcomes.len() as u32 + prefill_rows;
        let draft = rounds.iter().map(|&rows| self.machine.draft(rows)).sum();
        let target = self.machine.target(target_rows, n_verified, attended, experts);
        let seen_draft = Duration::from_secs_f64(self.machine.noisy(draft, &mut self.random));
        let seen_target = Duration::from_secs_f64(self.machine.noisy(target, &mut self.random));
        policy.observe(&StepFeedback {
            step: self.step,
            outcomes: &outcomes,
            target_rows,
            prefill_rows,
            draft_rounds: rounds.len() as u32,
            draft_rows: rounds.iter().sum(),
            experts,
            draft_time: seen_draft,
            verify_time: seen_target,
            step_time: seen_draft + seen_target,
        });
        self.retire(policy);
        self.step += 1;
        self.now += draft + target;
        Achieved { tokens, seconds: draft + target, n_verified: u64::from(n_verified) }
    }

    fn retire(&mut self, policy: &mut dyn Policy) {
        self.sequences.retain(|sequence| {
            if sequence.left == 0 {
                policy.forget(sequence.seq);
            }
            sequence.left > 0
        });
    }
}

fn view_of(sequence: &Sequence) -> SequenceView {
    SequenceView {
        seq: sequence.seq,
        limit: sequence.left.saturating_sub(1).min(16),
        remaining: sequence.left,
        context_len: sequence.context_len(),
        draft_lag: sequence.lag,
        temperature: 0.0,
        emitted: sequence.emitted,
        decode_time: Duration::ZERO,
        tpot_max: None,
        priority: 0,
        foreseen: (0, 0),
        can_choose: false,
    }
}
