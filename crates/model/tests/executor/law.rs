//! Sampled output follows the target's distribution, through drafts, verdicts, draws and stores of the executor itself.
//!
//! Many sequences share a prompt and differ in their draws. Each takes one speculative step with one to three drafted tokens
//! and, if only one token came out of it, a plain one; the first two tokens are counted. The expected counts come from the
//! target's logits by a softmax written here. Sample size and error probability stand at the constants.

use dsde_engine::{BlockCopy, BlockId, DraftDraw, Executor, RowBatch, SeqId, TargetDraw};
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::embedded;
use dsde_model::executor::ModelExecutor;
use dsde_model::llama::{Llama, kv_shape};
use dsde_policy::Signals;
use dsde_sampling::{Params, Proposal, Rule, Stream};

use crate::assistant::{PAIRS, assisted};
use crate::eagle3::tiny_head;
use crate::pair::{Decoder, blocks, embedded_pair, open, tiny_pair};
use crate::translated::translated_pair;

/// Sequences in a batch; with one block each.
const BATCH_LEN: u32 = 250;
/// 20 000 sequences.
const N_BATCHES: u32 = 80;
/// Cells with fewer expected observations are pooled.
const EXPECTED_MIN: f64 = 10.0;
/// Standard normal quantile of an error probability of 3e-7 per test, for a right executor to fail.
const QUANTILE: f64 = 5.0;

const PROMPT: [u32; 8] = [3, 77, 12, 5, 5, 127, 0, 64];

/// Where proposals come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drafter {
    /// The draft model or head of the executor.
    Model,
    /// Fixed tokens, as suffix decoding would propose them.
    OneHot([u32; 3]),
}

fn params() -> Params {
    Params { temperature: 0.8, ..Params::greedy() }
}

/// One sequence per block `1..=BATCH_LEN`; block 0 holds the prompt.
struct Trials<'a, B: Backend> {
    executor: ModelExecutor<B>,
    drafter: Drafter,
    prompt: &'a [u32],
    params: Params,
    /// Number of the batch's first sequence.
    first: u64,
    rows: RowBatch,
}

impl<'a, B: Backend> Trials<'a, B> {
    /// Stores the prompt once and copies its block to every sequence.
    fn new(mut executor: ModelExecutor<B>, drafter: Drafter, prompt: &'a [u32]) -> Self {
        assert!(prompt.len() + 4 <= executor.shape().block_len as usize);
        let (mut rows, params, nothing) = (RowBatch::default(), params(), Proposal::new());
        rows.push(0, &prompt[..prompt.len() - 1], &nothing, &blocks(0, 1));
        // What the target makes of the last of them a head may read.
        let decoder = Decoder::new(&params, prompt, blocks(0, 1));
        executor.verify(&rows, &[decoder.target_draw(&nothing, false)], &mut Vec::new()).unwrap();
        executor.draft(&rows, &[], &mut Vec::new()).unwrap();
        let copies: Vec<_> =
            (1..=BATCH_LEN).map(|to| BlockCopy { from: BlockId(0), to: BlockId(to) }).collect();
        executor.copy_blocks(&copies).unwrap();
        Self { executor, drafter, prompt, params, first: 0, rows }
    }

    fn push(&mut self, i: usize, context_len: usize, token: u32, proposal: &Proposal) {
        self.rows.push(context_len as u32, &[token], proposal, &blocks(1 + i as u32, 1));
    }

