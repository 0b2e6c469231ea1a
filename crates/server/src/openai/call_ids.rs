//! Ids of calls, which their results refer to.

use std::hash::{BuildHasher as _, RandomState};

use serde_json::{Value, json};

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// Length of ids where nobody insists on one.
const ID_LEN: usize = 24;

/// Names the calls of one answer: at random, and the same as often as it is asked.
#[derive(Clone)]
pub(crate) struct CallIds {
    seed: RandomState,
    /// What the model's template insists on.
    len: Option<usize>,
}

impl CallIds {
    /// * `len`: of ids, if the model's template insists on one; they are letters and digits alone then.
    pub(crate) fn new(len: Option<usize>) -> Self {
        Self { seed: RandomState::new(), len }
    }

    /// The id of a call.
    pub(crate) fn id(&self, choice: usize, index: usize) -> String {
        let digit = |i: usize| {
            let hash = self.seed.hash_one((choice, index, i));
            char::from(DIGITS[(hash % DIGITS.len() as u64) as usize])
        };
        match self.len {
            Some(len) => (0..len).map(digit).collect(),
            None => "call_".chars().chain((0..ID_LEN).map(digit)).collect(),
        }
    }

    /// A call as the API writes it.
    pub(crate) fn call(&self, choice: usize, index: usize, name: &str, arguments: &str) -> Value {
        let function = json!({"name": name, "arguments": arguments});
        json!({"id": self.id(choice, index), "type": "function", "function": function})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_ids_of_their_own_of_the_length_that_is_asked_for() {
        let ids = CallIds::new(Some(9));
        let id = ids.id(0, 0);
        assert!(id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
        assert_eq!(ids.id(0, 0), id);
        assert!(ids.id(0, 1) != id && ids.id(1, 0) != id && CallIds::new(Some(9)).id(0, 0) != id);
        assert!(CallIds::new(None).id(0, 0).starts_with("call_"));
    }
}
