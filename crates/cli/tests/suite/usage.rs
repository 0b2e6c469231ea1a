//! What cannot be done is refused with exit code 2 and one line that says why.

use std::fs;

use crate::common::{dsde, dsde_with_stdin};

/// Runs `args` and expects a refusal whose message contains all `parts`.
#[track_caller]
fn check_refused(args: &[&str], parts: &[&str]) {
    let run = dsde(args);
    assert_eq!(run.code, Some(2), "{args:?}: {}", run.stderr);
    assert_eq!(run.stdout, "", "{args:?}");
    let is_error = |line: &str| line.starts_with("error: ");
    assert!(run.stderr.lines().any(is_error), "{args:?}: {}", run.stderr);
    assert!(!run.stderr.contains("panicked"), "{args:?}: {}", run.stderr);
    for part in parts {
        assert!(run.stderr.contains(part), "{args:?} lacks {part:?}: {}", run.stderr);
    }
}

#[test]
fn options_outside_their_ranges_are_refused() {
    let with = |option, value| ["generate", "--prompt", "Hello.", option, value];
    for (option, value, parts) in [
        ("--temperature", "NaN", &["temperature"] as &[&str]),
        ("--temperature", "-1", &["temperature"]),
        ("--temperature", "hot", &["--temperature"]),
        ("--top-p", "2", &["top_p"]),
        ("--top-p", "0", &["top_p"]),
        ("--top-k", "-1", &["--top-k"]),
        ("--min-p", "1.5", &["min_p"]),
        ("--repetition-penalty", "0", &["repetition_penalty must be in 0.01..=100"]),
        ("--repetition-penalty", "1e-38", &["repetition_penalty must be in 0.01..=100"]),
        ("--presence-penalty", "3", &["presence_penalty"]),
        ("--frequency-penalty", "-3", &["frequency_penalty"]),
        ("--logit-bias", "5", &["TOKEN=BIAS"]),
        ("--logit-bias", "4096=1", &["logit_bias"]),
        ("--stop", "", &["stop string"]),
        ("--seed", "-1.5", &["--seed", "a whole number in -9223372036854775808..=18446744073709551615"]),
        ("--max-tokens", "0", &["--max-tokens", "expected a whole number in 1..="]),
        ("--concurrency", "0", &["--concurrency"]),
        ("--n", "129", &["--n"]),
        ("--threads", "0", &["--threads"]),
        ("--context", "4096", &["at most 2048", "4096"]),
        ("--context", "1", &["--context", "expected a whole number in 2..="]),
        ("--kv-blocks", "0", &["--kv-blocks", "expected a whole number in 1..="]),
        ("--kv-blocks", "4000000000", &["--kv-blocks must be at most"]),
        ("--verification", "tree", &["block", "token"]),
        ("--logprobs", "3", &["--json"]),
    ] {
        check_refused(&with(option, value), parts);
    }
}

#[test]
fn impossible_measurements_are_refused() {
    for (option, value, parts) in [
        ("--requests", "0", &["--requests", "expected a whole number in 1..=100000"]),
        ("--requests", "4000000000", &["--requests", "expected a whole number in 1..=100000"]),
        ("--repeat", "0", &["--repeat", "expected a whole number in 1..=1000"]),
        ("--max-tokens", "0", &["--max-tokens", "expected a whole number in 1..="]),
        ("--concurrency", "1,2,1", &["--concurrency", "1 is listed twice"]),
        ("--policies", "off,off", &["--policies", "policy off is listed twice"]),
        ("--workload", "demo,demo", &["--workload", "demo is listed twice"]),
        ("--workload", "", &["--workload", "a name is empty"]),
        ("--workload", "mix", &["--workload", "needs files"]),
    ] {
        check_refused(&["bench", option, value], parts);
    }
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("demo.jsonl");
    fs::write(&path, "{\"prompt\": \"a\"}\n").expect("the scratch folder is writable");
    let list = format!("demo,{}", path.display());
    check_refused(&["bench", "--workload", &list], &["two of them are called demo"]);
}

