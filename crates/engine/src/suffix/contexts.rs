//! Every context of a text, and what followed it: a compressed trie of the text read backwards from each of its tokens.
//!
//! The context of a token is the tokens before it, nearest first, at most [`DEPTH_MAX`] of them. A context never changes, so
//! a token costs one walk down from the root: as many steps as the context branches, and at most two new nodes. The deepest
//! node that a walk reaches is the longest suffix of the text that occurred before, and a node counts what followed it.
//!
//! Suffix decoding (arXiv:2411.04975) keeps a suffix tree of the text read forwards. Read backwards all shorter matches lie on
//! the way to the longest one, and a node is complete as soon as it stands.

use std::cmp::Reverse;
use std::collections::HashMap;

/// Longest context that is told apart, tokens; 64, as in the paper's implementation.
pub(crate) const DEPTH_MAX: usize = 64;

/// Continuations that a context remembers; one more takes the place of the one that was seen longest ago.
pub(crate) const FOLLOWERS_MAX: usize = 8;

/// What followed a context, and how often since it is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Follower {
    pub(crate) token: u32,
    pub(crate) count: u32,
}

/// The continuations of a context, the one seen last first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Followers {
    entries: [Follower; FOLLOWERS_MAX],
    len: u8,
}

/// A context that occurred before, and what followed it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Match {
    /// Tokens of the context.
    pub(crate) len: u32,
    /// Its occurrences that were followed by a token.
    pub(crate) count: u32,
    pub(crate) followers: Followers,
}

impl Match {
    /// What followed, the most frequent first; of equally frequent tokens the one seen last.
    pub(crate) fn ranked(&self) -> Followers {
        let mut ranked = self.followers;
        ranked.entries[..usize::from(ranked.len)].sort_by_key(|follower| Reverse(follower.count));
        ranked
    }
}

/// Contexts that the same tokens followed, each time in the same places: as long as the next ones branch or end.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Length of the longest of them, tokens.
    depth: u32,
    /// Index in the text of the token that followed last; the context stands before it.
    latest: u32,
    count: u32,
    /// Index of the followers; none while there was one occurrence, which the text itself tells.
    tally: Option<u32>,
}

/// A trie of contexts. The text is not kept, and must be the same in every call, but for new tokens.
#[derive(Clone, Debug)]
pub(crate) struct Contexts {
    nodes: Vec<Node>,
    /// By node and the next token backwards.
    children: HashMap<(u32, u32), u32>,
    tallies: Vec<Followers>,
    /// Tokens of the text that were taken in.
    n_read: usize,
    /// Nodes visited and tokens compared.
    #[cfg(test)]
    work: std::cell::Cell<u64>,
}

const ROOT: u32 = 0;

impl Followers {
    fn one(token: u32) -> Self {
        let mut followers = Self::default();
        followers.note(token);
        followers
    }

    /// Those remembered, the one seen last first.
    pub(crate) fn as_slice(&self) -> &[Follower] {
        &self.entries[..usize::from(self.len)]
    }

    fn note(&mut self, token: u32) {
        let known = self.as_slice().iter().position(|follower| follower.token == token);
        let place = known.unwrap_or_else(|| {
            self.len = (self.len + 1).min(FOLLOWERS_MAX as u8);
            let last = usize::from(self.len) - 1;
            self.entries[last] = Follower { token, count: 0 };
            last
        });
        self.entries[place].count += 1;
        self.entries[..=place].rotate_right(1);
    }
}

impl Default for Contexts {
    fn default() -> Self {
        Self {
            nodes: vec![Node { depth: 0, latest: 0, count: 0, tally: None }],
            children: HashMap::new(),
            tallies: Vec::new(),
            n_read: 0,
            #[cfg(test)]
            work: std::cell::Cell::default(),
        }
    }
}

impl Contexts {
    /// Takes in every token from index `start` on that has not been taken in yet. No context reaches beyond `start`.
    pub(crate) fn read(&mut self, text: &[u32], start: usize) {
        for at in self.n_read.max(start)..text.len() {
            self.note(text, start, at);
        }
        self.n_read = self.n_read.max(text.len());
    }

