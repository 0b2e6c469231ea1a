//! Where the engine thread leaves what belongs to one HTTP request, and where its connection takes it.
//!
//! The engine appends and never waits. A slow reader finds several steps merged into one, and so does a paced one;
//! what waits for it is bounded by the token bound of its own request.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dsde_engine::{Emission, EmittedToken, FinishReason, RequestTimeline};
use dsde_sampling::TokenLogprobs;
use tokio::sync::Notify;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// One verification of one choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpeculativeStep {
    /// Drafted tokens that the target judged, at least one.
    pub verified: u32,
    /// Those that were kept, before stop conditions.
    pub accepted: u32,
}

/// What came since the last look.
#[derive(Debug, Default)]
pub struct Delta {
    /// Log-probabilities of the prompt in order. They wait for what follows: nobody is told of them alone.
    pub scored: Vec<TokenLogprobs>,
    /// Tokens in order.
    pub tokens: Vec<EmittedToken>,
    /// Text that became certain; may end inside a character.
    pub text: Vec<u8>,
    /// Verifications in order.
    pub speculative_steps: Vec<SpeculativeStep>,
    /// When the first token came.
    pub emitted: Option<Instant>,
}

impl Delta {
    fn append(&mut self, emission: Emission, now: Instant) {
        self.emitted.get_or_insert(now);
        self.tokens.extend(emission.tokens);
        self.text.extend(emission.text);
    }

    fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.text.is_empty() && self.speculative_steps.is_empty()
    }
}

/// Why a choice ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The engine failed.
    Failed,
    /// The form of the answer could not be followed any further.
    Form,
    /// Its time was over before any choice had begun.
    Deadline,
    /// The server is shutting down.
    Shutdown,
}

/// The regular end of a choice.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Stop or length.
    pub reason: FinishReason,
    /// Times and sums.
    pub timeline: RequestTimeline,
}

/// How a choice ended.
pub type End = Result<Done, Loss>;

/// News of one choice.
#[derive(Debug)]
pub struct Update {
    /// Number of the choice among all of the HTTP request.
    pub choice: usize,
    /// What came.
    pub delta: Delta,
    /// The end, told once.
    pub end: Option<End>,
}

/// When a reader is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// By every step.
    Always,
    /// By the end of a choice.
    AtEnd,
    /// By time, every so often, so that nobody can tell when something came in between; and by a loss.
    Paced(Duration),
}

#[derive(Debug, Default)]
struct Slot {
    pending: Delta,
    /// What is told with the end.
    last: Option<(Emission, Instant)>,
    end: Option<End>,
    is_ended: bool,
}

/// One slot per choice.
#[derive(Debug)]
pub(crate) struct Inbox {
    slots: Mutex<Vec<Slot>>,
    news: Notify,
    wake: Wake,
    /// Whether a reader was woken that has not looked yet.
    is_awaited: AtomicBool,
    is_abandoned: AtomicBool,
    /// Whether anything was emitted.
    is_begun: AtomicBool,
}

impl Inbox {
    /// Both ends of an empty inbox. The request is abandoned when the reader is dropped.
    pub(crate) fn new(n_choices: usize, wake: Wake) -> (Arc<Self>, Reader) {
        let inbox = Arc::new(Self {
            slots: Mutex::new((0..n_choices).map(|_| Slot::default()).collect()),
            news: Notify::new(),
            wake,
            is_awaited: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
            is_begun: AtomicBool::new(false),
        });
        let ticks = match wake {
            Wake::Paced(every) => {
                let mut ticks = interval(every);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                Some(ticks)
            }
            Wake::Always | Wake::AtEnd => None,
        };
        (inbox.clone(), Reader { inbox, n_open: n_choices, ticks })
    }

