//! Log-probabilities of prompts, of a real model.

use dsde_engine::{BlockId, Config, Request, RowBatch};
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::embedded;
use dsde_model::executor::{self, Checkpoints, DraftCheckpoint, KvSize, ModelExecutor};
use dsde_model::llama::{Llama, kv_shape};
use dsde_policy::Fixed;
use dsde_sampling::{Params, Proposal, TokenLogprobs};

use crate::serve::run;

const TEXT: &str = "<|im_start|>user\nTell me about the sea.<|im_end|>\n<|im_start|>assistant\nThe sea";

fn request(prompt: Vec<u32>) -> Request {
    let params = Params { logprobs: Some(2), ..Params::greedy() };
    Request { scores_prompt: true, ..Request::new(prompt, params, 5) }
}

/// All logits of the prompt at once, in plain arithmetic.
fn expected(prompt: &[u32]) -> Vec<f64> {
    let mut model = Llama::load(&Reference, &embedded::target(), prompt.len() as u32).unwrap();
    let n_blocks = prompt.len().div_ceil(Reference.block_len());
    let table: Vec<BlockId> = (0..n_blocks as u32).map(BlockId).collect();
    let mut kv = Reference.kv_store(&kv_shape(model.config(), n_blocks));
    let mut rows = RowBatch::default();
    rows.push(0, prompt, &Proposal::new(), &table);
    let outputs: Vec<u32> = (0..prompt.len() as u32 - 1).collect();
    model.forward(&Reference, &rows, &outputs, &mut kv);
    let vocab_len = model.config().vocab_len;
    let logits = model.logits(&Reference, 0..outputs.len());
    let score = |(row, &token): (&[f32], &u32)| {
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        f64::from(row[token as usize]) - sum.ln()
    };
    logits.chunks_exact(vocab_len).zip(&prompt[1..]).map(score).collect()
}

fn scores<B: Backend>(backend: B, rows_max: u32, requests: &[Request]) -> Vec<Vec<TokenLogprobs>> {
    let (target, draft) = (embedded::target(), embedded::draft());
    let config = executor::Config { kv: KvSize::Blocks(64), ..Default::default() };
    let checkpoints = Checkpoints { target: &target, draft: Some(DraftCheckpoint::Model(&draft)) };
    let executor = ModelExecutor::new(backend, checkpoints, config).unwrap();
    let config = Config { rows_max, sequences_max: 4, ..Config::default() };
    run(executor, Fixed::new(2), config, requests).scored.into_values().collect()
}

#[test]
fn scores_are_those_of_the_model() {
    let prompt = embedded::tokenizer().encode(TEXT).unwrap();
    let expected = expected(&prompt);
    for got in
        [scores(Reference, 256, &[request(prompt.clone())]), scores(Cpu::new(2), 256, &[request(prompt)])]
    {
        assert_eq!(got[0].len(), expected.len());
        for (got, &expected) in got[0].iter().zip(&expected) {
            assert!((f64::from(got.logprob) - expected).abs() < 0.05, "{} {expected}", got.logprob);
            assert_eq!(got.top.len(), 2);
            assert!(got.top[0].1 >= got.logprob && got.top[0].1 >= got.top[1].1);
        }
    }
}

#[test]
fn company_and_chunks_change_no_bit_of_a_score() {
    let prompt = embedded::tokenizer().encode(TEXT).unwrap();
    let long =
        [&prompt[..], &prompt, &prompt[..7], &prompt, &prompt, &prompt, &prompt, &prompt, &prompt].concat();
    assert!(long.len() > 128, "more rows than logits exist for at once");
    let requests = [request(long), request(prompt[2..].to_vec()), request(prompt)];
    let together = scores(Cpu::new(2), 256, &requests);
    for rows_max in [4, 33, 1024] {
        let alone: Vec<_> = requests
            .iter()
            .flat_map(|one| scores(Cpu::new(1), rows_max, std::slice::from_ref(one)))
            .collect();
        assert_eq!(alone, together, "{rows_max} rows");
    }
}
