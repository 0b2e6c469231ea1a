//! The program `dsde`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dsde_cli::main()
}
