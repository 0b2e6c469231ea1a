//! Mixtures of experts: a row does not notice its neighbours, speculation does not change the output, and what passes wake is told.

use dsde_engine::{Config as EngineConfig, Drafter, Request, RowBatch, Suffix};
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::Llama;
use dsde_model::executor::{Checkpoints, Config, DraftCheckpoint, KvSize, ModelExecutor};
use dsde_model::llama::kv_shape;
use dsde_policy::{Auto, ExpertsWoken, Fixed, Off, Policy, auto, registry::Settings};
use dsde_sampling::{Params, Proposal};

use crate::pair::{blocks, open};
use crate::serve::{Run, run_as};

const FAMILIES: [&str; 6] = ["qwen3_moe", "qwen3_moe_mixed", "mixtral", "olmoe", "gpt_oss", "gpt_oss_mxfp4"];

/// Logits after the last of some tokens, which are read in chunks of several lengths.
fn logits<B: Backend>(model: &mut Llama<B>, backend: &B, tokens: &[u32], chunks: &[usize]) -> Vec<u32> {
    let table = blocks(0, tokens.len().div_ceil(backend.block_len()) as u32);
    let mut kv = backend.kv_store(&kv_shape(model.config(), table.len()));
    let mut start = 0;
    for len in chunks {
        let mut rows = RowBatch::default();
        rows.push(start as u32, &tokens[start..start + len], &Proposal::new(), &table);
        model.forward(backend, &rows, &[*len as u32 - 1], &mut kv);
        start += len;
    }
    assert_eq!(start, tokens.len());
    model.logits(backend, 0..1).iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_row_has_the_same_bits_beside_any_number_of_rows() {
    let tokens: Vec<u32> = (0..40).map(|i| (i * i + 3) % 128).collect();
    for family in FAMILIES {
        let checkpoint = open(family);
        for backend in [Cpu::new(1), Cpu::new(2)] {
            let mut model = Llama::load(&backend, &checkpoint, 64).unwrap();
            let expected = logits(&mut model, &backend, &tokens, &[1; 40]);
            for chunks in [&[40][..], &[39, 1], &[1, 39], &[13, 14, 13], &[2, 3, 5, 7, 11, 12]] {
                let got = logits(&mut model, &backend, &tokens, chunks);
                assert_eq!(got, expected, "{family} in chunks of {chunks:?} on {}", backend.describe());
            }
        }
    }
}

fn executor<B: Backend>(backend: B, family: &str) -> ModelExecutor<B> {
    let (target, draft) = (open(family), open("qwen2"));
    let draft = Some(DraftCheckpoint::Model(&draft));
    let config = Config { kv: KvSize::Blocks(64), ..Config::default() };
    ModelExecutor::new(backend, Checkpoints { target: &target, draft }, config).unwrap()
}

/// Six prompts that repeat themselves, of several lengths.
fn requests() -> Vec<Request> {
    let prompt = |i: u32| (0..20 + 3 * i).map(|j| (j % (4 + i) * 37 + i) % 128).collect();
    (0..6).map(|i| Request::new(prompt(i), Params::greedy(), 48)).collect()
}

fn served(family: &str, policy: impl Policy + 'static, drafter: Drafter) -> Run {
    run_as(
        executor(Cpu::new(2), family),
        policy,
        EngineConfig { drafter, ..EngineConfig::default() },
        &requests(),
    )
}

#[test]
fn speculation_does_not_change_greedy_output() {
    for family in FAMILIES {
        let plain = served(family, Off, Drafter::None).outputs;
        assert!(plain.values().all(|output| !output.is_empty()));
        for drafter in [Drafter::Suffix(Suffix::default()), Drafter::Model] {
            let mut sums = Vec::new();
            for len in [1, 3, 8] {
                let run = served(family, Fixed::new(len), drafter);
                assert_eq!(run.outputs, plain, "{family}, {drafter:?}, {len} tokens");
                sums.push((run.sums.verified, run.sums.accepted));
            }
            assert!(sums.iter().all(|&(verified, _)| verified > 0), "{family}, {drafter:?}: {sums:?}");
            let auto = Auto::new(&Settings::parse(&auto::ENTRY, None).unwrap());
            assert_eq!(served(family, auto, drafter).outputs, plain, "{family}, {drafter:?}, auto");
        }
        // What repeats is repeated, so some of it is kept and some is not.
        let run = served(family, Fixed::new(4), Drafter::Suffix(Suffix::default()));
        assert!((1..run.sums.verified).contains(&run.sums.accepted), "{family}: {:?}", run.sums);
    }
}

#[test]
fn passes_tell_what_they_woke() {
    let check = |family: &str, n_rows: u32, expected: &dyn Fn(ExpertsWoken) -> bool| {
        let mut model = executor(Reference, family);
        let mut rows = RowBatch::default();
        let tokens: Vec<u32> = (0..n_rows).map(|i| i * 7 % 128).collect();
        rows.push(0, &tokens, &Proposal::new(), &blocks(0, 2));
        let mut pass = || {
            let params = Params::greedy();
            let decoder = crate::pair::Decoder::new(&params, &tokens, blocks(0, 2));
            let proposal = Proposal::new();
            let draw = decoder.target_draw(&proposal, false);
            dsde_engine::Executor::verify(&mut model, &rows, &[draw], &mut Vec::new()).unwrap();
            dsde_engine::Executor::take_experts_woken(&mut model)
        };
        let woken = pass().unwrap();
        assert!(expected(woken), "{family}, {n_rows} rows: {woken:?}");
        // Of one pass alone.
        assert_eq!(pass(), Some(woken));
    };
    // Each row asks 3 of 8 in both layers; of the last layer only the row that is drawn from.
    let shape = |woken: ExpertsWoken| (woken.n_layers, woken.n_experts, woken.n_chosen);
    check("qwen3_moe", 1, &|woken| shape(woken) == (2, 8, 3) && woken.n_woken == 6);
    check("qwen3_moe", 20, &|woken| shape(woken) == (2, 8, 3) && (8..=11).contains(&woken.n_woken));
    // The middle layer has none.
    check("qwen3_moe_mixed", 1, &|woken| shape(woken) == (2, 6, 2) && woken.n_woken == 4);
    let mut dense = executor(Reference, "llama3");
    assert_eq!(dsde_engine::Executor::take_experts_woken(&mut dense), None);
}
