//! `dsde:variant=released` against lengths that the authors' own code planned for the same batches.
//!
//! Batches and outcomes are random and ours; the lengths were recorded by running the scheduler and the update of its worker,
//! as released (commit 283f72f), on them. The first line of a trace is the policy; `STEP end SEQ` says that a sequence
//! ended with the step; every other line is `STEP SEQ LIMIT ACCEPTED TEMPERATURE KLD,KLD,... PLANNED` of one sequence: what it
//! may draft, accepts and diverges by (repeated over the positions), and the length that was planned for this step.

use std::str::FromStr;

use crate::common::Fate;
use dsde_policy::{Config, Policy, SeqId};

/// One step: who takes part, with the length that the authors' code planned, and who ends with it.
#[derive(Default)]
struct Step {
    fates: Vec<Fate>,
    planned: Vec<u32>,
    ended: Vec<SeqId>,
}

fn field<T: FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a number")
}

fn steps(lines: &str) -> Vec<(u64, Step)> {
    let mut steps: Vec<(u64, Step)> = Vec::new();
    for line in lines.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let number = field(fields[0]);
        if steps.last().is_none_or(|(last, _)| *last != number) {
            steps.push((number, Step::default()));
        }
        let (_, step) = steps.last_mut().expect("just pushed");
        match fields[1..] {
            ["end", seq] => step.ended.push(SeqId(field(seq))),
            [seq, limit, accepted_max, temperature, klds, planned] => {
                step.fates.push(Fate {
                    seq: SeqId(field(seq)),
                    limit: field(limit),
                    accepted_max: field(accepted_max),
                    temperature: field(temperature),
                    klds: klds.split(',').map(field).collect(),
                });
                step.planned.push(field(planned));
            }
            _ => panic!("not a line of a trace: {line}"),
        }
    }
    steps
}

/// Compares every length of a trace.
fn check(trace: &str) {
    let (policy, lines) = trace.split_once('\n').expect("a policy and its steps");
    let mut policy: Box<dyn Policy> = policy.parse::<Config>().expect("a valid configuration").build();
    for (number, step) in steps(lines) {
        let plan = crate::common::step(policy.as_mut(), number, &step.fates);
        let lens: Vec<u32> = plan.iter().map(|planned| planned.len).collect();
        assert_eq!(lens, step.planned, "{} in step {number}", policy.name());
        step.ended.iter().for_each(|&seq| policy.forget(seq));
    }
}

#[test]
fn lengths_are_those_of_the_released_code() {
    check(include_str!("traces/default.txt"));
}

#[test]
fn the_cap_is_that_of_the_released_code() {
    check(include_str!("traces/capped.txt"));
}

#[test]
fn the_calibration_as_long_as_the_released_configuration_has_it() {
    check(include_str!("traces/shipped.txt"));
}

#[test]
fn a_first_length_under_the_floor_and_a_calibration_of_one_step() {
    check(include_str!("traces/edges.txt"));
}
