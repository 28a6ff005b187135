//! The demo: the whole way of the data, once, on a shop's year; then live.

mod freshness;
mod report;
mod shop;
mod story;

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use chrono::Utc;
use lakeward_features::ShopTables;
use lakeward_lakehouse::{Lake, Watermark};
use lakeward_pipeline::{Handle, Pipeline, Reconcile, reconcile};
use lakeward_postgres::{Control, EmbeddedOptions, EmbeddedPostgres};
use lakeward_recommender::{EvaluateOptions, RepeatPolicy};
use lakeward_server::{AppState, Clock, Limits};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    commands::evaluate,
    config::{Config, SecretUrl},
    exit::{Interrupted, Outcome},
    live::{self, Following},
    models,
    output::{Progress, pipeline_observer},
    session,
    streams::Streams,
};

use freshness::LiveOrders;
use report::{Report, StepTime};
use shop::Shop;

/// Orders whose freshness is measured.
const MEASURED_ORDERS: usize = 200;

pub struct Options {
    pub once: bool,
    pub wheel: Option<PathBuf>,
    pub speed: f64,
    pub directory: Option<PathBuf>,
    pub address: std::net::SocketAddr,
}

/// Says what happens, and how long each step took.
struct Steps {
    progress: Progress,
    report: Report,
}

impl Steps {
    fn begin(&self, what: impl AsRef<str>) -> Instant {
        self.progress.say(format!("\n{}", what.as_ref()));
        Instant::now()
    }

    fn end(&mut self, step: &'static str, began: Instant, what: impl AsRef<str>) {
        let seconds = began.elapsed().as_secs_f64();
        self.progress.say(format!("  {} ({seconds:.1} s)", what.as_ref()));
        self.report.steps.push(StepTime { step, seconds });
    }
}

/// A capture that runs in the background.
struct Capture {
    running: JoinHandle<Result<(), lakeward_pipeline::PipelineError>>,
    handle: Handle,
    streams: Streams,
}

pub async fn run(options: Options, mut config: Config) -> Result<Outcome> {
    let shutdown = session::shutdown_token()?;
    let temporary = tempfile::Builder::new()
        .prefix("lakeward-demo-")
        // The server runs under another account where we are root; what is inside guards itself.
        .permissions(Permissions::from_mode(0o711))
        .tempdir()?;
    let folder = options.directory.clone().unwrap_or_else(|| temporary.path().to_owned());
    config.lake.url = folder.join("lake").display().to_string();
    config.lake.names = shop::short_names();
    let lake = session::lake(&config)?;
    let mut steps = Steps { progress: Progress::new(), report: Report::default() };

    let began = steps.begin("Starting a private Postgres");
    let server = EmbeddedPostgres::start(EmbeddedOptions::new(folder.join("postgres"))).await?;
    for database in ["control", "shop"] {
        server.create_database(database).await?;
    }
    let url = server.url("shop");
    config.source.postgres_url = Some(SecretUrl::new(&url));
    let control = Arc::new(Control::open(&server.url("control")).await?);
    steps.end("start Postgres", began, "PostgreSQL runs, with logical replication");

    // The demo's own end is not an interruption.
    let stop = shutdown.child_token();
    let ended = {
        let mut all = Box::pin(everything(&options, &config, &lake, &control, &url, &mut steps, &stop));
        tokio::select! {
            ended = &mut all => ended.map(|()| false),
            () = shutdown.cancelled() => {
                // What runs in the background has heard it too, and ends in order; a computation may take longer.
                let _ = tokio::time::timeout(Duration::from_secs(10), all).await;
                Ok(true)
            }
        }
    };
    stop.cancel();
    drop(control);
    server.stop().await?;
    let interrupted = ended?;
    if options.once {
        if interrupted {
            return Err(Interrupted.into());
        }
        println!("{}", serde_json::to_string(&steps.report)?);
        if !steps.report.untrue.is_empty() {
            bail!("the demo's claims do not hold: {}", steps.report.untrue.join("; "));
        }
    }
    Ok(Outcome::Done)
}

/// Everything but starting and stopping the server. `stop` ends what runs in the background.
async fn everything(
    options: &Options,
    config: &Config,
    lake: &Arc<Lake>,
    control: &Arc<Control>,
    url: &str,
    steps: &mut Steps,
    stop: &CancellationToken,
) -> Result<()> {
    let shop = Shop::choose(options.wheel.as_deref(), &steps.progress)?;
    load(&shop, url, steps, stop).await?;
    let (capture, watermark) = capture(config, lake, control, steps, stop).await?;
    let worked =
        work(options, config, lake, control, url, &shop, &capture.handle, &watermark, steps, stop).await;
    stop.cancel();
    capture.running.await.context("the ingester broke")??;
    capture.streams.finish(stop).await;
    worked
}

