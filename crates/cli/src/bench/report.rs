//! `dsde bench report`: what logs of runs say, in words and figures.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use dsde_bench::{Log, comparison, page, plot};

use crate::failure::{OrUsage as _, Outcome, usage};
use crate::speculation::{PolicyList, first_repeated};

const EXAMPLES: &str = "\
Examples:
  dsde bench report runs.jsonl
  dsde bench report runs.jsonl --plot figures
  dsde bench report runs.jsonl --plot figures --policies auto,fixed:k=1..8,dsde
  dsde bench report runs/first/record.json --plot figures
  dsde bench report few.jsonl many.jsonl --together
  dsde bench report runs.jsonl --html runs.html

--plot writes, as far as there is data: NAME-speed.svg (tokens/s over those of `off` by requests in flight), NAME-tpot.svg, \
NAME-regret.svg (what is missed of the best fixed length) and NAME-load.svg (a load that changes, over time). They have no \
background and can be read on light and dark pages.";

/// Print what logs of runs say, in Markdown
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ReportArgs {
    /// Logs that `dsde bench --log` wrote, or records of --out and --json; each is a page of its own unless --together is given.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Make one page of all files, and figures named after the first. They must be of the same machine, models and settings;
    /// only numbers of requests may differ.
    #[arg(long)]
    together: bool,

    /// Draw figures into this folder, as SVG; existing ones are replaced.
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,

    /// Write the page as one HTML file with charts, too, which needs no network. Of one page only: give one file, or --together.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Draw these policies only, where many would be a tangle. The others still count as what they are compared with.
    #[arg(long, value_name = "POLICY[,POLICY...]", requires = "plot")]
    policies: Option<PolicyList>,
}

/// Runs the command.
pub(super) fn run(args: ReportArgs) -> Outcome {
    let read = |file: &PathBuf| Log::read(file).or_usage();
    let mut logs: Vec<Log> = args.files.iter().map(read).collect::<Outcome<_>>()?;
    if args.together {
        for (log, file) in logs.split_off(1).into_iter().zip(&args.files[1..]) {
            logs[0].add(file, log).or_usage()?;
        }
    }
    if let Some(folder) = &args.plot {
        let shown =
            args.policies.map(|PolicyList(policies)| policies.iter().map(ToString::to_string).collect());
        draw(folder, shown.as_ref(), &args.files[..logs.len()], &logs)?;
    }
    if let Some(path) = &args.html {
        let [log] = &logs[..] else {
            return Err(usage(format!("--html needs one log or --together, got {} logs", logs.len())));
        };
        let html = page::of_log(log).html();
        fs::write(path, html).or_usage_of(format!("--html {} cannot be written", path.display()))?;
    }
    let mut out = io::stdout().lock();
    for log in &logs {
        write!(out, "{}", comparison::page(log))?;
    }
    Ok(())
}

/// Writes the figures of all logs, named after their files.
fn draw(folder: &Path, shown: Option<&Vec<String>>, files: &[PathBuf], logs: &[Log]) -> Outcome {
    let is_shown = |policy: &str| shown.is_none_or(|shown| shown.iter().any(|name| name == policy));
    let names: Vec<String> = files.iter().map(|file| stem(file)).collect();
    if let Some(name) = first_repeated(&names) {
        return Err(usage(format!("--plot: two of the files are called {name}; plot them one by one")));
    }
    fs::create_dir_all(folder).or_usage_of(format!("--plot {} cannot be created", folder.display()))?;
    for (name, log) in names.iter().zip(logs) {
        for figure in plot::figures(log, &is_shown)? {
            let path = folder.join(format!("{name}-{}.svg", figure.name));
            fs::write(&path, figure.svg).or_usage_of(format!("cannot write {}", path.display()))?;
            // Nothing can be done about a stderr that is gone.
            let _ = writeln!(io::stderr(), "wrote {}", path.display());
        }
    }
    Ok(())
}

fn stem(file: &Path) -> String {
    file.file_stem().map_or_else(|| "runs".to_owned(), |stem| stem.to_string_lossy().into_owned())
}
