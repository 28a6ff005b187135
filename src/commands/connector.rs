//! `lakeward connector apply|status|restart|delete`

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use lakeward_connect::{Connectors, Report, Template};

use crate::{
    config::{Config, SecretUrl},
    exit::Outcome,
    output::{mib, table},
};

#[derive(clap::Subcommand)]
pub enum Arguments {
    /// Make connectors as their templates say, or change them to that; wait until they run
    Apply(Choice),
    /// What Kafka Connect and the shop's database say of them, and what to do where one does not run
    Status(Choice),
    /// Start connectors and their tasks again, and wait until they run
    Restart(Choice),
    /// Take connectors away, with their slots and publications; the next apply copies their tables anew
    Delete(Choice),
}

#[derive(clap::Args)]
pub struct Choice {
    /// ecommerce-connector (topics ecommerce.public.*, all tables but events), tracking-connector (topic
    /// `tracking_postgres_cdc.public.events`) [default: both]
    names: Vec<String>,
    /// Connectors of your own instead, in the form of those in deploy/debezium/
    #[arg(long = "template", value_name = "FILE", conflicts_with = "names")]
    templates: Vec<PathBuf>,
    /// Kafka Connect's REST API [default: from the configuration, 127.0.0.1:8083]
    #[arg(long, value_name = "URL")]
    connect_url: Option<String>,
    /// The shop's Postgres as Kafka Connect reaches it: postgres://user:password@host:5432/database?sslmode=require
    #[arg(long, value_name = "URL", env = "LAKEWARD_POSTGRES_URL", hide_env_values = true)]
    postgres_url: Option<String>,
}

pub async fn run(arguments: Arguments, config: Config, json: bool) -> Result<Outcome> {
    let (Arguments::Apply(choice)
    | Arguments::Status(choice)
    | Arguments::Restart(choice)
    | Arguments::Delete(choice)) = &arguments;
    let (connectors, templates) = open(choice, &config)?;
    let mut reports = Vec::new();
    for template in &templates {
        match &arguments {
            Arguments::Apply(_) => reports.push(connectors.apply(template).await?),
            Arguments::Status(_) => reports.push(connectors.status(template).await?),
            Arguments::Restart(_) => reports.push(connectors.restart(template).await?),
            Arguments::Delete(_) => {
                connectors.delete(template).await?;
                if !json {
                    println!("{} is gone, with its slot and publication; its topics stay.", template.name);
                }
            }
        }
    }
    if matches!(arguments, Arguments::Delete(_)) {
        if json {
            let names: Vec<&str> = templates.iter().map(|template| template.name.as_str()).collect();
            println!("{}", serde_json::json!({ "deleted": names }));
        }
        return Ok(Outcome::Done);
    }
    if json {
        println!("{}", serde_json::to_string(&reports)?);
    } else {
        print(&reports);
    }
    Ok(if reports.iter().all(Report::is_well) { Outcome::Done } else { Outcome::Found })
}

fn open(choice: &Choice, config: &Config) -> Result<(Connectors, Vec<Template>)> {
    let given = choice.postgres_url.as_deref().or(config.source.postgres_url.as_ref().map(SecretUrl::expose));
    let postgres =
        given.context("which Postgres? Give --postgres-url, or [source] postgres_url in lakeward.toml")?;
    let connect = choice.connect_url.as_deref().unwrap_or(&config.connect.url);
    let mut templates = if choice.templates.is_empty() {
        Template::shipped(&choice.names)?
    } else {
        let read = choice.templates.iter().map(|path| {
            let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            Ok(Template::read(&path.display().to_string(), &text)?)
        });
        read.collect::<Result<_>>()?
    };
    for template in &mut templates {
        template.exclude.extend(config.source.exclude.iter().cloned());
    }
    Ok((Connectors::new(connect, postgres)?, templates))
}

fn print(reports: &[Report]) {
    let rows = reports.iter().map(|report| {
        let tasks: Vec<&str> = report.tasks.iter().map(|task| task.state.as_str()).collect();
        let slot = match &report.slot {
            None => "unknown".to_owned(),
            Some(slot) if !slot.exists => "missing".to_owned(),
            Some(slot) if slot.lost => "lost".to_owned(),
            Some(slot) => {
                let read = if slot.active { "read" } else { "not read" };
                format!("{read}, {} kept", mib(slot.kept_bytes))
            }
        };
        [
            report.connector.clone(),
            report.state.clone().unwrap_or_else(|| "missing".to_owned()),
            if tasks.is_empty() { "none".to_owned() } else { tasks.join(", ") },
            slot,
            report.tables.len().to_string(),
        ]
    });
    println!("{}", table(["connector", "state", "task", "slot", "tables"], rows));
    for report in reports {
        for problem in &report.problems {
            println!("! {}: {}", report.connector, problem.what);
            println!("    {}", problem.fix);
        }
    }
}
