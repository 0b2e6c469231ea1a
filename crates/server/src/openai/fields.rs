//! Fields that chat and text completions share, and what becomes of them.

pub(crate) mod foreign;
pub(crate) mod form;

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use dsde_checkpoint::config::SamplingDefaults;
use dsde_engine::{Request, Slo, Stop};
use dsde_policy::{Config, Error};
use dsde_sampling::Params;
use serde::Deserialize;
use serde_json::Value;

use self::form::{AskedForm, FormFields};
use super::error::ApiError;
use super::statistics::Detail;
use crate::body::{names_of, typed};

/// Most continuations of one HTTP request, over all its prompts.
pub(crate) const CHOICES_MAX: usize = 128;

/// Longest name of a policy with its parameters, bytes; the longest table anyone wrote fits ten times.
const POLICY_BYTES_MAX: usize = 1024;

/// Shared fields as typed. Names and meanings are OpenAI's, and vLLM's beyond those.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Fields {
    pub(crate) model: Option<String>,
    /// -1 is no bound.
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    min_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    /// -1 and 0 are off.
    top_k: Option<i64>,
    min_p: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    repetition_penalty: Option<f32>,
    logit_bias: Option<BTreeMap<String, f32>>,
    seed: Option<i64>,
    stop: Option<OneOrMany>,
    stop_token_ids: Option<Vec<u32>>,
    ignore_eos: Option<bool>,
    /// Absent: they are left out.
    skip_special_tokens: Option<bool>,
    n: Option<u32>,
    priority: Option<i32>,
    slo_ttft_ms: Option<f64>,
    slo_tpot_ms: Option<f64>,
    policy: Option<String>,
    cache_salt: Option<String>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    spec_decode_metrics: Option<Detail>,
    token_origins: Option<bool>,
    #[serde(skip)]
    form: Option<AskedForm>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
    include_obfuscation: Option<bool>,
}

impl Fields {
    /// Whether a field of this name is read.
    pub(crate) fn has(name: &str) -> bool {
        [names_of::<Self>(), names_of::<FormFields>()].concat().contains(&name)
    }

    /// The shared fields of a body.
    ///
    /// # Errors
    /// 400 if one has not its type, or an answer is to have two forms.
    pub(crate) fn typed(fields: &Value) -> Result<Self, ApiError> {
        let form = typed::<FormFields>(fields)?.asked()?;
        Ok(Self { form, ..typed(fields)? })
    }

