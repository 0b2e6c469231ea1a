//! Reading a server's metrics.

use std::time::{Duration, Instant};

use reqwest::Client;

/// What an idle server has none of.
const OF_REQUESTS: [&str; 3] =
    ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"];

/// Values of the metrics at one time, by name; buckets carry their bound. Labels other than the constant ones are left out.
#[derive(Clone, Debug)]
pub struct Scrape {
    values: Vec<(String, f64)>,
    at: Instant,
}

impl Scrape {
    /// # Panics
    /// If the server does not answer.
    pub async fn now(url: &str) -> Self {
        let response = client().get(format!("{url}/metrics")).send().await.expect("the server answers");
        let text = response.text().await.expect("metrics are text");
        let values = text.lines().filter(|line| !line.starts_with('#')).filter_map(parsed).collect();
        Self { values, at: Instant::now() }
    }

    /// The value of one metric; 0 if it is not there.
    pub fn value(&self, name: &str) -> f64 {
        let name = format!("{name}{{");
        self.values.iter().find(|(known, _)| *known == name).map_or(0.0, |(_, value)| *value)
    }

    /// How much a counter grew since `earlier`.
    pub fn since(&self, earlier: &Self, name: &str) -> f64 {
        self.value(name) - earlier.value(name)
    }

    /// Time since `earlier`, seconds.
    pub fn seconds_since(&self, earlier: &Self) -> f64 {
        (self.at - earlier.at).as_secs_f64()
    }

    /// Upper bound of the bucket in which a quantile of what was observed since `earlier` lies.
    pub fn quantile_since(&self, earlier: &Self, name: &str, quantile: f64) -> f64 {
        let counts: Vec<(f64, f64)> = self
            .buckets(name)
            .zip(earlier.buckets(name))
            .map(|((bound, count), (_, before))| (bound, count - before))
            .collect();
        let total = counts.last().map_or(0.0, |(_, count)| *count);
        counts.iter().find(|(_, count)| *count >= quantile * total).map_or(f64::NAN, |(bound, _)| *bound)
    }

    /// Bounds and cumulative counts.
    fn buckets(&self, name: &str) -> impl Iterator<Item = (f64, f64)> {
        let begin = format!("{name}_bucket{{");
        self.values.iter().filter_map(move |(known, count)| {
            let bound = known.strip_prefix(&begin)?.trim_matches('"');
            Some((bound.replace("+Inf", "inf").parse().ok()?, *count))
        })
    }
}

/// A client of its own that goes straight to the server.
pub fn client() -> Client {
    Client::builder().no_proxy().timeout(Duration::from_secs(300)).build().expect("a client")
}

/// Waits until the server is as idle as it was, without a request and with no more connections and tasks; whether it is.
pub async fn settles(url: &str, before: &Scrape) -> bool {
    for _ in 0..2000 {
        let now = Scrape::now(url).await;
        let is_idle = OF_REQUESTS.iter().all(|name| now.value(name) == 0.0);
        let is_flat = ["dsde:connections", "dsde:tasks"].iter().all(|name| now.since(before, name) <= 0.0);
        if is_idle && is_flat {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

fn parsed(line: &str) -> Option<(String, f64)> {
    let (name, value) = line.rsplit_once(' ')?;
    let name = name.replace("engine=\"0\",", "");
    let bound = name.split_once(",le=").map_or("", |(_, bound)| bound.trim_end_matches('}'));
    Some((name.split("model_name=").next()?.to_owned() + bound, value.parse().ok()?))
}