    /// Whether nobody will read any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Relaxed)
    }

    /// Whether any of its choices has said anything.
    pub(crate) fn is_begun(&self) -> bool {
        self.is_begun.load(Ordering::Relaxed)
    }

    /// Notes that nobody will read any more.
    pub(crate) fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
    }

    /// Whether tokens wait for a reader who was told of them.
    pub(crate) fn is_awaited(&self) -> bool {
        self.is_awaited.load(Ordering::Relaxed) && !self.is_abandoned()
    }

    /// Appends tokens and text that came now.
    pub(crate) fn emit(&self, choice: usize, emission: Emission, now: Instant) {
        self.slots()[choice].pending.append(emission, now);
        self.is_begun.store(true, Ordering::Relaxed);
        if self.wake == Wake::Always {
            self.is_awaited.store(true, Ordering::Relaxed);
            // A reader who wakes at once does not find the lock taken.
            self.news.notify_one();
        }
    }

    /// Appends tokens and text that came now and are the last: whoever reads finds them together with the end, which follows.
    pub(crate) fn emit_last(&self, choice: usize, emission: Emission, now: Instant) {
        self.slots()[choice].last = Some((emission, now));
        self.is_begun.store(true, Ordering::Relaxed);
    }

    /// Appends log-probabilities of the prompt.
    pub(crate) fn scored(&self, choice: usize, scored: Vec<TokenLogprobs>) {
        self.slots()[choice].pending.scored.extend(scored);
    }

    /// Appends a verification; wakes nobody, because tokens follow in the same step.
    pub(crate) fn speculated(&self, choice: usize, step: SpeculativeStep) {
        self.slots()[choice].pending.speculative_steps.push(step);
    }

    /// Ends a choice; only the first end counts.
    pub(crate) fn end(&self, choice: usize, end: End) {
        let slot = &mut self.slots()[choice];
        if !slot.is_ended {
            slot.is_ended = true;
            if let Some((emission, now)) = slot.last.take() {
                slot.pending.append(emission, now);
            }
            // A loss tells nothing about tokens, and whoever loses may be in a hurry.
            let is_told_at_once = end.is_err() || !matches!(self.wake, Wake::Paced(_));
            slot.end = Some(end);
            if is_told_at_once {
                self.news.notify_one();
            }
        }
    }

    /// A panic in between leaves every slot usable.
    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection's end of an inbox.
#[derive(Debug)]
pub(crate) struct Reader {
    inbox: Arc<Inbox>,
    n_open: usize,
    ticks: Option<Interval>,
}

impl Reader {
    /// Waits for news, at least one; `None` when every end has been told.
    pub(crate) async fn next(&mut self) -> Option<Vec<Update>> {
        while self.n_open > 0 {
            if let Some(ticks) = &mut self.ticks {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = self.inbox.news.notified() => {}
                }
            }
            let updates = self.take();
            if !updates.is_empty() {
                self.n_open -= updates.iter().filter(|update| update.end.is_some()).count();
                return Some(updates);
            }
            if self.ticks.is_none() {
                self.inbox.news.notified().await;
            }
        }
        None
    }

    fn take(&self) -> Vec<Update> {
        let mut slots = self.inbox.slots();
        self.inbox.is_awaited.store(false, Ordering::Relaxed);
        let updates = slots.iter_mut().enumerate().filter_map(|(choice, slot)| {
            let has_news = !slot.pending.is_empty() || slot.end.is_some();
            has_news.then(|| Update {
                choice,
                delta: std::mem::take(&mut slot.pending),
                end: slot.end.take(),
            })
        });
        updates.collect()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.inbox.abandon();
    }
}

#[cfg(test)]
mod tests {
    use dsde_engine::{Origin, RequestId};

    use super::*;

    fn emission(token: u32, text: &str) -> Emission {
        let token = EmittedToken { token, origin: Origin::Plain, logprobs: None, rejected: Vec::new() };
        Emission { request: RequestId(0), choice: 0, tokens: vec![token], text: text.into() }
    }

    fn done() -> End {
        Ok(Done { reason: FinishReason::Stop, timeline: RequestTimeline::default() })
    }

    #[tokio::test]
    async fn a_slow_reader_finds_steps_merged_and_nothing_lost() {
        let (inbox, mut reader) = Inbox::new(2, Wake::Always);
        let first = Instant::now();
        inbox.emit(0, emission(1, "a"), first);
        inbox.emit(0, emission(2, "b"), Instant::now());
        inbox.speculated(0, SpeculativeStep { verified: 3, accepted: 1 });
        inbox.end(1, Err(Loss::Deadline));
        let updates = reader.next().await.unwrap();
        assert_eq!(updates.len(), 2);
        let tokens: Vec<u32> = updates[0].delta.tokens.iter().map(|token| token.token).collect();
        assert_eq!((tokens, updates[0].delta.text.as_slice()), (vec![1, 2], b"ab".as_slice()));
        assert_eq!(updates[0].delta.emitted, Some(first));
        assert!(updates[0].end.is_none() && matches!(updates[1].end, Some(Err(Loss::Deadline))));
        inbox.end(0, done());
        inbox.end(0, Err(Loss::Failed));
        let last = reader.next().await.unwrap();
        assert!(matches!(last[0].end, Some(Ok(_))) && last.len() == 1, "the first end counts");
        assert!(reader.next().await.is_none());
    }

