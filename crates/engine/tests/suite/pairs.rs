//! Two sequences in one step, by enumeration: a policy may rank positions of one against those of the other, and both keep
//! their law, together and apart, whether they share a seed or not.
//!
//! Every sequence of draws over a vocabulary of two tokens is visited with its probability. Sequences without a seed draw
//! independently. Sequences with the same seed race with the same numbers; over two tokens a race is a threshold in one uniform
//! number per position, which is enumerated in quarters because all probabilities are multiples of one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dsde_policy::{
    DraftPosition, Outcome, PlanView, Planned, Policy, SeqId, SequenceView, StepFeedback, registry,
};
use dsde_sampling::law::{self, Drafted, Models, Script};
use dsde_sampling::{Draws, Purpose, Rule, Shape, Weights};

/// Most tokens drafted for a sequence.
const LIMIT: u32 = 2;
/// Tokens of each sequence whose law is compared: those of the longest emission.
const LEN: usize = LIMIT as usize + 1;
/// Rows are `f32`.
const TOLERANCE: f64 = 1e-6;

/// Probabilities of two tokens, multiples of a quarter.
fn quarters(n: u32) -> Vec<f32> {
    vec![n as f32 / 4.0, 1.0 - n as f32 / 4.0]
}

fn hash(prefix: &[u32]) -> u32 {
    prefix.iter().fold(1, |hash, token| (hash ^ (token + 1)).wrapping_mul(0x9E37_79B9).rotate_left(13)) >> 8
}

fn target(prefix: &[u32]) -> Vec<f32> {
    quarters(1 + hash(prefix) % 3)
}

/// Sure of itself after token 0 and unsure after token 1, so that rankings depend on what was drawn: two sure tokens (9/16) are
/// worth more than an unsure one (1/2), a sure and an unsure one (3/8) are not.
fn draft(prefix: &[u32]) -> Vec<f32> {
    quarters(if prefix.ends_with(&[0]) { 3 } else { 2 })
}

/// A policy that has learnt a little: rows cost time, so that not everything is worth verifying.
fn practised(text: &str) -> Box<dyn Policy> {
    let mut policy = text.parse::<registry::Config>().unwrap().build();
    for step in 0..24 {
        let sequences: Vec<SequenceView> = (0..1 + step % 2).map(view_of).collect();
        let view = view(&sequences, step);
        let mut plan = vec![Planned::none(); sequences.len()];
        policy.plan(&view, &mut plan);
        let lens: Vec<u32> = plan.iter().map(|planned| planned.len.min(LIMIT)).collect();
        let outcome = |(seq, &len): (&SequenceView, &u32)| Outcome {
            seq: seq.seq,
            planned: len,
            drafted: len,
            verified: len,
            accepted: len.min(step as u32 % 3),
            temperature: 1.0,
            context_len: 20,
            is_foreseen: false,
            signals: &[],
        };
        let outcomes: Vec<Outcome<'_>> = sequences.iter().zip(&lens).map(outcome).collect();
        let rows: u32 = lens.iter().map(|len| 1 + len).sum();
        let rounds = lens.iter().copied().max().unwrap_or(0);
        let verify_time = Duration::from_micros(1000 + 200 * u64::from(rows));
        let draft_time = Duration::from_micros(50 * u64::from(rounds));
        policy.observe(&StepFeedback {
            step,
            outcomes: &outcomes,
            target_rows: rows,
            prefill_rows: 0,
            draft_rounds: rounds,
            draft_rows: rows,
            experts: None,
            draft_time,
            verify_time,
            step_time: draft_time + verify_time,
        });
    }
    policy
}

fn view_of(seq: u64) -> SequenceView {
    SequenceView {
        seq: SeqId(seq),
        limit: LIMIT,
        remaining: 100,
        context_len: 10,
        draft_lag: 1,
        temperature: 1.0,
        emitted: 5,
        decode_time: Duration::from_millis(10),
        tpot_max: None,
        priority: 0,
        foreseen: (0, 0),
        can_choose: false,
    }
}

fn view(sequences: &[SequenceView], step: u64) -> PlanView<'_> {
    let now = Duration::from_millis(step);
    PlanView {
        step,
        sequences,
        foreseen: &[],
        prefill_rows: 0,
        n_waiting: 0,
        blocks_free: 100,
        blocks_total: 100,
        block_len: 16,
        now,
    }
}

/// Two models and where two sequences stand.
struct Pair<'a> {
    models: Models<'a>,
    prefixes: [&'a [u32]; 2],
    rule: Rule,
    /// Whether a guess is accepted if it is what the target draws, as with a seed.
    is_seeded: bool,
}

/// What became of a step.
struct Emitted {
    drafted: [Vec<u32>; 2],
    /// Tokens that were verified.
    lens: [u32; 2],
    tokens: [Vec<u32>; 2],
}

