//! Fleets: what one replica can serve, how many there must be, and what they cost.

use std::fs;
use std::path::Path;

use dsde_simulate::{Error, Plan, plan};

const GOOD: &str = "policies = [\"off\", \"fixed:k=2\"]
[machine]
device = \"h100\"
[pair]
target = \"llama-3.1-8b\"
draft = \"llama-3.2-1b\"
[acceptance]
process = \"independent\"
rate = 0.8
[plan]
rate = 900
attained = 0.9
seconds = 1
machine = [{}, { dollars_per_hour = 1.0, tensor_parallel = 2 }]
[load]
requests = 60
prompt = 100
output = 50
class = [{ name = \"all\", ttft_ms = 200, tpot_ms = 12 }]
";

fn parse(text: &str) -> Result<Plan, Error> {
    Plan::parse(text, "test", Path::new(""))
}

#[test]
fn fleets_are_as_large_as_they_must_be() {
    let text = GOOD.replace("\"off\", \"fixed:k=2\"", "\"off\"");
    let planned = parse(&text).unwrap().run(2, &|_, _| {}).unwrap();
    assert_eq!(planned.fleets.len(), 2);
    let mut dollars_before = 0.0;
    for fleet in &planned.fleets {
        let sized = fleet.sized.as_ref().unwrap();
        assert_eq!(sized.replicas, (900.0 / sized.rate_max).ceil() as u64, "{fleet:?}");
        // At its share a replica is asked less than it can serve; no rate below that need be easier for every draw of the load.
        assert!(sized.attained >= 0.85, "{fleet:?}");
        let dollars = sized.dollars_per_hour.unwrap();
        assert!(dollars >= dollars_before, "the cheapest come first");
        dollars_before = dollars;
        if fleet.machine.contains('2') {
            assert_eq!(dollars, sized.replicas as f64);
        }
        let per_million = dollars / (sized.tokens_per_s * sized.replicas as f64 * 3600.0) * 1e6;
        assert!((sized.dollars_per_million.unwrap() / per_million - 1.0).abs() < 1e-9);
    }
    assert!(plan::markdown(&planned).contains(" off "), "a table for people");
}

#[test]
fn looser_targets_need_fewer_replicas_and_impossible_ones_none() {
    let replicas = |targets: &str| {
        let text = GOOD
            .replace("ttft_ms = 200, tpot_ms = 12", targets)
            .replace("\"off\", ", "")
            .replace("[{}, ", "[");
        let planned = parse(&text).unwrap().run(1, &|_, _| {}).unwrap();
        planned.fleets[0].sized.as_ref().map(|sized| sized.replicas)
    };
    let [loose, tight, impossible] =
        ["ttft_ms = 2000, tpot_ms = 60", "ttft_ms = 100, tpot_ms = 8", "tpot_ms = 0.5"].map(replicas);
    assert!(loose.unwrap() < tight.unwrap(), "{loose:?} {tight:?}");
    assert_eq!(impossible, None);
}

#[test]
fn what_a_plan_lacks_is_told() {
    let cases = [
        ("rate = 900", "", "`plan.rate` is missing; it must be requests per second of the whole fleet"),
        ("attained = 0.9", "attained = 90", "`plan.attained` must be a number in 0..=1, got 90"),
        ("attained = 0.9", "share = 0.9", "`plan.share` is no key of a scenario"),
        (
            "requests = 60",
            "requests = 60\nrate = 3",
            "`load.rate` must be left out: a plan says what comes, got 3",
        ),
        ("class = [{ name = \"all\", ttft_ms = 200, tpot_ms = 12 }]", "", "`load.class` is missing"),
        ("[{}, ", "[{ device = \"abacus\" }, ", "`machine.device with plan.machine[0]` must be"),
        ("[plan]", "[fleet]", "`fleet` is no key of a scenario; expected one of: name, about, "),
        (
            "rate = 900",
            "rats = 900",
            "`plan.rats` is no key of a scenario; expected one of: rate, attained, cv, ",
        ),
        (
            "class =",
            "classes =",
            "`load.classes` is no key of a scenario; expected one of: arrivals, requests, ",
        ),
    ];
    for (from, to, expected) in cases {
        let message = parse(&GOOD.replace(from, to)).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    let (scenario, _) = GOOD.split_once("[plan]").unwrap();
    assert_eq!(parse(scenario).unwrap_err().to_string(), "`plan` is missing; it must be a table");
}

#[test]
fn every_plan_that_comes_with_the_project_runs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/plans");
    for entry in fs::read_dir(&folder).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let few = text.replace("requests = 400", "requests = 12").replace("[plan]", "[plan]\nseconds = 1");
        assert_ne!(few, text, "few requests are enough here");
        let planned = Plan::parse(&few, "test", &folder).unwrap().run(2, &|_, _| {}).unwrap();
        assert!(planned.fleets.iter().all(|fleet| fleet.sized.is_some()), "{planned:?}");
    }
}
