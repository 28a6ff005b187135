//! What time it is for the shop.

use chrono::Utc;

/// Where "now" comes from: answers about a replayed past must not be given as of today.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Clock {
    /// The machine's clock: the source is live.
    #[default]
    Wall,
    /// The greatest commit or event time that has arrived: the source is a replay, or a test.
    Stream,
}

impl Clock {
    /// Now in microseconds since the epoch, UTC; `stream` is the greatest time that has arrived, if any has.
    pub fn now(self, stream: Option<i64>) -> i64 {
        match self {
            Self::Wall => Utc::now().timestamp_micros(),
            Self::Stream => stream.unwrap_or(0),
        }
    }
}