impl Pair<'_> {
    /// One step as the engine takes it: plan, draft in rounds, trim, verify.
    fn step(&self, policy: &mut dyn Policy, draws: &mut impl Draws) -> Emitted {
        let sequences = [view_of(0), view_of(1)];
        let view = view(&sequences, 24);
        let mut plan = [Planned::none(); 2];
        policy.plan(&view, &mut plan);
        let mut drafted = [Drafted::default(), Drafted::default()];
        let mut positions: [Vec<DraftPosition>; 2] = Default::default();
        let mut is_drafting = plan.map(|planned| planned.len > 0);
        for round in 0..LIMIT {
            for i in (0..2).filter(|&i| is_drafting[i]) {
                let position = self.draft_one(i, &mut drafted[i], draws);
                let before = positions[i].last().map_or(0.0, |last| last.path_log_prob);
                let path_log_prob = before + position.top_prob.ln();
                positions[i].push(DraftPosition { path_log_prob, ..position });
            }
            for i in 0..2 {
                is_drafting[i] = is_drafting[i]
                    && round + 1 < plan[i].len
                    && policy.keep_drafting(SeqId(i as u64), positions[i].last().unwrap());
            }
        }
        let mut lens = [0, 1].map(|i: usize| positions[i].len() as u32);
        policy.trim(&view, &[&positions[0], &positions[1]], &mut lens);
        let guesses = drafted.each_ref().map(|drafted| drafted.proposal.tokens().to_vec());
        let tokens = [0, 1].map(|i| {
            let Drafted { proposal, rows } = &mut drafted[i];
            proposal.truncate(lens[i]);
            *rows = rows.take().filter(|_| !self.is_seeded);
            self.models.emitted(self.prefixes[i], &drafted[i], self.rule, draws)
        });
        Emitted { drafted: guesses, lens, tokens }
    }

    fn draft_one(&self, i: usize, drafted: &mut Drafted, draws: &mut impl Draws) -> DraftPosition {
        let index = drafted.proposal.len();
        let row = (self.models.draft)(&[self.prefixes[i], drafted.proposal.tokens()].concat());
        let Shape { entropy, top_prob } = Shape::of_probabilities(&row);
        drafted.proposal.push_chain(draws.token(Purpose::Draft, index, Weights::Row(&row)));
        drafted.rows.get_or_insert_with(Vec::new).push(row);
        DraftPosition { index, entropy, top_prob, path_log_prob: 0.0 }
    }

    /// What sequence `i` goes on to say after `emitted`, to a length of [`LEN`], with probabilities.
    fn continued(&self, i: usize, emitted: &[u32]) -> Vec<(Vec<u32>, f64)> {
        let mut texts = vec![(emitted[..emitted.len().min(LEN)].to_vec(), 1.0)];
        while texts[0].0.len() < LEN {
            let longer = texts.iter().flat_map(|(text, probability)| {
                let row = (self.models.target)(&[self.prefixes[i], text].concat());
                let longer = |(token, p)| ([&text[..], &[token]].concat(), probability * f64::from(p));
                (0..).zip(row).map(longer).collect::<Vec<_>>()
            });
            texts = longer.collect();
        }
        texts
    }
}

/// Probabilities of pairs of texts.
type Joint = BTreeMap<[Vec<u32>; 2], f64>;

fn add(joint: &mut Joint, pair: &Pair<'_>, tokens: &[Vec<u32>; 2], probability: f64) {
    for (a, p) in pair.continued(0, &tokens[0]) {
        for (b, q) in pair.continued(1, &tokens[1]) {
            *joint.entry([a.clone(), b]).or_insert(0.0) += probability * p * q;
        }
    }
}

fn marginal(joint: &Joint, i: usize) -> BTreeMap<Vec<u32>, f64> {
    let mut law = BTreeMap::new();
    joint.iter().for_each(|(texts, p)| *law.entry(texts[i].clone()).or_insert(0.0) += p);
    law
}

/// Total variation distance.
fn distance<K: Ord>(a: &BTreeMap<K, f64>, b: &BTreeMap<K, f64>) -> f64 {
    let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(key)));
    keys.map(|key| (a.get(key).unwrap_or(&0.0) - b.get(key).unwrap_or(&0.0)).abs()).sum::<f64>() / 2.0
}

/// Draws of two sequences with one seed: a number per position, in cells of equal probability.
struct Shared<'a> {
    script: &'a mut Script,
    n_cells: usize,
    cells: BTreeMap<(u32, u32), u32>,
}

impl Shared<'_> {
    /// The number under a key, the same whoever asks.
    fn uniform(&mut self, key: (u32, u32)) -> f64 {
        let even = vec![1.0; self.n_cells];
        let script = &mut *self.script;
        let cell =
            self.cells.entry(key).or_insert_with(|| script.token(Purpose::Target, 0, Weights::Row(&even)));
        (f64::from(*cell) + 0.5) / self.n_cells as f64
    }
}

impl Draws for Shared<'_> {
    fn accept(&mut self, _index: u32, _probability: f64) -> bool {
        unreachable!("with a seed guesses are compared with what the target draws")
    }

    fn token(&mut self, _purpose: Purpose, index: u32, weights: Weights<'_>) -> u32 {
        weights.pick(self.uniform((0, index)))
    }
}

/// Draws that two sequences with one seed shared under rejection sampling.
struct SharedByPurpose<'a>(Shared<'a>);