async fn load(shop: &Shop, url: &str, steps: &mut Steps, shutdown: &CancellationToken) -> Result<()> {
    let began =
        steps.begin(format!("Loading {} into Postgres, up to four weeks before its end", shop.name()));
    let step = steps.progress.step("loading history", "order lines");
    let loaded = shop.load(url, &|done, total| step.set(done, total), shutdown).await?;
    drop(step);
    steps.report.shop = shop.name().to_owned();
    steps.report.orders = loaded.orders;
    steps.report.order_lines = loaded.order_items;
    let what = format!(
        "{} customers, {} products, {} orders with {} lines",
        loaded.users, loaded.products, loaded.orders, loaded.order_items
    );
    steps.end("load history", began, what);
    Ok(())
}

/// Starts the pipeline and waits for the first copy.
async fn capture(
    config: &Config,
    lake: &Arc<Lake>,
    control: &Arc<Control>,
    steps: &mut Steps,
    shutdown: &CancellationToken,
) -> Result<(Capture, Arc<Watermark>)> {
    let began = steps
        .begin("Capturing Postgres into Delta tables: one snapshot, then the write-ahead log from there");
    let streams = Streams::start(config, lake);
    let observer = streams.observer(pipeline_observer(&steps.progress));
    let pipeline =
        Pipeline::new(Arc::clone(lake), Arc::clone(control), session::pipeline_options(config)?, observer);
    let handle = pipeline.handle();
    let mut running = tokio::spawn(pipeline.run(shutdown.clone()));
    let watermark = tokio::select! {
        ended = &mut running => {
            ended.context("the ingester broke")??;
            bail!("the ingester ended before it had copied anything");
        }
        watermark = handle.cut() => watermark?,
    };
    steps.end(
        "copy into bronze and silver",
        began,
        format!("every table is in the lake as of {}", watermark.lsn),
    );
    Ok((Capture { running, handle, streams }, watermark))
}

#[allow(clippy::too_many_arguments, reason = "the demo's story has this many actors, once")]
async fn work(
    options: &Options,
    config: &Config,
    lake: &Arc<Lake>,
    control: &Arc<Control>,
    url: &str,
    shop: &Shop,
    handle: &Handle,
    watermark: &Watermark,
    steps: &mut Steps,
    stop: &CancellationToken,
) -> Result<()> {
    let names = session::shop_names(config);
    learn(config, lake, watermark, steps).await?;

    let began = steps.begin("Serving");
    let Following { store, task: following, .. } =
        live::follow_pipeline(handle.clone(), Arc::clone(lake), &names, |_| Ok(None), Clock::Stream).await?;
    let state = AppState::new(store, Clock::Stream);
    live::keep_scores(&state, stop);
    live::follow_models(lake, &state, Duration::from_secs(2), stop)?;
    let listener = match TcpListener::bind(options.address).await {
        Ok(listener) => listener,
        Err(_) => {
            TcpListener::bind((options.address.ip(), 0)).await.context("no port is free to serve on")?
        }
    };
    let base = format!("http://{}", listener.local_addr()?);
    let serving = tokio::spawn(lakeward_server::serve(listener, state, Limits::default(), stop.clone()));
    let client = reqwest::Client::new();
    freshness::wait_ready(&client, &base).await?;
    steps.end("serve", began, format!("{base} answers"));
    steps.report.url.clone_from(&base);

    let began = steps.begin("One customer's story");
    steps.report.story = story::tell(&client, &base).await?;
    for line in &steps.report.story {
        steps.progress.say(format!("  {line}"));
    }
    steps.end("story", began, "as any client of the API can tell it");

    let began = steps
        .begin(format!("Placing live orders; following {MEASURED_ORDERS} of them from COMMIT to an answer"));
    let (orders, live) = LiveOrders::start(shop, url, options.speed, stop);
    let waits = freshness::measure(&client, &base, orders, MEASURED_ORDERS).await?;
    let fresh = report::Freshness::of(waits).context("no live order was placed")?;
    steps.end(
        "freshness",
        began,
        format!("p50 {:.0} ms, p99 {:.0} ms, slowest {:.0} ms", fresh.p50_ms, fresh.p99_ms, fresh.max_ms),
    );
    if !fresh.within_promise {
        steps.progress.say("  slower than the second we promise: is the machine busy with something else?");
    }
    steps.report.freshness = Some(fresh);

    prove(config, lake, control, steps).await?;

    steps.progress.say(format!("\nOpen {base} and watch it live. The API is at {base}/docs."));
    if !options.once {
        steps.progress.say("Orders keep coming until Ctrl-C.");
        tokio::select! {
            () = stop.cancelled() => {}
            followed = following => followed.context("the online store's task broke")??,
        }
    }
    stop.cancel();
    live.await.context("the live shop broke")??;
    serving.await.context("the server broke")??;
    Ok(())
}

