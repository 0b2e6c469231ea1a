//! Grammars as llama.cpp writes them (GBNF, with XGrammar's EBNF as far as it is the same), put into the syntax of Lark.
//!
//! A rule that contains no recursion becomes one terminal, so a grammar without any is followed to the letter. Between the
//! terminals of a recursive grammar the longest match counts, as in all grammars of Lark.

use std::collections::HashMap;
use std::fmt::Write as _;

/// Most rules.
const RULES_MAX: usize = 1000;
/// Deepest nesting of brackets, and longest chain of rules that refer to each other without recursion.
const DEPTH_MAX: usize = 64;
/// Most repetitions.
const REPEATED_MAX: u32 = 100_000;
/// Where an answer begins.
const ROOT: &str = "root";

/// Whether a grammar is written in this syntax.
pub(super) fn is_gbnf(text: &str) -> bool {
    text.contains("::=")
}

/// The same grammar for Lark.
///
/// # Errors
/// What is wrong and where, in words.
pub(super) fn to_lark(text: &str) -> Result<String, String> {
    let tokens = tokens(text)?;
    let rules = Parser { tokens: &tokens, next: 0 }.rules()?;
    let ids: HashMap<&str, usize> =
        rules.iter().enumerate().map(|(i, rule)| (rule.name.as_str(), i)).collect();
    let references = references(&rules, &ids)?;
    let root = *ids.get(ROOT).ok_or_else(|| format!("there is no rule `{ROOT}`"))?;
    let is_terminal = without_recursion(&references)?;
    let name = |i: usize| if is_terminal[i] { format!("T{i}") } else { format!("r{i}") };
    let mut lark = format!("start: {}\n", name(root));
    for (i, rule) in rules.iter().enumerate() {
        let _ = write!(lark, "{}:", name(i));
        for part in &rule.body {
            match part {
                Part::Rule(rule) => {
                    let _ = write!(lark, " {}", name(ids[rule.as_str()]));
                }
                Part::Text(text) => {
                    let _ = write!(lark, " {text}");
                }
                // What is repeated stands directly before it.
                Part::Repeat(sign) => lark.push_str(sign),
            }
        }
        lark.push('\n');
    }
    Ok(lark)
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Defined,
    /// Of the same form in Lark: a text, a class, a bracket or a bar.
    Text(String),
    Open,
    Close,
    Repeat(String),
}

struct Rule {
    name: String,
    body: Vec<Part>,
}

enum Part {
    Rule(String),
    Text(String),
    Repeat(String),
}

struct Parser<'a> {
    tokens: &'a [Token],
    next: usize,
}

impl Parser<'_> {
    fn rules(mut self) -> Result<Vec<Rule>, String> {
        let mut rules: Vec<Rule> = Vec::new();
        while self.next < self.tokens.len() {
            let [Token::Name(name), Token::Defined] =
                &self.tokens[self.next..(self.next + 2).min(self.tokens.len())]
            else {
                return Err("every rule must begin with a name and `::=`".to_owned());
            };
            if rules.len() == RULES_MAX {
                return Err(format!("a grammar must have at most {RULES_MAX} rules"));
            }
            if rules.iter().any(|rule| rule.name == *name) {
                return Err(format!("the rule `{name}` is defined twice"));
            }
            self.next += 2;
            rules.push(Rule { name: name.clone(), body: self.body(name)? });
        }
        Ok(rules)
    }

    /// Everything up to the next rule.
    fn body(&mut self, name: &str) -> Result<Vec<Part>, String> {
        let (mut body, mut depth) = (Vec::new(), 0_usize);
        let mut can_repeat = false;
        while let Some(token) = self.tokens.get(self.next) {
            if self.tokens.get(self.next + 1) == Some(&Token::Defined) {
                break;
            }
            self.next += 1;
            let (part, can_be_repeated) = match token {
                Token::Name(name) => (Part::Rule(name.clone()), true),
                Token::Text(text) => (Part::Text(text.clone()), text != "|"),
                Token::Open if depth == DEPTH_MAX => {
                    return Err(format!("the rule `{name}` nests deeper than {DEPTH_MAX} brackets"));
                }
                Token::Open => {
                    depth += 1;
                    (Part::Text("(".to_owned()), false)
                }
                Token::Close => {
                    depth =
                        depth.checked_sub(1).ok_or_else(|| format!("a `)` too many in the rule `{name}`"))?;
                    (Part::Text(")".to_owned()), true)
                }
                Token::Repeat(sign) if can_repeat => (Part::Repeat(sign.clone()), false),
                Token::Repeat(sign) => {
                    return Err(format!("`{sign}` repeats nothing in the rule `{name}`"));
                }
                Token::Defined => return Err(format!("a `::=` too many in the rule `{name}`")),
            };
            can_repeat = can_be_repeated;
            body.push(part);
        }
        match depth {
            0 => Ok(body),
            _ => Err(format!("a `)` is missing in the rule `{name}`")),
        }
    }
}