impl Draws for SharedByPurpose<'_> {
    fn accept(&mut self, index: u32, probability: f64) -> bool {
        self.0.uniform((Purpose::Accept as u32, index)) < probability
    }

    fn token(&mut self, purpose: Purpose, index: u32, weights: Weights<'_>) -> u32 {
        weights.pick(self.0.uniform((purpose as u32, index)))
    }
}

const RULES: [Rule; 2] = [Rule::TokenWise, Rule::Block];

/// Different prompts, and equal ones.
const PREFIXES: [[&[u32]; 2]; 2] = [[&[0, 1, 1], &[1, 0, 0]], [&[0, 1, 0], &[0, 1, 0]]];

/// In which what one sequence drafts decides what is verified of the other. Other policies that rank do so where rows are dearer
/// or batches larger; their law in those is a matter of counting (`law.rs`).
const RANKING: [&str; 2] = ["tetris:base_k=1,extra=1", "dspark"];

fn policies() -> Vec<&'static str> {
    let chains = registry::ENTRIES.iter().map(|entry| match entry.name {
        "fixed" => "fixed:k=2",
        "ddd" => "ddd:width=1",
        "tetris" => "tetris:base_k=1,extra=1",
        "adaserve" => "adaserve:w_max=1",
        name => name,
    });
    chains.collect()
}

/// Whether, with the same guesses for itself, more or less of sequence 0 was verified.
#[derive(Default)]
struct Reached(BTreeMap<Vec<u32>, u32>, bool);

impl Reached {
    fn note(&mut self, emitted: &Emitted) {
        let len = *self.0.entry(emitted.drafted[0].clone()).or_insert(emitted.lens[0]);
        self.1 |= len != emitted.lens[0];
    }
}

#[test]
fn two_sequences_are_independent_and_each_has_its_law() {
    let models = Models { target: &target, draft: &draft };
    let mut reaching = BTreeSet::new();
    for policy in policies() {
        for (rule, prefixes) in RULES.into_iter().flat_map(|rule| PREFIXES.map(|prefixes| (rule, prefixes))) {
            let pair = Pair { models, prefixes, rule, is_seeded: false };
            let (mut joint, mut reached) = (Joint::new(), Reached::default());
            law::for_each_outcome(
                |script| pair.step(&mut *practised(policy), script),
                |emitted, probability| {
                    reached.note(&emitted);
                    add(&mut joint, &pair, &emitted.tokens, probability);
                },
            );
            let mut expected = Joint::new();
            add(&mut expected, &pair, &[Vec::new(), Vec::new()], 1.0);
            let distance = distance(&joint, &expected);
            assert!(distance < TOLERANCE, "{policy}, {rule:?}, {prefixes:?}: {distance}");
            reaching.extend(reached.1.then_some(policy));
        }
    }
    assert_eq!(reaching, BTreeSet::from(RANKING));
}

#[test]
fn sequences_that_share_a_seed_keep_their_law() {
    let models = Models { target: &target, draft: &draft };
    for policy in policies() {
        for prefixes in PREFIXES {
            let pair = Pair { models, prefixes, rule: Rule::Block, is_seeded: true };
            let mut joint = Joint::new();
            law::for_each_outcome(
                |script| {
                    let mut draws = Shared { script, n_cells: 4, cells: BTreeMap::new() };
                    // What follows the step is drawn at further positions, of which only the law counts.
                    pair.step(&mut *practised(policy), &mut draws)
                },
                |emitted, probability| add(&mut joint, &pair, &emitted.tokens, probability),
            );
            for i in 0..2 {
                let distance = distance(
                    &marginal(&joint, i),
                    &law::of_target(&|text| target(&[prefixes[i], text].concat()), LEN),
                );
                assert!(distance < TOLERANCE, "{policy}, {prefixes:?}, sequence {i}: {distance}");
            }
        }
    }
}

/// What the keys are for: if two sequences share the draws that proposals are sampled and judged with, rankings bias the text.
#[test]
fn shared_draws_of_sampled_proposals_are_caught() {
    let target = |_: &[u32]| vec![0.3, 0.7];
    // The second sequence is sure of its first token, and of its second one after one of two: then that is worth more than
    // anything of the first sequence, which is never sure.
    let draft = |prefix: &[u32]| match prefix {
        [9] => vec![0.7, 0.3],
        [9, 0] => vec![0.9, 0.1],
        _ => vec![0.5, 0.5],
    };
    let models = Models { target: &target, draft: &draft };
    let pair = Pair { models, prefixes: [&[8], &[9]], rule: Rule::TokenWise, is_seeded: false };
    let mut joint = Joint::new();
    law::for_each_outcome(
        |script| {
            let shared = Shared { script, n_cells: 10, cells: BTreeMap::new() };
            pair.step(&mut *practised("tetris:base_k=1,extra=1"), &mut SharedByPurpose(shared))
        },
        |emitted, probability| add(&mut joint, &pair, &emitted.tokens, probability),
    );
    let distance = distance(&marginal(&joint, 0), &law::of_target(&target, LEN));
    assert!(distance > 0.05, "{distance}");
}
