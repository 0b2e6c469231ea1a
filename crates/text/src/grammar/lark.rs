//! What grammars in Lark may ask of the library that no answer needs and that has no bound.

use std::iter::Peekable;
use std::str::Chars;

/// A part of a grammar, as far as it is told apart here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Newline,
    /// Of a rule, a terminal or an attribute.
    Name(String),
    Number,
    /// A text, an expression, or a token of the vocabulary.
    Text,
    DoubleColon,
    Sign(char),
}

/// Refuses rules with parameters, of which one can refer to itself without end, and captures, which are kept for every rule and every
/// place of an answer though nobody asks for them.
///
/// # Errors
/// Says which.
pub(super) fn check(lark: &str) -> Result<(), String> {
    let tokens = tokens(lark);
    if tokens.contains(&Token::DoubleColon) {
        return Err("rules with parameters (`::`) are not supported".to_owned());
    }
    for (at, _) in tokens.iter().enumerate().filter(|(_, token)| **token == Token::Sign('[')) {
        if !opens_attributes(&tokens[..at]) {
            continue;
        }
        let attributes = tokens[at..].iter().take_while(|token| **token != Token::Sign(']'));
        for attribute in attributes {
            if matches!(attribute, Token::Name(name) if name == "capture" || name == "stop_capture") {
                return Err("captures (`[capture]`, `[stop_capture=…]`) are not supported".to_owned());
            }
        }
    }
    Ok(())
}

/// Whether a bracket stands behind the name of a rule that is defined there, not behind a part of its body.
fn opens_attributes(before: &[Token]) -> bool {
    match before {
        // Behind a priority, or behind the parameters of a template.
        [.., Token::Number | Token::Sign('}')] | [Token::Name(_)] => true,
        [.., Token::Newline | Token::Sign('{' | '}'), Token::Name(_)] => true,
        [.., Token::Name(keyword), Token::Name(_)] => keyword.starts_with('%'),
        _ => false,
    }
}

/// The tokens of a grammar as the library tells them apart. Where it finds none it refuses the grammar, so what is made of that is no matter.
fn tokens(lark: &str) -> Vec<Token> {
    let mut rest = lark.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(first) = rest.next() {
        tokens.push(match first {
            ' ' | '\t' | '\r' => continue,
            '\n' => Token::Newline,
            '#' => {
                skip_line(&mut rest);
                continue;
            }
            '/' if rest.peek() == Some(&'/') => {
                skip_line(&mut rest);
                continue;
            }
            '"' | '/' => {
                skip_to(&mut rest, first);
                Token::Text
            }
            '<' => {
                while rest.next_if(|&next| !next.is_whitespace() && next != '<' && next != '>').is_some() {}
                rest.next_if_eq(&'>');
                Token::Text
            }
            ':' if rest.next_if_eq(&':').is_some() => Token::DoubleColon,
            '0'..='9' => {
                while rest.next_if(|next| next.is_ascii_alphanumeric()).is_some() {}
                Token::Number
            }
            '%' | '_' | '?' | '!' | 'a'..='z' | 'A'..='Z' => {
                let is_part = |next: &char| next.is_ascii_alphanumeric() || matches!(next, '_' | '-' | '?');
                let mut name = first.to_string();
                name.extend(std::iter::from_fn(|| rest.next_if(is_part)));
                Token::Name(name)
            }
            sign => Token::Sign(sign),
        });
    }
    tokens
}

fn skip_line(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|&next| next != '\n').is_some() {}
}

/// Leaves out what is quoted, and the quote that ends it.
fn skip_to(rest: &mut Peekable<Chars<'_>>, quote: char) {
    while let Some(next) = rest.next() {
        match next {
            '\\' => drop(rest.next()),
            next if next == quote => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn what_has_no_bound_is_found_wherever_it_may_stand() {
        for (lark, word) in [
            ("start: x::0\nx::_: x::incr(_) \"a\" | \"b\" %if eq(_, 0)\n", "parameters"),
            ("start: /\"/ x::0 /\"/\n", "parameters"),
            ("start: \"\\\"\" x::0 # \"\n", "parameters"),
            ("start: <\"> x::0 <\">\n", "parameters"),
            ("start[capture]: /a/\n", "captures"),
            ("start: a\na[lazy, capture=\"x\"]: /a/\n", "captures"),
            ("start: a\na.5[stop=\"b\", stop_capture=\"x\"]: /a/\n", "captures"),
            ("start: %lark { start: b\nb[capture]: /a/ }\n", "captures"),
            ("start: %lark { start[capture]: /a/ }\n", "captures"),
            ("%override start [capture]: /a/\n", "captures"),
        ] {
            assert!(check(lark).is_err_and(|reason| reason.contains(word)), "{lark}");
        }
    }

    #[test]
    fn what_only_looks_like_it_passes() {
        for lark in [
            "start: \"x::0\" /::/ // ::\n# :: [capture]\n",
            "start: a [capture] <::>\ncapture: \"c\"\na[lazy]: /[capture]/\n",
            "start: %json {\"const\": \"a::b\", \"x\": [\"capture\"]}\n",
            "start: a\n  | [capture]\na: \"[capture]\"\ncapture.2: /a/\n",
        ] {
            assert_eq!(check(lark), Ok(()), "{lark}");
        }
    }
}
