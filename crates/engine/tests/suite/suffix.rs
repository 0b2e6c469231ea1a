//! Drafting what repeats, through the whole engine: what is on offer before anything is planned, and what past answers add.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::common::*;
use dsde_engine::{Config, Request, Script, StepTrace};
use dsde_policy::{PlanView, Planned, Policy, SeqId, Signals, StepFeedback, registry};
use dsde_sampling::Params;

/// Limits, and probabilities foreseen, of every sequence and step.
type Seen = Arc<Mutex<Vec<(u32, Vec<f32>)>>>;

struct Watcher(Seen);

impl Policy for Watcher {
    fn name(&self) -> String {
        "watcher".to_owned()
    }

    fn signals(&self) -> Signals {
        Signals::default()
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        for sequence in view.sequences {
            let foreseen = view.foreseen_of(sequence).iter().map(|position| position.top_prob).collect();
            self.0.lock().unwrap().push((sequence.limit, foreseen));
            assert_eq!(sequence.draft_lag, 1, "nothing is to be read");
        }
        plan.fill(Planned { len: 8, ..Planned::none() });
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        assert_eq!((feedback.draft_rounds, feedback.draft_rows), (0, 0));
        for outcome in feedback.outcomes {
            assert_eq!(outcome.planned, outcome.drafted, "what was planned was there");
        }
    }

    fn forget(&mut self, _seq: SeqId) {}
}

#[test]
fn policies_see_what_is_on_offer_before_they_plan() {
    let mut engine = engine(suffix_configs()[0], "off", 400);
    let seen = Seen::default();
    engine.set_policy(Box::new(Watcher(seen.clone())));
    for i in 0..8 {
        engine.submit(greedy(prompt(i, 30), 60)).unwrap();
    }
    run(&mut engine);
    let seen = seen.lock().unwrap();
    assert!(seen.iter().all(|(limit, foreseen)| *limit as usize == foreseen.len()));
    assert!(seen.iter().flat_map(|(_, foreseen)| foreseen).all(|p| (0.1..1.0).contains(p)));
    for n in [0, 1, 2] {
        assert!(seen.iter().any(|(limit, _)| *limit == n), "{n} on offer");
    }
}

/// Depth and path probability of what was drafted, by choice and length of the text.
type Drafts = BTreeMap<(u32, u32), Vec<(u32, u32)>>;

/// Runs a sampled request of two choices among others and notes what is drafted for it.
fn drafts(config: Config, n_blocks: u32, n_others: u32, policy: &str) -> Drafts {
    let mut engine = engine(config, policy, n_blocks);
    let params = Params { temperature: 0.7, seed: Some(3), ..Params::greedy() };
    let prompt_len = 40;
    let request = Request { n_choices: 2, ..Request::new(prompt(3, prompt_len), params, 60) };
    let id = engine.submit(request).unwrap();
    for i in 0..n_others {
        engine.submit(greedy(prompt(20 + i, 20), 50)).unwrap();
    }
    let drafts = Arc::new(Mutex::new(Drafts::new()));
    let notes = drafts.clone();
    engine.set_trace(Some(Box::new(move |trace: &StepTrace<'_>| {
        let is_wanted =
            |seq: &&dsde_engine::SequenceTrace<'_>| seq.request == id && seq.context_len >= prompt_len;
        for seq in trace.sequences.iter().filter(is_wanted) {
            let position = |p: &dsde_policy::DraftPosition| (p.index, p.path_log_prob.to_bits());
            let positions = seq.positions.iter().map(position).collect();
            notes.lock().unwrap().insert((seq.choice, seq.context_len), positions);
        }
    })));
    let outputs = run(&mut engine);
    let preemptions = |output: &Output| output.finished.as_ref().unwrap().timeline.preemptions;
    let is_cramped = outputs.values().map(preemptions).sum::<u32>() > 0;
    assert_eq!(is_cramped, n_blocks < 100, "preempted where blocks are few");
    drafts.lock().unwrap().clone()
}

#[test]
fn proposals_are_functions_of_the_text_alone() {
    let [config, _] = suffix_configs();
    for policy in ["fixed:k=4", "beams:3x3"] {
        let alone = drafts(config, 400, 0, policy);
        assert!(alone.values().any(|positions| positions.len() > 2), "not vacuous");
        let chunked = Config { rows_max: 7, sequences_max: 5, prefix_cache: false, ..config };
        for config in [config, chunked] {
            assert_eq!(drafts(config, 400, 9, policy), alone, "{policy}");
        }
    }
    // Where blocks are few proposals are cut, and steps begin elsewhere; what is drafted at the same place is the same.
    let alone = drafts(config, 400, 0, "fixed:k=4");
    let cramped = drafts(config, 34, 9, "fixed:k=4");
    let both = cramped.iter().filter_map(|(place, got)| Some((got, alone.get(place)?)));
    assert!(both.clone().count() > 50);
    for (got, whole) in both {
        assert!(whole.starts_with(got), "{got:?} of {whole:?}");
    }
}

