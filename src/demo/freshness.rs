//! Freshness as an outside client sees it: from COMMIT's return to the first HTTP answer that holds the order.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lakeward_simulator::ShopEvent;
use serde_json::Value;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::shop::Shop;

/// An order that does not show by then never will.
const GIVE_UP: Duration = Duration::from_secs(30);
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// An order whose COMMIT has returned.
pub struct Committed {
    user_id: i64,
    order_id: i64,
    at: Instant,
}

pub struct LiveOrders;

impl LiveOrders {
    /// Places orders in the background; tells of each as its COMMIT returns.
    pub fn start(
        shop: &Shop,
        url: &str,
        speed: f64,
        cancel: &CancellationToken,
    ) -> (mpsc::UnboundedReceiver<Committed>, JoinHandle<Result<()>>) {
        let (sender, orders) = mpsc::unbounded_channel();
        let (shop, url, cancel) = (shop.clone(), url.to_owned(), cancel.clone());
        let runtime = tokio::runtime::Handle::current();
        // On a thread of its own: the shop must keep its schedule whatever else the process does.
        let placing = tokio::task::spawn_blocking(move || {
            let tell = |event: &ShopEvent| {
                if let ShopEvent::Order { order_id, user_id, .. } = event {
                    // Nobody listens any more once enough has been measured.
                    let _ =
                        sender.send(Committed { user_id: *user_id, order_id: *order_id, at: Instant::now() });
                }
            };
            runtime.block_on(shop.place_orders(&url, speed, &tell, &cancel))
        });
        (orders, placing)
    }
}

/// Waits for `count` orders, each until the customer's orders hold it.
pub async fn measure(
    client: &reqwest::Client,
    base: &str,
    mut orders: mpsc::UnboundedReceiver<Committed>,
    count: usize,
) -> Result<Vec<Duration>> {
    let mut watches = JoinSet::new();
    while watches.len() < count {
        let Some(order) = orders.recv().await else { break };
        let address = format!("{base}/api/v1/customers/{}/orders?limit=20", order.user_id);
        watches.spawn(watch(client.clone(), address, order));
    }
    watches.join_all().await.into_iter().collect()
}

async fn watch(client: reqwest::Client, address: String, order: Committed) -> Result<Duration> {
    loop {
        let answer: Value = client.get(&address).send().await?.json().await?;
        let orders = answer["orders"].as_array().context("the answer holds no orders")?;
        if orders.iter().any(|shown| shown["order_id"] == order.order_id) {
            return Ok(order.at.elapsed());
        }
        if order.at.elapsed() > GIVE_UP {
            bail!("order {} was committed {} s ago and does not show", order.order_id, GIVE_UP.as_secs());
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Waits until the server says it is ready, with both models.
pub async fn wait_ready(client: &reqwest::Client, base: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        if let Ok(answer) = client.get(format!("{base}/readyz")).send().await
            && answer.status().is_success()
        {
            return Ok(());
        }
        if began.elapsed() > GIVE_UP {
            bail!("the server is not ready after {} s", GIVE_UP.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
