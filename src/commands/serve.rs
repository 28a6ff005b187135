//! `lakeward serve`

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use lakeward_pipeline::Pipeline;
use lakeward_server::{AppState, Clock, Limits};
use tokio::net::TcpListener;

use crate::{
    config::Config,
    events,
    exit::Outcome,
    live::{self, Following},
    output::{Progress, pipeline_observer},
    session::{ControlSession, Places, lake, online, pipeline_options, shop_names, shutdown_token},
    streams::Streams,
};

/// Answers from an online store in memory, rebuilt from the lake at the start and kept true from then on: by the tables
/// that an ingester elsewhere writes, or with --ingest by the change stream itself, within a second of a commit. With an
/// online store in Redis ([online] url), the latter also writes customers' features there, and features are read from it.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    places: Places,
    /// Where to listen [default: from the configuration, 127.0.0.1:8080]
    #[arg(long)]
    address: Option<SocketAddr>,
    /// Capture the source in this process, too
    #[arg(long)]
    ingest: bool,
    /// Time stands at the newest order instead of the wall clock: for replayed history
    #[arg(long)]
    stream_time: bool,
}

pub async fn run(arguments: Arguments, mut config: Config, json: bool) -> Result<Outcome> {
    arguments.places.apply(&mut config);
    let address = arguments.address.unwrap_or(config.serve.address);
    let shutdown = shutdown_token()?;
    let lake = lake(&config)?;
    let names = shop_names(&config);
    let every = Duration::from_secs_f64(config.serve.poll_seconds);
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let clock = if arguments.stream_time { Clock::Stream } else { Clock::Wall };

    let mut capture = None;
    let online = |source: &str| online(&config, source);
    let Following { store, online, publisher, task: following } = if arguments.ingest {
        let session = ControlSession::open(&config, &lake).await?;
        let streams = Streams::start(&config, &lake);
        let observer = streams.observer(pipeline_observer(&Progress::new()));
        let pipeline = Pipeline::new(
            Arc::clone(&lake),
            Arc::clone(&session.control),
            pipeline_options(&config)?,
            observer,
        );
        let handle = pipeline.handle();
        let running = tokio::spawn(pipeline.run(shutdown.clone()));
        let begun = tokio::select! {
            () = shutdown.cancelled() => None,
            begun = live::follow_pipeline(handle, Arc::clone(&lake), &names, online, clock) => Some(begun),
        };
        let following = match begun {
            Some(Ok(following)) => following,
            begun => {
                let interrupted = shutdown.is_cancelled();
                shutdown.cancel();
                let ended = running.await.context("the ingester broke")?;
                streams.finish(&shutdown).await;
                session.close().await?;
                // An ingester that has ended leaves nothing to follow; it knows better why.
                ended?;
                return match begun {
                    Some(Err(error)) if !interrupted => Err(error),
                    _ => Ok(Outcome::Done),
                };
            }
        };
        capture = Some((running, streams, session));
        following
    } else {
        let source = config.source.name.clone();
        let following = live::follow_lake(Arc::clone(&lake), &names, source, every, online, shutdown.clone());
        tokio::select! {
            () = shutdown.cancelled() => return Ok(Outcome::Done),
            following = following => following?,
        }
    };

    let events = events::door(&config, &shutdown)?;
    live::tracked::follow(&config, &store, publisher, &shutdown)?;
    let state = AppState { online, events, behind: !arguments.ingest, ..AppState::new(store, clock) };
    live::keep_scores(&state, &shutdown);
    live::follow_models(&lake, &state, every, &shutdown)?;
    let url = format!("http://{}", listener.local_addr()?);
    if json {
        println!("{}", serde_json::json!({ "url": url }));
    } else {
        println!("Serving on {url} (API: {url}/docs)");
    }
    let serving = tokio::spawn(lakeward_server::serve(listener, state, Limits::default(), shutdown.clone()));
    let followed = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        followed = following => followed.context("the online store's task broke")?,
    };
    shutdown.cancel();
    serving.await.context("the server broke")??;
    if let Some((running, streams, session)) = capture {
        running.await.context("the ingester broke")??;
        streams.finish(&shutdown).await;
        session.close().await?;
    }
    followed?;
    Ok(Outcome::Done)
}
