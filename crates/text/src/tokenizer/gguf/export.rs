//! What the metadata of a GGUF file say about text, from the files of a folder.
//!
//! Such a file names how texts are split and does not spell it out. A folder is taken if its tokenizer does exactly what a name
//! stands for; any other is refused, since a model that reads other tokens than it was trained on answers worse without a sign.

use std::path::Path;

use dsde_checkpoint::Error as FileError;
use dsde_checkpoint::ModelConfig;
use dsde_checkpoint::files::{JSON_BYTES_MAX, json, read_optional};
use dsde_checkpoint::gguf::Keys;
use serde_json::Value;

use super::splits::{WORDS, name_of};
use crate::chat::{TEMPLATE, TEMPLATE_BYTES_MAX};
use crate::error::Error;
use crate::template_config::{self, GGUF_FIELD};

const FILE: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
/// Longest piece of a file in a message, in characters.
const SHOWN_CHARS_MAX: usize = 160;

/// Kinds of tokens as numbered in GGUF files.
mod kind {
    pub(super) const NORMAL: i32 = 1;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const USER_DEFINED: i32 = 4;
    pub(super) const UNUSED: i32 = 5;
}

/// Metadata of tokenizer and chat template, from the files of a folder.
///
/// Rows of the embeddings without a token get one that no text uses, `[PAD7]` with id 7.
///
/// # Errors
/// If a file cannot be read, or the tokenizer is none that the name of a byte-level one in GGUF files stands for.
pub fn gguf_keys(folder: &Path, config: &ModelConfig) -> Result<Keys, Error> {
    let text = read_optional(&folder.join(FILE), JSON_BYTES_MAX)?
        .ok_or(FileError::MissingFile { path: folder.to_path_buf(), expected: FILE })?;
    let file: Value = json(FILE, &text)?;
    let tokenizer_config: Value = json(CONFIG, &template_config::read(folder)?)?;
    let vocabulary = Vocabulary::read(&file, config.n_embeddings)?;

    let mut keys = Keys::default();
    keys.text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", split_name(&file)?)
        .texts("tokenizer.ggml.tokens", vocabulary.texts.iter().map(String::as_str))
        .i32s("tokenizer.ggml.token_type", &vocabulary.kinds)
        .texts("tokenizer.ggml.merges", merges(&file)?.iter().map(String::as_str));
    put_marks(&mut keys, &file, &tokenizer_config, config, &vocabulary)?;
    put_templates(&mut keys, folder, &tokenizer_config)?;
    Ok(keys)
}

/// Tokens by id.
#[derive(Debug)]
struct Vocabulary {
    texts: Vec<String>,
    kinds: Vec<i32>,
}

impl Vocabulary {
    /// * `len`: rows of the embeddings.
    fn read(file: &Value, len: usize) -> Result<Self, Error> {
        let filler = |id: usize| (format!("[PAD{id}]"), kind::UNUSED);
        let mut tokens: Vec<(String, i32)> = (0..len).map(filler).collect();
        let mut set = |text: &str, id: &Value, kind: i32| {
            let slot = id.as_u64().and_then(|id| tokens.get_mut(usize::try_from(id).ok()?));
            let slot = slot.ok_or_else(|| {
                refused(format!("token {text:?} with id {id}, of {len} rows of embeddings"))
            })?;
            *slot = (text.to_string(), kind);
            Ok::<_, Error>(())
        };
        let Some(vocab) = file["model"]["vocab"].as_object() else {
            return Err(refused("model.vocab is not a map from texts to ids"));
        };
        for (text, id) in vocab {
            set(text, id, kind::NORMAL)?;
        }
        for token in file["added_tokens"].as_array().into_iter().flatten() {
            let text = token["content"].as_str().unwrap_or_default();
            // Whether the spaces around it belong to it, or it is found within a word.
            if ["single_word", "lstrip", "rstrip"].iter().any(|flag| token[flag] == true) {
                return Err(refused(format!("added token {}", shown(token))));
            }
            let kind = if token["special"] == true { kind::CONTROL } else { kind::USER_DEFINED };
            set(text, &token["id"], kind)?;
        }
        let (texts, kinds) = tokens.into_iter().unzip();
        Ok(Self { texts, kinds })
    }

    /// Id of a text.
    fn id(&self, text: &str) -> Option<u32> {
        self.texts.iter().position(|found| found == text).map(|id| id as u32)
    }

    /// Id of a token that `tokenizer_config.json` names, as a text or with flags.
    fn named(&self, token: &Value) -> Option<u32> {
        self.id(token.as_str().or_else(|| token["content"].as_str())?)
    }
}

