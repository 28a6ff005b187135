//! `lakeward config check|show`

use anyhow::Result;

use crate::{cli::Global, config::Config, exit::Outcome};

#[derive(clap::Subcommand)]
pub enum Arguments {
    /// Say everything that is wrong with the configuration, at once
    Check,
    /// Show the configuration in force: defaults, file, environment; secrets masked
    Show,
}

pub fn run(arguments: Arguments, global: &Global) -> Result<Outcome> {
    let config = Config::load(global.config.as_deref())?;
    match arguments {
        Arguments::Check if global.json => println!("{}", serde_json::json!({ "problems": [] })),
        Arguments::Check => println!("The configuration is right."),
        Arguments::Show if global.json => println!("{}", serde_json::to_string_pretty(&config)?),
        Arguments::Show => print!("{}", toml::to_string_pretty(&config)?),
    }
    Ok(Outcome::Done)
}
