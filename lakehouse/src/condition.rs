//! Conditions on stored rows.

use deltalake::datafusion::{
    common::Column,
    logical_expr::{Expr, lit},
};

/// A column by its exact name.
pub(crate) fn column(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

/// Whether a row's place, its commit and its order in it, lies beyond another.
pub(crate) fn beyond(commit: &Expr, order: &Expr, at: (i64, i64)) -> Expr {
    let same_commit = commit.clone().eq(lit(at.0));
    commit.clone().gt(lit(at.0)).or(same_commit.and(order.clone().gt(lit(at.1))))
}

/// Whether all hold; true of none.
pub(crate) fn all(terms: impl Iterator<Item = Expr>) -> Expr {
    terms.reduce(Expr::and).unwrap_or_else(|| lit(true))
}
