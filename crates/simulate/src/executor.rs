//! An executor that pretends passes: it lets time pass as a cost model says, and accepts as an acceptance process says.
//!
//! The target always emits the text of the request, whatever is drafted: its recorded answer where that is known, elsewhere hashes of text
//! and place; a draft that is right at a place drafts that token, and one that is wrong another. Whoever runs a simulation can therefore check that no policy changed
//! the output, as in reality none does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dsde_engine::{
    BlockCopy, Clock as _, DraftAhead, DraftDraw, Drafted, Executor, ExecutorError, PromptScore, RowBatch,
    Shape, SlotMove, TargetDraw, Verification,
};
use dsde_policy::{DraftPosition, PositionSignals, Signals};
use dsde_sampling::walk::walk;
use dsde_sampling::{Proposal, Stream, TokenLogprobs, Verdict};

use crate::clock::VirtualClock;
use crate::cost::Costs;
use crate::faults::Faults;
use crate::pass::Pass;
use crate::process::{Place, Process, Recording, Text, rank_prob};
use crate::random::{Random, mix};

/// The texts of all requests.
#[derive(Debug)]
pub struct Texts {
    process: Process,
    seed: u64,
    vocab_len: u32,
    known: Mutex<HashMap<u64, Text>>,
}

impl Texts {
    /// Texts of a process; different seeds give different ones.
    pub fn new(process: Process, seed: u64, vocab_len: u32) -> Self {
        Self { process, seed, vocab_len, known: Mutex::default() }
    }

    /// Token at a place of the answer of request `text`.
    pub fn token(&self, text: u64, place: u32) -> u32 {
        let recorded = self.recording_of(text).and_then(|recording| recording.token(text, place));
        recorded.unwrap_or_else(|| self.hashed_token(text, place))
    }

    /// Token at a place of the prompt of request `text`.
    pub fn prompt_token(&self, text: u64, place: u32) -> u32 {
        let recorded = self.recording_of(text).and_then(|recording| recording.prompt_token(text, place));
        // Texts of their own, so that no two have blocks in common.
        recorded.unwrap_or_else(|| self.hashed_token(PROMPTS | text, place))
    }

    /// Token at a place of what all prompts begin with.
    pub fn shared_token(&self, place: u32) -> u32 {
        self.hashed_token(SHARED, place)
    }

    /// What the request's words are taken from; those of the cost profile have none.
    fn recording_of(&self, text: u64) -> Option<&Recording> {
        self.process.recording().filter(|_| text < PROMPTS)
    }

    fn hashed_token(&self, text: u64, place: u32) -> u32 {
        let hash = mix(self.seed ^ mix(text)).wrapping_add(u64::from(place));
        (mix(hash) % u64::from(self.vocab_len)) as u32
    }

    /// A token that is not the text's, different for different `rank`.
    fn other_token(&self, text: u64, place: u32, rank: u32) -> u32 {
        (self.token(text, place) + 1 + rank % (self.vocab_len - 1)) % self.vocab_len
    }

    fn place(&self, text: u64, place: u32) -> Place {
        let mut known = self.known();
        let text = known.entry(text).or_insert_with(|| self.process.text(self.seed, text));
        text.place(&self.process, place as usize)
    }

    /// Drops what is remembered of a text; it is drawn again, the same, if somebody asks.
    pub fn forget(&self, text: u64) {
        self.known().remove(&text);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<u64, Text>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Text that no request has, for what prompts share.
const SHARED: u64 = u64::MAX;
/// Keeps texts of prompts apart from those of answers.
const PROMPTS: u64 = 1 << 62;

/// Sizes of the pretended pair.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// What it can hold.
    pub shape: Shape,
    /// Positions that every other layer of target and draft sees at most.
    pub windows: [Option<u64>; 2],
    /// Blocks that the memory of the draft holds for the target.
    pub lendable_blocks: u32,
}

/// Pretends a pair.
#[derive(Debug)]
pub struct SimExecutor {
    pair: Pair,
    costs: Arc<Costs>,
    clock: VirtualClock,
    texts: Arc<Texts>,
    faults: Faults,
    /// Standard deviation of the logarithm of a pass's time.
    noise: f64,
    seed: u64,
    n_passes: u64,
    /// Whether a draft pass has run since the last target pass.
    has_drafted: bool,
    is_lent: bool,
    /// What has been pretended beside the target's pass, if something is.
    beside: Option<Duration>,
}

impl SimExecutor {
    /// An executor on `clock`.
    ///
    /// * `noise`: standard deviation of the logarithm of a pass's time; 0 for none.
    pub fn new(
        pair: Pair,
        costs: Arc<Costs>,
        clock: VirtualClock,
        texts: Arc<Texts>,
        faults: Faults,
        noise: f64,
    ) -> Self {
        let seed = texts.seed;
        Self {
            pair,
            costs,
            clock,
            texts,
            faults,
            noise,
            seed,
            n_passes: 0,
            has_drafted: false,
            is_lent: false,
            beside: None,
        }
    }

