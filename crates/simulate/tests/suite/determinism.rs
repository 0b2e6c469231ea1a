//! A scenario and its seed say everything.

use dsde_simulate::run;

use crate::common::scenario;

#[test]
fn results_depend_on_the_seed_alone() {
    let parts = |seed: u32| {
        format!(
            "seed = {seed}\npolicies = [\"off\", \"dsde\", \"auto\", \"bandit\"]\ntemperature = [0.0, 1.0]\nrepeats = 2\n\
             [acceptance]\nprocess = \"regimes\"\nrate = 0.7\n[faults]\nfailures = 0.002\ncancels = 0.1\nstragglers = 0.01\n\
             [load]\narrivals = \"gamma\"\nrate = [5.0, 50.0]\nrequests = 40\nprompt = {{ min = 10, max = 600 }}\noutput = 60\n"
        )
    };
    let json = |seed, n_threads| {
        let results = run(&scenario(&parts(seed)), n_threads, &|_, _| {}).unwrap();
        serde_json::to_string(&results).unwrap()
    };
    let first = json(1, 1);
    assert!(first == json(1, 4), "threads change nothing");
    assert!(first != json(2, 1), "seeds change something");
}

#[test]
fn all_policies_meet_the_same_texts() {
    let parts = "policies = [\"fixed:k=2\", \"fixed:k=8\"]\n[acceptance]\nprocess = \"regimes\"\nrate = 0.6\n\
                 [load]\nconcurrency = 3\nrequests = 12\nprompt = 9\noutput = 300\n";
    let cells = run(&scenario(parts), 1, &|_, _| {}).unwrap().cells;
    // The longer length accepts at least what the shorter one does at every place that both judge.
    assert!(cells[1].emitted_per_step > cells[0].emitted_per_step);
    assert_eq!(cells[0].output_tokens, cells[1].output_tokens);
}
