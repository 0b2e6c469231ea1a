//! The dashboard of `docs/grafana` asks for nothing that the server does not export.

use std::collections::BTreeSet;

use crate::common::{Setup, chat, start, with};
use serde_json::{Value, json};

const DASHBOARD: &str = include_str!("../../../../docs/grafana/dsde.json");

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

#[tokio::test]
async fn every_metric_of_the_dashboard_is_exported() {
    let server = start(Setup { policy: "auto", ..Setup::default() }).await;
    for more in
        [json!({"policy": "dsde", "slo_tpot_ms": 50.0}), json!({}), json!({"n": 0}), json!({"stream": true})]
    {
        let response = server.send("/v1/chat/completions", &with(chat("Hello."), more)).await;
        response.text().await.unwrap();
    }
    let exported = server.get("/metrics").await.text().await.unwrap();
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
