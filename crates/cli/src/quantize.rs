//! `dsde quantize`: a model as a GGUF file with smaller weights.

mod output;

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use dsde_checkpoint::gguf::Gguf;
use dsde_checkpoint::{Checkpoint, Conversion, Mix, Total, gguf_file};
use dsde_text::{Tokenizer, gguf_keys};

use crate::derived;
use crate::failure::{Failure, Outcome, usage};
use crate::interrupt::Interrupt;
use crate::machine::n_cores;
use crate::models::found;
use crate::speculation::Source;
use crate::stores::bytes;
use output::Output;

const EXAMPLES: &str = "\
Examples:
  dsde quantize --model ./Qwen3-0.6B --type Q4_K_M qwen3-0.6b-q4_k_m.gguf
  dsde quantize --model ./Qwen3-0.6B --type Q8_0 qwen3-0.6b-q8_0.gguf
  dsde chat --model qwen3-0.6b-q4_k_m.gguf

Which type:
  Q8_0    half of BF16; answers can hardly be told from those of the original
  Q4_K_M  under a third of BF16, little worse; the usual choice where memory or speed counts
  Q4_0    a little smaller and worse; for programs that read nothing else
  BF16    all that most models are published with, in one file; also what to quantise from
  F16     as large; for machines that compute in it

A pass reads every weight once, so a file of half the size answers almost twice as fast where memory is the limit. Quantise from \
the original: what was rounded before loses more when it is rounded again. The file opens in other programs that read GGUF, too.";

/// Write a model as a GGUF file with smaller weights
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct QuantizeArgs {
    /// Model to read: a folder as downloaded from Hugging Face (Llama, Mistral, Qwen2, Qwen3), a GGUF file, or `ORG/NAME[:FILE]`
    /// of the Hugging Face Hub.
    #[arg(long, value_name = "PATH|ORG/NAME")]
    model: PathBuf,

    /// What most weights become; norms and biases stay in single precision, and some matrices get more bits than the name says.
    #[arg(long = "type", value_enum, value_name = "TYPE", ignore_case = true)]
    mix: Typed,

    /// Write over an existing file.
    #[arg(long)]
    force: bool,

    /// File to write.
    #[arg(value_name = "OUT.gguf")]
    out: PathBuf,
}

/// A mix as typed.
#[derive(Clone, Copy, Debug)]
struct Typed(Mix);

impl ValueEnum for Typed {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [Typed; 5] =
            [Typed(Mix::Q8_0), Typed(Mix::Q4KM), Typed(Mix::Q4_0), Typed(Mix::Bf16), Typed(Mix::F16)];
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name()))
    }
}

/// A model as opened.
enum Model {
    File(Gguf),
    Folder(Box<Checkpoint>),
}

/// Runs the command.
pub(crate) fn run(args: &QuantizeArgs) -> Outcome {
    let asked = args.model.to_str().map_or_else(|| Source::Path(args.model.clone()), Source::parse);
    let Source::Path(path) = found("model", asked)? else {
        return Err(usage("the embedded pair is not quantised"));
    };
    let output = Output::create(&args.out, args.force)?;
    let mix = args.mix.0;
    let model = Model::open(&path).map_err(|error| in_context(error, "cannot load", &path))?;
    let conversion =
        model.conversion(&path, mix).map_err(|error| in_context(error, "cannot convert", &path))?;
    let totals = written(&conversion, &output)?;
    check(&path, output.path())
        .map_err(|error| in_context(error, "cannot use what was written from", &path))?;
    output.keep()?;
    print(&mut io::stdout(), &args.out, mix, &conversion, &totals)?;
    Ok(())
}

fn in_context(error: anyhow::Error, what: &str, path: &Path) -> Failure {
    Failure::Run(error.context(format!("{what} {}", path.display())))
}

impl Model {
    fn open(path: &Path) -> anyhow::Result<Self> {
        // Refuses what no model is, and tensors that would get lost.
        let checkpoint = Checkpoint::open(path)?;
        Ok(match gguf_file(path)? {
            Some(file) => Self::File(Gguf::open(&file)?),
            None => Self::Folder(Box::new(checkpoint)),
        })
    }

    fn conversion(&self, path: &Path, mix: Mix) -> anyhow::Result<Conversion<'_>> {
        Ok(match self {
            Self::File(gguf) => Conversion::of_gguf(gguf, mix)?,
            Self::Folder(checkpoint) => {
                // Also refuses a tokenizer that contradicts itself.
                Tokenizer::open(path)?;
                Conversion::of_folder(checkpoint, gguf_keys(path, checkpoint.config())?, mix)?
            }
        })
    }
}

fn written(conversion: &Conversion<'_>, output: &Output) -> Outcome<Vec<Total>> {
    let n_threads = n_cores() as usize;
    let interrupt = Interrupt::listen()?;
    let bar = derived::progress(conversion.stored_bytes());
    let out = BufWriter::new(Stoppable { out: output.file(), interrupt: &interrupt });
    let totals = interrupt.during(|| conversion.write(out, n_threads, |n_bytes| bar.inc(n_bytes as u64)));
    bar.finish_and_clear();
    totals.map_err(|error| in_context(error.into(), "did not finish", output.named()))
}

/// An output that fails after Ctrl-C, so that what was begun can be removed.
struct Stoppable<'a, W> {
    out: W,
    interrupt: &'a Interrupt,
}

impl<W: Write> Write for Stoppable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.interrupt.is_stopped() {
            true => Err(io::Error::other("Ctrl-C was pressed")),
            false => self.out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Opens the file and compares what its tokens mean with the model.
fn check(model: &Path, written: &Path) -> anyhow::Result<()> {
    let n_tokens = Checkpoint::open(written)?.config().n_embeddings;
    let gguf = Gguf::open(written)?;
    // Files without a vocabulary are copied as they are.
    if gguf.metadata().get("tokenizer.ggml.tokens").is_none() {
        return Ok(());
    }
    let expected = Tokenizer::open(model)?;
    let got = Tokenizer::from_gguf(&written.display().to_string(), gguf.metadata())?;
    Ok(expected.same_tokens(&got, n_tokens)?)
}

fn print(
    out: &mut impl Write,
    path: &Path,
    mix: Mix,
    conversion: &Conversion<'_>,
    totals: &[Total],
) -> io::Result<()> {
    let n_bytes = totals.iter().map(|total| total.n_bytes).sum();
    let (before, after) = (bytes(conversion.stored_bytes()), bytes(n_bytes));
    writeln!(out, "{}: {}, weights of {before} now take {after}", path.display(), mix.name())?;
    writeln!(out, "\n  type  tensors      before       after  relative error")?;
    for total in totals {
        writeln!(
            out,
            "  {:5} {:>7} {:>11} {:>11}  {:.4} %",
            total.dtype.name(),
            total.n_tensors,
            bytes(total.stored_bytes),
            bytes(total.n_bytes),
            100.0 * total.relative_error()
        )?;
    }
    match conversion.n_rounded_again() {
        0 => Ok(()),
        n => writeln!(
            out,
            "\n{n} tensors were quantised before and lost more now, which the errors do not show in full; quantise from the original"
        ),
    }
}