/// Serves the same greedy request twice, one after the other; tokens drafted and accepted, and steps, of each.
fn twice(config: Config, salts: [&str; 2], forgets: bool) -> [(u32, u32, u32); 2] {
    let mut engine = engine(config, "fixed:k=8", 400);
    salts.map(|salt| {
        let prompt = prompt(3, 12);
        let request = Request { salt: salt.to_owned(), ..greedy(prompt.clone(), 60) };
        let id = engine.submit(request).unwrap();
        let outputs = run(&mut engine);
        if forgets {
            engine.clear_prefix_cache();
        }
        let output = &outputs[&(id, 0)];
        assert_eq!(output.tokens, Script::default().greedy_continuation(&prompt, 60));
        let timeline = output.finished.as_ref().unwrap().timeline;
        (timeline.drafted, timeline.accepted, timeline.steps)
    })
}

#[test]
fn an_answer_is_repeated_faster_by_requests_of_the_same_salt() {
    let [own, shared] = suffix_configs();
    let [first, second] = twice(own, ["", ""], false);
    assert_eq!(first, second, "nothing is remembered unless it is asked for");
    let [again, faster] = twice(shared, ["", ""], false);
    assert_eq!(again, first);
    assert!(faster.2 * 4 < first.2, "{faster:?} after {first:?}");
    let [_, faster] = twice(shared, ["a", "a"], false);
    assert!(faster.2 * 4 < first.2);
    // Nothing crosses salts, and nothing outlives what forgets.
    for salts in [["a", "b"], ["", "a"], ["a", ""]] {
        assert_eq!(twice(shared, salts, false), [first, first], "{salts:?}");
    }
    assert_eq!(twice(shared, ["", ""], true), [first, first]);
}

/// Sampled text of twelve requests without a seed, in two waves, and the tokens accepted.
fn sampled(config: Config, policy: &str, n_blocks: u32) -> (Vec<Vec<u32>>, u32) {
    let mut engine = engine(config, policy, n_blocks);
    let (mut texts, mut accepted) = (Vec::new(), 0);
    for _wave in 0..2 {
        for i in 0..6 {
            let params = Params { temperature: 0.7, ..Params::greedy() };
            engine.submit(Request::new(prompt(i % 4, 10 + i), params, 40)).unwrap();
        }
        for output in run(&mut engine).into_values() {
            accepted += output.finished.as_ref().unwrap().timeline.accepted;
            texts.push(output.tokens);
        }
    }
    (texts, accepted)
}

#[test]
fn sampled_text_is_that_of_plain_decoding_under_every_policy() {
    let (plain, _) = sampled(Config::default(), "off", 400);
    let entries = registry::ENTRIES.iter().map(|entry| entry.name).filter(|name| *name != "fixed");
    let others = ["fixed:k=1", "fixed:k=6", "beams:3x3", "reranked:3x2", "fickle:4x2", "fickle:4x1", "mixed"];
    let mut n_accepted = 0;
    for policy in entries.chain(others) {
        for config in suffix_configs() {
            for n_blocks in [400, 22] {
                let (texts, accepted) = sampled(config, policy, n_blocks);
                assert_eq!(texts, plain, "{policy}, {n_blocks} blocks");
                // Some do not speculate on so few tokens.
                let is_sure = others.contains(&policy);
                assert!(
                    (accepted > 0 || !is_sure) && (accepted == 0 || policy != "off"),
                    "{policy}: {accepted}"
                );
                n_accepted += accepted;
            }
        }
    }
    assert!(n_accepted > 1000);
}

#[test]
fn the_same_requests_in_the_same_order_give_the_same_steps() {
    for config in suffix_configs() {
        for policy in ["auto", "beams:3x3", "fixed:k=5"] {
            let run = || {
                let mut engine = engine(config, policy, 60);
                let mut outputs = Outputs::new();
                for i in 0..24 {
                    let params = Params { temperature: 0.8, ..Params::greedy() };
                    let salt = ["", "x"][i as usize % 2].to_owned();
                    let request = Request::new(prompt(i % 5, 20), params, 30);
                    let id = engine.submit(Request { salt, n_choices: 2, ..request }).unwrap();
                    for _ in 0..7 {
                        engine.step().unwrap();
                    }
                    if i % 6 == 0 {
                        engine.cancel(id);
                    }
                    collect(engine.drain_events(), &mut outputs);
                }
                while !engine.is_idle() {
                    engine.step().unwrap();
                    collect(engine.drain_events(), &mut outputs);
                }
                let of = |output: &Output| (output.tokens.clone(), output.origins.clone());
                outputs.values().map(of).collect::<Vec<_>>()
            };
            assert_eq!(run(), run(), "{policy}");
        }
    }
}
