//! Real data, read whole and checked before a row of it is written.

mod ids;
mod journey;
mod map;
mod orders;
mod sheet;

pub(crate) use journey::{Basket, Journey};
pub use journey::{complete_journey_period, import_complete_journey};
pub use map::OrdersMap;
pub use orders::import_orders;
