//! Token trees through the engine and the real executor: the same bytes as plain decoding, whoever else runs.

use std::sync::Arc;

use dsde_engine::{
    Beam, Config, DraftDraw, Drafted, Drafter, Engine, Executor, MonotonicClock, Request, RowBatch, StepTrace,
};
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::embedded;
use dsde_model::executor::ModelExecutor;
use dsde_policy::{PlanView, Planned, Policy, SeqId, Signals, StepFeedback};
use dsde_sampling::{Params, Proposal, Rule};

use crate::pair::{Decoder, blocks, embedded_pair, tiny_pair};
use crate::serve::{NoText, run};

/// Plans trees of one shape, or plain decoding, chains and trees side by side.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    Off,
    Tree { len: u32, width: u32 },
    Mixed,
}

/// Plain decoding, chains, trees, the widest of trees, and all of them side by side.
pub(crate) const OF_ALL_KINDS: [Shape; 5] = [
    Shape::Off,
    Shape::Tree { len: 3, width: 1 },
    Shape::Tree { len: 3, width: 3 },
    Shape::Tree { len: 2, width: 12 },
    Shape::Mixed,
];

const SHAPES: [Shape; 4] = [
    Shape::Tree { len: 1, width: 4 },
    Shape::Tree { len: 3, width: 3 },
    Shape::Tree { len: 6, width: 2 },
    Shape::Mixed,
];

impl Policy for Shape {
    fn name(&self) -> String {
        format!("{self:?}")
    }

    fn signals(&self) -> Signals {
        Signals { divergence: true, draft_shape: true }
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        for (sequence, planned) in view.sequences.iter().zip(plan) {
            let turn = view.step + sequence.seq.0;
            let (len, width) = match *self {
                Shape::Off => (0, 1),
                Shape::Tree { len, width } => (len, width),
                Shape::Mixed => ((turn % 7) as u32, 1 + (turn / 7 % 4) as u32),
            };
            *planned = Planned { len, width, is_settled: true, reason: "test" };
        }
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        for outcome in feedback.outcomes {
            assert_eq!(outcome.signals.len(), outcome.verified as usize, "a divergence for every node");
        }
    }

    fn forget(&mut self, _seq: SeqId) {}
}

const TEXTS: [&str; 3] = [
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nCount from one to ten.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWhat is the capital of France? And of Spain?<|im_end|>\n<|im_start|>assistant\n",
];

/// Greedy requests on the embedded pair, one of them with penalties and one with two choices.
fn requests(tokens_max: u32) -> Vec<Request> {
    let tokenizer = embedded::tokenizer();
    let request = |text: &str| Request::new(tokenizer.encode(text).unwrap(), Params::greedy(), tokens_max);
    let mut requests: Vec<Request> = TEXTS.map(request).to_vec();
    requests[1].params.repetition_penalty = 1.2;
    requests[2].n_choices = 2;
    requests
}

fn greedy_is_identical<B: Backend>(backend: impl Fn() -> B, shapes: &[Shape], tokens_max: u32) {
    let executor = |n_blocks| embedded_pair(backend(), Rule::Block, n_blocks);
    let config = Config { sequences_max: 4, ..Config::default() };
    let requests = requests(tokens_max);
    let plain = run(executor(64), Shape::Off, config, &requests).outputs;
    for &shape in shapes {
        let got = run(executor(64), shape, config, &requests);
        assert_eq!(got.outputs, plain, "{shape:?}");
        assert!(got.sums.accepted > 0 && got.sums.drafted > got.sums.accepted, "{shape:?} speculates");
        let alone = run(executor(64), shape, Config { sequences_max: 1, ..config }, &requests);
        assert_eq!(alone.outputs, plain, "{shape:?}, one at a time");
        assert!(alone.cached_tokens > 0, "the second choice reads its prompt from the cache");
    }
}

#[test]
fn trees_do_not_change_greedy_output_on_the_reference() {
    greedy_is_identical(|| Reference, &SHAPES[1..2], 12);
}

#[test]
fn trees_do_not_change_greedy_output_on_the_cpu() {
    greedy_is_identical(|| Cpu::new(2), &SHAPES, 32);
}

/// Random models over 128 tokens: drafts are hardly ever right, so width decides what is accepted.
#[test]
fn trees_do_not_change_greedy_output_of_random_models_in_tight_memory() {
    let requests: Vec<Request> = (0..6)
        .map(|i| {
            Request::new((0..5 + 3 * i).map(|j| (i * 31 + j * 17) % 128).collect(), Params::greedy(), 50)
        })
        .collect();
    let executor = |n_blocks| tiny_pair(Cpu::new(2), Rule::Block, n_blocks);
    let plain = run(executor(64), Shape::Off, Config::default(), &requests).outputs;
    for shape in [Shape::Tree { len: 2, width: 16 }, Shape::Tree { len: 4, width: 4 }, Shape::Mixed] {
        for n_blocks in [12, 64] {
            let got = run(executor(n_blocks), shape, Config::default(), &requests);
            assert_eq!(got.outputs, plain, "{shape:?}, {n_blocks} blocks");
            assert!(got.sums.accepted > 0, "{shape:?} speculates");
            assert_eq!(got.preemptions > 0, n_blocks == 12, "memory is tight with 12 blocks");
        }
    }
}

