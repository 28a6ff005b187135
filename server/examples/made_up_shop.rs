//! Serves the made-up shop of the tests with an order every so often: the page without a database.
//!
//! `cargo run -p lakeward-server --example made_up_shop [CUSTOMERS [PRODUCTS [SECONDS_BETWEEN_ORDERS]]]`

use std::{env, str::FromStr, sync::Arc, time::Duration};

use lakeward_change::Op;
use lakeward_server::{AppState, Clock, Limits, serve};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[path = "../tests/shop.rs"]
mod shop;

use shop::{END, SMALL, Shop, Size};

fn argument<T: FromStr>(at: usize, default: T) -> T {
    env::args().nth(at).and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let size = Size { customers: argument(1, 400), products: argument(2, SMALL.products), ..SMALL };
    let mut shop = Shop::new(size, 7);
    let store = Arc::new(shop.store());
    let state = AppState::new(Arc::clone(&store) as _, Clock::Stream);
    state.recommender.set("made-up-1", shop.recommender(1));
    state.churn.set("made-up-1", shop.churn());

    let listener = TcpListener::bind("127.0.0.1:8099").await?;
    println!("http://{}", listener.local_addr()?);
    let pause = Duration::from_secs_f64(argument(3, 1.5));
    tokio::spawn(async move {
        let mut at = END;
        for commit in 1.. {
            tokio::time::sleep(pause).await;
            at += 23_000_000;
            // Every other order comes from the same few, so that one customer's page changes while it is looked at.
            let user_id = if commit % 2 == 0 { 5 } else { 1 + commit * 7_919 % size.customers };
            let order = shop.next_order(user_id, at);
            if store.apply(&shop::changes(&order, Op::Insert, commit)).is_err() {
                return;
            }
        }
    });
    let shutdown = CancellationToken::new();
    let ended = shutdown.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        ended.cancel();
    });
    serve(listener, state, Limits::default(), shutdown).await?;
    Ok(())
}
