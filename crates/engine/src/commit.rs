//! From a verdict to emitted tokens: lengths move, stop conditions are applied.

use dsde_sampling::{Proposal, TokenLogprobs, Verdict};

use crate::executor::Shape;
use crate::passes::Verification;
use crate::report::{EmittedToken, FinishReason, Origin};
use crate::rows::{Slot, SlotMove};
use crate::sequence::Sequence;
use crate::stop::Visibility;
use crate::vocabulary::Vocabulary;

/// What one sequence gained in a step.
#[derive(Debug)]
pub(crate) struct Gain {
    pub(crate) tokens: Vec<EmittedToken>,
    pub(crate) text: Vec<u8>,
    pub(crate) finish: Option<FinishReason>,
}

/// Appends what the verdict allows to `seq` and moves its lengths.
///
/// # Panics
/// If the verdict breaks the funnel `accepted <= verified <= drafted <= planned`, or its path is none of the proposal: a bug
/// of the executor or a policy.
pub(crate) fn commit(
    seq: &mut Sequence,
    verification: &mut Verification,
    vocabulary: &dyn Vocabulary,
    shape: &Shape,
) -> Gain {
    let accepted = verification.verdict.accepted();
    check_funnel(seq, accepted);
    check_path(seq, &verification.verdict);
    let known_len = seq.len();
    let gain = emit(seq, verification, vocabulary, shape.context_len_max);
    // The last emitted token is never stored yet, also where a stop condition cut the verdict short.
    seq.context_len = seq.len() - 1;
    let readable_len = if shape.draft_reads_target { known_len } else { seq.context_len };
    seq.draft_len = seq.draft_len.min(readable_len);
    let timeline = &mut seq.timeline;
    timeline.steps += 1;
    timeline.drafted += seq.turn.drafted;
    timeline.verified += seq.turn.proposal.len();
    timeline.accepted += accepted;
    timeline.emitted += gain.tokens.len() as u32;
    gain
}

/// Copies that bring the accepted paths of a step to the slots behind the known tokens.
#[derive(Debug, Default)]
pub(crate) struct SlotMoves {
    pub(crate) target: Vec<SlotMove>,
    pub(crate) draft: Vec<SlotMove>,
}

impl SlotMoves {
    pub(crate) fn clear(&mut self) {
        self.target.clear();
        self.draft.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.target.is_empty() && self.draft.is_empty()
    }

    /// Adds the moves of a committed sequence and says how far its draft has read.
    ///
    /// A node's position is its depth, so its key and value are the same at the new slot.
    ///
    /// * `base`: slot of node 0.
    pub(crate) fn close_gaps(&mut self, seq: &mut Sequence, base: u32, verdict: &Verdict, shape: &Shape) {
        if seq.turn.drafted == 0 || !seq.turn.is_tree() {
            return;
        }
        // A stop condition may have cut the path; the last emitted token is not stored.
        let path = &verdict.path[..(seq.context_len - base) as usize];
        let slot = |node: u32| {
            let (slot, block_len) = (base + node, shape.block_len);
            Slot { block: seq.table[(slot / block_len) as usize], offset: slot % block_len }
        };
        // Along a path indices rise by at least one, so no move overwrites what a later one reads.
        let moves = |nodes: &mut dyn Iterator<Item = u32>, moves: &mut Vec<SlotMove>| {
            let gaps = nodes.zip(0..).filter(|(node, depth)| node != depth);
            moves.extend(gaps.map(|(node, depth)| SlotMove { from: slot(node), to: slot(depth) }));
        };
        moves(&mut path.iter().copied(), &mut self.target);
        if shape.draft_reads_target {
            // It reads the path again.
            return;
        }
        let drafted_as = path.iter().map(|&node| seq.turn.drafted_as[node as usize]);
        let stored = drafted_as.take_while(|&node| node < seq.turn.n_stored());
        // A drafter without a model has stored nothing.
        if seq.draft_len == base {
            moves(&mut stored.clone(), &mut self.draft);
            seq.draft_len = base + stored.count() as u32;
        }
    }
}

fn check_funnel(seq: &Sequence, accepted: u32) {
    let (verified, drafted, planned) = (seq.turn.proposal.len(), seq.turn.drafted, seq.turn.planned);
    assert!(
        accepted <= verified && verified <= drafted && drafted <= planned,
        "accepted {accepted} <= verified {verified} <= drafted {drafted} <= planned {planned}"
    );
}