/// The name of how texts are split.
fn split_name(file: &Value) -> Result<&'static str, Error> {
    let (model, normalizer) = (&file["model"], &file["normalizer"]);
    let is_absent = |field: &str| model[field].is_null() || model[field] == "" || model[field] == 0.0;
    let is_plain = (model["type"].is_null() || model["type"] == "BPE")
        && model["byte_fallback"] != true
        && ["dropout", "continuing_subword_prefix", "end_of_word_suffix"].into_iter().all(is_absent)
        && file["decoder"]["type"] == "ByteLevel";
    if !is_plain {
        return Err(refused("not a byte-level BPE; files of the SentencePiece kind need tokenizer.model"));
    }
    let composes = match normalizer {
        Value::Null => false,
        normalizer if normalizer["type"] == "NFC" => true,
        other => return Err(refused(format!("normalizer {}", shown(other)))),
    };
    let keeps_words = model["ignore_merges"] == true;
    let name = expressions(&file["pre_tokenizer"])
        .and_then(|expressions| name_of(&expressions, composes, keeps_words));
    name.ok_or_else(|| {
        let with = |is_set: bool, what: &'static str| if is_set { what } else { "" };
        let (form, words) = (with(composes, ", with NFC"), with(keeps_words, ", with ignore_merges"));
        refused(format!("pre_tokenizer {}{form}{words}", shown(&file["pre_tokenizer"])))
    })
}

/// The expressions that a pre-tokenizer splits by, if it does nothing else than that and to spell bytes.
fn expressions(pre_tokenizer: &Value) -> Option<Vec<&str>> {
    let steps = match pre_tokenizer["type"].as_str()? {
        "Sequence" => pre_tokenizer["pretokenizers"].as_array()?.as_slice(),
        _ => std::slice::from_ref(pre_tokenizer),
    };
    let (last, steps) = steps.split_last()?;
    let mut expressions = Vec::new();
    for step in steps {
        expressions.push(match step["type"].as_str()? {
            "Split" if step["behavior"] == "Isolated" && step["invert"] != true => {
                step["pattern"]["Regex"].as_str()?
            }
            "Digits" if step["individual_digits"] == true => r"\p{N}",
            "Digits" => r"\p{N}+",
            _ => return None,
        });
    }
    if last["type"] != "ByteLevel" || last["add_prefix_space"] != false {
        return None;
    }
    if last["use_regex"] != false {
        expressions.push(WORDS);
    }
    Some(expressions)
}

/// Two tokens each, with a space between them.
fn merges(file: &Value) -> Result<Vec<String>, Error> {
    let broken = |merge: &Value| refused(format!("merge {}", shown(merge)));
    let merges = file["model"]["merges"].as_array().ok_or_else(|| broken(&file["model"]["merges"]))?;
    let text = |merge: &Value| match merge {
        Value::String(text) => Ok(text.clone()),
        // A space within a token could not be told from that between them.
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(left), Value::String(right)] if !left.contains(' ') && !right.contains(' ') => {
                Ok(format!("{left} {right}"))
            }
            _ => Err(broken(merge)),
        },
        _ => Err(broken(merge)),
    };
    merges.iter().map(text).collect()
}

/// Tokens that stand around texts.
fn put_marks(
    keys: &mut Keys,
    file: &Value,
    tokenizer_config: &Value,
    config: &ModelConfig,
    vocabulary: &Vocabulary,
) -> Result<(), Error> {
    let [before, behind] = around(&file["post_processor"])
        .ok_or_else(|| refused(format!("post_processor {}", shown(&file["post_processor"]))))?;
    let id = |token: Option<&str>| match token {
        None => Ok(None),
        Some(text) => {
            vocabulary.id(text).map(Some).ok_or_else(|| refused(format!("{text:?} is not in the vocabulary")))
        }
    };
    let (before, behind) = (id(before)?, id(behind)?);
    let begin = before.or(config.bos_token).or_else(|| vocabulary.named(&tokenizer_config["bos_token"]));
    let end = behind.or_else(|| vocabulary.named(&tokenizer_config["eos_token"]));
    let mut ends: Vec<u32> = end.into_iter().collect();
    for &token in &config.eos_tokens {
        if !ends.contains(&token) {
            ends.push(token);
        }
    }
    let marks = [
        ("bos_token_id", begin),
        ("eos_token_id", ends.first().copied()),
        ("eot_token_id", ends.get(1).copied()),
        ("eom_token_id", ends.get(2).copied()),
        ("padding_token_id", vocabulary.named(&tokenizer_config["pad_token"])),
        ("unknown_token_id", vocabulary.named(&tokenizer_config["unk_token"])),
    ];
    for (name, id) in marks {
        if let Some(id) = id {
            keys.u32(&format!("tokenizer.ggml.{name}"), id);
        }
    }
    keys.flag("tokenizer.ggml.add_bos_token", before.is_some())
        .flag("tokenizer.ggml.add_eos_token", behind.is_some());
    Ok(())
}

