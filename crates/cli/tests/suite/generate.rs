//! `generate`, `chat`, `policies` and `inspect` on the embedded pair.

use std::io::Read as _;
use std::process::{Command, Stdio};

use crate::common::{dsde, dsde_with_stdin};
use serde_json::{Value, json};

const PROMPTS: &str = r#"{"prompt": "Describe a river in three sentences."}
{"messages": [{"role": "user", "content": "Anna has 4 boxes of 12 pens. How many pens does she have?"}], "domain": "math"}
{"prompt": "Complete this Python function.\ndef add(a, b):\n", "max_tokens": 7}
"#;

/// Tokens of each answer to [`PROMPTS`].
fn tokens(more: &[&str]) -> Vec<Value> {
    let args = [&["generate", "--file", "-", "--json", "--max-tokens", "24"], more].concat();
    let answers = dsde_with_stdin(&args, PROMPTS).json_lines();
    assert_eq!(answers.len(), 3);
    answers.into_iter().map(|answer| answer["tokens"].clone()).collect()
}

#[test]
fn greedy_tokens_do_not_depend_on_policy_draft_batch_or_threads() {
    let plain = tokens(&["--policy", "off"]);
    for options in [
        "--policy dsde",
        "--policy dsde:variant=released,cap=mean",
        "--policy fixed:k=3",
        "--policy auto",
        "--policy ddd",
        "--policy adaserve",
        "--policy fixed:k=3 --verification token",
        "--draft ngram",
        "--draft ngram --policy fixed:k=5",
        "--draft none",
        "--policy auto --concurrency 1 --threads 1",
        "--policy auto --concurrency 4 --threads 2",
        "--policy fixed:k=3 --verification token",
        "--policy tetris --concurrency 4",
        "--policy ddd --concurrency 4",
        "--policy dsde --kv-blocks 12",
        "--draft demo --concurrency 1 --threads 1",
        "--kv-blocks 12",
    ] {
        let options: Vec<&str> = options.split(' ').collect();
        assert_eq!(tokens(&options), plain, "{options:?}");
    }
}

/// Texts may differ from those of another type; within a type they are the same.
#[test]
fn greedy_tokens_do_not_depend_on_policy_and_batch_whatever_the_type_of_keys_and_values() {
    for kv_type in ["f16", "int8"] {
        let plain = tokens(&["--kv-type", kv_type, "--policy", "off", "--concurrency", "1"]);
        for options in ["--policy fixed:k=3", "--policy ddd --concurrency 4", "--policy dsde --kv-blocks 12"]
        {
            let options: Vec<&str> = options.split(' ').chain(["--kv-type", kv_type]).collect();
            assert_eq!(tokens(&options), plain, "{options:?}");
        }
    }
}

/// The embedded target as a folder whose authors recommend something.
fn folder_recommending(sampling: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let target = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/target");
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(target.join(file), folder.path().join(file)).expect("a copy");
    }
    std::fs::write(folder.path().join("generation_config.json"), sampling.to_string()).expect("a file");
    folder
}

#[test]
fn what_the_authors_recommend_is_the_default_of_sampling_and_no_more() {
    let recommended = json!({"eos_token_id": 2, "do_sample": true, "temperature": 1.5, "top_k": 50});
    let folder = folder_recommending(&recommended);
    let model = ["--model", folder.path().to_str().expect("UTF-8"), "--policy", "off", "--seed", "5"];
    let tokens = |more: &[&str]| tokens(&[&model, more].concat());
    let (greedy, typed) =
        (tokens(&["--temperature", "0"]), tokens(&["--temperature", "1.5", "--top-k", "50"]));
    assert_ne!(greedy, typed);
    assert_eq!(tokens(&[]), typed, "the seed is the same");
    assert_eq!(tokens(&["--generation-config", "none"]), greedy);
    let inspected = dsde(&["inspect", "--json", "--model", model[1]]).json_lines();
    let shown =
        json!({"temperature": 1.5, "top_p": null, "top_k": 50, "min_p": null, "repetition_penalty": null});
    assert_eq!(inspected[0]["model"]["sampling"], shown);
    assert!(dsde(&["inspect", "--model", model[1]]).stdout.contains("temperature 1.5, top-k 50"));
}

