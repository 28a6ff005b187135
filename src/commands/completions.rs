//! `lakeward completions`

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{cli::Cli, exit::Outcome};

#[derive(clap::Args)]
pub struct Arguments {
    /// For which shell
    shell: Shell,
}

pub fn run(arguments: &Arguments) -> Outcome {
    clap_complete::generate(arguments.shell, &mut Cli::command(), "lakeward", &mut std::io::stdout());
    Outcome::Done
}
