//! The SQL views, one file each in `views/`.

use std::fmt;

use deltalake::datafusion::prelude::SessionContext;
use serde::{Serialize, Serializer};

use crate::{FeatureError, Result};

/// A feature view: a table `features/{name}` of the lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum View {
    UserRfm,
    UserItemInteractions,
    ProductPopularity,
    UserActivity,
    /// Live alone: there is no table of it.
    Session,
    ChurnTraining,
}

impl View {
    /// Those that have tables.
    pub const ALL: [Self; 5] = [
        Self::UserRfm,
        Self::UserItemInteractions,
        Self::ProductPopularity,
        Self::UserActivity,
        Self::ChurnTraining,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::UserRfm => "user_rfm",
            Self::UserItemInteractions => "user_item_interactions",
            Self::ProductPopularity => "product_popularity",
            Self::UserActivity => "user_activity",
            Self::Session => "session",
            Self::ChurnTraining => "churn_training",
        }
    }

    /// The columns that name a row.
    pub fn entity(self) -> &'static [&'static str] {
        match self {
            Self::UserRfm | Self::UserActivity | Self::Session => &["user_id"],
            Self::UserItemInteractions => &["user_id", "product_id"],
            Self::ProductPopularity => &["product_id"],
            Self::ChurnTraining => &["event_time", "user_id"],
        }
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for View {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

pub(crate) const INTERACTIONS: &str = "interactions";

/// Name and query; each may read the shop's tables, `moments` (as_of, label_at), and the views before it.
const DEFINITIONS: [(&str, &str); 8] = [
    ("kept_orders", include_str!("../views/kept_orders.sql")),
    ("kept_lines", include_str!("../views/kept_lines.sql")),
    (INTERACTIONS, include_str!("../views/interactions.sql")),
    ("user_rfm", include_str!("../views/user_rfm.sql")),
    ("user_item_interactions", include_str!("../views/user_item_interactions.sql")),
    ("product_popularity", include_str!("../views/product_popularity.sql")),
    ("user_activity", include_str!("../views/user_activity.sql")),
    ("churn_training", include_str!("../views/churn_training.sql")),
];

/// Defines all views in a session that has the tables they read.
pub(crate) async fn define(session: &SessionContext) -> Result<()> {
    for (view, query) in DEFINITIONS {
        session
            .sql(&format!("CREATE VIEW {view} AS {query}"))
            .await
            .map_err(|source| FeatureError::Query { view, source })?;
    }
    Ok(())
}
