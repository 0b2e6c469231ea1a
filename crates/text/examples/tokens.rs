//! Writes the tokens of texts as a tokenizer makes them, for comparison with other programs.
//!
//! `tokens PATH` reads texts from standard input, one JSON string a line, and writes an array of ids for each. PATH is a model
//! folder, or a GGUF file. How long opening took goes to standard error.

use std::io::{BufRead, Write};
use std::time::Instant;

use dsde_text::Tokenizer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: tokens PATH < texts.jsonl")?;
    let started = Instant::now();
    let tokenizer = Tokenizer::open(path.as_ref())?;
    eprintln!(
        "{} tokens in {:?}, ends {:?}",
        tokenizer.vocab_len(),
        started.elapsed(),
        tokenizer.end_tokens()
    );
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        let text: String = serde_json::from_str(&line?)?;
        writeln!(out, "{:?}", tokenizer.encode(&text)?)?;
    }
    Ok(out.flush()?)
}