    #[tokio::test]
    async fn the_last_tokens_are_found_with_the_end() {
        let (inbox, mut reader) = Inbox::new(1, Wake::Always);
        inbox.emit(0, emission(1, "a"), Instant::now());
        inbox.emit_last(0, emission(2, "b"), Instant::now());
        assert_eq!(reader.next().await.unwrap()[0].delta.text, b"a");
        inbox.end(0, done());
        let last = reader.next().await.unwrap();
        assert!(last[0].delta.text == b"b" && matches!(last[0].end, Some(Ok(_))));
    }

    #[tokio::test]
    async fn tokens_are_awaited_until_somebody_looks_or_leaves() {
        let (inbox, mut reader) = Inbox::new(1, Wake::Always);
        assert!(!inbox.is_awaited());
        inbox.emit(0, emission(1, "a"), Instant::now());
        assert!(inbox.is_awaited());
        reader.next().await.unwrap();
        assert!(!inbox.is_awaited());
        inbox.emit(0, emission(2, "b"), Instant::now());
        drop(reader);
        assert!(!inbox.is_awaited(), "nobody will look");
        // Who waits for the end was not woken.
        let (inbox, _reader) = Inbox::new(1, Wake::AtEnd);
        inbox.emit(0, emission(1, "a"), Instant::now());
        assert!(!inbox.is_awaited());
    }

    #[tokio::test(start_paused = true)]
    async fn time_alone_wakes_a_paced_reader() {
        const PACE: Duration = Duration::from_millis(40);
        let start = tokio::time::Instant::now();
        let (inbox, mut reader) = Inbox::new(1, Wake::Paced(PACE));
        inbox.emit(0, emission(1, "a"), Instant::now());
        assert!(!inbox.is_awaited(), "the engine waits for nobody");
        assert_eq!(reader.next().await.unwrap()[0].delta.text, b"a");
        // Two steps, at different times within one interval, and one in a later interval, which has nothing before it.
        let steps = [(PACE / 8, "b"), (PACE / 4, "c"), (3 * PACE, "d")];
        let writer = inbox.clone();
        tokio::spawn(async move {
            for (wait, text) in steps {
                tokio::time::sleep(wait).await;
                writer.emit(0, emission(2, text), Instant::now());
            }
            writer.end(0, done());
        });
        let mut seen = Vec::new();
        while let Some(updates) = reader.next().await {
            seen.push((start.elapsed(), updates[0].delta.text.clone(), updates[0].end.is_some()));
        }
        assert_eq!(seen, [(PACE, b"bc".to_vec(), false), (4 * PACE, b"d".to_vec(), true)]);
        // A loss does not wait for its time.
        let (inbox, mut reader) = Inbox::new(1, Wake::Paced(PACE));
        inbox.emit(0, emission(1, "a"), Instant::now());
        reader.next().await.unwrap();
        let start = tokio::time::Instant::now();
        let writer = inbox.clone();
        tokio::spawn(async move {
            tokio::time::sleep(PACE / 8).await;
            writer.end(0, Err(Loss::Shutdown));
        });
        let updates = reader.next().await.unwrap();
        assert!(matches!(updates[0].end, Some(Err(Loss::Shutdown))) && start.elapsed() == PACE / 8);
    }

    #[tokio::test]
    async fn news_that_come_while_waiting_wake_the_reader() {
        let (inbox, mut reader) = Inbox::new(1, Wake::AtEnd);
        let waiting = tokio::spawn(async move { reader.next().await.map(|updates| updates.len()) });
        tokio::task::yield_now().await;
        inbox.end(0, done());
        assert_eq!(waiting.await.unwrap(), Some(1));
        assert!(inbox.is_abandoned(), "the reader is gone");
    }
}
