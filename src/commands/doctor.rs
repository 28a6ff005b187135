//! `lakeward doctor`

use std::path::Path;

use anyhow::Result;
use lakeward_cdc::{Finding, Level};

use crate::{
    config::Config,
    exit::Outcome,
    session::{Places, lake, postgres_options},
};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    places: Places,
}

pub async fn run(arguments: Arguments, mut config: Config, json: bool) -> Result<Outcome> {
    arguments.places.apply(&mut config);
    let mut findings = lakeward_cdc::doctor(&postgres_options(&config)?.url).await;
    // A folder that is not there yet is not made for a look.
    if config.lake.url.contains("://") || Path::new(&config.lake.url).exists() {
        findings.push(store(&config).await);
    }
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

/// Whether the lake's store decides between two writers, which every commit counts on.
async fn store(config: &Config) -> Finding {
    let probed = async { Ok::<_, anyhow::Error>(lake(config)?.probe().await?) };
    match probed.await {
        Ok(()) => Finding {
            level: Level::Ok,
            what: format!("the store of {} decides between two writers", config.lake.url),
            fix: None,
        },
        Err(error) => Finding {
            level: Level::Error,
            what: format!("{error:#}"),
            fix: Some(
                "a lake needs a store with conditional writes: a local disk, Amazon S3, MinIO, R2, Ceph"
                    .to_owned(),
            ),
        },
    }
}
