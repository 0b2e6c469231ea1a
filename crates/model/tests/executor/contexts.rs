//! A draft with a shorter context than the target's drafts for as far as it can read, and then no more.

use std::path::Path;

use dsde_checkpoint::Checkpoint;
use dsde_engine::{Config, Executor, Request};
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::embedded;
use dsde_model::executor::{self, Checkpoints, DraftCheckpoint, KvSize, ModelExecutor};
use dsde_policy::{Fixed, Off};
use dsde_sampling::Params;
use serde_json::Value;

use crate::serve::run;

const DRAFT_CONTEXT: u32 = 40;
const N_TOKENS: u32 = 60;
const TEXT: &str = "<|im_start|>user\nTell me about the sea.<|im_end|>\n<|im_start|>assistant\n";

/// The embedded draft as if it had been trained on shorter texts.
fn short_draft() -> Checkpoint {
    let draft = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/draft");
    let folder = tempfile::tempdir().unwrap();
    for file in ["generation_config.json", "model.safetensors"] {
        std::fs::copy(draft.join(file), folder.path().join(file)).unwrap();
    }
    let config = std::fs::read(draft.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["max_position_embeddings"] = DRAFT_CONTEXT.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    Checkpoint::open(folder.path()).unwrap()
}

fn pair<B: Backend>(backend: B) -> ModelExecutor<B> {
    let (target, draft) = (embedded::target(), short_draft());
    let config = executor::Config { kv: KvSize::Blocks(64), ..Default::default() };
    ModelExecutor::new(
        backend,
        Checkpoints { target: &target, draft: Some(DraftCheckpoint::Model(&draft)) },
        config,
    )
    .unwrap()
}

fn check<B: Backend>(backend: impl Fn() -> B) {
    let prompt = embedded::tokenizer().encode(TEXT).unwrap();
    // The last one is longer than the draft reads.
    let long = [&prompt[..], &prompt, &prompt].concat();
    let prompts = [prompt.clone(), prompt[3..].to_vec(), long];
    assert!(prompts[0].len() < DRAFT_CONTEXT as usize && prompts[2].len() > DRAFT_CONTEXT as usize);
    let requests = prompts.map(|prompt| Request::new(prompt, Params::greedy(), N_TOKENS));
    let plain = run(pair(backend()), Off, Config::default(), &requests);
    let speculative = run(pair(backend()), Fixed::new(4), Config::default(), &requests);
    assert_eq!(speculative.outputs, plain.outputs);
    assert!(speculative.outputs.values().all(|output| output.len() == N_TOKENS as usize));
    assert!(speculative.sums.accepted > 0);
}

#[test]
fn a_short_draft_leaves_the_context_and_the_output_alone() {
    let shape = pair(Reference).shape();
    // 64 blocks of 16.
    assert_eq!((shape.context_len_max, shape.draft_context_len), (1024, Some(DRAFT_CONTEXT)));
    check(|| Reference);
    check(|| Cpu::new(2));
}