fn check_path(seq: &Sequence, verdict: &Verdict) {
    let parents = verdict.path.iter().map(|&node| seq.turn.proposal.parents()[node as usize]);
    let expected = std::iter::once(None).chain(verdict.path.iter().copied().map(Some));
    assert!(parents.eq(expected.take(verdict.path.len())), "{:?} leads from the root down", verdict.path);
}

/// Emits the accepted path and the next token until a stop condition holds.
fn emit(
    seq: &mut Sequence,
    verification: &mut Verification,
    vocabulary: &dyn Vocabulary,
    context_len_max: u32,
) -> Gain {
    let verdict = &verification.verdict;
    let last_origin = match (seq.turn.proposal.is_empty(), verdict.is_bonus) {
        (true, _) => Origin::Plain,
        (false, true) => Origin::Bonus,
        (false, false) => Origin::Recovered,
    };
    let mut logprobs = std::mem::take(&mut verification.logprobs).into_iter();
    let mut gain =
        Gain { tokens: Vec::with_capacity(verdict.path.len() + 1), text: Vec::new(), finish: None };
    if seq.tokens_max == 0 {
        gain.finish = Some(FinishReason::Length);
        return gain;
    }
    for i in 0..=verdict.path.len() {
        let (token, origin) = match verdict.path.get(i) {
            Some(&node) => (seq.turn.proposal.tokens()[node as usize], Origin::Accepted),
            None => (verdict.next, last_origin),
        };
        emit_one(seq, token, origin, logprobs.next(), vocabulary, &mut gain);
        follow_form(seq, token, &mut gain);
        if gain.finish.is_none() && (seq.emitted() >= seq.tokens_max || seq.len() >= context_len_max) {
            gain.finish = Some(FinishReason::Length);
            seq.stop_strings.flush(&mut gain.text);
        }
        if gain.finish.is_some() {
            break;
        }
    }
    seq.drop_leading_space(&mut gain.text);
    if seq.tells_rejected {
        tell_rejected(&seq.turn.proposal, &verdict.path, &mut gain.tokens);
    }
    gain
}

/// Tells the form of the answer what was emitted; a complete answer ends, and so does one whose form is lost.
fn follow_form(seq: &mut Sequence, token: u32, gain: &mut Gain) {
    let Some(form) = &mut seq.form else {
        return;
    };
    match form.followed().advance(&[token]) {
        Ok(is_complete) if !seq.turn.is_broken => {
            if is_complete && gain.finish.is_none() {
                seq.stop_strings.flush(&mut gain.text);
                gain.finish = Some(FinishReason::Stop);
            }
        }
        _ => gain.finish = Some(FinishReason::FormLost),
    }
}

/// Lays every branch beside the token at which it leaves the accepted path; where a stop condition cut that off, it is dropped.
fn tell_rejected(proposal: &Proposal, path: &[u32], emitted: &mut [EmittedToken]) {
    let leaves = (0..proposal.len()).filter(|&node| proposal.is_leaf(Some(node)));
    for mut branch in leaves.map(|leaf| proposal.path(leaf)) {
        let accepted = path.iter().map(|&node| proposal.tokens()[node as usize]);
        let n_shared = branch.iter().zip(accepted).take_while(|(guess, token)| *guess == token).count();
        let rejected = branch.split_off(n_shared);
        if let Some(token) = emitted.get_mut(n_shared).filter(|_| !rejected.is_empty()) {
            token.rejected.push(rejected);
        }
    }
}

fn emit_one(
    seq: &mut Sequence,
    token: u32,
    origin: Origin,
    logprobs: Option<TokenLogprobs>,
    vocabulary: &dyn Vocabulary,
    gain: &mut Gain,
) {
    seq.tokens.push(token);
    gain.tokens.push(EmittedToken { token, origin, logprobs, rejected: Vec::new() });
    if seq.stop_tokens.contains(&token) {
        seq.stop_strings.flush(&mut gain.text);
        gain.finish = Some(FinishReason::Stop);
        return;
    }
    let (bytes, visibility) = match vocabulary.special_bytes(token) {
        [] => (vocabulary.token_bytes(token), Visibility::Shown),
        special if seq.shows_special_tokens => (special, Visibility::Shown),
        special => (special, Visibility::Hidden),
    };
    if seq.emitted() <= seq.tokens_min {
        seq.stop_strings.pass(bytes, visibility, &mut gain.text);
    } else if seq.stop_strings.push(bytes, visibility, &mut gain.text) {
        gain.finish = Some(FinishReason::Stop);
    }
}
