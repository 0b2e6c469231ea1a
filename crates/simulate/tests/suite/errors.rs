//! What is wrong with a scenario is told by the path of the key, with expected and got.

use std::path::Path;

use dsde_simulate::Scenario;

const GOOD: &str = "policies = [\"off\"]
[machine]
device = \"h100\"
[pair]
target = \"llama-3.1-8b\"
draft = \"llama-3.2-1b\"
[acceptance]
process = \"independent\"
rate = 0.7
[load]
concurrency = 4
requests = 10
prompt = 20
output = 30
";

fn message(text: &str) -> String {
    let error = Scenario::parse(text, "test", Path::new("")).expect_err(text);
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    message
}

#[test]
fn a_message_names_the_key_and_what_is_possible() {
    Scenario::parse(GOOD, "test", Path::new("")).unwrap();
    let cases = [
        ("rate = 0.7", "rate = 1.5", "`acceptance.rate` must be a number in 0..=1, got 1.5"),
        ("rate = 0.7", "rate = \"high\"", "`acceptance.rate` must be a number in 0..=1, got 'high'"),
        (
            "rate = 0.7",
            "",
            "`acceptance.rate` is missing; it must be the share of drafted tokens that are accepted",
        ),
        (
            "rate = 0.7",
            "rate = 0.7\nruns = 3",
            "`acceptance.runs` is no key of a scenario; expected one of: process, rate, rate_sampled",
        ),
        (
            "device = \"h100\"",
            "device = \"h1000\"",
            "`machine.device` must be one of: a100-80, h100, h200, l40s, rtx-4090, got 'h1000'",
        ),
        ("target = \"llama-3.1-8b\"", "target = \"gpt\"", "`pair.target` must be one of: llama-3.1-70b, "),
        (
            "concurrency = 4",
            "concurrency = [4, 0]",
            "`load.concurrency[1]` must be a whole number in 1..=4096, got 0",
        ),
        (
            "concurrency = 4",
            "arrivals = \"often\"",
            "`load.arrivals` must be one of: closed, poisson, gamma, ramp, recorded, got 'often'",
        ),
        (
            "concurrency = 4",
            "arrivals = \"poisson\"",
            "`load.rate` is missing; it must be requests per second",
        ),
        (
            "output = 30",
            "output = 2.5",
            "`load.output` must be tokens: a number, { min, max }, or { mean, cv, min, max }, got 2.5",
        ),
        ("output = 30", "", "`load.output` is missing"),
        ("[\"off\"]", "[\"off\", \"fixed\"]", "`policies[1]` must be a policy (policy fixed needs k=<"),
        ("[\"off\"]", "[\"off\", \"off\"]", "`policies[1]` must be another policy"),
        ("[\"off\"]", "[]", "`policies` must be a value or a list of values, got an empty list"),
        ("[load]", "[loads]", "`loads` is no key of a scenario; expected one of: name, about, seed, "),
        ("llama-3.1-8b", "llama-3.1-70b", "`machine`: the weights take 133.7 GiB of 72.0 GiB on each device"),
        ("policies", "policies policies", "the scenario is no TOML: "),
    ];
    for (old, new, expected) in cases {
        let got = message(&GOOD.replacen(old, new, 1));
        assert!(got.contains(expected), "{got}\nfor {expected}");
    }
    let (without_load, _) = GOOD.split_once("[load]").unwrap();
    assert_eq!(message(without_load), "`load` is missing; it must be a table");
}

#[test]
fn a_misspelt_key_is_told_before_the_one_that_it_should_be() {
    let ramp = "arrivals = \"ramp\"\nramp = [{ at = 0, rate = 1 }]";
    let regimes = "process = \"regimes\"\nregimes = [{ runs = 9 }]";
    let cases = [
        ("process = ", "proces = ", "`acceptance.proces`", "process, rate, rate_sampled, spread_requests, "),
        ("rate = 0.7", "rat = 0.7", "`acceptance.rat`", "process, rate, rate_sampled"),
        ("process = \"independent\"", regimes, "`acceptance.regimes[0].runs`", "shift, run, spread"),
        ("rate = 0.7", "files = 1", "`acceptance.files`", "process, rate, rate_sampled"),
        ("device = ", "devise = ", "`machine.devise`", "device, tensor_parallel, "),
        ("target = ", "taget = ", "`pair.taget`", "target, draft, weight_bits, "),
        ("concurrency = 4", "concurency = 4", "`load.concurency`", "arrivals, requests, prompt, output, "),
        ("concurrency = 4", ramp, "`load.ramp[0].at`", "at_s, rate"),
        (
            "concurrency = 4",
            "concurrency = 4\nclass = [{ nam = \"a\" }]",
            "`load.class[0].nam`",
            "name, ttft_ms, ",
        ),
        ("requests = 10", "request = 10", "`load.request`", "arrivals, requests, "),
        ("output = 30", "outputs = 30", "`load.outputs`", "arrivals, requests, prompt, output, "),
        ("policies", "policy", "`policy`", "name, about, seed, repeats, policies, "),
    ];
    for (old, new, key, keys) in cases {
        let got = message(&GOOD.replacen(old, new, 1));
        let expected = format!("{key} is no key of a scenario; expected one of: {keys}");
        assert!(got.starts_with(&expected), "{got}\nfor {expected}");
    }
}