#[test]
fn unknown_policies_are_refused_with_what_is_possible() {
    let with = |policy| ["generate", "--prompt", "Hello.", "--policy", policy];
    check_refused(&with("fast"), &["unknown policy 'fast'", "off, fixed, dsde"]);
    check_refused(&with("fixed:k=0"), &["must be 1..=64", "'0'"]);
    check_refused(&with("fixed"), &["needs k=<1..=64>"]);
    check_refused(&with("dsde:speed=1"), &["no parameter 'speed'", "variant=<paper or released>"]);
    check_refused(
        &["bench", "--policies", "off,fixed:k=4,fast"],
        &["unknown policy 'fast'", "off, fixed, dsde"],
    );
}

#[test]
fn a_policy_that_speculates_needs_a_drafter() {
    let args = ["--policy", "fixed:k=2", "--draft", "none"];
    check_refused(
        &[&["generate", "--prompt", "Hello."], &args[..]].concat(),
        &["policy fixed:k=2 needs a drafter", "--policy off"],
    );
    check_refused(&["bench", "--draft", "none"], &["needs a drafter"]);
}

#[test]
fn models_that_are_not_there_are_named() {
    check_refused(
        &["generate", "--prompt", "Hello.", "--model", "/nowhere/model"],
        &["--model /nowhere/model", "no such folder or file"],
    );
    check_refused(
        &["inspect", "--draft", "/nowhere/draft"],
        &["--draft /nowhere/draft", "no such folder or file"],
    );
}

#[test]
fn files_and_caches_are_told_from_model_folders() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("snapshots")).unwrap();
    let check = |path: &std::path::Path, expected: &str| {
        let path = path.to_str().unwrap();
        check_refused(&["inspect", "--model", path], &[path, expected]);
    };
    check(folder.path(), "give a folder inside its `snapshots`");
    // They exist, so they are models, and broken ones.
    for (name, expected) in [("x.gguf", "must be GGUF"), ("x.safetensors", "give the folder that holds")] {
        let file = folder.path().join(name);
        std::fs::write(&file, "text").unwrap();
        let run = dsde(&["inspect", "--model", file.to_str().unwrap()]);
        assert_eq!(run.code, Some(1), "{name}: {}", run.stderr);
        assert!(run.stderr.contains(expected), "{name}: {}", run.stderr);
    }
}

#[test]
fn models_are_derived_from_folders_with_safetensors_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::create_dir(path("empty")).unwrap();
    fs::write(path("x.gguf"), "GGUF").unwrap();
    fs::create_dir(path("one")).unwrap();
    fs::write(path("one/x.gguf"), "GGUF").unwrap();
    // Repositories of GGUF files often have the configuration of the original beside them.
    fs::create_dir(path("several")).unwrap();
    for name in ["several/config.json", "several/x.gguf", "several/y.gguf"] {
        fs::write(path(name), "{}").unwrap();
    }
    for command in [["blur", "--noise", "0.1"].as_slice(), &["inflate", "--hidden", "1024", "--layers", "8"]]
    {
        for (model, reason) in [
            ("empty", "not a model folder"),
            ("x.gguf", "no model is derived from a GGUF file"),
            ("one", "no model is derived from a GGUF file"),
            ("several", "no model is derived from a GGUF file"),
        ] {
            let (model, out) = (path(model), path("out"));
            let args = [&["inspect"][..], command, &["--model", &model, "--out", &out]].concat();
            check_refused(&args, &[&model, reason, "config.json and *.safetensors"]);
        }
    }
    assert!(!fs::exists(path("out")).unwrap());
}

#[test]
fn commands_must_exist() {
    check_refused(&["fly"], &["fly"]);
    check_refused(&["generate", "--prompt", "a", "--file", "b"], &["--file"]);
}