/// Features, models and their evaluation.
async fn learn(config: &Config, lake: &Lake, watermark: &Watermark, steps: &mut Steps) -> Result<()> {
    let names = session::shop_names(config);
    let shop = ShopTables::open(lake, watermark, &names).await?;
    let as_of = models::known_at(&shop)?;

    let began = steps.begin("Building feature tables");
    let told = |view: &lakeward_features::ViewReport| {
        steps.progress.say(format!("  features/{}: {} rows", view.view.name(), view.rows));
    };
    lakeward_features::build(lake, &shop, as_of, config.churn.horizon_days, None, &told).await?;
    steps.end("build features", began, "written");

    let began = steps.begin("Training the recommender");
    let step = steps.progress.step("training", "steps");
    let options = models::train_options(config);
    let progress = move |done, total| step.set(done, total);
    let trained = models::train_recommender(lake, watermark, &shop, options, as_of, progress).await?;
    steps.end(
        "train recommender",
        began,
        format!("models/recommender/{} is in use", trained.manifest.version),
    );

    let began = steps.begin("Evaluating it: each customer's last order, all products ranked");
    let interactions = shop.interactions(as_of).await?;
    let (train, test) = models::split_last_basket(interactions, config.recommender.seed)?;
    let options = EvaluateOptions {
        ks: vec![10, 20],
        repeat: RepeatPolicy::Allow,
        train: models::train_options(config),
    };
    let evaluation = evaluate::recommender(vec![train], vec![test], None, options).await?;
    steps.report.recommender = evaluation.scorers.clone();
    steps.report.recommender.insert("default".to_owned(), evaluation.default.clone());
    for (scorer, metrics) in &steps.report.recommender {
        let metric = |name| metrics.get(name).copied().unwrap_or_default();
        steps.progress.say(format!(
            "  {scorer:<12} recall@10 {:.4}  ndcg@10 {:.4}",
            metric("recall@10"),
            metric("ndcg@10")
        ));
    }
    steps.end("evaluate recommender", began, "on orders the model had not seen");
    let better = |scorer: &str| {
        evaluation.default.get("recall@10")
            >= evaluation.scorers.get(scorer).and_then(|metrics| metrics.get("recall@10"))
    };
    if !better("popularity") {
        steps.report.untrue.push("what is served is better than popularity".to_owned());
    }

    let began = steps.begin("Training and evaluating churn risk");
    let params = models::churn_params(config);
    let trained = models::train_churn(lake, watermark, &shop, &params, as_of).await?;
    let scored = models::score_churn(lake, &shop, &trained, as_of).await?;
    let evaluation = evaluate::churn(&shop, config, None).await?;
    let auc = evaluation.default.auc.unwrap_or(0.5);
    steps.report.churn = Some(serde_json::to_value(&evaluation.default)?);
    if auc <= 0.5 {
        steps.report.untrue.push(format!("churn risk tells more than chance: AUC is {auc:.3}"));
    }
    steps.end(
        "churn",
        began,
        format!(
            "{scored} customers scored; AUC {auc:.3} over {} days not seen in training",
            params.horizon_days
        ),
    );
    Ok(())
}

/// The lake equals Postgres, while orders keep coming.
async fn prove(config: &Config, lake: &Arc<Lake>, control: &Arc<Control>, steps: &mut Steps) -> Result<()> {
    let began = steps.begin("Proving that the lake equals Postgres, at one point, while orders keep coming");
    let wanted = Reconcile {
        snapshot_wait: Duration::from_secs(50),
        cut_wait: Duration::from_secs(60),
        show_values: false,
        repair: false,
    };
    let options = session::pipeline_options(config)?;
    let observer = pipeline_observer(&steps.progress);
    let found = reconcile(lake, control, &options, wanted, &observer).await?;
    let differences = found.tables.iter().map(|table| table.differing).sum();
    steps.report.reconciled_tables = found.tables.len();
    steps.report.reconcile_differences = differences;
    let rows: u64 = found.tables.iter().map(|table| table.source_rows).sum();
    steps.end(
        "reconcile",
        began,
        format!(
            "{rows} rows in {} tables compared at {}: {differences} differences",
            found.tables.len(),
            found.lsn
        ),
    );
    if differences > 0 {
        steps.report.untrue.push(format!("the lake equals Postgres: {differences} keys differ"));
    }
    Ok(())
}

/// When the shop's history ends for the made-up shop.
fn synthetic_end() -> chrono::DateTime<Utc> {
    Utc::now().date_naive().and_time(chrono::NaiveTime::MIN).and_utc()
}
