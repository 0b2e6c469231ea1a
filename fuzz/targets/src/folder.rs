//! The small files of a model folder, beside weights that are in order.

use dsde_checkpoint::gguf::Gguf;
use dsde_checkpoint::{Checkpoint, Conversion, Mix};
use dsde_text::{ChatTemplate, Tokenizer, gguf_keys};

use crate::gguf::{assert_assistant_if_any, assert_head_if_any, assert_tensors};
use crate::input::{files, head_and_body, sections};

/// Files that an input may hold.
const NAMES: [&str; 9] = [
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
    "model.safetensors",
];
/// The weights that an index may name: `a`, `[2, 3]` in bf16, and `b`, `[2]` in f32.
const SHARD: &str = r#"{"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[2],"data_offsets":[12,20]}}       "#;

/// A folder is a model, an assistant or neither, and what was made of it can be used; text that is written into a GGUF file is read again from there.
///
/// Input: files behind lines of dashes, the first line of each its name.
pub fn folder(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let given = sections(&text).map(head_and_body).filter(|(name, _)| NAMES.contains(name));
    let mut all: Vec<(&str, &[u8])> = given.map(|(name, text)| (name, text.as_bytes())).collect();
    let shard = [&(SHARD.len() as u64).to_le_bytes()[..], SHARD.as_bytes(), &[0; 20]].concat();
    all.push(("a.safetensors", &shard));
    let folder = files(&all);
    let path = folder.path();
    let (model, tokenizer) = (Checkpoint::open(path), Tokenizer::open(path));
    assert_head_if_any(path);
    assert_assistant_if_any(path);
    if let (Ok(template), Ok(tokenizer)) = (ChatTemplate::open(path), &tokenizer) {
        let _ = template.end_of_turn(tokenizer);
        let _ = template.for_tokenizer(tokenizer).is_ok_and(|template| template.try_out().is_ok());
    }
    let Ok(model) = model else { return };
    assert_tensors(&model);
    // `dsde quantize` opens the tokenizer, too.
    let (Ok(tokenizer), Ok(keys)) = (tokenizer, gguf_keys(path, model.config())) else { return };
    let Ok(conversion) = Conversion::of_folder(&model, keys, Mix::F16) else { return };
    let mut out = Vec::new();
    if conversion.write(&mut out, 1, |_| {}).is_err() {
        return;
    }
    let folder = files(&[("model.gguf", &out)]);
    let file = Gguf::open(&folder.path().join("model.gguf")).expect("a file that was written");
    let again = Tokenizer::from_gguf("model.gguf", file.metadata()).expect("text that was written");
    for text in ["Hello, world!", "a  b\n\n1234 \u{1F600}\u{E9}"] {
        let tokens = tokenizer.encode(text).ok();
        assert_eq!(tokens, again.encode(text).ok(), "{text:?}");
    }
}
