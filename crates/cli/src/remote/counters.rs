//! What a server's `/metrics` says about speculation, under vLLM's names.

/// Sums over everything that the server has done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counters {
    /// Drafted tokens that were verified.
    verified: f64,
    accepted: f64,
}

/// Name of [`Counters::verified`].
const VERIFIED: &str = "vllm:spec_decode_num_draft_tokens_total";
/// Name of [`Counters::accepted`].
const ACCEPTED: &str = "vllm:spec_decode_num_accepted_tokens_total";

impl Counters {
    /// Reads Prometheus' text form; `None` unless both counters are there. Values of several engines are added up.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(Self { verified: sum(text, VERIFIED)?, accepted: sum(text, ACCEPTED)? })
    }

    /// Verified and accepted tokens since `earlier`; `None` if the server was restarted in between.
    pub(crate) fn since(&self, earlier: &Self) -> Option<[u64; 2]> {
        let counts = [self.verified - earlier.verified, self.accepted - earlier.accepted];
        // Counters are whole numbers.
        counts.iter().all(|&count| count >= 0.0).then(|| counts.map(|count| count as u64))
    }
}

fn sum(text: &str, name: &str) -> Option<f64> {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let rest = match rest.strip_prefix('{') {
            Some(labelled) => &labelled[labelled.rfind('}')? + 1..],
            None => rest,
        };
        // A time may stand behind the value; a name that goes on is another one.
        rest.strip_prefix(' ')?.split_whitespace().next()?.parse::<f64>().ok()
    };
    text.lines().filter_map(value).filter(|value| value.is_finite()).reduce(|a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_all_engines_are_added_up() {
        let text = "# HELP vllm:spec_decode_num_draft_tokens_total x\n\
            vllm:spec_decode_num_draft_tokens_total{engine=\"0\",model_name=\"a} b\"} 10.0\n\
            vllm:spec_decode_num_draft_tokens_total{engine=\"1\"} 5 1700000000000\n\
            vllm:spec_decode_num_draft_tokens_total_created 9\n\
            vllm:spec_decode_num_accepted_tokens_total 7\n";
        let counters = Counters::parse(text).unwrap();
        assert_eq!(counters, Counters { verified: 15.0, accepted: 7.0 });
        let later = Counters { verified: 25.0, accepted: 11.0 };
        assert_eq!(later.since(&counters), Some([10, 4]));
        assert_eq!(counters.since(&later), None);
        assert_eq!(Counters::parse("vllm:spec_decode_num_draft_tokens_total 1\n"), None);
    }
}
