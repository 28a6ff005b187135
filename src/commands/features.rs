//! `lakeward features build`

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use lakeward_features::{ShopTables, View};

use crate::{
    config::Config,
    exit::Outcome,
    models,
    output::{Progress, table},
    session::{LakePlace, lake, newest_watermark, shop_names},
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
}

pub async fn run(arguments: Arguments, mut config: Config, json: bool) -> Result<Outcome> {
    let Arguments::Build { place, as_of, views } = arguments;
    place.apply(&mut config);
    let lake = lake(&config)?;
    let watermark = newest_watermark(&config, &lake).await?;
    let shop = ShopTables::open(&lake, &watermark, &shop_names(&config)).await?;
    let as_of = match as_of {
        Some(as_of) => as_of.timestamp_micros(),
        None => models::known_at(&shop)?,
    };
    let views = views.iter().map(|name| view(name)).collect::<Result<Vec<_>>>()?;
    let chosen = (!views.is_empty()).then_some(views.as_slice());
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
    let report = lakeward_features::build(&lake, &shop, as_of, horizon, chosen, &told).await?;
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

fn view(name: &str) -> Result<View> {
    let known = || View::ALL.iter().map(|view| view.name()).collect::<Vec<_>>().join(", ");
    View::ALL
        .iter()
        .copied()
        .find(|view| view.name() == name)
        .with_context(|| format!("no view is called {name:?}; there are {}", known()))
}