#[test]
fn an_answer_has_these_fields() {
    let answers = dsde_with_stdin(&["generate", "--file", "-", "--json", "--policy", "fixed:k=3"], PROMPTS)
        .json_lines();
    for (i, answer) in answers.iter().enumerate() {
        let fields: Vec<&str> = answer.as_object().expect("an object").keys().map(String::as_str).collect();
        let mut expected = [
            "index",
            "text",
            "tokens",
            "finish_reason",
            "prompt_tokens",
            "completion_tokens",
            "steps",
            "drafted",
            "verified",
            "accepted",
            "ttft_ms",
            "tpot_ms",
        ];
        expected.sort_unstable();
        let mut got = fields.clone();
        got.sort_unstable();
        assert_eq!(got, expected);
        assert_eq!(answer["index"], i);
        let n = |name: &str| answer[name].as_u64().expect("a count");
        assert_eq!(n("completion_tokens") as usize, answer["tokens"].as_array().expect("a list").len());
        assert!(n("prompt_tokens") > 0 && n("steps") > 0);
        assert!(n("accepted") <= n("verified") && n("verified") <= n("drafted"));
        assert!(answer["ttft_ms"].as_f64().is_some_and(|ms| ms > 0.0));
    }
    // The last line asks for 7 tokens itself.
    let reasons: Vec<&Value> = answers.iter().map(|answer| &answer["finish_reason"]).collect();
    assert!(answers[2]["completion_tokens"].as_u64() <= Some(7), "{reasons:?}");
}

#[test]
fn prompts_are_told_as_tokens_on_request() {
    let args = ["generate", "--file", "-", "--json", "--prompt-token-ids", "--n", "2", "--temperature", "1"];
    let answers = dsde_with_stdin(&args, PROMPTS).json_lines();
    let prompt = |answer: &Value| answer["prompt_token_ids"].as_array().expect("a list").clone();
    for pair in answers.chunks(2) {
        assert_eq!(Some(prompt(&pair[0]).len() as u64), pair[0]["prompt_tokens"].as_u64());
        assert_eq!(prompt(&pair[0]), prompt(&pair[1]), "both choices continue the same prompt");
    }
    assert_ne!(prompt(&answers[0]), prompt(&answers[2]));
    let alone = dsde(&["generate", "--prompt", "x", "--prompt-token-ids"]);
    assert!(alone.code == Some(2) && alone.stderr.contains("--json"), "{}", alone.stderr);
}

const SAMPLED: [&str; 4] = ["--temperature", "1.5", "--seed", "5"];

#[test]
fn sampled_tokens_with_a_seed_depend_on_nothing_but_prompt_and_seed() {
    let with = |options: &str| {
        let options: Vec<&str> = options.split(' ').collect();
        tokens(&[&SAMPLED, &options[..]].concat())
    };
    let plain = with("--policy off --concurrency 1 --threads 1");
    assert_ne!(plain, tokens(&["--policy", "off"]), "greedy");
    for options in [
        "--policy off --concurrency 4 --threads 2",
        "--policy off --kv-blocks 12",
        "--draft none",
        "--policy auto --concurrency 1 --threads 1",
        "--policy auto --concurrency 4 --threads 2",
        "--policy fixed:k=3 --verification token",
        "--policy tetris --concurrency 4",
        "--policy ddd --concurrency 4",
        "--policy dsde --kv-blocks 12",
        "--draft ngram --policy fixed:k=4 --concurrency 1 --threads 1",
        "--draft ngram --policy fixed:k=4 --concurrency 4 --threads 2",
        "--draft ngram --policy fixed:k=4 --verification token",
        "--draft ngram --policy fixed:k=4 --kv-blocks 12",
        "--draft ngram --policy dsde",
    ] {
        assert_eq!(with(options), plain, "{options}");
    }
}

#[test]
fn without_a_seed_text_is_drawn_anew() {
    let sampled = || tokens(&["--temperature", "1.5"]);
    assert_ne!(sampled(), sampled());
}

