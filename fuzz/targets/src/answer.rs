//! Answers of a model: thoughts and calls of functions in text that comes in pieces.

use dsde_text::{AnswerReader, CallFormat, ExpectedCalls, Part, ReasoningFormat, Thoughts, Utf8Stream};

use crate::input::{head_and_body, pieces};

/// However an answer is cut, the same parts come of it: none is lost, arguments follow a call, thoughts come first (where an answer is not
/// a row of messages), and if there is neither call nor thought, all of it is text, or none where calls are required.
///
/// Input: a line of words, `hermes`, `llama`, `mistral` or `named` for the form of calls, `think` or `brackets` for that of thoughts,
/// `harmony` for both, `begun` where the prompt has begun some, `one` for one call at most, `required` where nothing else may be said, and numbers, the lengths of pieces; below it the answer.
pub fn answer(bytes: &[u8]) {
    let text = text(bytes);
    let (head, answer) = head_and_body(&text);
    let words: Vec<&str> = head.split_whitespace().collect();
    let lens: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let reader = reader(&words);
    let whole = read(reader.clone(), &[answer.to_owned()]);
    assert_eq!(whole, read(reader.clone(), &pieces(answer, &[1])), "character by character");
    assert_eq!(whole, read(reader, &pieces(answer, &lens)), "in pieces of {lens:?}");
    let is_harmony = words.contains(&"harmony");
    assert_order(&whole, is_harmony);
    let texts: Option<Vec<&str>> = whole.iter().map(content).collect();
    let is_required = words.contains(&"required") && call_format(&words).is_some();
    if is_required && !is_harmony {
        assert!(whole.iter().all(|part| content(part).is_none()), "text where calls are required");
        return;
    }
    let has_thoughts =
        is_harmony || words.contains(&"begun") || answer.contains("think>") || answer.contains("THINK]");
    if let Some(texts) = texts.filter(|_| !has_thoughts) {
        assert_eq!(texts.concat(), answer);
    }
}

fn content(part: &Part) -> Option<&str> {
    if let Part::Content(text) = part { Some(text) } else { None }
}

/// What is no UTF-8 is replaced, in the same way however it is cut.
fn text(bytes: &[u8]) -> String {
    let whole = String::from_utf8_lossy(bytes).into_owned();
    for len in [1, 3] {
        let mut stream = Utf8Stream::default();
        let mut text: String = bytes.chunks(len).map(|piece| stream.push(piece)).collect();
        text += &stream.finish();
        assert_eq!(text, whole, "in pieces of {len} bytes");
    }
    whole
}

fn call_format(words: &[&str]) -> Option<CallFormat> {
    words.iter().find_map(|word| match *word {
        "hermes" => Some(CallFormat::Hermes),
        "llama" => Some(CallFormat::Llama),
        "mistral" => Some(CallFormat::Mistral),
        "named" => Some(CallFormat::MistralNamed),
        "harmony" => Some(CallFormat::Harmony),
        _ => None,
    })
}

fn reader(words: &[&str]) -> AnswerReader {
    let reasoning = words.iter().find_map(|word| match *word {
        "think" => Some(ReasoningFormat::Think),
        "brackets" => Some(ReasoningFormat::Brackets),
        "harmony" => Some(ReasoningFormat::Harmony),
        _ => None,
    });
    let names = vec!["f".to_owned(), "get_weather".to_owned()];
    let calls = call_format(words).map(|format| ExpectedCalls {
        format,
        names,
        are_parallel: !words.contains(&"one"),
        are_required: words.contains(&"required"),
    });
    let thoughts = match reasoning {
        None => Thoughts::None,
        Some(format) if words.contains(&"begun") => Thoughts::Begun(format),
        Some(format) => Thoughts::Possible(format),
    };
    AnswerReader::new(reasoning, thoughts, calls)
}

fn read(mut reader: AnswerReader, pieces: &[String]) -> Vec<Part> {
    let mut parts = Vec::new();
    for piece in pieces {
        reader.push(piece).into_iter().for_each(|part| part.push_to(&mut parts));
    }
    reader.finish().into_iter().for_each(|part| part.push_to(&mut parts));
    assert!(reader.finish().is_empty(), "an answer that ended twice");
    parts
}

fn assert_order(parts: &[Part], is_harmony: bool) {
    for (i, part) in parts.iter().enumerate() {
        let before = i.checked_sub(1).map(|i| &parts[i]);
        match part {
            Part::Reasoning(text) => assert!((is_harmony || before.is_none()) && !text.is_empty()),
            Part::Content(text) => assert!(!text.is_empty()),
            Part::Call(name) => assert!(!name.is_empty()),
            Part::Arguments(_) => assert!(matches!(before, Some(Part::Call(_))), "arguments of no call"),
        }
    }
}
