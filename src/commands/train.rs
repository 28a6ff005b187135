//! `lakeward train recommender|churn`

use anyhow::Result;
use chrono::{DateTime, Utc};
use lakeward_features::ShopTables;
use lakeward_lakehouse::{Lake, Manifest, Watermark};
use serde_json::Value;

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
    /// Learn from the kept orders what to recommend
    Recommender {
        #[command(flatten)]
        common: Common,
        /// Length of a customer's and a product's vector
        #[arg(long)]
        factors: Option<usize>,
        #[arg(long)]
        iterations: Option<usize>,
        #[arg(long)]
        regularization: Option<f64>,
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Learn from earlier windows of time who will place no order within the horizon
    Churn {
        #[command(flatten)]
        common: Common,
        /// Days without a kept order that make a churned customer
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=3650))]
        horizon: Option<u32>,
    },
}

#[derive(clap::Args)]
pub struct Common {
    #[command(flatten)]
    place: LakePlace,
    /// Know nothing later than this date or time, UTC [default: the newest time in the shop's rows]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    as_of: Option<DateTime<Utc>>,
}

pub async fn run(arguments: Arguments, mut config: Config, json: bool) -> Result<Outcome> {
    match arguments {
        Arguments::Recommender { common, factors, iterations, regularization, seed } => {
            let to = &mut config.recommender;
            to.factors = factors.unwrap_or(to.factors);
            to.iterations = iterations.unwrap_or(to.iterations);
            to.regularization = regularization.unwrap_or(to.regularization);
            to.seed = seed.unwrap_or(to.seed);
            let (lake, watermark, shop, as_of) = common.open(&mut config).await?;
            let step = Progress::new().step("training the recommender", "steps");
            let options = models::train_options(&config);
            let trained =
                models::train_recommender(&lake, &watermark, &shop, options, as_of, move |done, total| {
                    step.set(done, total);
                })
                .await?;
            print(&trained.manifest, json)
        }
        Arguments::Churn { common, horizon } => {
            config.churn.horizon_days = horizon.unwrap_or(config.churn.horizon_days);
            let (lake, watermark, shop, as_of) = common.open(&mut config).await?;
            let trained =
                models::train_churn(&lake, &watermark, &shop, &models::churn_params(&config), as_of).await?;
            let customers = models::score_churn(&lake, &shop, &trained, as_of).await?;
            if !json {
                println!("Scored {customers} customers into features/customer_churn");
            }
            print(&trained.manifest, json)
        }
    }
}

impl Common {
    async fn open(self, config: &mut Config) -> Result<(std::sync::Arc<Lake>, Watermark, ShopTables, i64)> {
        self.place.apply(config);
        let lake = lake(config)?;
        let watermark = newest_watermark(config, &lake).await?;
        let shop = ShopTables::open(&lake, &watermark, &shop_names(config)).await?;
        let as_of = match self.as_of {
            Some(as_of) => as_of.timestamp_micros(),
            None => models::known_at(&shop)?,
        };
        Ok((lake, watermark, shop, as_of))
    }
}

/// Every number of a JSON document with its path; lists are for machines.
fn numbers(path: &str, value: &Value) -> Vec<[String; 2]> {
    match value {
        Value::Number(number) => vec![[path.to_owned(), number.to_string()]],
        Value::Object(fields) => {
            let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path} {key}") };
            fields.iter().flat_map(|(key, value)| numbers(&join(key), value)).collect()
        }
        _ => Vec::new(),
    }
}

fn print(manifest: &Manifest, json: bool) -> Result<Outcome> {
    if json {
        println!("{}", serde_json::to_string(manifest)?);
    } else {
        println!("In use now: models/{}/{}", manifest.kind, manifest.version);
        println!("{}", table(["measured on data held out", ""], numbers("", &manifest.metrics)));
    }
    Ok(Outcome::Done)
}