    /// Refuses fields that contradict each other.
    ///
    /// # Errors
    /// 400 with the name of one.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        self.form().map_or(Ok(()), |asked| self.check_end_is_free(asked.field))
    }

    /// Refuses fields that decide where the answer ends, because `field` does.
    ///
    /// # Errors
    /// 400 with the name of `field`.
    pub(crate) fn check_end_is_free(&self, field: &str) -> Result<(), ApiError> {
        if self.ignore_eos == Some(true) || self.min_tokens.is_some_and(|n| n > 0) {
            let message = format!(
                "`{field}` decides where the answer ends; `ignore_eos` and `min_tokens` cannot be honoured"
            );
            return Err(ApiError::bad_field(field, message));
        }
        Ok(())
    }

    /// The form that the answer is to have, if any.
    pub(crate) fn form(&self) -> Option<&AskedForm> {
        self.form.as_ref()
    }

    /// Continuations per prompt.
    pub(crate) fn n(&self) -> u32 {
        self.n.unwrap_or(1)
    }

    /// Whether special tokens are part of the text.
    pub(crate) fn shows_special_tokens(&self) -> bool {
        self.skip_special_tokens == Some(false)
    }

    /// What an answer must share with another to be told of it, besides the key.
    pub(crate) fn salt(&self) -> &str {
        self.cache_salt.as_deref().unwrap_or_default()
    }

    /// Whether the answer is streamed.
    pub(crate) fn is_streamed(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// Whether a stream ends with the usage.
    pub(crate) fn includes_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }

    /// Whether the events of a stream are filled up, if the request says so.
    pub(crate) fn is_padded(&self) -> Option<bool> {
        self.stream_options.as_ref().and_then(|options| options.include_obfuscation)
    }

    /// How much the answer says about speculation.
    pub(crate) fn detail(&self) -> Detail {
        self.spec_decode_metrics.unwrap_or_default()
    }

    /// Requests for the engine, one per prompt.
    ///
    /// * `headers`: may carry latency targets; fields take precedence.
    /// * `defaults`: the model's own, for what is left out.
    /// * `tokens_max_default`: bound of a prompt of the given length, where none is asked for.
    ///
    /// # Errors
    /// 400 for what makes no sense by itself; the engine checks the values.
    pub(crate) fn requests(
        &self,
        prompts: Vec<Vec<u32>>,
        logprobs: Option<u32>,
        headers: &HeaderMap,
        eos_tokens: &[u32],
        defaults: &SamplingDefaults,
        tokens_max_default: impl Fn(usize) -> u32,
    ) -> Result<Vec<Request>, ApiError> {
        let n_choices = self.n();
        if prompts.len().saturating_mul(n_choices as usize) > CHOICES_MAX {
            let message = format!(
                "prompts times `n` must be at most {CHOICES_MAX}, got {} times {n_choices}",
                prompts.len()
            );
            return Err(ApiError::bad_field("n", message));
        }
        let (params, asked) = (self.params(logprobs, defaults)?, self.tokens_max()?);
        let (stop, slo, policy) = (self.stop(eos_tokens), self.slo(headers)?, self.policy()?);
        let request = |(index, prompt): (usize, Vec<u32>)| {
            let tokens_max = asked.unwrap_or_else(|| tokens_max_default(prompt.len()));
            let mut request = Request::new(prompt, params.clone(), tokens_max);
            // The first prompt is drawn as if it were alone.
            request.first_choice = (index as u32).saturating_mul(n_choices);
            request.tokens_min = self.min_tokens.unwrap_or(0);
            request.n_choices = n_choices;
            request.priority = self.priority.unwrap_or(0);
            request.stop = stop.clone();
            request.slo = slo;
            request.policy = policy.clone();
            request.tells_rejected = self.token_origins.unwrap_or(false);
            request.shows_special_tokens = self.shows_special_tokens();
            request
        };
        Ok(prompts.into_iter().enumerate().map(request).collect())
    }

    /// The bound that is asked for, if any; the context is one in any case.
    fn tokens_max(&self) -> Result<Option<u32>, ApiError> {
        let newer = self.max_completion_tokens.map(|n| ("max_completion_tokens", n));
        match newer.or(self.max_tokens.map(|n| ("max_tokens", n))) {
            None => Ok(None),
            Some((_, -1)) => Ok(Some(u32::MAX)),
            Some((name, n @ ..0)) => {
                let message = format!("`{name}` must be at least 0, or -1 for no bound, got {n}");
                Err(ApiError::bad_field(name, message))
            }
            Some((_, n)) => Ok(Some(u32::try_from(n).unwrap_or(u32::MAX))),
        }
    }

    fn params(&self, logprobs: Option<u32>, defaults: &SamplingDefaults) -> Result<Params, ApiError> {
        let off = Params::greedy();
        let top_k = match self.top_k {
            None => defaults.top_k.unwrap_or(0),
            Some(-1) => 0,
            Some(top_k) => u32::try_from(top_k).map_err(|_| {
                ApiError::bad_field("top_k", format!("`top_k` must be -1 (off) or more, got {top_k}"))
            })?,
        };
        Ok(Params {
            temperature: self.temperature.or(defaults.temperature).unwrap_or(1.0),
            top_k,
            // 0 keeps the most probable token, as the smallest number does.
            top_p: self
                .top_p
                .or(defaults.top_p)
                .map_or(off.top_p, |p| if p == 0.0 { f32::MIN_POSITIVE } else { p }),
            min_p: self.min_p.or(defaults.min_p).unwrap_or(off.min_p),
            repetition_penalty: self
                .repetition_penalty
                .or(defaults.repetition_penalty)
                .unwrap_or(off.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(off.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(off.frequency_penalty),
            logit_bias: self.logit_bias()?,
            seed: self.seed.map(i64::cast_unsigned),
            logprobs,
        })
    }

    fn logit_bias(&self) -> Result<Vec<(u32, f32)>, ApiError> {
        let parse = |(token, &bias): (&String, &f32)| match token.parse() {
            Ok(token) => Ok((token, bias)),
            Err(_) => {
                let message = format!("keys of `logit_bias` must be token ids, got `{token}`");
                Err(ApiError::bad_field("logit_bias", message))
            }
        };
        self.logit_bias.iter().flatten().map(parse).collect()
    }

    fn stop(&self, eos_tokens: &[u32]) -> Stop {
        let mut tokens = self.stop_token_ids.clone().unwrap_or_default();
        if !self.ignore_eos.unwrap_or(false) {
            tokens.extend_from_slice(eos_tokens);
        }
        let strings = match &self.stop {
            None => Vec::new(),
            Some(OneOrMany::One(string)) if string.is_empty() => Vec::new(),
            Some(OneOrMany::One(string)) => vec![string.clone()],
            Some(OneOrMany::Many(strings)) => strings.clone(),
        };
        Stop { tokens, strings }
    }

    fn policy(&self) -> Result<Option<Config>, ApiError> {
        let Some(text) = &self.policy else {
            return Ok(None);
        };
        if text.len() > POLICY_BYTES_MAX {
            let message = format!("`policy` must have at most {POLICY_BYTES_MAX} bytes, got {}", text.len());
            return Err(ApiError::bad_field("policy", message));
        }
        let parsed = text.parse().map_err(|error: Error| ApiError::bad_field("policy", error.to_string()));
        parsed.map(Some)
    }

    fn slo(&self, headers: &HeaderMap) -> Result<Slo, ApiError> {
        Ok(Slo {
            ttft_ms_max: self
                .slo_ttft_ms
                .map_or_else(|| header_ms(headers, "x-slo-ttft-ms"), |ms| Ok(Some(ms)))?,
            tpot_ms_max: self
                .slo_tpot_ms
                .map_or_else(|| header_ms(headers, "x-slo-tpot-ms"), |ms| Ok(Some(ms)))?,
        })
    }
}

fn header_ms(headers: &HeaderMap, name: &'static str) -> Result<Option<f64>, ApiError> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let parsed = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    parsed.map(Some).ok_or_else(|| {
        ApiError::bad_field(name, format!("the header `{name}` must be a number of milliseconds"))
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn requests(value: Value, headers: &HeaderMap) -> Result<Vec<Request>, ApiError> {
        foreign::check(&value, Fields::has)?;
        let fields = Fields::typed(&value)?;
        fields.check()?;
        let defaults = SamplingDefaults::default();
        fields.requests(vec![vec![1, 2], vec![3]], None, headers, &[9], &defaults, |len| 100 - len as u32)
    }

    #[track_caller]
    fn check_refused(value: Value, message: &str) {
        let error = requests(value, &HeaderMap::new()).unwrap_err().body();
        let got = error["error"]["message"].as_str().unwrap();
        assert!(got.contains(message), "{got}");
    }

    #[test]
    fn defaults_are_those_of_the_api() {
        let got = requests(json!({"seed": 5}), &HeaderMap::new()).unwrap();
        assert_eq!((got[0].params.temperature, got[0].params.top_p, got[0].params.seed), (1.0, 1.0, Some(5)));
        assert_eq!((got[0].tokens_max, got[1].tokens_max), (98, 99));
        assert_eq!(got[0].stop.tokens, [9]);
        assert_eq!((got[1].params.seed, got[0].first_choice, got[1].first_choice), (Some(5), 0, 1));
    }

    #[test]
    fn a_salt_is_what_was_given_or_empty() {
        let salt = |value: Value| Fields::typed(&value).map(|fields| fields.salt().to_owned());
        assert_eq!(salt(json!({})).unwrap(), "");
        assert_eq!(salt(json!({"cache_salt": null})).unwrap(), "");
        assert_eq!(salt(json!({"cache_salt": "mine"})).unwrap(), "mine");
        assert!(salt(json!({"cache_salt": 1})).is_err());
    }

    #[test]
    fn the_models_own_defaults_stand_in_for_what_is_left_out_and_for_nothing_else() {
        let defaults = SamplingDefaults {
            temperature: Some(0.6),
            top_p: Some(0.95),
            top_k: Some(20),
            min_p: Some(0.05),
            repetition_penalty: Some(1.1),
        };
        let params = |value: Value| Fields::typed(&value).unwrap().params(None, &defaults).unwrap();
        let sampled = |p: Params| (p.temperature, p.top_p, p.top_k, p.min_p, p.repetition_penalty);
        assert_eq!(sampled(params(json!({}))), (0.6, 0.95, 20, 0.05, 1.1));
        assert_eq!(sampled(params(json!({"temperature": 0, "top_k": -1}))), (0.0, 0.95, 0, 0.05, 1.1));
        let explicit = json!({"temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1});
        assert_eq!(sampled(params(explicit)), (1.0, 1.0, 0, 0.0, 1.0));
    }

    #[test]
    fn every_field_reaches_the_request() {
        let value = json!({
            "max_tokens": 3, "max_completion_tokens": 4, "min_tokens": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 7,
            "min_p": 0.1, "presence_penalty": 0.2, "frequency_penalty": 0.3, "repetition_penalty": 1.1,
            "logit_bias": {"17": -2.5}, "seed": -1, "stop": ["a", "b"], "stop_token_ids": [4], "ignore_eos": true, "n": 2,
            "priority": -3, "skip_special_tokens": false, "policy": "fixed:k=03", "slo_ttft_ms": 100.0, "unknown": {"x": 1}, "user": "me",
        });
        let headers = HeaderMap::from_iter([
            ("x-slo-ttft-ms".parse().unwrap(), HeaderValue::from_static("5")),
            ("x-slo-tpot-ms".parse().unwrap(), HeaderValue::from_static("12.5")),
        ]);
        let got = &requests(value, &headers).unwrap()[0];
        let expected = Params {
            temperature: 0.5,
            top_k: 7,
            top_p: 0.9,
            min_p: 0.1,
            repetition_penalty: 1.1,
            presence_penalty: 0.2,
            frequency_penalty: 0.3,
            logit_bias: vec![(17, -2.5)],
            seed: Some(u64::MAX),
            logprobs: None,
        };
        assert_eq!(got.params, expected);
        assert_eq!((got.tokens_max, got.tokens_min, got.n_choices, got.priority), (4, 2, 2, -3));
        assert_eq!(got.stop, Stop { tokens: vec![4], strings: vec!["a".to_owned(), "b".to_owned()] });
        assert_eq!(got.slo, Slo { ttft_ms_max: Some(100.0), tpot_ms_max: Some(12.5) });
        assert_eq!(got.policy.as_ref().unwrap().to_string(), "fixed:k=3");
        assert!(got.shows_special_tokens);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        check_refused(json!({"tools": [{"type": "function"}]}), "`tools`");
        check_refused(
            json!({"response_format": {"type": "json_object"}, "ignore_eos": true}),
            "`response_format`",
        );
        check_refused(json!({"best_of": 2}), "`best_of`");
        check_refused(json!({"policy": "fast"}), "unknown policy 'fast', expected one of: auto, off");
        check_refused(
            json!({"policy": "fixed:k=65"}),
            "parameter k of policy fixed must be 1..=64, got '65'",
        );
        check_refused(json!({"policy": "x".repeat(1025)}), "at most 1024 bytes, got 1025");
        check_refused(json!({"top_k": -2}), "`top_k`");
        check_refused(
            json!({"max_tokens": -5}),
            "`max_tokens` must be at least 0, or -1 for no bound, got -5",
        );
        check_refused(
            json!({"max_tokens": 9, "max_completion_tokens": -7}),
            "`max_completion_tokens` must be",
        );
        check_refused(json!({"logit_bias": {"x": 1}}), "token ids");
        check_refused(json!({"n": 65}), "at most 128, got 2 times 65");
    }

    #[test]
    fn neutral_values_are_those_of_absent_fields() {
        let absent = requests(json!({"seed": 1}), &HeaderMap::new()).unwrap();
        for neutral in [
            json!({"max_tokens": null, "max_completion_tokens": null, "min_tokens": 0}),
            json!({"temperature": null, "top_p": null, "top_k": -1, "min_p": 0, "presence_penalty": 0, "stop": null}),
            json!({"top_k": 0, "top_p": 1, "temperature": 1, "repetition_penalty": 1, "frequency_penalty": 0}),
            json!({"stop": "", "stop_token_ids": [], "logit_bias": {}, "n": 1, "ignore_eos": false, "priority": 0}),
            json!({"stop": [], "response_format": {"type": "text"}, "policy": null, "stream_options": null}),
        ] {
            let mut value = neutral.clone();
            value["seed"] = json!(1);
            assert_eq!(requests(value, &HeaderMap::new()).unwrap(), absent, "{neutral}");
        }
        let unbounded = requests(json!({"max_tokens": -1, "top_p": 0}), &HeaderMap::new()).unwrap();
        assert_eq!((unbounded[0].tokens_max, unbounded[0].params.top_p), (u32::MAX, f32::MIN_POSITIVE));
        let large = requests(json!({"max_tokens": 99_999_999_999_u64}), &HeaderMap::new()).unwrap();
        assert_eq!(large[0].tokens_max, u32::MAX);
    }
}