    /// Whether nothing was taken in.
    pub(crate) fn is_empty(&self) -> bool {
        self.n_read == 0
    }

    /// Counts `n` tokens as taken in; they stand in contexts, and nobody asks what they followed.
    pub(crate) fn skip(&mut self, n: usize) {
        self.n_read += n;
    }

    /// Takes in that `text[at]` followed the tokens `text[start..at]`.
    fn note(&mut self, text: &[u32], start: usize, at: usize) {
        let context = &text[start.max(at.saturating_sub(DEPTH_MAX))..at];
        let (mut node, mut depth) = (ROOT, 0);
        while depth < context.len() {
            let edge = (node, context[context.len() - 1 - depth]);
            let Some(&child) = self.children.get(&edge) else {
                let leaf = Node { depth: context.len() as u32, latest: at as u32, count: 1, tally: None };
                self.hang(edge, leaf);
                return;
            };
            let shared = self.shared_len(child, depth, text, context);
            node = if shared < self.depth(child) { self.split(edge, child, shared, text) } else { child };
            depth = shared;
            self.count(node, text, at);
        }
    }

    /// The longest suffix of `context` that occurred in `text` with a token behind it; `None` if not even the last token did.
    pub(crate) fn find(&self, text: &[u32], context: &[u32]) -> Option<Match> {
        let (mut node, mut depth) = (ROOT, 0);
        while depth < context.len() {
            let Some(&child) = self.children.get(&(node, context[context.len() - 1 - depth])) else { break };
            node = child;
            depth = self.shared_len(child, depth, text, context);
            if depth < self.depth(child) {
                break;
            }
        }
        let Node { latest, count, tally, .. } = self.nodes[node as usize];
        let followers = || match tally {
            Some(tally) => self.tallies[tally as usize],
            None => Followers::one(text[latest as usize]),
        };
        (node != ROOT).then(|| Match { len: depth as u32, count, followers: followers() })
    }

    fn depth(&self, node: u32) -> usize {
        self.nodes[node as usize].depth as usize
    }

    /// Tokens that the contexts of `node` and `context` have in common, of which `depth` and the next are known to be.
    fn shared_len(&self, node: u32, depth: usize, text: &[u32], context: &[u32]) -> usize {
        let Node { depth: node_depth, latest, .. } = self.nodes[node as usize];
        let own = text[..latest as usize].iter().rev().zip(context.iter().rev());
        let unknown = own.take(node_depth as usize).skip(depth + 1);
        let shared = depth + 1 + unknown.take_while(|(own, other)| own == other).count();
        #[cfg(test)]
        self.work.set(self.work.get() + (shared - depth) as u64);
        shared
    }

    /// Puts a node of `depth` tokens between `child` and its parent, and returns it.
    fn split(&mut self, edge: (u32, u32), child: u32, depth: usize, text: &[u32]) -> u32 {
        let Node { latest, tally, .. } = self.nodes[child as usize];
        let tally = tally.map(|tally| self.push_tally(self.tallies[tally as usize]));
        let upper = Node { depth: depth as u32, tally, ..self.nodes[child as usize] };
        let upper = self.hang(edge, upper);
        self.children.insert((upper, text[latest as usize - 1 - depth]), child);
        upper
    }

    fn hang(&mut self, edge: (u32, u32), node: Node) -> u32 {
        let idx = self.nodes.len() as u32;
        self.nodes.push(node);
        self.children.insert(edge, idx);
        idx
    }

    fn push_tally(&mut self, followers: Followers) -> u32 {
        self.tallies.push(followers);
        self.tallies.len() as u32 - 1
    }

