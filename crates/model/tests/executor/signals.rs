//! What is measured beside the tokens: divergences, draft features, log-probabilities.

use dsde_engine::{DraftDraw, Executor, RowBatch, TargetDraw};
use dsde_kernels::{Backend, Reference};
use dsde_model::llama::{Llama, kv_shape};
use dsde_policy::Signals;
use dsde_sampling::{Params, Proposal, Rule};

use crate::pair::{Decoder, blocks, open, tiny_pair};

const PROMPT: [u32; 5] = [3, 77, 12, 5, 99];

const ALL: Signals = Signals { divergence: true, draft_shape: true };

/// Softmax at `temperature` of a model's logits after `tokens`, in `f64`.
fn law(name: &str, tokens: &[u32], temperature: f64) -> Vec<f64> {
    let mut model = Llama::load(&Reference, &open(name), 32).unwrap();
    let mut kv = Reference.kv_store(&kv_shape(model.config(), 2));
    let mut rows = RowBatch::default();
    rows.push(0, tokens, &Proposal::new(), &blocks(0, 2));
    model.forward(&Reference, &rows, &[tokens.len() as u32 - 1], &mut kv);
    let logits = model.logits(&Reference, 0..1);
    let weights: Vec<f64> = logits.iter().map(|&x| (f64::from(x) / temperature).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

fn entropy(p: &[f64]) -> f64 {
    -p.iter().map(|p| p * p.ln()).sum::<f64>()
}

fn near(got: f32, expected: f64, what: &str) {
    assert!((f64::from(got) - expected).abs() < 1e-4, "{what}: got {got}, expected {expected}");
}

/// Signals of three drafted tokens against sums written out here, all at `temperature` without truncation.
fn check(params: &Params, temperature: f64) {
    let mut executor = tiny_pair(Reference, Rule::Block, 2);
    let mut decoder = Decoder::new(params, &PROMPT, blocks(0, 2));
    decoder.signals = ALL;
    let (proposal, drafted) = decoder.draft(&mut executor, 3);
    let verification = decoder.verify(&mut executor, &proposal, true);
    assert_eq!(verification.signals.len(), 3);
    for (j, (signals, drafted)) in verification.signals.iter().zip(&drafted).enumerate() {
        let prefix = [&PROMPT[..], &proposal.tokens()[..j]].concat();
        let (p, q) = (law("llama3", &prefix, temperature), law("qwen2", &prefix, temperature));
        let kld: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        near(signals.kld, kld, "kld");
        near(signals.draft_entropy, entropy(&q), "draft entropy");
        near(signals.target_entropy, entropy(&p), "target entropy");
        assert_eq!(drafted.position.index, j as u32);
        near(drafted.position.entropy, entropy(&q), "entropy while drafting");
        near(drafted.position.top_prob, q.iter().copied().fold(0.0, f64::max), "top probability");
        let tv: f64 = 0.5 * p.iter().zip(&q).map(|(p, q)| (p - q).abs()).sum::<f64>();
        match params.top_k {
            0 => near(signals.rejection, tv, "total variation"),
            _ => assert!(
                f64::from(signals.rejection) > tv,
                "truncated laws of random models are further apart"
            ),
        }
    }
}

#[test]
fn signals_of_sampled_requests_are_at_their_temperature() {
    check(&Params { temperature: 0.7, ..Params::greedy() }, 0.7);
}

#[test]
fn signals_of_greedy_requests_are_at_temperature_one() {
    check(&Params::greedy(), 1.0);
}

#[test]
fn truncation_changes_the_rejection_probability_only() {
    check(&Params { temperature: 0.7, top_k: 4, ..Params::greedy() }, 0.7);
}

#[test]
fn nothing_is_measured_unless_asked() {
    let params = Params::greedy();
    let mut executor = tiny_pair(Reference, Rule::Block, 2);
    let mut decoder = Decoder::new(&params, &PROMPT, blocks(0, 2));
    let (proposal, drafted) = decoder.draft(&mut executor, 2);
    assert_eq!((drafted[0].position.entropy, drafted[0].position.top_prob), (0.0, 1.0));
    let verification = decoder.verify(&mut executor, &proposal, true);
    assert!(verification.signals.is_empty() && verification.logprobs.is_empty());
}

#[test]
fn proposals_from_elsewhere_have_no_divergence() {
    let params = Params::greedy();
    let mut executor = tiny_pair(Reference, Rule::Block, 2);
    let mut decoder = Decoder::new(&params, &PROMPT, blocks(0, 2));
    decoder.signals = ALL;
    let mut proposal = Proposal::new();
    proposal.push_chain(1);
    assert!(decoder.verify(&mut executor, &proposal, false).signals.is_empty());
}

#[test]
fn every_emitted_token_has_its_log_probability_before_penalties() {
    let bias = vec![(9, 100.0)];
    let params = Params { logprobs: Some(2), logit_bias: bias, ..Params::greedy() };
    let mut executor = tiny_pair(Reference, Rule::Block, 2);
    let mut decoder = Decoder::new(&params, &PROMPT, blocks(0, 2));
    // The bias decides: 9 again and again, and both drafted tokens are accepted.
    let (proposal, _) = decoder.draft(&mut executor, 2);
    let logprobs = decoder.verify(&mut executor, &proposal, true).logprobs;
    assert_eq!(decoder.output(), [9, 9, 9]);
    assert_eq!(logprobs.len(), 3);
    for (j, got) in logprobs.iter().enumerate() {
        let p = law("llama3", &[&PROMPT[..], &decoder.output()[..j]].concat(), 1.0);
        near(got.logprob, p[9].ln(), "log-probability");
        let best = (0..p.len()).max_by(|&a, &b| p[a].total_cmp(&p[b])).unwrap();
        assert_eq!((got.top.len(), got.top[0].0), (2, best as u32));
        near(got.top[0].1, p[best].ln(), "largest log-probability");
    }
}

#[test]
fn banned_tokens_are_neither_drafted_nor_emitted() {
    let params = Params::greedy();
    let mut executor = tiny_pair(Reference, Rule::Block, 2);
    let mut decoder = Decoder::new(&params, &PROMPT, blocks(0, 2));
    let (free, _) = decoder.draft(&mut executor, 1);
    let best = free.tokens()[0];
    let mut rows = RowBatch::default();
    rows.push(0, &PROMPT, &Proposal::new(), &blocks(0, 2));
    let (mut drafted, mut verifications) = (Vec::new(), Vec::new());
    let empty = Proposal::new();
    let draw = DraftDraw { banned: &[best], ..decoder.draft_draw(&empty) };
    executor.draft(&rows, &[draw], &mut drafted).unwrap();
    assert_ne!(drafted[0].token, best);
    executor.verify(&rows, &[decoder.target_draw(&empty, false)], &mut verifications).unwrap();
    let best = verifications[0].verdict.next;
    let draw = TargetDraw { banned: &[best], ..decoder.target_draw(&empty, false) };
    executor.verify(&rows, &[draw], &mut verifications).unwrap();
    assert_ne!(verifications[0].verdict.next, best);
}