#[test]
fn prompt_i_uses_seed_plus_i() {
    let sampled = |seed: &str, n_prompts: usize| -> Vec<Value> {
        let args = [
            "generate",
            "--file",
            "-",
            "--json",
            "--max-tokens",
            "16",
            "--temperature",
            "1.5",
            "--seed",
            seed,
            "--policy",
            "off",
        ];
        let lines = "{\"prompt\": \"Tell me a story.\"}\n".repeat(n_prompts);
        let answers = dsde_with_stdin(&args, &lines).json_lines();
        answers.into_iter().map(|answer| answer["tokens"].clone()).collect()
    };
    let three = sampled("5", 3);
    assert_ne!(three[0], three[1]);
    assert_eq!(three[1..], sampled("6", 2));
}

#[test]
fn answers_that_the_context_cuts_are_told_of() {
    let args = ["generate", "--prompt", "Tell me a story.", "--ignore-eos", "--max-tokens", "200"];
    let stderr = |more: &[&str]| {
        let run = dsde(&[&args[..], more].concat());
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        run.stderr
    };
    let told = "1 answer ended where the context of 48 tokens was full, before --max-tokens; raise ";
    let by_option = stderr(&["--context", "48"]);
    assert!(by_option.contains(&format!("{told}--context")), "{by_option}");
    let by_stores = stderr(&["--kv-blocks", "3", "--json"]);
    assert!(by_stores.contains(&format!("{told}--kv-blocks")), "{by_stores}");
    // 2048 positions are 128 blocks of 16.
    let warning = "the key/value stores bound the context to 48 tokens instead of 2048; --kv-blocks 128";
    assert!(by_stores.contains(warning), "{by_stores}");
    let whole = stderr(&[]);
    assert!(!whole.contains("ended") && !whole.contains("WARN"), "{whole}");
}

#[test]
fn keys_that_look_as_if_they_had_an_effect_are_told_of_once() {
    let lines = "\u{FEFF}{\"prompt\": \"a\", \"id\": 1}\n".to_owned()
        + &"{\"prompt\": \"a\", \"top_p\": 0.5}\n".repeat(2);
    let run = dsde_with_stdin(&["generate", "--file", "-", "--max-tokens", "1"], &lines);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("stdin:2: `top_p` has no effect"), "{}", run.stderr);
    assert_eq!(run.stderr.matches("no effect").count(), 1, "{}", run.stderr);
}