    /// Counts an occurrence of `node` before `text[at]`.
    fn count(&mut self, node: u32, text: &[u32], at: usize) {
        let Node { latest, tally, .. } = self.nodes[node as usize];
        let tally = tally.unwrap_or_else(|| self.push_tally(Followers::one(text[latest as usize])));
        self.tallies[tally as usize].note(text[at]);
        let node = &mut self.nodes[node as usize];
        (node.latest, node.count, node.tally) = (at as u32, node.count + 1, Some(tally));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The longest suffix of `context` that stands in `text` with a token behind it, by looking everywhere.
    fn looked_up(text: &[u32], context: &[u32]) -> Option<(u32, u32, Vec<Follower>)> {
        let occurs = |len: usize| {
            let suffix = &context[context.len() - len..];
            (len..text.len()).filter(|&at| &text[at - len..at] == suffix).collect::<Vec<usize>>()
        };
        let lens = (1..=context.len().min(DEPTH_MAX)).rev();
        let (len, places) = lens.map(|len| (len, occurs(len))).find(|(_, places)| !places.is_empty())?;
        let mut followers: Vec<Follower> = Vec::new();
        for &at in &places {
            let known = followers.iter().position(|follower| follower.token == text[at]);
            let count = known.map_or(0, |known| followers.remove(known).count);
            followers.insert(0, Follower { token: text[at], count: count + 1 });
            followers.truncate(FOLLOWERS_MAX);
        }
        Some((len as u32, places.len() as u32, followers))
    }

    fn found(contexts: &Contexts, text: &[u32], context: &[u32]) -> Option<(u32, u32, Vec<Follower>)> {
        let found = contexts.find(text, context)?;
        Some((found.len, found.count, found.followers.as_slice().to_vec()))
    }

    /// Compares every prefix of `text`, continued by `guess`, with what looking everywhere finds.
    fn check(text: &[u32], guess: &[u32]) {
        let mut contexts = Contexts::default();
        for at in 1..=text.len() {
            contexts.read(&text[..at], 0);
            let context = [&text[..at], guess].concat();
            let expected = looked_up(&text[..at], &context);
            assert_eq!(found(&contexts, &text[..at], &context), expected, "{:?}, {guess:?}", &text[..at]);
        }
    }

    fn fibonacci(len: usize) -> Vec<u32> {
        let (mut word, mut before) = (vec![0, 1], vec![0]);
        while word.len() < len {
            (word, before) = ([&word[..], &before].concat(), word);
        }
        word.truncate(len);
        word
    }

    fn thue_morse(len: usize) -> Vec<u32> {
        (0..len).map(|i| i.count_ones() % 2).collect()
    }

    #[test]
    fn what_followed_is_counted_behind_the_longest_match() {
        // (5, 1, 2) was followed by 3; behind (1, 2) alone stand 3, 4 and 4.
        let text = [5, 1, 2, 3, 1, 2, 4, 1, 2, 4, 5, 1, 2];
        let mut contexts = Contexts::default();
        contexts.read(&text, 0);
        let follower = |token, count| Follower { token, count };
        assert_eq!(found(&contexts, &text, &text), Some((3, 1, vec![follower(3, 1)])));
        assert_eq!(found(&contexts, &text, &[9, 1, 2]), Some((2, 3, vec![follower(4, 2), follower(3, 1)])));
        assert_eq!(found(&contexts, &text, &[9]), None);
        assert_eq!(found(&contexts, &text, &[]), None);
    }

    #[test]
    fn what_followed_most_often_is_ranked_first_and_of_equals_what_followed_last() {
        let text = [1, 2, 1, 2, 1, 3, 1, 4, 1];
        let mut contexts = Contexts::default();
        contexts.read(&text, 0);
        let ranked = contexts.find(&text, &[1]).unwrap().ranked();
        let tokens: Vec<u32> = ranked.as_slice().iter().map(|follower| follower.token).collect();
        assert_eq!(tokens, [2, 4, 3]);
    }

    #[test]
    fn a_context_remembers_the_last_few_continuations() {
        let text: Vec<u32> = (0..2 * FOLLOWERS_MAX as u32 + 1).flat_map(|i| [99, i]).chain([99]).collect();
        check(&text, &[]);
    }

    #[test]
    fn matches_are_no_longer_than_the_longest_context() {
        check(&[7; 3 * DEPTH_MAX], &[]);
        check(&[7; 3 * DEPTH_MAX], &[7; DEPTH_MAX]);
    }

    #[test]
    fn texts_of_few_factors_are_read_as_any_other() {
        check(&fibonacci(400), &[]);
        check(&thue_morse(400), &[1]);
        check(&(0..300).map(|i| i % 3).collect::<Vec<u32>>(), &[0, 1]);
    }

    #[test]
    fn no_context_reaches_beyond_the_start_of_its_text() {
        // Two texts one behind the other; the first tokens of the second are known and not asked for.
        let text = [1, 2, 3, 1, 2, 3];
        let mut contexts = Contexts::default();
        contexts.read(&text[..3], 0);
        contexts.skip(1);
        contexts.read(&text, 3);
        let lens = |context: &[u32]| contexts.find(&text, context).map(|found| (found.len, found.count));
        assert_eq!(lens(&[1, 2]), Some((2, 2)));
        // Nobody said that 1 follows 3.
        assert_eq!(lens(&[3]), None);
    }

    /// Reads `text` token by token and returns the most work that one token or one search took.
    fn work_max(text: &[u32]) -> u64 {
        let mut contexts = Contexts::default();
        let mut work_max = 0;
        for at in 1..=text.len() {
            let before = contexts.work.get();
            contexts.read(&text[..at], 0);
            if at % 97 == 0 {
                contexts.find(&text[..at], &text[..at]);
            }
            work_max = work_max.max(contexts.work.get() - before);
        }
        let (n_nodes, n_tallies) = (contexts.nodes.len(), contexts.tallies.len());
        assert!(
            n_nodes <= 2 * text.len() + 1 && n_tallies <= n_nodes,
            "{n_nodes} nodes, {n_tallies} tallies"
        );
        assert_eq!(contexts.children.len(), n_nodes - 1);
        work_max
    }

    #[test]
    fn a_token_takes_as_many_steps_as_a_context_has_tokens_whatever_the_text_is() {
        const N: usize = 100_000;
        let mut seed = 1_u64;
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((seed >> 33) % n) as u32
        };
        let texts = [
            vec![3; N],
            fibonacci(N),
            thue_morse(N),
            (0..N as u32).collect(),
            (0..N as u32).map(|i| if i % 2 == 0 { 0 } else { i }).collect(),
            (0..N as u32).map(|i| i % 65).collect(),
            (0..N).map(|_| random(2)).collect(),
            (0..N).map(|_| random(5000)).collect(),
        ];
        for (i, text) in texts.iter().enumerate() {
            // Compared tokens of reading and of searching.
            assert!(work_max(text) <= 2 * DEPTH_MAX as u64, "text {i}");
        }
    }

    proptest! {
        #[test]
        fn every_match_is_the_longest_and_every_count_is_right(
            text in prop::collection::vec(0_u32..3, 0..160),
            guess in prop::collection::vec(0_u32..3, 0..6),
        ) {
            check(&text, &guess);
        }

        #[test]
        fn it_is_so_with_long_repetitions(
            parts in prop::collection::vec((prop::collection::vec(0_u32..4, 1..40), 1_usize..5), 1..5),
        ) {
            let text: Vec<u32> = parts.iter().flat_map(|(part, n)| part.repeat(*n)).collect();
            check(&text, &[]);
        }

        #[test]
        fn how_the_text_is_cut_makes_no_difference(
            text in prop::collection::vec(0_u32..3, 1..120),
            cuts in prop::collection::vec(0_usize..120, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let (mut whole, mut parts) = (Contexts::default(), Contexts::default());
            whole.read(&text, 0);
            cuts.iter().for_each(|&cut| parts.read(&text[..cut], 0));
            parts.read(&text, 0);
            for at in 1..=text.len() {
                prop_assert_eq!(found(&whole, &text, &text[..at]), found(&parts, &text, &text[..at]));
            }
        }
    }
}