/// Tokens before and behind plain text, if that is all that is put around it.
fn around(post_processor: &Value) -> Option<[Option<&str>; 2]> {
    match post_processor["type"].as_str() {
        None => post_processor.is_null().then_some([None; 2]),
        Some("ByteLevel") => Some([None; 2]),
        Some("Sequence") => {
            let mut all = None;
            for step in post_processor["processors"].as_array()? {
                match around(step)? {
                    [None, None] => {}
                    _ if all.is_some() => return None,
                    found => all = Some(found),
                }
            }
            Some(all.unwrap_or_default())
        }
        Some("TemplateProcessing") => {
            let single = post_processor["single"].as_array()?;
            let at = single.iter().position(|step| !step["Sequence"].is_null())?;
            Some([token_of(&single[..at])?, token_of(&single[at + 1..])?])
        }
        Some(_) => None,
    }
}

/// The only token of a part of a template; `Some(None)` where it has none.
fn token_of(steps: &[Value]) -> Option<Option<&str>> {
    match steps {
        [] => Some(None),
        [step] => step["SpecialToken"]["id"].as_str().map(Some),
        _ => None,
    }
}

/// The chat template, or all by name.
fn put_templates(keys: &mut Keys, folder: &Path, tokenizer_config: &Value) -> Result<(), Error> {
    if let Some(text) = read_optional(&folder.join(TEMPLATE), TEMPLATE_BYTES_MAX)? {
        keys.text(GGUF_FIELD, &String::from_utf8_lossy(&text));
        return Ok(());
    }
    match &tokenizer_config["chat_template"] {
        Value::String(text) => {
            keys.text(GGUF_FIELD, text);
        }
        Value::Array(named) => {
            for entry in named {
                match (entry["name"].as_str(), entry["template"].as_str()) {
                    (Some("default"), Some(text)) => keys.text(GGUF_FIELD, text),
                    (Some(name), Some(text)) => keys.text(&format!("{GGUF_FIELD}.{name}"), text),
                    _ => continue,
                };
            }
        }
        _ => {}
    }
    Ok(())
}

fn refused(got: impl Into<String>) -> Error {
    FileError::Unsupported {
        feature: "a tokenizer.json that GGUF files have no name for",
        got: got.into(),
        hint: "give a GGUF file of the model instead of the folder",
    }
    .into()
}

/// A part of a file in a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A tokenizer that splits as SmolLM does.
    fn smollm() -> Value {
        json!({
            "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": true},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            ]},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 2}, "merges": ["a b", ["b", "a"]]},
            "added_tokens": [{"id": 1, "content": "<end>", "special": true}],
        })
    }

    #[track_caller]
    fn check(change: impl Fn(&mut Value), expected: Result<&str, &str>) {
        let mut file = smollm();
        change(&mut file);
        let got = split_name(&file).map_err(|error| error.to_string());
        match (got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected),
            (Err(got), Err(part)) => assert!(got.contains(part), "{got}"),
            (got, expected) => panic!("expected {expected:?}, got {got:?}"),
        }
    }

    #[test]
    fn names_are_those_of_what_a_tokenizer_does_exactly() {
        check(|_| {}, Ok("smollm"));
        check(|file| file["normalizer"] = json!({"type": "NFC"}), Ok("command-r"));
        check(|file| file["normalizer"] = json!({"type": "NFKC"}), Err("normalizer {\"type\":\"NFKC\"}"));
        check(|file| file["pre_tokenizer"] = file["pre_tokenizer"]["pretokenizers"][1].clone(), Ok("gpt-2"));
        check(|file| file["pre_tokenizer"] = Value::Null, Err("pre_tokenizer null"));
        check(|file| file["model"]["ignore_merges"] = true.into(), Err("with ignore_merges"));
        check(|file| file["model"]["byte_fallback"] = true.into(), Err("byte-level"));
        let prefix = |file: &mut Value| {
            file["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true.into();
        };
        check(prefix, Err("pre_tokenizer {"));
    }

    #[test]
    fn rows_without_a_token_are_filled_and_tokens_without_a_row_refused() {
        let vocabulary = Vocabulary::read(&smollm(), 4).expect("a vocabulary");
        assert_eq!(vocabulary.texts, ["a", "<end>", "b", "[PAD3]"]);
        assert_eq!(vocabulary.kinds, [kind::NORMAL, kind::CONTROL, kind::NORMAL, kind::UNUSED]);
        let message = Vocabulary::read(&smollm(), 2).expect_err("a refusal").to_string();
        assert!(message.contains("token \"b\" with id 2, of 2 rows"), "{message}");
        assert_eq!(merges(&smollm()).ok(), Some(vec!["a b".to_string(), "b a".to_string()]));
    }

    #[test]
    fn tokens_around_texts_are_at_most_one_on_either_side() {
        let token = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        let template = |single: Value| json!({"type": "TemplateProcessing", "single": single});
        let both = template(json!([token("a"), text, token("b")]));
        assert_eq!(around(&both), Some([Some("a"), Some("b")]));
        let inner = template(json!([token("a"), text]));
        let sequence = json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, inner]});
        assert_eq!(around(&sequence), Some([Some("a"), None]));
        assert_eq!(around(&Value::Null), Some([None; 2]));
        assert_eq!(around(&template(json!([token("a"), token("b"), text]))), None);
        assert_eq!(around(&json!({"type": "RobertaProcessing"})), None);
    }
}
