//! The dashboard of `docs/grafana` asks for nothing that the server does not export, and `docs/serving.md` lists what it does.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{Setup, chat, start, with};
use serde_json::{Value, json};

const DASHBOARD: &str = include_str!("../../../../docs/grafana/dsde.json");
const DOCUMENTATION: &str = include_str!("../../../../docs/serving.md");

/// Names of metrics in a query.
fn names(query: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    query.split(move |c| !is_part(c)).filter(|word| word.contains(':') || word.starts_with("process_"))
}

fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(query) if key == "expr" || key == "query" => found.push(query.clone()),
                    _ => queries(value, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| queries(value, found)),
        _ => {}
    }
}

/// `/metrics` of a server that has answered and refused requests of all kinds.
async fn exported() -> String {
    let server = start(Setup { policy: "auto", ..Setup::default() }).await;
    for more in
        [json!({"policy": "dsde", "slo_tpot_ms": 50.0}), json!({}), json!({"n": 0}), json!({"stream": true})]
    {
        let response = server.send("/v1/chat/completions", &with(chat("Hello."), more)).await;
        response.text().await.unwrap();
    }
    server.get("/metrics").await.text().await.unwrap()
}

#[tokio::test]
async fn every_metric_of_the_dashboard_is_exported() {
    let exported = exported().await;
    let exported: BTreeSet<&str> = exported
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut found = Vec::new();
    queries(&dashboard, &mut found);
    let asked: BTreeSet<&str> = found.iter().flat_map(|query| names(query)).collect();
    assert!(asked.len() > 25, "the queries were found: {asked:?}");
    let missing: Vec<_> = asked.difference(&exported).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Metrics and the labels that tell their values apart.
type Metrics = BTreeMap<String, BTreeSet<String>>;

/// What is exported; labels that all or all histograms have are left out.
fn families(exported: &str) -> Metrics {
    let mut families = Metrics::new();
    let mut name = String::new();
    for line in exported.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            name = family.split(' ').next().unwrap().to_owned();
            families.entry(name.clone()).or_default();
        } else if !line.starts_with('#') {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let mut heads: Vec<&str> = line.split("=\"").collect();
            heads.pop();
            let labels = heads.iter().map(|head| head.rsplit(|c| !is_part(c)).next().unwrap());
            let own = labels.filter(|label| !["engine", "model_name", "le"].contains(label));
            families.get_mut(&name).unwrap().extend(own.map(str::to_owned));
        }
    }
    families
}

/// What the documentation lists, as `name` or `name{label,label}`.
fn documented(page: &str) -> Metrics {
    let (_, section) = page.split_once("\n## Metrics\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let named = section.split('`').skip(1).step_by(2).filter(|code| names(code).next().is_some());
    let metrics = named.map(|code| {
        let (name, labels) = code.trim_end_matches('}').split_once('{').unwrap_or((code, ""));
        let labels = labels.split(',').filter(|label| !label.is_empty());
        (name.to_owned(), labels.map(str::to_owned).collect())
    });
    metrics.collect()
}

#[tokio::test]
async fn the_documentation_lists_every_metric_with_its_labels() {
    let exported = families(&exported().await);
    assert!(exported.len() > 40, "metrics were found: {exported:?}");
    assert_eq!(documented(DOCUMENTATION), exported);
}

#[test]
fn panels_do_not_overlap() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(place.0 < 24 && taken.insert(place), "{}: {place:?}", panel["title"]);
        }
    }
}
