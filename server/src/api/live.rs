//! `revenue/stream`: revenue minutes and orders as they change, as Server-Sent Events.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use futures::{Stream, StreamExt, stream};
use lakeward_features::{OrderSummary, StoreEvent};
use serde::Serialize;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use utoipa::ToSchema;

use super::{
    answer::{Minute, Order, Problems},
    revenue::{MINUTE, end_of_minute},
};
use crate::{
    state::{Context, Shared},
    telemetry,
    value::Timestamp,
};

const SNAPSHOT_MINUTES: i64 = 24 * 60;
const SNAPSHOT_ORDERS: usize = 20;
/// Often enough that proxies do not take a quiet stream for a dead one.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The first event, `snapshot`: what later events change. Sent again when a slow reader has missed some.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Snapshot {
    /// The last 24 hours' minutes with orders, in time order.
    minutes: Vec<Minute>,
    /// The newest orders, newest first.
    orders: Vec<Order>,
    as_of: Timestamp,
}

/// An event `order`: an order that is new or has changed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OrderChanged {
    order: Order,
    as_of: Timestamp,
}

/// An event `revenue`: a minute's figures, in place of those before.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RevenueChanged {
    minute: Minute,
    as_of: Timestamp,
}

/// Counts an open stream for as long as it lives.
struct Open;

impl Open {
    fn new() -> Self {
        metrics::gauge!(telemetry::STREAMS).increment(1.0);
        Self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::gauge!(telemetry::STREAMS).decrement(1.0);
    }
}

/// Live revenue and orders
///
/// Server-Sent Events: `snapshot` first ([`Snapshot`]), then `order` ([`OrderChanged`]) and `revenue`
/// ([`RevenueChanged`]) as the change stream brings them. After a reconnection the stream begins with a snapshot again.
#[utoipa::path(get, path = "/revenue/stream", tag = "revenue", operation_id = "stream_revenue",
    responses(
        (status = 200, description = "The stream", content(
            (Snapshot = "text/event-stream"), (OrderChanged = "text/event-stream"), (RevenueChanged = "text/event-stream"))),
        Problems))]
pub(super) async fn stream(State(context): Shared) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let open = Open::new();
    let shutdown = context.shutdown.clone();
    // Subscribed before the snapshot is taken: what happens in between comes twice rather than never.
    let changes = BroadcastStream::new(context.app.store.subscribe());
    let first = stream::once({
        let context = Arc::clone(&context);
        async move { snapshot(&context) }
    });
    let later = changes.map(move |change| {
        let _counted = &open;
        match change {
            Ok(StoreEvent::Order(order)) => order_changed(&context, order),
            Ok(StoreEvent::Revenue(minute)) => {
                event("revenue", &RevenueChanged { minute: minute.into(), as_of: context.app.as_of() })
            }
            Err(BroadcastStreamRecvError::Lagged(_)) => snapshot(&context),
        }
    });
    Sse::new(first.chain(later).map(Ok).take_until(shutdown.cancelled_owned()))
        .keep_alive(KeepAlive::new().interval(HEARTBEAT))
}

fn snapshot(context: &Context) -> Event {
    let as_of = context.app.as_of();
    let store = &context.app.store;
    let to = end_of_minute(as_of.0);
    let minutes =
        store.revenue_minutes(to - SNAPSHOT_MINUTES * MINUTE, to).into_iter().map(Minute::from).collect();
    let orders =
        store.newest_orders(SNAPSHOT_ORDERS).into_iter().map(|order| named(context, order, as_of)).collect();
    event("snapshot", &Snapshot { minutes, orders, as_of })
}

fn order_changed(context: &Context, order: OrderSummary) -> Event {
    let as_of = context.app.as_of();
    event("order", &OrderChanged { order: named(context, order, as_of), as_of })
}

fn named(context: &Context, order: OrderSummary, as_of: Timestamp) -> Order {
    let store = context.app.store.as_ref();
    let name =
        order.user_id.and_then(|user_id| store.customer(user_id, as_of.0)).and_then(|customer| customer.name);
    Order::of(order, name, store)
}

fn event(name: &str, data: &impl Serialize) -> Event {
    Event::default().event(name).json_data(data).unwrap_or_else(|error| {
        tracing::error!(%error, name, "an event could not be written");
        Event::default().comment("an event could not be written")
    })
}
