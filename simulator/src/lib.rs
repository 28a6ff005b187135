//! A shop to try Lakeward on: a synthetic one with something true to find, or real data, in a Postgres database.
//!
//! - [`seed()`] generates customers with latent tastes, repeat cycles and drop-out, and loads their history.
//! - [`run()`] goes on living from there: orders, status changes, prices, new customers, closed accounts, visits.
//! - [`import_complete_journey`] and [`import_orders`] load real data; [`replay()`] places held-back orders live.
//!
//! Every load is one transaction into an empty shop: all of it or nothing. Money is exact to the cent, and
//! `sum(quantity * price_per_unit)` over an order's lines is its `total_amount`, always.
//! A closed account is erased: its events, order lines, orders and user row are deleted in one transaction.

mod copy;
mod error;
mod event_file;
mod import;
mod lifecycle;
mod live;
mod load;
mod plan;
mod replay;
mod report;
mod run;
mod schema;
mod synthetic;

pub use error::Error;
pub use event_file::{EventFileOptions, write_events};
pub use import::{OrdersMap, complete_journey_period, import_complete_journey, import_orders};
pub use lifecycle::Status;
pub use replay::{ReplayOptions, replay};
pub use report::{LoadReport, OnEvent, Progress, RunReport, ShopEvent};
pub use run::{RunOptions, run};
pub use schema::create_schema;
pub use synthetic::{SeedOptions, seed};
