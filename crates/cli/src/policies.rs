//! `dsde policies`: lists the registry with parameters and presets.

use std::collections::BTreeMap;
use std::io::{self, Write};

use clap::Args;
use dsde_policy::registry::{ENTRIES, Entry};
use serde::Serialize;

use crate::failure::Outcome;

const EXAMPLES: &str = "\
A policy is written NAME[:KEY=VALUE,...]:
  dsde generate --policy fixed:k=4 --prompt 'Hello.'
  dsde bench --policies off,fixed:k=4,dsde:cap=mean";

/// List speculation policies, their parameters and presets
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PoliciesArgs {
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Policy {
    name: &'static str,
    summary: &'static str,
    source: &'static str,
    parameters: Vec<Parameter>,
    presets: Vec<Preset>,
}

#[derive(Serialize)]
struct Parameter {
    key: &'static str,
    values: String,
    default: Option<&'static str>,
    meaning: &'static str,
}

/// A value of a parameter that brings defaults for others.
#[derive(Serialize)]
struct Preset {
    key: &'static str,
    value: &'static str,
    defaults: BTreeMap<&'static str, &'static str>,
}

impl From<&Entry> for Policy {
    fn from(entry: &Entry) -> Self {
        let parameters = entry.parameters().map(|parameter| Parameter {
            key: parameter.key,
            values: parameter.values.to_string(),
            default: parameter.default,
            meaning: parameter.meaning,
        });
        let presets = entry.presets.iter().map(|preset| Preset {
            key: preset.key,
            value: preset.word,
            defaults: preset.defaults.iter().copied().collect(),
        });
        Self {
            presets: presets.collect(),
            name: entry.name,
            summary: entry.summary,
            source: entry.source,
            parameters: parameters.collect(),
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: PoliciesArgs) -> Outcome {
    let policies: Vec<Policy> = ENTRIES.iter().map(|&entry| Policy::from(entry)).collect();
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &policies)?;
        writeln!(out)?;
        return Ok(());
    }
    for policy in &policies {
        print(&mut out, policy)?;
    }
    Ok(())
}

fn print(out: &mut impl Write, policy: &Policy) -> io::Result<()> {
    writeln!(out, "{}: {}", policy.name, policy.summary)?;
    writeln!(out, "    source: {}", policy.source)?;
    for Parameter { key, values, default, meaning } in &policy.parameters {
        let default = default.map_or_else(|| "required".to_owned(), |default| format!("default {default}"));
        writeln!(out, "    {key}=<{values}>: {meaning} ({default})")?;
    }
    for Preset { key, value, defaults } in &policy.presets {
        let defaults: Vec<String> = defaults.iter().map(|(key, value)| format!("{key}={value}")).collect();
        writeln!(out, "    preset {key}={value}: {}", defaults.join(","))?;
    }
    writeln!(out)
}