/// The rules that each rule mentions.
fn references(rules: &[Rule], ids: &HashMap<&str, usize>) -> Result<Vec<Vec<usize>>, String> {
    let of_rule = |rule: &Rule| {
        let names =
            rule.body.iter().filter_map(|part| if let Part::Rule(name) = part { Some(name) } else { None });
        let id = |name: &String| {
            ids.get(name.as_str()).copied().ok_or_else(|| format!("there is no rule `{name}`"))
        };
        names.map(id).collect()
    };
    rules.iter().map(of_rule).collect()
}

/// Which rules lead to no recursion: those all of whose references do, found from the leaves on.
fn without_recursion(references: &[Vec<usize>]) -> Result<Vec<bool>, String> {
    let mut is_terminal = vec![false; references.len()];
    for _ in 0..=DEPTH_MAX {
        let found: Vec<usize> = (0..references.len())
            .filter(|&i| !is_terminal[i] && references[i].iter().all(|&other| is_terminal[other]))
            .collect();
        if found.is_empty() {
            return Ok(is_terminal);
        }
        found.into_iter().for_each(|i| is_terminal[i] = true);
    }
    Err(format!("more than {DEPTH_MAX} rules refer to each other in a chain"))
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, len) = match first {
            '#' => (None, rest.find('\n').unwrap_or(rest.len())),
            '"' => {
                let (literal, len) = quoted(rest)?;
                (Some(Token::Text(literal)), len)
            }
            '[' => {
                let (class, len) = class(rest)?;
                (Some(Token::Text(class)), len)
            }
            '.' => (Some(Token::Text("/(?s:.)/".to_owned())), 1),
            '|' => (Some(Token::Text("|".to_owned())), 1),
            '(' if rest.starts_with("(=") => return Err("look-ahead, `(=`, is not supported".to_owned()),
            '(' => (Some(Token::Open), 1),
            ')' => (Some(Token::Close), 1),
            '*' | '+' | '?' => (Some(Token::Repeat(first.to_string())), 1),
            '{' => {
                let len = rest.find('}').ok_or("a `}` is missing")? + 1;
                (Some(Token::Repeat(repetition(&rest[1..len - 1])?)), len)
            }
            _ if rest.starts_with("::=") => (Some(Token::Defined), 3),
            _ => {
                let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
                match rest.find(|c| !is_name(c)).unwrap_or(rest.len()) {
                    0 => return Err(format!("`{first}` has no meaning here")),
                    len => (Some(Token::Name(rest[..len].to_owned())), len),
                }
            }
        };
        tokens.extend(token);
        rest = rest[len..].trim_start();
    }
    Ok(tokens)
}

/// `m`, `m,` or `m,n`
fn repetition(inside: &str) -> Result<String, String> {
    let wrong = || format!("`{{{inside}}}` must hold one or two numbers of at most {REPEATED_MAX}");
    let number = |text: &str| {
        let digits = Some(text.trim()).filter(|text| !text.starts_with('+'));
        digits.and_then(|text| text.parse::<u32>().ok()).filter(|&n| n <= REPEATED_MAX).ok_or_else(wrong)
    };
    match inside.split_once(',') {
        None => number(inside).map(|n| format!("{{{n},{n}}}")),
        Some((min, max)) if max.trim().is_empty() => Ok(format!("{{{},}}", number(min)?)),
        Some((min, max)) => match (number(min)?, number(max)?) {
            (min, max) if min <= max => Ok(format!("{{{min},{max}}}")),
            _ => Err(wrong()),
        },
    }
}

/// A text in quotes as Lark writes it, and its length here.
fn quoted(rest: &str) -> Result<(String, usize), String> {
    let mut text = String::new();
    let mut at = 1;
    loop {
        match character(&rest[at..])? {
            (Some('"'), 1) => return Ok((serde_json::Value::from(text).to_string(), at + 1)),
            (Some(c), len) => {
                text.push(c);
                at += len;
            }
            (None, _) => return Err("a `\"` is missing".to_owned()),
        }
    }
}