    /// First two tokens of every sequence of batch `batch_idx`.
    fn run(&mut self, batch_idx: u32) -> Vec<[u32; 2]> {
        self.first = u64::from(batch_idx * BATCH_LEN);
        let lens: Vec<u32> = (0..BATCH_LEN).map(|i| 1 + i % 3).collect();
        let proposals = match self.drafter {
            Drafter::Model => self.draft(&lens),
            Drafter::OneHot(tokens) => lens.iter().map(|&len| chain(&tokens[..len as usize])).collect(),
        };
        let histories = vec![self.prompt.to_vec(); lens.len()];
        let mut emitted = self.verify(&histories, &proposals);
        // Those with one token take a plain step; the others take one too, which is ignored.
        let histories: Vec<_> = emitted.iter().map(|tokens| [self.prompt, &tokens[..1]].concat()).collect();
        let second = self.verify(&histories, &vec![Proposal::new(); lens.len()]);
        for (tokens, second) in emitted.iter_mut().zip(second) {
            if tokens.len() == 1 {
                tokens.extend(second);
            }
        }
        emitted.into_iter().map(|tokens| [tokens[0], tokens[1]]).collect()
    }

    fn draft(&mut self, lens: &[u32]) -> Vec<Proposal> {
        let mut proposals = vec![Proposal::new(); lens.len()];
        let (first, mut drafted) = (self.first, Vec::new());
        for round in 0..3 {
            let drawing: Vec<usize> = (0..lens.len()).filter(|&i| lens[i] > round).collect();
            self.rows.clear();
            for &i in &drawing {
                let last = self.prompt[self.prompt.len() - 1];
                let token = proposals[i].tokens().last().copied().unwrap_or(last);
                self.push(i, self.prompt.len() - 1 + round as usize, token, &Proposal::new());
            }
            let draws = drawing.iter().enumerate().map(|(seq_idx, &i)| DraftDraw {
                seq_idx,
                seq: SeqId(i as u64),
                params: &self.params,
                stream: stream(first + i as u64),
                history: self.prompt,
                prompt_len: self.prompt.len() as u32,
                proposal: &proposals[i],
                beam: None,
                n_rivals: 0,
                banned: &[],
                signals: Signals::default(),
                is_ahead: false,
            });
            self.executor.draft(&self.rows, &draws.collect::<Vec<_>>(), &mut drafted).unwrap();
            for (&i, drafted) in drawing.iter().zip(&drafted) {
                proposals[i].push_chain(drafted.token);
            }
        }
        proposals
    }

    fn verify(&mut self, histories: &[Vec<u32>], proposals: &[Proposal]) -> Vec<Vec<u32>> {
        let first = self.first;
        self.rows.clear();
        for (i, (history, proposal)) in histories.iter().zip(proposals).enumerate() {
            self.push(i, history.len() - 1, history[history.len() - 1], proposal);
        }
        let draws = (0..histories.len()).map(|i| TargetDraw {
            seq_idx: i,
            seq: SeqId(i as u64),
            params: &self.params,
            stream: stream(first + i as u64),
            history: &histories[i],
            prompt_len: self.prompt.len() as u32,
            proposal: &proposals[i],
            is_model_drafted: self.drafter == Drafter::Model,
            drafted_as: None,
            prune: None,
            banned: &[],
            signals: Signals::default(),
        });
        let mut verifications = Vec::new();
        self.executor.verify(&self.rows, &draws.collect::<Vec<_>>(), &mut verifications).unwrap();
        let emitted = verifications.iter().zip(proposals).map(|(verification, proposal)| {
            let path = verification.verdict.path.iter().map(|&node| proposal.tokens()[node as usize]);
            path.chain([verification.verdict.next]).collect()
        });
        emitted.collect()
    }
}

/// Of the sequence with a number.
fn stream(number: u64) -> Stream {
    Stream::Own { key: 0, number }
}

fn chain(tokens: &[u32]) -> Proposal {
    let mut proposal = Proposal::new();
    tokens.iter().for_each(|&token| proposal.push_chain(token));
    proposal
}

