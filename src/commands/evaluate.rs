//! `lakeward evaluate recommender|churn`

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, TimeDelta, Utc};
use lakeward_features::ShopTables;
use lakeward_recommender::{EvaluateOptions, RepeatPolicy};

use crate::{
    config::Config,
    exit::Outcome,
    files, models,
    output::{Progress, table},
    session::{LakePlace, lake, newest_watermark, shop_names},
    time::parse_time,
};

#[derive(clap::Subcommand)]
pub enum Arguments {
    /// Rank all products for each customer and compare with what they bought next
    ///
    /// With --train and --test, on files (CSV or Parquet) with the columns user_id, item_id[, timestamp][, weight][, basket_id];
    /// without, on the lake: each customer's last order is the test.
    Recommender {
        #[command(flatten)]
        place: LakePlace,
        #[arg(long, value_name = "FILE", requires = "test")]
        train: Option<PathBuf>,
        #[arg(long, value_name = "FILE", requires = "train")]
        test: Option<PathBuf>,
        /// Rank only these pairs of user_id and item_id
        #[arg(long, value_name = "FILE", requires = "train")]
        candidates: Option<PathBuf>,
        /// Whether what a customer has bought may be recommended again
        #[arg(long, value_enum, default_value = "allow")]
        repeat: Repeat,
        /// Lengths of the lists that are judged
        #[arg(long, value_delimiter = ',', default_value = "10,20")]
        k: Vec<usize>,
    },
    /// Train on windows that end before the as-of date, test on the one after it
    ///
    /// With --orders, on a file (CSV or Parquet) with the columns user_id, timestamp[, amount]; without, on the lake.
    Churn {
        #[command(flatten)]
        place: LakePlace,
        #[arg(long, value_name = "FILE")]
        orders: Option<PathBuf>,
        /// A date or a time, UTC [default: one horizon before the newest order]
        #[arg(long, value_name = "DATE", value_parser = parse_time)]
        as_of: Option<DateTime<Utc>>,
        /// Days without an order that make a churned customer [default: from the configuration, 30]
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=3650))]
        horizon: Option<u32>,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Repeat {
    Allow,
    Exclude,
}

pub async fn run(arguments: Arguments, mut config: Config, json: bool) -> Result<Outcome> {
    match arguments {
        Arguments::Recommender { place, train, test, candidates, repeat, k } => {
            place.apply(&mut config);
            let repeat = match repeat {
                Repeat::Allow => RepeatPolicy::Allow,
                Repeat::Exclude => RepeatPolicy::Exclude,
            };
            let options = EvaluateOptions { ks: k, repeat, train: models::train_options(&config) };
            let (train, test) = match train.zip(test) {
                Some((train, test)) => (files::read(&train)?, files::read(&test)?),
                None => {
                    let shop = shop(&config).await?;
                    let interactions = shop.interactions(models::known_at(&shop)?).await?;
                    let (train, test) = models::split_last_basket(interactions, config.recommender.seed)?;
                    (vec![train], vec![test])
                }
            };
            let candidates = candidates.map(|file| files::read(&file)).transpose()?;
            let report = recommender(train, test, candidates, options).await?;
            if json {
                println!("{}", serde_json::to_string(&report)?);
            } else {
                print_recommender(&report);
            }
        }
        Arguments::Churn { place, orders, as_of, horizon } => {
            place.apply(&mut config);
            config.churn.horizon_days = horizon.unwrap_or(config.churn.horizon_days);
            let shop = match orders {
                Some(file) => lakeward_features::orders_only(&files::read(&file)?)
                    .with_context(|| format!("cannot use {}", file.display()))?,
                None => shop(&config).await?,
            };
            let report = churn(&shop, &config, as_of.map(|time| time.timestamp_micros())).await?;
            if json {
                println!("{}", serde_json::to_string(&report)?);
            } else {
                print_churn(&report);
            }
        }
    }
    Ok(Outcome::Done)
}

async fn shop(config: &Config) -> Result<ShopTables> {
    let lake = lake(config)?;
    let watermark = newest_watermark(config, &lake).await?;
    Ok(ShopTables::open(&lake, &watermark, &shop_names(config)).await?)
}

/// Also used by the demo.
pub async fn recommender(
    train: Vec<arrow::array::RecordBatch>,
    test: Vec<arrow::array::RecordBatch>,
    candidates: Option<Vec<arrow::array::RecordBatch>>,
    options: EvaluateOptions,
) -> Result<lakeward_recommender::EvaluationReport> {
    let step = Progress::new().step("evaluating", "steps");
    let evaluated = tokio::task::spawn_blocking(move || {
        let progress = |done, total| step.set(done, total);
        lakeward_recommender::evaluate(&train, &test, candidates.as_deref(), &options, &progress)
    });
    Ok(evaluated.await.context("the evaluation was cut short")??)
}

/// Also used by the demo. Without `as_of`: the newest window that has ended.
pub async fn churn(
    shop: &ShopTables,
    config: &Config,
    as_of: Option<i64>,
) -> Result<lakeward_propensity::Evaluation> {
    let params = models::churn_params(config);
    let horizon =
        TimeDelta::days(params.horizon_days.into()).num_microseconds().context("the horizon is too long")?;
    let (earliest, newest) = models::order_period(shop).await?;
    let as_of = as_of.unwrap_or(newest - horizon);
    if as_of >= newest {
        bail!("there is no order after the as-of time: nothing tells who stayed");
    }
    let mut times =
        lakeward_propensity::training_times(as_of, params.horizon_days, params.max_windows, earliest);
    times.push(as_of);
    let rows = shop.churn_training(&times, params.horizon_days).await?;
    let mut evaluation = lakeward_propensity::evaluate(&models::churn_windows(&rows)?, as_of, &params)?;
    let known = TimeDelta::microseconds(newest - as_of).num_days();
    if known + 1 < i64::from(params.horizon_days) {
        evaluation.notes.push(format!(
            "the newest order comes {known} days after the as-of time, before the horizon of {} days ends: who ordered \
             later counts as churned",
            params.horizon_days
        ));
    }
    Ok(evaluation)
}

fn print_recommender(report: &lakeward_recommender::EvaluationReport) {
    let metrics: Vec<&String> = report.default.keys().collect();
    let mut header = vec!["scorer"];
    header.extend(metrics.iter().map(|name| name.as_str()));
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED).set_header(header);
    let rows = report.scorers.iter().map(|(name, values)| (name.as_str(), values));
    let parts = [
        ("default", &report.default),
        ("default, bought before", &report.repeat),
        ("default, new", &report.explore),
    ];
    for (name, values) in rows.chain(parts) {
        let cells = metrics
            .iter()
            .map(|metric| values.get(*metric).map_or(String::new(), |value| format!("{value:.4}")));
        table.add_row(std::iter::once(name.to_owned()).chain(cells));
    }
    println!("{table}");
    for note in &report.notes {
        println!("note: {note}");
    }
}

fn print_churn(report: &lakeward_propensity::Evaluation) {
    let number = |value: Option<f64>| value.map_or("not defined".to_owned(), |value| format!("{value:.4}"));
    let rows = report.scorers.iter().map(|(name, scores)| {
        [
            (*name).to_owned(),
            number(scores.auc),
            number(scores.pr_auc),
            number(Some(scores.brier)),
            number(Some(scores.ece)),
        ]
    });
    println!("{}", table(["scorer", "AUC", "PR-AUC", "Brier", "ECE"], rows));
    for note in &report.notes {
        println!("note: {note}");
    }
}