/// A class of characters as a regular expression between slashes, and its length here.
fn class(rest: &str) -> Result<(String, usize), String> {
    let mut regex = "/[".to_owned();
    let mut at = 1;
    if rest[at..].starts_with('^') {
        regex.push('^');
        at += 1;
    }
    loop {
        match character(&rest[at..])? {
            (Some(']'), 1) => return Ok((regex + "]/", at + 1)),
            // A range, unless it is the last character of the class.
            (Some('-'), 1)
                if !regex.ends_with('[') && !regex.ends_with('^') && !rest[at + 1..].starts_with(']') =>
            {
                regex.push('-');
                at += 1;
            }
            (Some(c), len) => {
                let _ = write!(regex, "\\x{{{:X}}}", u32::from(c));
                at += len;
            }
            (None, _) => return Err("a `]` is missing".to_owned()),
        }
    }
}

/// The next character of a text or class, and how long it is here; longer than one character if it is escaped.
fn character(rest: &str) -> Result<(Option<char>, usize), String> {
    let mut chars = rest.chars();
    let Some(first) = chars.next() else {
        return Ok((None, 0));
    };
    if first != '\\' {
        return Ok((Some(first), first.len_utf8()));
    }
    let wrong = || format!("`\\{}` is no escape", rest[1..].chars().next().unwrap_or(' '));
    let hex = |n_digits: usize| {
        let is_number = |digits: &&str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let digits = rest.get(2..2 + n_digits).filter(is_number).ok_or_else(wrong)?;
        let c = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32).ok_or_else(wrong)?;
        Ok((Some(c), 2 + n_digits))
    };
    match chars.next() {
        Some('n') => Ok((Some('\n'), 2)),
        Some('r') => Ok((Some('\r'), 2)),
        Some('t') => Ok((Some('\t'), 2)),
        Some('x') => hex(2),
        Some('u') => hex(4),
        Some('U') => hex(8),
        Some(c) if c.is_ascii_punctuation() => Ok((Some(c), 2)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(grammar: &str, message: &str) {
        let got = to_lark(grammar).unwrap_err();
        assert!(got.contains(message), "{got}");
    }

    #[test]
    fn rules_without_recursion_become_terminals() {
        let grammar = "root ::= item+ # all\nitem ::= \"a\\n\" | [^x-z\\\\]{2,3}\n  | (list)?\nlist ::= \"[\" root \"]\" word\nword ::= . [a-]";
        let expected = "start: r0\nr0: r1+\nr1: \"a\\n\" | /[^\\x{78}-\\x{7A}\\x{5C}]/{2,3} | ( r2 )?\n\
                        r2: \"[\" r0 \"]\" T3\nT3: /(?s:.)/ /[\\x{61}\\x{2D}]/\n";
        assert_eq!(to_lark(grammar).unwrap(), expected);
    }

    #[test]
    fn mistakes_are_told() {
        check_refused("a ::= \"x\"", "no rule `root`");
        check_refused("root ::= x", "no rule `x`");
        check_refused("root ::= \"x", "`\"` is missing");
        check_refused("root ::= [x", "`]` is missing");
        check_refused("root ::= (\"x\"", "`)` is missing");
        check_refused("root ::= \"x\")", "`)` too many");
        check_refused("root ::= *", "repeats nothing");
        check_refused("root ::= \"a\"\nroot ::= \"b\"", "defined twice");
        check_refused("root ::= \"a\"{3,2}", "must hold");
        check_refused("root ::= \"\\q\"", "no escape");
        check_refused("root ::= \"\\x+f\"", "no escape");
        check_refused("root ::= \"a\"{+3}", "must hold");
        check_refused("root \"a\" ::= x", "must begin with a name");
        check_refused(&format!("root ::= {}", "(".repeat(100)), "nests deeper");
        let chain: String = (0..100).map(|i| format!("r{i} ::= r{}\n", i + 1)).collect();
        check_refused(&format!("root ::= r0\n{chain}r100 ::= \"a\""), "in a chain");
        let many: String = (0..1000).map(|i| format!("r{i} ::= \"a\"\n")).collect();
        check_refused(&format!("root ::= r0\n{many}"), "at most 1000 rules");
    }
}