    /// Lets a pass take its time, or fail.
    fn take(&mut self, pass: &'static str, seconds: f64) -> Result<(), ExecutorError> {
        let mut random = Random::new(&[self.seed, PASSES, self.n_passes]);
        self.n_passes += 1;
        let noise = if self.noise > 0.0 { (self.noise * random.normal()).exp() } else { 1.0 };
        let time = Duration::from_secs_f64(seconds * noise * self.faults.slowdown(&mut random));
        match &mut self.beside {
            Some(beside) => *beside += time,
            None => self.clock.advance(time),
        }
        self.clock.advance(self.faults.jump(&mut random));
        match self.faults.fails(&mut random) {
            true => Err(ExecutorError { pass, source: "simulated failure".into() }),
            false => Ok(()),
        }
    }

    fn draw(&mut self, draw: &DraftDraw<'_>, drafted: &mut Vec<Drafted>) {
        let text = text_of(draw.stream);
        let texts = &self.texts;
        let start = draw.history.len() as u32 - draw.prompt_len;
        let index = draw.proposal.len();
        let Some(beam) = draw.beam else {
            let place = texts.place(text, start + index);
            let token = match place.rank {
                0 => texts.token(text, start + index),
                rank => texts.other_token(text, start + index, rank),
            };
            drafted.push(Drafted { token, position: position(&place, index, draw.signals, 0.0) });
            return;
        };
        for i in 0..beam.n_rows {
            let depth = draw.node(i).map_or(0, |node| draw.proposal.path(node).len() as u32);
            let place = texts.place(text, start + depth);
            drafted.extend((0..beam.width).map(|rank| {
                let token = match rank == place.rank {
                    true => texts.token(text, start + depth),
                    false => texts.other_token(text, start + depth, rank),
                };
                let log_prob = rank_prob(place.top_prob, rank).ln();
                Drafted { token, position: position(&place, index, draw.signals, log_prob) }
            }));
        }
    }

    fn judge(&mut self, draw: &TargetDraw<'_>) -> Verification {
        let text = text_of(draw.stream);
        let texts = &self.texts;
        let start = draw.history.len() as u32 - draw.prompt_len;
        let verdict = verdict(draw.proposal, |depth| texts.token(text, start + depth));
        let signals = match is_compared(draw) {
            true => signals(draw.proposal, |depth| texts.place(text, start + depth).signals),
            false => Vec::new(),
        };
        Verification { verdict, pruned: 0, signals, logprobs: Vec::new() }
    }
}

/// Keeps the numbers of passes apart from those of texts and loads.
const PASSES: u64 = 0x9A55;

/// Which text a sequence writes: that of its seed. Sequences without one are those of the cost profile.
fn text_of(stream: Stream) -> u64 {
    match stream {
        Stream::Seeded { seed, choice } => seed + u64::from(choice),
        Stream::Own { number, .. } => 1 << 63 | number,
    }
}

/// Whether it is asked how far draft and target are apart; what repeats has no distribution.
fn is_compared(draw: &TargetDraw<'_>) -> bool {
    draw.signals.divergence && draw.is_model_drafted
}

fn position(place: &Place, index: u32, signals: Signals, path_log_prob: f32) -> DraftPosition {
    let (entropy, top_prob) = match signals.draft_shape {
        true => (place.signals.draft_entropy, place.top_prob),
        false => (0.0, 1.0),
    };
    DraftPosition { index, entropy, top_prob, path_log_prob }
}

/// Accepts what is the text's.
///
/// * `token`: of the text, by the number of tokens behind the history.
fn verdict(proposal: &Proposal, mut token: impl FnMut(u32) -> u32) -> Verdict {
    if !proposal.is_chain() {
        return walk(proposal, |_, depth| token(depth));
    }
    let (n, mut next) = (proposal.len(), token(0));
    let mut accepted = 0;
    while accepted < n && proposal.tokens()[accepted as usize] == next {
        accepted += 1;
        next = token(accepted);
    }
    Verdict { path: (0..accepted).collect(), next, is_bonus: accepted == n }
}

/// Of every node; one behind a rejection, which stands in no text, has those of the text's place.
fn signals(proposal: &Proposal, mut of: impl FnMut(u32) -> PositionSignals) -> Vec<PositionSignals> {
    let mut depths: Vec<u32> = Vec::with_capacity(proposal.len() as usize);
    for parent in proposal.parents() {
        depths.push(parent.map_or(0, |parent| depths[parent as usize] + 1));
    }
    depths.into_iter().map(&mut of).collect()
}

impl Executor for SimExecutor {
    fn shape(&self) -> Shape {
        self.pair.shape
    }

