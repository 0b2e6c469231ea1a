//! The forms that were asked for last: agents and pages ask for the same one again and again, and wait for it once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use dsde_engine::Grammar;

/// Forms that are kept. What one takes is bounded by the limits of compiling.
const KEPT_MAX: usize = 32;

/// Compiled forms by who asks for them and what they say, the latest first.
#[derive(Debug, Default)]
pub(crate) struct RecentForms(Mutex<VecDeque<(String, Arc<dyn Grammar>)>>);

impl RecentForms {
    /// The form of a key, which is the latest now.
    pub(super) fn get(&self, key: &str) -> Option<Arc<dyn Grammar>> {
        self.with(|kept| {
            let place = kept.iter().position(|(other, _)| other == key)?;
            let entry = kept.remove(place)?;
            kept.push_front(entry);
            Some(kept[0].1.clone())
        })
    }

    /// Keeps a form, in the place of the oldest if there are many.
    pub(super) fn keep(&self, key: String, form: Arc<dyn Grammar>) {
        self.with(|kept| {
            kept.retain(|(other, _)| *other != key);
            kept.push_front((key, form));
            kept.truncate(KEPT_MAX);
        });
    }

    fn with<R>(&self, run: impl FnOnce(&mut VecDeque<(String, Arc<dyn Grammar>)>) -> R) -> R {
        run(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use dsde_engine::Constraint;

    use super::*;

    #[derive(Debug)]
    struct Any;

    impl Grammar for Any {
        fn begin(&self) -> Box<dyn Constraint> {
            unreachable!("nobody answers here")
        }
    }

    #[test]
    fn the_latest_are_kept() {
        let forms = RecentForms::default();
        let all: Vec<Arc<dyn Grammar>> = (0..=KEPT_MAX).map(|_| Arc::new(Any) as Arc<dyn Grammar>).collect();
        let is_kept = |i: usize| forms.get(&i.to_string()).is_some_and(|form| Arc::ptr_eq(&form, &all[i]));
        (0..KEPT_MAX).for_each(|i| forms.keep(i.to_string(), all[i].clone()));
        // The first is asked for again, so the second is the oldest when there is one too many.
        assert!(is_kept(0));
        forms.keep(KEPT_MAX.to_string(), all[KEPT_MAX].clone());
        assert!(is_kept(0) && !is_kept(1) && (2..=KEPT_MAX).all(is_kept));
        assert_eq!(forms.with(|kept| kept.len()), KEPT_MAX);
    }
}
