//! Gemma 4 through passes and the engine: layers of two shapes and layers that share keys and values change nothing that others rely on.

use dsde_engine::{Config, RowBatch};
use dsde_kernels::cpu::KvType;
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::Llama;
use dsde_model::executor::{self, Checkpoints, DraftCheckpoint, KvSize, ModelExecutor};
use dsde_model::llama::kv_shape;
use dsde_policy::Off;
use dsde_sampling::Proposal;

use crate::pair::{blocks, open};
use crate::serve::{self, Run, mixed_requests, prompt, run, run_as};
use crate::trees::{OF_ALL_KINDS, Shape};

const TARGETS: [&str; 3] = ["gemma4", "gemma4_shared", "gemma4_moe"];
/// Sequences reach far beyond the window, 10.
const TOKENS_MAX: u32 = 40;

fn executor<B: Backend>(backend: B, target: &str, draft: Option<&str>, n_blocks: u32) -> ModelExecutor<B> {
    let (target, draft) = (open(target), draft.map(open));
    let config = executor::Config { kv: KvSize::Blocks(n_blocks), ..executor::Config::default() };
    let draft = draft.as_ref().map(DraftCheckpoint::Model);
    ModelExecutor::new(backend, Checkpoints { target: &target, draft }, config).unwrap()
}

fn plain<B: Backend>(backend: B, target: &str) -> Run {
    let config = Config { prefix_cache: false, ..Config::default() };
    run_as(executor(backend, target, None, 60), Off, config, &mixed_requests(TOKENS_MAX))
}

fn speculation_changes_nothing<B: Backend>(backend: impl Fn() -> B, targets: &[&str]) {
    for &target in targets {
        let expected = plain(backend(), target).outputs;
        let mut preemptions = 0;
        // One that guesses right and one that guesses wrong; all at once, and with so few blocks that sequences are preempted.
        for (draft, n_blocks) in [(target, 60), (target, 8), ("qwen2_window", 60), ("qwen2_window", 8)] {
            for shape in OF_ALL_KINDS {
                let executor = executor(backend(), target, Some(draft), n_blocks);
                let got = run(executor, shape, Config::default(), &mixed_requests(TOKENS_MAX));
                assert_eq!(got.outputs, expected, "{target}, {draft}, {shape:?}, {n_blocks} blocks");
                let is_off = matches!(shape, Shape::Off);
                assert!(is_off || target != draft || got.sums.accepted > 0, "{target}: it guesses itself");
                preemptions += got.preemptions;
            }
        }
        assert!(preemptions > 0, "{target}: some are preempted");
    }
}

#[test]
fn speculation_changes_nothing_on_the_reference() {
    speculation_changes_nothing(|| Reference, &TARGETS[1..2]);
}

#[test]
fn speculation_changes_nothing_on_the_processor() {
    speculation_changes_nothing(|| Cpu::new(2), &TARGETS);
}

#[test]
fn speculation_changes_nothing_whatever_keys_and_values_are_kept_in() {
    for kv_type in [KvType::F16, KvType::Int8] {
        let backend = || Cpu::new(2).with_kv_type(kv_type);
        let expected = plain(backend(), "gemma4_shared").outputs;
        let executor = executor(backend(), "gemma4_shared", Some("gemma4_shared"), 60);
        let got = run(executor, Shape::Mixed, Config::default(), &mixed_requests(TOKENS_MAX));
        assert_eq!(got.outputs, expected, "{kv_type:?}");
    }
}

#[test]
fn chunks_and_cached_prefixes_change_nothing() {
    for target in TARGETS {
        let expected = plain(Cpu::new(2), target);
        let limits = [(1, 1), (1, 5), (2, 16), (3, 17), (5, 64)];
        let executor = || executor(Cpu::new(2), target, None, 60);
        serve::chunks_and_cached_prefixes_change_nothing(
            executor,
            &mixed_requests(TOKENS_MAX),
            &expected,
            &limits,
        );
    }
}

/// Logits of the last token of 40 as bits, those before in chunks without any output.
fn last_logits<B: Backend>(model: &mut Llama<B>, backend: &B, chunks: &[usize]) -> Vec<u32> {
    let tokens = prompt(3, 40);
    let table = blocks(0, 3);
    let mut kv = backend.kv_store(&kv_shape(model.config(), table.len()));
    let mut start = 0;
    for len in chunks {
        let mut rows = RowBatch::default();
        rows.push(start as u32, &tokens[start..start + len], &Proposal::new(), &table);
        start += len;
        let last = [*len as u32 - 1];
        model.forward(backend, &rows, if start == 40 { &last } else { &[] }, &mut kv);
    }
    model.logits(backend, 0..1).iter().map(|x| x.to_bits()).collect()
}

/// Where nobody wants logits, layers that store nothing do not run, and what is stored is the same.
#[test]
fn prompts_in_chunks_have_the_bits_of_prompts_read_at_once() {
    fn check<B: Backend>(backend: &B) {
        for target in TARGETS {
            let mut model = Llama::load(backend, &open(target), 64).unwrap();
            let expected = last_logits(&mut model, backend, &[40]);
            for chunks in [&[39, 1][..], &[1, 39], &[13, 14, 13], &[1; 40]] {
                let got = last_logits(&mut model, backend, chunks);
                assert_eq!(got, expected, "{target} in {chunks:?} on {}", backend.describe());
            }
        }
    }
    check(&Reference);
    check(&Cpu::new(1));
    check(&Cpu::new(2));
}

#[test]
fn a_block_holds_what_layers_store_and_no_more() {
    let bytes = |target: &str| executor::block_bytes(&Reference, open(target).config());
    // 16 slots, keys and values of 4 bytes an element: two layers of two heads of 8, two of one of 16.
    assert_eq!(bytes("gemma4"), 16 * 2 * 4 * (2 * 2 * 8 + 2 * 16));
    // Three layers of six: two of two heads of 8, one of two of 16.
    assert_eq!(bytes("gemma4_shared"), 16 * 2 * 4 * (2 * 2 * 8 + 2 * 16));
}