    fn copy_blocks(&mut self, _copies: &[BlockCopy]) -> Result<(), ExecutorError> {
        Ok(())
    }

    fn move_slots(&mut self, _target: &[SlotMove], _draft: &[SlotMove]) -> Result<(), ExecutorError> {
        Ok(())
    }

    fn draft(
        &mut self,
        rows: &RowBatch,
        draws: &[DraftDraw<'_>],
        drafted: &mut Vec<Drafted>,
    ) -> Result<(), ExecutorError> {
        assert!(!self.is_lent, "nobody drafts while the draft is away");
        let drawn_rows = draws.iter().map(DraftDraw::n_rows).sum();
        let pass = Pass::of(rows, drawn_rows, 0, self.pair.windows[1]);
        self.take("draft", self.costs.draft(&pass))?;
        self.has_drafted = true;
        drafted.clear();
        draws.iter().for_each(|draw| self.draw(draw, drafted));
        Ok(())
    }

    fn verify(
        &mut self,
        rows: &RowBatch,
        draws: &[TargetDraw<'_>],
        verifications: &mut Vec<Verification>,
    ) -> Result<(), ExecutorError> {
        let verified: u32 = draws.iter().map(|draw| draw.proposal.len()).sum();
        let mut pass = Pass::of(rows, verified + draws.len() as u32, verified, self.pair.windows[0]);
        let compared = draws.iter().filter(|draw| is_compared(draw)).map(|draw| draw.proposal.len());
        pass.compared = f64::from(compared.sum::<u32>());
        let is_behind_drafting = std::mem::take(&mut self.has_drafted);
        // The engine has no port for the time of its own work, so it passes here.
        let seconds = self.costs.target(&pass, is_behind_drafting) + self.costs.step(&pass);
        self.take("target", seconds)?;
        verifications.clear();
        verifications.extend(draws.iter().map(|draw| self.judge(draw)));
        Ok(())
    }

    fn score(
        &mut self,
        rows: &RowBatch,
        scores: &[PromptScore<'_>],
        logprobs: &mut Vec<TokenLogprobs>,
    ) -> Result<(), ExecutorError> {
        let n_scored: usize = scores.iter().map(|score| score.successors.len()).sum();
        let pass = Pass::of(rows, n_scored as u32, 0, self.pair.windows[0]);
        self.take("target", self.costs.target(&pass, false))?;
        logprobs.clear();
        logprobs.resize(n_scored, TokenLogprobs::default());
        Ok(())
    }

    /// Both at once without slowing each other down, which is the best that can be hoped for.
    fn verify_ahead(
        &mut self,
        rows: &RowBatch,
        draws: &[TargetDraw<'_>],
        ahead: &mut DraftAhead<'_>,
        verifications: &mut Vec<Verification>,
    ) -> Result<(), ExecutorError> {
        let before = self.clock.now();
        self.verify(rows, draws, verifications)?;
        let verify_time = self.clock.now() - before;
        self.beside = Some(Duration::ZERO);
        let result = ahead.run(|rows, draws, drafted| self.draft(rows, draws, drafted));
        let beside = self.beside.take().expect("set above");
        self.clock.advance(beside.saturating_sub(verify_time));
        result
    }

    fn lend_draft(&mut self) -> Option<u32> {
        if self.is_lent || self.pair.lendable_blocks == 0 {
            return None;
        }
        self.is_lent = true;
        Some(self.pair.lendable_blocks)
    }

    fn reclaim_draft(&mut self) -> Result<(), ExecutorError> {
        self.clock.advance(Duration::from_secs_f64(self.costs.reload_draft()));
        self.is_lent = false;
        Ok(())
    }
}
