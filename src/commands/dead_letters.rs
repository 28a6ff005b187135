//! `lakeward dead-letters list|show|replay|park`

mod events;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use lakeward_lakehouse::{Lake, StoredLetter, Watermark};
use lakeward_pipeline::{ReplayChoice, replay};
use serde_json::{Value, json};

use crate::{
    config::{Config, table_id},
    exit::Outcome,
    output::table,
    session::{ControlSession, LakePlace, Places, lake, pipeline_options},
};

#[derive(clap::Subcommand)]
pub enum Arguments {
    /// Rows that could not be taken in, with the reason
    List {
        #[command(flatten)]
        place: LakePlace,
        /// Of this table alone: schema.table
        #[arg(long, value_name = "NAME")]
        table: Option<String>,
    },
    /// One of them whole, its bytes by their number alone
    Show {
        #[command(flatten)]
        place: LakePlace,
        /// The letter, as the list names it
        id: String,
        /// Show the row as it came: text of the copy, or the stream's message in hexadecimal
        #[arg(long)]
        show_values: bool,
    },
    /// Leaves open ones as they are for good: `replay` passes over them unless it names them
    ///
    /// They still tell why their rows are missing.
    Park {
        #[command(flatten)]
        place: LakePlace,
        /// The letters, as the list names them
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Reads them again and puts them into their table, each at its own place: what came later stands
    ///
    /// A running ingester does it; without one, this process does. Exit code 1 if some still cannot be taken in.
    Replay {
        #[command(flatten)]
        places: Places,
        /// The letters, as the list names them
        #[arg(required_unless_present_any = ["table", "all"], conflicts_with_all = ["table", "all"])]
        ids: Vec<String>,
        /// All open ones of a table: schema.table
        #[arg(long, value_name = "NAME", conflicts_with = "all")]
        table: Option<String>,
        /// All open ones
        #[arg(long)]
        all: bool,
        /// Seconds that a running ingester may take for each table
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        wait: u64,
    },
}

pub async fn run(arguments: Arguments, mut config: Config, json: bool) -> Result<Outcome> {
    match arguments {
        Arguments::List { place, table: name } => {
            place.apply(&mut config);
            let wanted = name.as_deref().map(named).transpose()?;
            let lake = lake(&config)?;
            let mut letters = lake.dead_letters(config.source.name.as_deref(), false).await?;
            letters.retain(|stored| wanted.as_ref().is_none_or(|table| stored.letter.table == *table));
            let newest = newest_cuts(&lake, &letters).await?;
            print_list(&letters, &newest, json)?;
        }
        Arguments::Show { place, id, show_values } => {
            place.apply(&mut config);
            let lake = lake(&config)?;
            let letters = lake.dead_letters(config.source.name.as_deref(), true).await?;
            let newest = newest_cuts(&lake, &letters).await?;
            let Some(stored) = letters.iter().find(|stored| stored.id == id) else {
                bail!("there is no dead letter {id}; `lakeward dead-letters list` shows what there is");
            };
            let mut shown = described(stored, &newest);
            shown["bytes"] = json!(stored.letter.message.len());
            // Of a letter that came by a topic it tells where it was.
            if let Ok(whence) = serde_json::from_slice::<Value>(&stored.letter.relation) {
                for field in ["topic", "partition", "offset", "contract"] {
                    shown[field] = whence[field].clone();
                }
            }
            if show_values {
                shown["message"] = json!(hex(&stored.letter.message));
                shown["text"] = json!(stored.letter.message.escape_ascii().to_string());
            }
            println!("{}", if json { shown.to_string() } else { serde_json::to_string_pretty(&shown)? });
        }
        Arguments::Park { place, ids } => {
            place.apply(&mut config);
            let lake = lake(&config)?;
            let parked = park(&lake, &ids).await?;
            if json {
                println!("{}", json!({ "parked": parked }));
            } else {
                println!("{parked} parked");
            }
        }
        Arguments::Replay { places, ids, table: name, all: _, wait } => {
            places.apply(&mut config);
            let choice = match name {
                Some(name) => ReplayChoice::Table(named(&name)?),
                None if ids.is_empty() => ReplayChoice::All,
                None => ReplayChoice::Letters(ids.into_iter().collect()),
            };
            let lake = lake(&config)?;
            let (mut report, rest) = events::replay(&lake, &config, choice).await?;
            if let Some(choice) = rest {
                let options = pipeline_options(&config)?;
                let session = ControlSession::open(&config, &lake).await?;
                let patience = Duration::from_secs(wait);
                let replayed = replay(&lake, &session.control, &options, &choice, patience).await;
                session.close().await?;
                let replayed = replayed?;
                report.applied += replayed.applied;
                report.superseded += replayed.superseded;
                report.refused.extend(replayed.refused);
            }
            if json {
                println!("{}", serde_json::to_string(&report)?);
            } else {
                println!(
                    "{} put in, {} closed since something later stands",
                    report.applied, report.superseded
                );
                for (id, reason) in &report.refused {
                    println!("  {id} is still open: {reason}");
                }
            }
            return Ok(if report.refused.is_empty() { Outcome::Done } else { Outcome::Found });
        }
    }
    Ok(Outcome::Done)
}

/// Tells how many were not parked before. All of them are looked at before any is; each source's are one commit.
async fn park(lake: &Lake, ids: &[String]) -> Result<usize> {
    let letters = lake.dead_letters(None, false).await?;
    let mut of_sources: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for id in ids {
        let Some(stored) = letters.iter().find(|stored| stored.id == *id) else {
            bail!("there is no dead letter {id}; `lakeward dead-letters list` shows what there is");
        };
        if stored.replayed.is_some() {
            bail!("the dead letter {id} was replayed: it is not open any more");
        }
        if stored.parked_at.is_none() {
            of_sources.entry(&stored.source.name).or_default().insert(id.clone());
        }
    }
    for (source, ids) in &of_sources {
        lake.park_letters(source, ids, Utc::now().timestamp_micros()).await?;
    }
    Ok(of_sources.values().map(BTreeSet::len).sum())
}

fn named(name: &str) -> Result<lakeward_change::TableId> {
    table_id(name).with_context(|| format!("{name:?} names no table: write schema.table"))
}

/// The newest cut of each source that has letters.
async fn newest_cuts(lake: &Lake, letters: &[StoredLetter]) -> Result<Vec<Watermark>> {
    let mut sources: Vec<&str> = letters.iter().map(|stored| stored.source.name.as_str()).collect();
    sources.dedup();
    let mut cuts = Vec::new();
    for source in sources {
        cuts.extend(lake.latest_watermark(Some(source)).await?);
    }
    Ok(cuts)
}

fn state(stored: &StoredLetter, newest: &[Watermark]) -> String {
    if let Some((_, outcome)) = stored.replayed {
        return outcome.to_string();
    }
    if stored.parked_at.is_some() {
        return "parked".to_owned();
    }
    let cut = newest.iter().find(|cut| cut.source == stored.source.name);
    let table = cut.and_then(|cut| cut.tables.get(&stored.letter.table));
    let older = table.is_some_and(|table| table.epoch > stored.letter.position.epoch);
    if older { "of an earlier copy" } else { "open" }.to_owned()
}

fn described(stored: &StoredLetter, newest: &[Watermark]) -> Value {
    let letter = &stored.letter;
    let time = |micros: i64| {
        DateTime::from_timestamp_micros(micros).map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true))
    };
    json!({
        "id": stored.id,
        "source": stored.source.name,
        "system_id": stored.source.system_id,
        "table": letter.table.to_string(),
        "state": state(stored, newest),
        "operation": letter.op.letter(),
        "epoch": letter.position.epoch,
        "commit": lakeward_change::Lsn::from_i64(letter.position.commit).to_string(),
        "order": letter.position.order,
        "lsn": lakeward_change::Lsn::from_i64(letter.lsn).to_string(),
        "transaction": letter.xid,
        "committed_at": letter.committed_at.and_then(time),
        "set_aside_at": time(stored.set_aside_at),
        "replayed_at": stored.replayed.and_then(|(at, _)| time(at)),
        "parked_at": stored.parked_at.and_then(time),
        "attempts": stored.attempts,
        "reason": letter.reason,
    })
}

fn print_list(letters: &[StoredLetter], newest: &[Watermark], json: bool) -> Result<()> {
    if json {
        let all: Vec<Value> = letters.iter().map(|stored| described(stored, newest)).collect();
        println!("{}", serde_json::to_string(&all)?);
        return Ok(());
    }
    if letters.is_empty() {
        println!("no dead letters");
        return Ok(());
    }
    let rows = letters.iter().map(|stored| {
        let letter = &stored.letter;
        [
            stored.id.clone(),
            letter.table.to_string(),
            letter.op.letter().to_owned(),
            lakeward_change::Lsn::from_i64(letter.position.commit).to_string(),
            state(stored, newest),
            letter.reason.clone(),
        ]
    });
    println!("{}", table(["letter", "table", "op", "commit", "state", "reason"], rows));
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
