//! Closed forms for independent acceptance (Leviathan, Kalman, Matias, arXiv:2211.17192).

use crate::common::{cell, results};

fn fixed(k: u32, rate: f64) -> String {
    format!(
        "policies = [\"fixed:k={k}\"]\n[acceptance]\nprocess = \"independent\"\nrate = {rate:?}\n\
         [load]\nconcurrency = 4\nrequests = 40\nprompt = 20\noutput = 2000\n"
    )
}

/// `(1 - a^(k + 1)) / (1 - a)`.
fn tokens_per_step(k: u32, rate: f64) -> f64 {
    (0..=k).map(|i| rate.powi(i as i32)).sum()
}

#[test]
fn a_step_emits_as_many_tokens_as_theory_says() {
    // 80,000 tokens in 16,000 steps or more: a mean of 1 to 9 with a standard deviation of up to 3.2 is known to 2.6 %
    // with a probability of 0.9999 in the worst case; the first token of a request and the cut at its end add 0.2 %.
    for (k, rate) in [(1, 0.5), (4, 0.3), (4, 0.8), (8, 0.9), (3, 0.0), (5, 1.0)] {
        let got = cell(&fixed(k, rate)).emitted_per_step.unwrap();
        let expected = tokens_per_step(k, rate);
        assert!((got / expected - 1.0).abs() < 0.026, "k = {k}, a = {rate}: {got} for {expected}");
    }
}

#[test]
fn the_rate_over_all_verified_tokens_falls_with_the_length() {
    // Accepted of verified is (tokens per step - 1) / k.
    for k in [1, 6] {
        let got = cell(&fixed(k, 0.7)).acceptance_rate.unwrap();
        let expected = (tokens_per_step(k, 0.7) - 1.0) / f64::from(k);
        assert!((got / expected - 1.0).abs() < 0.02, "k = {k}: {got} for {expected}");
    }
}

#[test]
fn speculation_gains_what_its_costs_leave() {
    // Improvement by theory: tokens per step over (k c + 1), c the cost of a draft round over that of a target pass and a step.
    let parts = |policies: &str| {
        format!(
            "policies = [{policies}]\n[acceptance]\nprocess = \"independent\"\nrate = 0.8\n\
             [load]\nconcurrency = 1\nrequests = 20\nprompt = 20\noutput = 2000\n"
        )
    };
    let results = results(&parts("\"off\", \"fixed:k=4\""));
    let ms = |name: &str| {
        let curve = results.costs.iter().find(|curve| curve.name == format!("{name}, context 512")).unwrap();
        curve.points[0][1]
    };
    // A step costs 1 ms and 10 us; its pass has five rows, which cost the same within a percent.
    let plain = ms("target") + 1.01;
    let expected = tokens_per_step(4, 0.8) * plain / (4.0 * ms("draft") + plain);
    let got = results.cells[1].tokens_per_s.mean / results.cells[0].tokens_per_s.mean;
    assert!((got / expected - 1.0).abs() < 0.03, "{got} for {expected}");
}
