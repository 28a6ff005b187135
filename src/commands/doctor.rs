//! `lakeward doctor`

use anyhow::Result;
use lakeward_cdc::Level;

use crate::{
    config::Config,
    exit::Outcome,
    session::{Places, postgres_options},
};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    places: Places,
}

pub async fn run(arguments: Arguments, mut config: Config, json: bool) -> Result<Outcome> {
    arguments.places.apply(&mut config);
    let findings = lakeward_cdc::doctor(&postgres_options(&config)?.url).await;
    if json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            let mark = match finding.level {
                Level::Ok => "ok   ",
                Level::Warn => "warn ",
                Level::Error => "ERROR",
            };
            println!("{mark}  {}", finding.what);
            if let Some(fix) = &finding.fix {
                for line in fix.lines() {
                    println!("         {line}");
                }
            }
        }
    }
    let broken = findings.iter().any(|finding| matches!(finding.level, Level::Error));
    Ok(if broken { Outcome::Found } else { Outcome::Done })
}