#[test]
fn prompts_must_not_be_empty() {
    check_refused(&["generate", "--prompt", ""], &["the prompt from --prompt is empty"]);
    check_refused(&["generate"], &["the prompt from stdin is empty"]);
    check_refused(&["generate", "--file", "-"], &["stdin holds no prompts"]);
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_with_both_lengths() {
    let text = "word ".repeat(3000);
    check_refused(
        &["generate", "--prompt", &text, "--context", "128"],
        &["the prompt from --prompt", "tokens, at most 127 fit"],
    );
    check_refused(
        &["generate", "--prompt", "Hello there, how are you on this fine morning?", "--kv-blocks", "1"],
        &["the prompt from --prompt", "tokens, at most 15 fit"],
    );
}

#[test]
fn bad_lines_of_files_are_named() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("prompts.jsonl");
    let path = path.to_str().expect("a UTF-8 path");
    let long = format!("{{\"prompt\": \"{}\"}}", "word ".repeat(3000));
    let conversation = r#"{"messages": [{"role": "user", "content": "x"}]}"#;
    for (text, more, parts) in [
        ("{\"prompt\": \"a\"}\n{oops}\n", &[] as &[&str], ["prompts.jsonl:2", "JSON object"]),
        ("{\"prompt\": \"a\"}\n\n{\"text\": 1}\n", &[], ["prompts.jsonl:3", "got neither"]),
        (&format!("{{\"prompt\": \"a\"}}\n{long}"), &[], ["prompts.jsonl:2", "context length is 2048"]),
        (conversation, &["--raw"], ["prompts.jsonl:1", "leave out --raw"]),
        ("", &[], ["prompts.jsonl", "no prompts"]),
    ] {
        fs::write(path, text).expect("the scratch folder is writable");
        check_refused(&[&["generate", "--file", path], more].concat(), &parts);
    }
    check_refused(&["generate", "--file", "/nowhere/x.jsonl"], &["/nowhere/x.jsonl"]);
    check_refused(&["bench", "--workload", "/nowhere/x.jsonl"], &["/nowhere/x.jsonl"]);
}

#[test]
fn tokens_without_embeddings_are_left_out_with_a_warning() {
    let folder = draft_folder();
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).expect("model files are readable")).expect("JSON");
    let pad = serde_json::json!({
        "id": 4096, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": true,
    });
    tokenizer["added_tokens"].as_array_mut().expect("a list").push(pad);
    fs::write(&path, tokenizer.to_string()).expect("the scratch folder is writable");
    let draft = folder.path().to_str().expect("a UTF-8 path");
    let run = dsde(&["generate", "--prompt", "Hello.", "--max-tokens", "4", "--draft", draft]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("has 4097 tokens, the model embeddings for only 4096"), "{}", run.stderr);
}

#[test]
fn a_broken_model_is_a_failure_and_not_a_mistake_of_usage() {
    let folder = draft_folder();
    fs::write(folder.path().join("model.safetensors"), b"short").expect("the scratch folder is writable");
    let run =
        dsde(&["generate", "--prompt", "Hello.", "--model", folder.path().to_str().expect("a UTF-8 path")]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(
        run.stderr.starts_with("error: cannot load") && run.stderr.lines().count() == 1,
        "{}",
        run.stderr
    );
}

/// A copy of the embedded draft.
fn draft_folder() -> tempfile::TempDir {
    let from = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/draft");
    let folder = tempfile::tempdir().expect("a scratch folder");
    for name in [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        let bytes = fs::read(format!("{from}/{name}")).expect("model files are readable");
        fs::write(folder.path().join(name), bytes).expect("the scratch folder is writable");
    }
    folder
}

#[test]
fn stdin_that_is_not_text_is_refused() {
    let run = dsde_with_stdin(&["generate", "--file", "-"], "hello\n");
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("stdin:1"), "{}", run.stderr);
}

#[test]
fn help_of_a_chat_speaks_of_chats() {
    let help = dsde(&["chat", "--help"]).stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for foreign in ["per prompt", "a prompt's own", "of prompt i"] {
        assert!(!help.contains(foreign), "{foreign}: {help}");
    }
    assert!(help.contains("`temperature` 0 and `max_tokens` 256"), "what goes to a server: {help}");
}
