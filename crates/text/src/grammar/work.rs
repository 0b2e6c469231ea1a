//! How much work the expressions of a form make, estimated before it is done.
//!
//! The library counts the work of an automaton's states and stops at a limit, but only between two of them. Of expressions that must
//! hold at once, each of which can go on in several ways, one state alone has as many as the product of all: a few hundred bytes of
//! terminals between `&` take all memory there is. So such products are bounded here, and likewise long runs of parts that may all
//! be left out, whose first state alone takes the square of their number.

use llguidance::derivre::ExprRef;
use llguidance::derivre::raw::ExprSet;

use super::Source;

/// Most ways on of one state, summed over the parts of all expressions.
const WAYS_MAX: u64 = 1 << 21;
/// Most bytes of all expressions; those of the longest forms that people write take half of it, and some that are doubled again and again
/// more, of which every form that is kept and every answer has its own.
const BYTES_MAX: usize = 384 << 10;
/// What one of the ways of expressions that hold at once counts for: it becomes an expression of its own.
const CROSSED: u64 = 16;

/// Whether the first states of these expressions are few enough to be made.
///
/// * `source`: in a text, expressions that hold at once count with their product, and complements with the square of what is in them. In schemas
///   they do not: what their patterns were before they were written as JSON is known better ([`patterns_fit`](super::schema::patterns_fit)).
pub(super) fn fits(exprs: &ExprSet, source: Source) -> bool {
    if exprs.num_bytes() > BYTES_MAX {
        return false;
    }
    let mut parts: Vec<Ways> = Vec::with_capacity(exprs.len());
    let mut total = 0_u64;
    for id in 0..u32::try_from(exprs.len()).unwrap_or(u32::MAX) {
        let expr = ExprRef::new(id);
        let tag = if exprs.is_valid(expr) { tag(exprs, expr) } else { String::new() };
        let (ways, work) = match tag.as_str() {
            "" => (Ways::default(), 0),
            "And" if source == Source::Schemas => (Ways { first: 1, anywhere: 1 }, 1),
            tag => {
                let ways = Ways::of(exprs, expr, tag, &parts);
                let work = match tag {
                    "And" => ways.anywhere.saturating_mul(CROSSED),
                    "Not" if source == Source::Text => {
                        Ways::within(exprs, expr, &parts).saturating_pow(2).saturating_mul(CROSSED)
                    }
                    _ => ways.first,
                };
                (ways, work)
            }
        };
        total = total.saturating_add(work);
        parts.push(ways);
    }
    total <= WAYS_MAX
}

/// In how many ways an expression can go on.
#[derive(Clone, Copy, Default)]
struct Ways {
    /// From its beginning.
    first: u64,
    /// From any one place inside, at most.
    anywhere: u64,
}

impl Ways {
    /// Ways on from any place inside a complement. Each is held against all others: what may follow must not, of any of them.
    fn within(exprs: &ExprSet, not: ExprRef, parts: &[Self]) -> u64 {
        let inside = exprs.get_args(not).first().and_then(|arg| parts.get(arg.as_usize()));
        inside.map_or(0, |inside| inside.anywhere)
    }

    /// * `tag`: what kind of expression it is.
    /// * `parts`: those of all expressions before it, which have what it is made of.
    fn of(exprs: &ExprSet, expr: ExprRef, tag: &str, parts: &[Self]) -> Self {
        let mut args =
            exprs.get_args(expr).iter().map(|arg| parts.get(arg.as_usize()).copied().unwrap_or_default());
        let sum = |of: fn(Self) -> u64, args: &mut dyn Iterator<Item = Self>| {
            args.map(of).fold(0, u64::saturating_add)
        };
        let product = |of: fn(Self) -> u64, args: &mut dyn Iterator<Item = Self>| {
            args.map(of).fold(1, u64::saturating_mul)
        };
        match tag {
            "EmptyString" | "NoMatch" => Self::default(),
            "And" => Self {
                first: product(|arg| arg.first, &mut args.clone()),
                anywhere: product(|arg| arg.anywhere, &mut args),
            },
            "Or" => Self {
                first: sum(|arg| arg.first, &mut args.clone()),
                anywhere: sum(|arg| arg.anywhere, &mut args),
            },
            "Concat" => {
                let [head, tail] = [args.next().unwrap_or_default(), args.next().unwrap_or_default()];
                let passes = exprs.get_args(expr).first().is_some_and(|&head| exprs.is_nullable(head));
                Self {
                    first: head.first.saturating_add(if passes { tail.first } else { 0 }),
                    anywhere: head.anywhere.saturating_add(tail.anywhere),
                }
            }
            "ByteConcat" => Self { first: 1, anywhere: sum(|arg| arg.anywhere, &mut args).saturating_add(1) },
            // The bytes that differ in what may follow.
            "Not" => Self { first: 256, anywhere: 256 },
            "RemainderIs" => Self { first: 10, anywhere: 10 },
            "Lookahead" => args.next().unwrap_or_default(),
            // A repetition that has begun may go on or begin anew.
            "Repeat" => {
                let body = args.next().unwrap_or_default();
                Self { first: body.first, anywhere: body.anywhere.saturating_mul(2) }
            }
            _ => Self { first: 1, anywhere: 1 },
        }
    }
}

/// The library does not name the type of its tags.
fn tag(exprs: &ExprSet, expr: ExprRef) -> String {
    format!("{:?}", exprs.get_tag(expr))
}