/// `exp(x / temperature)`, normalised, in `f64`.
fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let weights: Vec<f64> = logits.iter().map(|&x| (f64::from(x) / temperature).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

/// The target's law: of the first token, and of the second after each first one.
struct Expected {
    first: Vec<f64>,
    second: Vec<Vec<f64>>,
}

impl Expected {
    fn of_tiny(temperature: f64) -> Self {
        Self::of("llama3", &PROMPT, temperature)
    }

    fn of(target: &str, prompt: &[u32], temperature: f64) -> Self {
        let mut model = Llama::load(&Reference, &open(target), 16).unwrap();
        let vocab_len = model.config().vocab_len;
        let mut kv = Reference.kv_store(&kv_shape(model.config(), vocab_len));
        let mut rows = RowBatch::default();
        for token in 0..vocab_len as u32 {
            rows.push(0, &[prompt, &[token]].concat(), &Proposal::new(), &blocks(token, 1));
        }
        let outputs: Vec<u32> = (0..vocab_len as u32).flat_map(|i| [i * 9 + 7, i * 9 + 8]).collect();
        model.forward(&Reference, &rows, &outputs, &mut kv);
        let logits = model.logits(&Reference, 0..2 * vocab_len);
        let rows = logits.chunks_exact(vocab_len);
        let mut laws: Vec<Vec<f64>> = rows.map(|row| softmax(row, temperature)).collect();
        let first = laws[0].clone();
        let second = laws.drain(..).skip(1).step_by(2).collect();
        Self { first, second }
    }

    fn cells(&self) -> impl Iterator<Item = ([u32; 2], f64)> {
        self.second.iter().zip(&self.first).enumerate().flat_map(|(a, (second, first))| {
            second.iter().enumerate().map(move |(b, second)| ([a as u32, b as u32], first * second))
        })
    }
}

/// Chi-square statistic of observed against expected cells, in standard deviations above what chance gives.
///
/// Cells below [`EXPECTED_MIN`] are pooled by their first token, and those pools into one if need be. The statistic is made
/// normal by the Wilson-Hilferty transformation.
fn excess<K: Copy + Ord>(
    cells: impl Iterator<Item = (K, f64)>,
    pool_of: impl Fn(K) -> K,
    observed: &[K],
) -> f64 {
    use std::collections::BTreeMap;
    let n = observed.len() as f64;
    let mut counts: BTreeMap<K, f64> = BTreeMap::new();
    observed.iter().for_each(|&key| *counts.entry(key).or_default() += 1.0);
    let (mut single, mut pooled) = (Vec::new(), BTreeMap::<K, (f64, f64)>::new());
    for (key, probability) in cells {
        let (count, expected) = (counts.get(&key).copied().unwrap_or(0.0), n * probability);
        if expected >= EXPECTED_MIN {
            single.push((count, expected));
        } else {
            let pool = pooled.entry(pool_of(key)).or_default();
            *pool = (pool.0 + count, pool.1 + expected);
        }
    }
    let (large, small): (Vec<_>, Vec<_>) = pooled.into_values().partition(|pool| pool.1 >= EXPECTED_MIN);
    let rest = small.iter().fold((0.0, 0.0), |sum, pool| (sum.0 + pool.0, sum.1 + pool.1));
    single.extend(large);
    if rest.1 > 0.0 {
        single.push(rest);
    }
    let statistic: f64 = single.iter().map(|(count, expected)| (count - expected).powi(2) / expected).sum();
    let freedom = (single.len() - 1) as f64;
    let variance = 2.0 / (9.0 * freedom);
    ((statistic / freedom).cbrt() - (1.0 - variance)) / variance.sqrt()
}

fn check_pairs(rule: Rule, drafter: Drafter) {
    check_law(tiny_pair(Cpu::new(2), rule, 1 + BATCH_LEN), rule, drafter);
}

fn check_law(executor: ModelExecutor<Cpu>, rule: Rule, drafter: Drafter) {
    check_law_of("llama3", &PROMPT, executor, rule, drafter);
}

/// * `target`: that of `executor`.
fn check_law_of(target: &str, prompt: &[u32], executor: ModelExecutor<Cpu>, rule: Rule, drafter: Drafter) {
    let mut trials = Trials::new(executor, drafter, prompt);
    let observed: Vec<[u32; 2]> = (0..N_BATCHES).flat_map(|batch_idx| trials.run(batch_idx)).collect();
    let excess = |temperature| {
        let expected = Expected::of(target, prompt, temperature);
        excess(expected.cells(), |[first, _]| [first, u32::MAX], &observed)
    };
    let right = excess(0.8);
    assert!(right < QUANTILE, "{target}, {rule:?}: {right} standard deviations from the target's law");
    // The same counts tell a temperature of 0.9 from the right one.
    let wrong = excess(0.9);
    assert!(wrong > QUANTILE, "{rule:?}: a wrong law is only {wrong} standard deviations away");
}

#[test]
fn token_wise_verdicts_follow_the_target() {
    check_pairs(Rule::TokenWise, Drafter::Model);
}

#[test]
fn block_verdicts_follow_the_target() {
    check_pairs(Rule::Block, Drafter::Model);
}

#[test]
fn deterministic_proposals_follow_the_target() {
    let law = Expected::of_tiny(0.8);
    let best = |law: &[f64]| (0..law.len()).max_by(|&a, &b| law[a].total_cmp(&law[b])).unwrap();
    let first = best(&law.first);
    let second = best(&law.second[first]);
    check_pairs(Rule::Block, Drafter::OneHot([first as u32, second as u32, 9]));
}

/// The head guesses two tokens of three; the others come from the residual.
#[test]
fn an_eagle3_head_with_a_part_of_the_vocabulary_follows_its_target() {
    for rule in [Rule::TokenWise, Rule::Block] {
        check_law(tiny_head(Cpu::new(2), rule, 1 + BATCH_LEN), rule, Drafter::Model);
    }
}

/// So do assistants of Gemma 4, of which one guesses a third of the tokens.
#[test]
fn assistants_follow_their_targets() {
    let prompt = PROMPT.map(|token| token % 48);
    for (pair, rule) in PAIRS.into_iter().zip([Rule::TokenWise, Rule::Block, Rule::TokenWise]) {
        let executor = assisted(Cpu::new(2), pair, rule, 1 + BATCH_LEN);
        check_law_of(pair[0], &prompt, executor, rule, Drafter::Model);
    }
}

/// So does a draft with another vocabulary, of which a third of the tokens is not shared.
#[test]
fn a_draft_with_another_vocabulary_follows_its_target() {
    for rule in [Rule::TokenWise, Rule::Block] {
        check_law(translated_pair(Cpu::new(2), rule, 1 + BATCH_LEN), rule, Drafter::Model);
    }
}

/// Fewer sequences than for the tiny pair, whose passes are a hundred times smaller: 4000.
const N_BATCHES_EMBEDDED: u32 = 16;

#[test]
fn the_embedded_pair_follows_its_target() {
    let prompt = embedded::tokenizer().encode("Once upon a time, there was a").unwrap();
    let law = {
        let backend = Cpu::new(2);
        let mut model = Llama::load(&backend, &embedded::target(), 16).unwrap();
        let mut kv = backend.kv_store(&kv_shape(model.config(), 1));
        let mut rows = RowBatch::default();
        rows.push(0, &prompt, &Proposal::new(), &blocks(0, 1));
        model.forward(&backend, &rows, &[prompt.len() as u32 - 1], &mut kv);
        softmax(model.logits(&backend, 0..1), 0.8)
    };
    let executor = embedded_pair(Cpu::new(2), Rule::Block, 1 + BATCH_LEN);
    let mut trials = Trials::new(executor, Drafter::Model, &prompt);
    let observed: Vec<u32> =
        (0..N_BATCHES_EMBEDDED).flat_map(|batch_idx| trials.run(batch_idx)).map(|[first, _]| first).collect();
    let cells = law.iter().enumerate().map(|(token, &probability)| (token as u32, probability));
    let excess = excess(cells, |_| u32::MAX, &observed);
    assert!(excess < QUANTILE, "{excess} standard deviations from the target's law");
}
