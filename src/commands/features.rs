//! `lakeward features build` and `lakeward features materialize`

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use lakeward_features::{ShopTables, View};
use lakeward_online::{MaterializeOptions, Sent};

use crate::{
    config::Config,
    exit::Outcome,
    models,
    output::{Progress, table},
    session::{LakePlace, lake, newest_watermark, online, shop_names},
    time::parse_time,
};

#[derive(clap::Subcommand)]
pub enum Arguments {
    /// Compute the feature tables as of the newest watermark; the same run twice writes the same rows
    Build {
        #[command(flatten)]
        place: LakePlace,
        /// Compute them as they were at this date or time, UTC [default: the newest time in the shop's rows]
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        as_of: Option<DateTime<Utc>>,
        /// Only these views, e.g. user_rfm; may be given several times
        #[arg(long = "view", value_name = "NAME")]
        views: Vec<String>,
    },
    /// Bring feature tables into the online store in Redis ([online] url); run it after every build
    ///
    /// What Redis holds as of a later change stays. Of a run that Redis holds in an earlier version only the rows that differ
    /// are sent. It can be run again at any time, also beside servers and others of its kind.
    Materialize {
        #[command(flatten)]
        place: LakePlace,
        /// The run as of this date or time, UTC [default: the newest run of each view]
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        as_of: Option<DateTime<Utc>>,
        /// Only these views, e.g. user_rfm; may be given several times
        #[arg(long = "view", value_name = "NAME")]
        views: Vec<String>,
        /// Send all rows, whatever Redis is said to hold, and take away what the run does not have: after Redis lost data
        #[arg(long)]
        full: bool,
    },
}

pub async fn run(arguments: Arguments, config: Config, json: bool) -> Result<Outcome> {
    match arguments {
        Arguments::Build { place, as_of, views } => build(place, as_of, &views, config, json).await,
        Arguments::Materialize { place, as_of, views, full } => {
            let as_of = as_of.map(|as_of| as_of.timestamp_micros());
            let views = chosen(&views)?;
            materialize(place, MaterializeOptions { views, as_of, full }, config, json).await
        }
    }
}

async fn materialize(
    place: LakePlace,
    options: MaterializeOptions,
    mut config: Config,
    json: bool,
) -> Result<Outcome> {
    place.apply(&mut config);
    let lake = lake(&config)?;
    let source = newest_watermark(&config, &lake).await?.source;
    let online = online(&config, &source)?
        .context("there is no online store: give its URL as [online] url or LAKEWARD__ONLINE__URL")?;
    let progress = Progress::new();
    let told = |report: &lakeward_online::ViewReport| {
        let what = match report.sent {
            Sent::Nothing => "nothing new".to_owned(),
            Sent::Changed => format!("{} entities changed", report.entities),
            Sent::All => format!("{} entities", report.entities),
        };
        progress.say(format!("  {}: {what}, {:.1} s", report.view, report.elapsed.as_secs_f64()));
    };
    let reports = online.materialize(&lake, &options, &told).await?;
    if json {
        println!("{}", serde_json::to_string(&reports)?);
        return Ok(Outcome::Done);
    }
    let rows = reports.iter().map(|report| {
        let kept = report.entities - report.written;
        [
            report.view.name().to_owned(),
            report.entities.to_string(),
            kept.to_string(),
            report.removed.to_string(),
        ]
    });
    println!("{}", table(["view", "entities sent", "held as of later", "taken away"], rows));
    Ok(Outcome::Done)
}

async fn build(
    place: LakePlace,
    as_of: Option<DateTime<Utc>>,
    views: &[String],
    mut config: Config,
    json: bool,
) -> Result<Outcome> {
    place.apply(&mut config);
    let lake = lake(&config)?;
    let watermark = newest_watermark(&config, &lake).await?;
    let shop = ShopTables::open(&lake, &watermark, &shop_names(&config)).await?;
    let as_of = match as_of {
        Some(as_of) => as_of.timestamp_micros(),
        None => models::known_at(&shop)?,
    };
    let views = chosen(views)?;
    let progress = Progress::new();
    let told = |report: &lakeward_features::ViewReport| {
        progress.say(format!(
            "  {}: {} rows in {:.1} s",
            report.view.name(),
            report.rows,
            report.elapsed.as_secs_f64()
        ));
    };
    let horizon = config.churn.horizon_days;
    let report = lakeward_features::build(&lake, &shop, as_of, horizon, views.as_deref(), &told).await?;
    if json {
        println!("{}", serde_json::to_string(&report)?);
        return Ok(Outcome::Done);
    }
    for missing in &report.missing {
        println!("note: {missing}");
    }
    let rows =
        report.views.iter().map(|view| [format!("features/{}", view.view.name()), view.rows.to_string()]);
    println!("{}", table(["table", "rows"], rows));
    Ok(Outcome::Done)
}

/// The views of these names; `None` for all.
fn chosen(names: &[String]) -> Result<Option<Vec<View>>> {
    let views = names.iter().map(|name| view(name)).collect::<Result<Vec<_>>>()?;
    Ok((!views.is_empty()).then_some(views))
}

fn view(name: &str) -> Result<View> {
    let known = || View::ALL.iter().map(|view| view.name()).collect::<Vec<_>>().join(", ");
    View::ALL
        .iter()
        .copied()
        .find(|view| view.name() == name)
        .with_context(|| format!("no view is called {name:?}; there are {}", known()))
}