#[test]
fn more_threads_than_cores_are_told_of() {
    let n_cores = std::thread::available_parallelism().expect("a number").get();
    let n_threads = (n_cores + 1).to_string();
    let run = dsde(&["generate", "--prompt", "a", "--max-tokens", "1", "--threads", &n_threads]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let warning = format!("--threads {n_threads} is more than the {n_cores} logical cores");
    assert!(run.stderr.contains(&warning), "{}", run.stderr);
    assert!(!run.stderr.contains('\u{1b}'), "a file gets no colours: {}", run.stderr);
}

#[test]
fn the_text_of_one_prompt_is_all_of_stdout() {
    let args = ["generate", "--max-tokens", "12", "--prompt", "Describe a river."];
    let streamed = dsde(&args);
    let answer = dsde(&[&args[..], &["--json"]].concat()).json_lines().remove(0);
    assert_eq!(streamed.stdout, format!("{}\n", answer["text"].as_str().expect("a text")));
    assert!(streamed.stderr.contains("tokens/s"), "{}", streamed.stderr);
}

#[test]
fn a_piped_prompt_is_read_without_its_last_line_break() {
    let args = ["generate", "--max-tokens", "12", "--json"];
    let piped = dsde_with_stdin(&args, "Describe a river.\n").json_lines().remove(0);
    let given = dsde(&[&args[..], &["--prompt", "Describe a river."]].concat()).json_lines().remove(0);
    assert_eq!(piped["tokens"], given["tokens"]);
}

#[test]
fn raw_prompts_skip_the_chat_template() {
    let n_tokens = |more: &[&str]| {
        let args = [&["generate", "--json", "--max-tokens", "1", "--prompt", "def f(x):"], more].concat();
        dsde(&args).json_lines()[0]["prompt_tokens"].as_u64()
    };
    assert!(n_tokens(&["--raw"]) < n_tokens(&[]));
}

#[test]
fn several_choices_differ_and_several_texts_have_headings() {
    // Hot enough for any model.
    let args =
        ["generate", "--prompt", "Tell me a story.", "--n", "2", "--temperature", "2", "--max-tokens", "16"];
    let answers = dsde(&[&args[..], &["--json"]].concat()).json_lines();
    let choices: Vec<&Value> = answers.iter().map(|answer| &answer["choice"]).collect();
    assert_eq!(choices, [0, 1]);
    assert_ne!(answers[0]["tokens"], answers[1]["tokens"]);
    let run = dsde(&args);
    assert!(run.stdout.contains("=== prompt 0, choice 1 ==="), "{}", run.stdout);
}

#[test]
fn log_probabilities_belong_to_the_emitted_tokens() {
    let args = [
        "generate",
        "--prompt",
        "Hello.",
        "--max-tokens",
        "5",
        "--json",
        "--logprobs",
        "2",
        "--policy",
        "fixed:k=2",
    ];
    let answer = dsde(&args).json_lines().remove(0);
    let tokens = answer["tokens"].as_array().expect("a list");
    let logprobs = answer["logprobs"].as_array().expect("a list");
    assert_eq!(tokens.len(), logprobs.len());
    for (token, logprob) in tokens.iter().zip(logprobs) {
        assert_eq!(&logprob["token"], token);
        assert_eq!(logprob["top"].as_array().map(Vec::len), Some(2));
        // Greedy: the emitted token is the most probable one.
        assert_eq!(&logprob["top"][0]["token"], token);
        assert!(logprob["logprob"].as_f64().is_some_and(|nats| nats <= 0.0));
    }
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let args = ["generate", "--prompt", "Tell me a story.", "--max-tokens", "40", "--json"];
    let whole = dsde(&args).json_lines().remove(0);
    let text = whole["text"].as_str().expect("a text");
    let stop: String = text.chars().skip(8).take(3).collect();
    let cut = dsde(&[&args[..], &["--stop", &stop]].concat()).json_lines().remove(0);
    let expected = text.split(&stop).next().expect("split has a first part");
    assert_eq!(cut["text"].as_str(), Some(expected));
    assert_eq!(cut["finish_reason"], "stop");
}

#[test]
fn ignoring_the_end_of_text_runs_to_the_bound() {
    let args = ["generate", "--file", "-", "--json", "--max-tokens", "150", "--ignore-eos"];
    for answer in dsde_with_stdin(&args, PROMPTS).json_lines() {
        assert_eq!(
            (&answer["completion_tokens"], answer["finish_reason"].as_str()),
            (&150.into(), Some("length"))
        );
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dsde"))
        .args(["generate", "--prompt", "Tell me a story.", "--max-tokens", "1500", "--ignore-eos"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdout = child.stdout.take().expect("stdout is piped");
    stdout.read_exact(&mut [0]).expect("a first byte");
    drop(stdout);
    let output = child.wait_with_output().expect("the program ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(!stderr.contains("error") && !stderr.contains("panicked"), "{stderr}");
}

#[test]
fn a_conversation_remembers_until_it_is_reset() {
    let chat = |stdin: &str| dsde_with_stdin(&["chat", "--max-tokens", "10"], stdin);
    let run = chat("Hello.\nTell me more.\n/reset\nHello.\n");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.stderr.matches("tokens/s").count(), 3, "{}", run.stderr);
    let alone = chat("Hello.\n").stdout;
    assert!(run.stdout.starts_with(&alone) && run.stdout.ends_with(&alone));
    assert_ne!(run.stdout, alone.repeat(3));
}

#[test]
fn a_full_context_forgets_the_oldest_turns_and_says_so() {
    let lines = "Tell me more about the sea and the ships on it.\n".repeat(6);
    let run = dsde_with_stdin(&["chat", "--max-tokens", "16", "--context", "128"], &lines);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("the context of 128 tokens is full"), "{}", run.stderr);
    let long = format!("{}\nHello.\n", "word ".repeat(500));
    let run = dsde_with_stdin(&["chat", "--max-tokens", "16", "--context", "128"], &long);
    assert!(run.stderr.contains("this message alone has"), "{}", run.stderr);
    assert!(
        run.stderr.contains("at most 96 leave room for an answer in the context of 128"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("tokens/s"), "{}", run.stderr);
    let system = "word ".repeat(500);
    let args = ["chat", "--max-tokens", "16", "--context", "128", "--system", &system];
    let run = dsde_with_stdin(&args, "Hello.\n");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("this message and --system together have"), "{}", run.stderr);
}

#[test]
fn lines_that_cannot_be_sent_do_not_end_a_conversation() {
    let lines = [&vec![b'x'; 5_000_000], b"\n\xFF\xFE\nHello.\n".as_slice()].concat();
    let run = dsde_with_stdin(&["chat", "--max-tokens", "4"], &lines);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("longer than 4194304 bytes; it was not sent"), "{}", run.stderr);
    assert!(run.stderr.contains("not UTF-8 text; it was not sent"), "{}", run.stderr);
    let alone = dsde_with_stdin(&["chat", "--max-tokens", "4"], "Hello.\n");
    assert_eq!(run.stdout, alone.stdout);
}

#[test]
fn policies_are_listed_with_their_parameters() {
    let list = dsde(&["policies", "--json"]).json_lines().remove(0);
    let list = list.as_array().expect("a list");
    for name in ["off", "fixed", "dsde"] {
        assert!(list.iter().any(|policy| policy["name"] == name), "{name}");
    }
    let fixed = list.iter().find(|policy| policy["name"] == "fixed").expect("listed");
    assert_eq!(fixed["parameters"][0]["key"], "k");
    let dsde_entry = list.iter().find(|policy| policy["name"] == "dsde").expect("listed");
    let presets = dsde_entry["presets"].as_array().expect("a list");
    let is_released = |preset: &&Value| preset["key"] == "variant" && preset["value"] == "released";
    let released = presets.iter().find(is_released).expect("listed");
    assert_eq!(released["defaults"]["decay"], "0.9");
    let text = dsde(&["policies"]).stdout;
    assert!(text.contains("k=<1..=64>"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("    preset variant=released: decay=0.9")), "{text}");
}

#[test]
fn a_trace_tells_every_step_and_why_it_speculated() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let trace = folder.path().join("trace.jsonl").display().to_string();
    let args = ["--json", "--max-tokens", "24", "--policy", "dsde", "--trace", &trace];
    let answers = dsde_with_stdin(&[&["generate", "--file", "-"], &args[..]].concat(), PROMPTS).json_lines();
    let text = std::fs::read_to_string(&trace).expect("a file");
    let line = |line| serde_json::from_str::<Value>(line).expect("a line of JSON")["step"].take();
    let steps: Vec<Value> = text.lines().map(line).collect();
    let sequences = |step: &Value| step["sequences"].as_array().expect("sequences").clone();
    for answer in &answers {
        let own: Vec<Value> =
            steps.iter().flat_map(sequences).filter(|part| part["request"] == answer["index"]).collect();
        let sum = |key: &str| own.iter().map(|part| part[key].as_u64().expect("a count")).sum::<u64>();
        assert_eq!(sum("emitted"), answer["completion_tokens"], "{answer}");
        for key in ["drafted", "verified", "accepted"] {
            assert_eq!(sum(key), answer[key], "{key}: {answer}");
        }
        assert_eq!(own.last().expect("a step")["finish_reason"], answer["finish_reason"]);
        for part in &own {
            assert!(part["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{part}");
            // The policy reads divergences, so every verified position has one.
            let n_signals = part["signals"].as_array().map_or(0, Vec::len);
            assert_eq!(n_signals as u64, part["verified"], "{part}");
        }
    }
    for (step, number) in steps.iter().zip(0_u64..) {
        assert_eq!(step["step"], number);
        assert!(step["step_ms"].as_f64() >= step["verify_ms"].as_f64(), "{step}");
    }
}

#[test]
fn an_inspection_tells_sizes_and_fit() {
    let inspection = dsde(&["inspect", "--json"]).json_lines().remove(0);
    assert_eq!(inspection["model"]["architecture"], "LlamaForCausalLM");
    assert_eq!(inspection["model"]["vocab_len"], 4096);
    // Embeddings and final norm, and nine tensors in each of six layers.
    assert_eq!(inspection["model"]["dtypes"], json!({"BF16": 56}));
    assert_eq!(inspection["model"]["chat_template"], true);
    assert_eq!(inspection["draft"]["compatible"], true);
    let kv = &inspection["kv"];
    let n = |name: &str| kv[name].as_u64().expect("a number");
    assert_eq!(n("bytes"), n("blocks") * n("block_bytes"));
}
