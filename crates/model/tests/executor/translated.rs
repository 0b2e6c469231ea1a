//! A draft with another vocabulary: through engine and executor, and against the same draft with the target's vocabulary.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use dsde_checkpoint::Checkpoint;
use dsde_engine::{Config, Drafted, Executor as _, Request, StepReport};
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::executor::{self, Checkpoints, DraftCheckpoint, DraftSource, KvSize, ModelExecutor};
use dsde_model::{Error, Translation};
use dsde_policy::registry::{self, Settings};
use dsde_policy::{Faser, Off, faser};
use dsde_sampling::{Params, Rule};
use safetensors::SafeTensors;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::Value;
use tempfile::TempDir;

use crate::lending::Moody;
use crate::pair::{Decoder, blocks, fixture, open, tiny_pair};
use crate::serve::{Run, run};

/// Tokens of the target.
const N_TOKENS: u32 = 128;
/// Tokens of the draft; 32 of them the target does not have.
const N_DRAFT_TOKENS: u32 = 160;
const EMBEDDINGS: &str = "model.embed_tokens.weight";

/// The draft's id of a token of the target; 37 and 160 have no divisor in common.
fn own_id(token: u32) -> u32 {
    (token * 37 + 11) % N_DRAFT_TOKENS
}

/// The draft of [`tiny_pair`], whose tokens have other ids and stand between others.
fn renumbered() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = fs::read(fixture("qwen2").join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["vocab_size"] = N_DRAFT_TOKENS.into();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let file = fs::read(fixture("qwen2").join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let table = tensors.tensor(EMBEDDINGS).unwrap();
    let row_len = table.data().len() / N_TOKENS as usize;
    // Tokens of the draft alone have the embedding of its token 0.
    let mut rows = table.data()[..row_len].repeat(N_DRAFT_TOKENS as usize);
    for (token, row) in (0..).zip(table.data().chunks_exact(row_len)) {
        rows[own_id(token) as usize * row_len..][..row_len].copy_from_slice(row);
    }
    let shape = vec![N_DRAFT_TOKENS as usize, table.shape()[1]];
    let renumbered = TensorView::new(table.dtype(), shape, &rows).unwrap();
    let tensors = tensors.tensors().into_iter().map(|(name, tensor)| match name.as_str() {
        EMBEDDINGS => (name, renumbered.clone()),
        _ => (name, tensor),
    });
    serialize_to_file(tensors, None, &folder.path().join("model.safetensors")).unwrap();
    folder
}

/// Between the tokens of the target and those of [`renumbered`], of which the shared ones satisfy `is_shared`; the others are
/// read as the last shared one before.
fn translation(is_shared: impl Fn(u32) -> bool) -> Arc<Translation> {
    let shared: Vec<(u32, u32)> =
        (0..N_TOKENS).filter(|&token| is_shared(token)).map(|token| (token, own_id(token))).collect();
    let read = |token: u32| shared[shared.partition_point(|pair| pair.0 <= token) - 1].1;
    let reads: Vec<u32> = (0..N_TOKENS).map(read).collect();
    Arc::new(Translation::new(&reads, &shared, N_DRAFT_TOKENS as usize).unwrap())
}

/// Two of three tokens are shared.
fn two_of_three() -> Arc<Translation> {
    translation(|token| token % 3 < 2)
}

fn pair<B: Backend>(
    backend: B,
    folder: &Path,
    translation: &Arc<Translation>,
    rule: Rule,
    n_blocks: u32,
) -> ModelExecutor<B> {
    let (target, draft) = (open("llama3"), Checkpoint::open(folder).unwrap());
    let draft = DraftCheckpoint::Translated { checkpoint: &draft, translation };
    let config = executor::Config { rule, kv: KvSize::Blocks(n_blocks), ..Default::default() };
    ModelExecutor::new(backend, Checkpoints { target: &target, draft: Some(draft) }, config).unwrap()
}

/// [`tiny_pair`] with a draft that has two of three tokens of its target, and some of its own.
pub(crate) fn translated_pair<B: Backend>(backend: B, rule: Rule, n_blocks: u32) -> ModelExecutor<B> {
    pair(backend, renumbered().path(), &two_of_three(), rule, n_blocks)
}

/// Every policy that needs no parameters, and longer chains, trees, and proposals drafted ahead.
fn policies() -> Vec<String> {
    let special = ["fixed:k=1", "fixed:k=5", "ddd:width=4", "adaserve:w_max=4", "faser:overlap=4"];
    let entries = registry::ENTRIES.iter().map(|entry| entry.name);
    let complete = entries.filter(|name| name.parse::<registry::Config>().is_ok());
    special.into_iter().chain(complete).map(str::to_owned).collect()
}

/// Greedy and seeded requests, some with penalties, a common prefix or several choices.
fn requests(policy: &str) -> Vec<Request> {
    let prompt = |i: u32| (0..5 + 6 * (i % 4)).map(|j| (i % 2 * 31 + j * 17) % N_TOKENS).collect();
    let request = |i: u32| {
        let params = Params {
            temperature: if i % 4 == 3 { 0.8 } else { 0.0 },
            seed: (i % 4 == 3).then_some(u64::from(i)),
            repetition_penalty: if i % 5 == 1 { 1.3 } else { 1.0 },
            ..Params::greedy()
        };
        let policy = Some(policy.parse::<registry::Config>().unwrap());
        Request { policy, n_choices: 1 + i % 2, ..Request::new(prompt(i), params, 40) }
    };
    (0..8).map(request).collect()
}

fn served<B: Backend>(executor: ModelExecutor<B>, policy: &str) -> Run {
    run(executor, Off, Config::default(), &requests(policy))
}

#[test]
fn a_translated_draft_is_no_head() {
    let shape = translated_pair(Reference, Rule::Block, 4).shape();
    assert!(!shape.draft_reads_target);
}

/// Tokens drafted, verified, accepted, drafted ahead and carried.
fn sums(run: &Run) -> [u32; 5] {
    let StepReport { drafted, verified, accepted, ahead, carried, .. } = run.sums;
    [drafted, verified, accepted, ahead, carried]
}

fn renumbering_changes_nothing<B: Backend>(backend: impl Fn() -> B, policies: &[&str]) {
    let (folder, whole) = (renumbered(), translation(|_| true));
    for policy in policies {
        let expected = served(tiny_pair(backend(), Rule::Block, 96), policy);
        let got = served(pair(backend(), folder.path(), &whole, Rule::Block, 96), policy);
        assert_eq!(got.outputs, expected.outputs, "{policy}");
        assert_eq!(sums(&got), sums(&expected), "{policy}");
        assert!(got.sums.accepted > 0, "{policy}");
    }
}

#[test]
fn a_draft_with_renumbered_tokens_drafts_what_it_drafts_without() {
    renumbering_changes_nothing(|| Reference, &["fixed:k=4"]);
    renumbering_changes_nothing(|| Cpu::new(2), &["fixed:k=4", "adaedl", "ddd:width=4", "faser:overlap=4"]);
}

#[test]
fn proposals_are_drafted_ahead_as_without_a_translation() {
    let (folder, whole) = (renumbered(), translation(|_| true));
    let requests = requests("off").into_iter().map(|request| Request { policy: None, ..request });
    let requests: Vec<Request> = requests.collect();
    let run = |executor| {
        let settings = Settings::parse(&faser::ENTRY, Some("k_min=2,k_max=3,overlap=3"));
        run(executor, Faser::new(&settings.unwrap()).unwrap(), Config::default(), &requests)
    };
    let expected = run(tiny_pair(Cpu::new(2), Rule::Block, 96));
    let got = run(pair(Cpu::new(2), folder.path(), &whole, Rule::Block, 96));
    assert_eq!((&got.outputs, sums(&got)), (&expected.outputs, sums(&expected)));
    assert!(got.sums.ahead > 0);
}

#[test]
fn every_policy_emits_what_plain_decoding_emits() {
    let (folder, part) = (renumbered(), two_of_three());
    let executor = |n_blocks| pair(Cpu::new(2), folder.path(), &part, Rule::Block, n_blocks);
    let plain = served(executor(96), "off").outputs;
    let (mut drafted, mut accepted) = (0, 0);
    for policy in policies() {
        for n_blocks in [96, 12] {
            let got = served(executor(n_blocks), &policy);
            assert_eq!(got.outputs, plain, "{policy}, {n_blocks} blocks");
            (drafted, accepted) = (drafted + got.sums.drafted, accepted + got.sums.accepted);
        }
    }
    assert!(0 < accepted && accepted < drafted);
}

fn lending(folder: &TempDir, n_blocks: u32) -> ModelExecutor<Cpu> {
    let path = folder.path().to_path_buf();
    let source = DraftSource::new(move || Ok(Checkpoint::open(&path)?));
    pair(Cpu::new(2), folder.path(), &two_of_three(), Rule::Block, n_blocks).with_draft_source(source)
}

/// Tokens that the draft guesses behind a few.
fn drafted(executor: &mut ModelExecutor<Cpu>) -> Vec<Drafted> {
    Decoder::new(&Params::greedy(), &[3, 77, 12, 5], blocks(0, 1)).draft(executor, 6).1
}

#[test]
fn a_draft_that_was_lent_reads_and_guesses_as_before() {
    let folder = renumbered();
    let mut executor = lending(&folder, 5);
    let before = (executor.memory(), drafted(&mut executor));
    executor.lend_draft().unwrap();
    executor.reclaim_draft().unwrap();
    assert_eq!((executor.memory(), drafted(&mut executor)), before);
    let plain = served(lending(&folder, 96), "off").outputs;
    let mut requests = requests("off");
    requests.iter_mut().for_each(|request| request.policy = None);
    for n_blocks in [9, 24] {
        let moody = Moody { on: 3, off: 2, step: 0 };
        let got = run(lending(&folder, n_blocks), moody, Config::default(), &requests);
        assert_eq!(got.outputs, plain, "{n_blocks} blocks");
        assert!(got.sums.blocks_lent > 0 && got.sums.drafted > 0, "both happened");
    }
}

#[test]
fn of_the_vocabulary_a_draft_keeps_what_it_reads_and_guesses() {
    let memory = |translation| pair(Reference, renumbered().path(), &translation, Rule::Block, 5).memory();
    let (whole, part) = (memory(translation(|_| true)), memory(two_of_three()));
    assert_eq!(whole.target_weight_bytes, part.target_weight_bytes);
    // 42 tokens fewer: a row of 64 in bf16, one in f32, and three numbers of tables.
    assert_eq!(whole.draft_weight_bytes - part.draft_weight_bytes, 42 * (64 * 2 + 64 * 4 + 3 * 4));
    let estimate = |translation: &Arc<Translation>| {
        let checkpoint = Checkpoint::open(renumbered().path()).unwrap();
        DraftCheckpoint::Translated { checkpoint: &checkpoint, translation }.weight_bytes()
    };
    // Tied weights of the whole vocabulary are stored once, in bf16 as everything here.
    let stored = open("qwen2").weight_bytes() - 128 * 64 * 2;
    assert_eq!(estimate(&two_of_three()), stored + 2 * 86 * 64 * 2 + 4 * (128 + 3 * 86));
}

#[test]
fn a_translation_between_other_vocabularies_is_refused() {
    let (target, draft) = (open("llama3"), open("qwen2"));
    let translation = two_of_three();
    let draft = DraftCheckpoint::Translated { checkpoint: &draft, translation: &translation };
    let refused = draft.check_fit(target.config());
    assert!(matches!(refused, Err(Error::TranslationLen { expected: [128, 128], got: [128, 160] })));
}