/// A tree is judged by the target's own draws, which are keyed by position, and logits have the same bits.
#[test]
fn sampled_trees_emit_what_plain_decoding_emits() {
    let requests: Vec<Request> = (0..6)
        .map(|i| {
            let params = Params {
                temperature: 0.9,
                seed: Some(u64::from(i)),
                top_k: 20 * (i % 2),
                ..Params::greedy()
            };
            Request::new(vec![3 + i, 77, 12, 5], params, 40)
        })
        .collect();
    let executor = || tiny_pair(Cpu::new(2), Rule::Block, 64);
    let plain = run(executor(), Shape::Off, Config::default(), &requests).outputs;
    let got = run(executor(), Shape::Tree { len: 3, width: 8 }, Config::default(), &requests);
    assert!(got.sums.accepted > 0);
    assert_eq!(got.outputs, plain);
}

/// Grows a tree of two levels of `width` nodes by hand; answers the second level's draft.
fn second_level<B: Backend>(
    executor: &mut ModelExecutor<B>,
    params: &Params,
    tree: &Proposal,
) -> Vec<Drafted> {
    let decoder = Decoder::new(params, &[3, 77, 12, 5, 99], blocks(0, 2));
    let (mut rows, mut drafted) = (RowBatch::default(), Vec::new());
    rows.push(0, &decoder.tokens, &Proposal::new(), &decoder.table);
    let empty = Proposal::new();
    let width = tree.len();
    let draw = |proposal, n_rows| DraftDraw {
        beam: Some(Beam { n_rows, width }),
        ..DraftDraw { proposal, ..decoder.draft_draw(&empty) }
    };
    executor.draft(&rows, &[draw(&empty, 1)], &mut drafted).unwrap();
    assert_eq!(drafted.len(), width as usize);
    rows.next_round();
    rows.keep_nodes(0, 5, tree, 0..width);
    executor.draft(&rows, &[draw(tree, width)], &mut drafted).unwrap();
    drafted
}

/// The rows of a level against one chain per node: the same tokens and the same probabilities, bit for bit.
fn levels_are_chains<B: Backend>(backend: impl Fn() -> B, params: &Params) {
    let mut tree = Proposal::new();
    for token in [40, 9, 77] {
        tree.push(token, None);
    }
    let got = second_level(&mut tiny_pair(backend(), Rule::Block, 2), params, &tree);
    for (node, got) in got.chunks_exact(3).enumerate() {
        let mut executor = tiny_pair(backend(), Rule::Block, 2);
        let mut decoder = Decoder::new(params, &[3, 77, 12, 5, 99], blocks(0, 2));
        let mut chain = Proposal::new();
        chain.push_chain(tree.tokens()[node]);
        let (mut rows, mut drafted) = (RowBatch::default(), Vec::new());
        rows.push(0, &decoder.tokens, &chain, &decoder.table);
        // The chain's token counts as known, so that its row is the one asked about; penalties see it either way.
        decoder.tokens.extend(chain.tokens());
        let empty = Proposal::new();
        let beam = Some(Beam { n_rows: 1, width: 3 });
        let draw = DraftDraw { beam, ..decoder.draft_draw(&empty) };
        executor.draft(&rows, &[draw], &mut drafted).unwrap();
        let answer = |drafted: &Drafted| (drafted.token, drafted.position.path_log_prob.to_bits());
        assert_eq!(
            got.iter().map(answer).collect::<Vec<_>>(),
            drafted.iter().map(answer).collect::<Vec<_>>()
        );
        assert!(drafted.is_sorted_by(|a, b| a.position.path_log_prob >= b.position.path_log_prob));
    }
}

#[test]
fn a_level_drafts_what_separate_chains_draft() {
    let penalised = Params { frequency_penalty: 0.8, repetition_penalty: 1.3, ..Params::greedy() };
    let sampled = Params { temperature: 0.7, top_p: 0.9, ..penalised.clone() };
    for params in [Params::greedy(), penalised, sampled] {
        levels_are_chains(|| Reference, &params);
        levels_are_chains(|| Cpu::new(2), &params);
    }
}

/// Divergences of a tree's nodes against those of the same nodes in chains.
#[test]
fn the_signals_of_a_node_are_those_of_its_row_in_a_chain() {
    let params = Params::greedy();
    let requests = [Request::new(vec![3, 77, 12, 5, 99], params, 2)];
    let trace = |shape| {
        let executor = tiny_pair(Cpu::new(1), Rule::Block, 8);
        let config = Config { drafter: Drafter::Model, ..Config::default() };
        let clock = MonotonicClock::start();
        let mut engine =
            Engine::new(config, Box::new(shape), Arc::new(NoText), Box::new(executor), clock).unwrap();
        engine.submit(Request { tokens_max: 12, ..requests[0].clone() }).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        engine.set_trace(Some(Box::new(move |trace: &StepTrace<'_>| {
            let seq = &trace.sequences[0];
            let nodes = seq.parents.iter().zip(seq.signals).zip(seq.positions);
            let nodes = nodes.map(|((parent, signals), position)| (*parent, *signals, *position));
            sender.send(nodes.collect::<Vec<_>>()).unwrap();
        })));
        engine.step().unwrap();
        engine.step().unwrap();
        drop(engine);
        receiver.iter().last().unwrap()
    };
    let chain = trace(Shape::Tree { len: 1, width: 1 });
    let tree = trace(Shape::Tree { len: 2, width: 3 });
    assert_eq!((chain.len(), tree.len()), (1, 6));
    let (_, expected, features) = chain[0];
    assert!(expected.kld > 0.0 && features.entropy > 0.0);
    for (parent, signals, position) in &tree {
        // Every root was chosen from the distribution that the chain's first token was drawn from.
        let is_root = parent.is_none();
        assert_eq!(*signals == expected, is_root);
        assert_eq!((position.entropy, position.top_prob) == (features.entropy, features.top_prob), is_root);
    }
}
