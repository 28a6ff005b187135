//! An order's life: placed → paid → shipped → completed, or cancelled before shipping, or returned after completion.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Placed,
    Paid,
    Shipped,
    Completed,
    Cancelled,
    Returned,
}

impl Status {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Paid => "paid",
            Self::Shipped => "shipped",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Returned => "returned",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Placed, Self::Paid, Self::Shipped, Self::Completed, Self::Cancelled, Self::Returned]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// When an order passes each stage, in microseconds UTC; `None`: it never does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LifeCycle {
    pub(crate) paid: Option<i64>,
    pub(crate) shipped: Option<i64>,
    pub(crate) completed: Option<i64>,
    pub(crate) cancelled: Option<i64>,
    pub(crate) returned: Option<i64>,
}

impl LifeCycle {
    /// The stages after `placed`, in the order in which they come.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (i64, Status)> {
        [
            (self.paid, Status::Paid),
            (self.shipped, Status::Shipped),
            (self.completed, Status::Completed),
            (self.cancelled, Status::Cancelled),
            (self.returned, Status::Returned),
        ]
        .into_iter()
        .filter_map(|(time, status)| Some((time?, status)))
    }

    /// What was known just before `as_of`: later stages have not happened yet.
    pub(crate) fn before(&self, as_of: i64) -> (Self, Status) {
        let known = |time: Option<i64>| time.filter(|time| *time < as_of);
        let past = Self {
            paid: known(self.paid),
            shipped: known(self.shipped),
            completed: known(self.completed),
            cancelled: known(self.cancelled),
            returned: known(self.returned),
        };
        let status = past.changes().last().map_or(Status::Placed, |(_, status)| status);
        (past, status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happened_before_is_known() {
        let life = LifeCycle {
            paid: Some(10),
            shipped: Some(20),
            completed: Some(30),
            cancelled: None,
            returned: Some(40),
        };
        let status = |as_of| life.before(as_of).1;
        assert_eq!(
            [status(10), status(11), status(25), status(31), status(41)],
            [Status::Placed, Status::Paid, Status::Shipped, Status::Completed, Status::Returned,]
        );
        assert_eq!(
            life.before(25).0,
            LifeCycle { paid: Some(10), shipped: Some(20), ..LifeCycle::default() }
        );
    }

    #[test]
    fn names_of_statuses_are_read_back() {
        for status in [Status::Placed, Status::Cancelled, Status::Returned] {
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
        assert_eq!(Status::parse("lost"), None);
    }
}
