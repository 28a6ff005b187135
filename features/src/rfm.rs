//! Scores of recency, frequency and monetary value, and the segments named after them.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::Money;

/// Fifths that a customer's values fall into among all customers, 5 best, and the segment they make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rfm {
    pub recency_score: u8,
    pub frequency_score: u8,
    pub monetary_score: u8,
    pub segment: Segment,
}

/// The usual grid over recency and frequency scores; the same as in `views/user_rfm.sql`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Segment {
    Champions,
    Loyal,
    PotentialLoyal,
    New,
    Promising,
    NeedsAttention,
    AboutToSleep,
    CannotLose,
    AtRisk,
    Hibernating,
    Lost,
}

impl Segment {
    pub(crate) fn of(recency_score: u8, frequency_score: u8) -> Self {
        match (recency_score, frequency_score) {
            (4.., 4..) => Self::Champions,
            (3, 4..) => Self::Loyal,
            (4.., 2..) => Self::PotentialLoyal,
            (5.., _) => Self::New,
            (4, _) => Self::Promising,
            (3, 3) => Self::NeedsAttention,
            (3, _) => Self::AboutToSleep,
            (_, 5..) => Self::CannotLose,
            (_, 3..) => Self::AtRisk,
            (2, _) => Self::Hibernating,
            _ => Self::Lost,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Champions => "champions",
            Self::Loyal => "loyal",
            Self::PotentialLoyal => "potential_loyal",
            Self::New => "new",
            Self::Promising => "promising",
            Self::NeedsAttention => "needs_attention",
            Self::AboutToSleep => "about_to_sleep",
            Self::CannotLose => "cannot_lose",
            Self::AtRisk => "at_risk",
            Self::Hibernating => "hibernating",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Segment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where the fifths of one value begin: the smallest values that score 2, 3, 4 and 5.
///
/// A value's score is the fifth that holds its mid-rank, so equal values score alike.
#[derive(Debug, Clone)]
pub(crate) struct Quintiles<T>(Vec<T>);

impl<T: Ord + Copy> Quintiles<T> {
    pub(crate) fn of(mut values: Vec<T>) -> Self {
        values.sort_unstable();
        let mut starts = Vec::with_capacity(4);
        let mut less = 0;
        for equal in values.chunk_by(|a, b| a == b) {
            let score = 1 + 5 * (2 * less + equal.len()) / (2 * values.len());
            starts.resize(score - 1, equal[0]);
            less += equal.len();
        }
        Self(starts)
    }

    /// 1 to 5. A value that was not among those counted scores as the next smaller one that was.
    pub(crate) fn score(&self, value: T) -> u8 {
        1 + self.0.iter().filter(|start| **start <= value).count() as u8
    }
}

/// The fifths of all customers at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Boundaries {
    /// Of the negative recency in days, so that greater is better.
    pub(crate) recency: Quintiles<i64>,
    pub(crate) frequency: Quintiles<u64>,
    pub(crate) monetary: Quintiles<Money>,
}

impl Boundaries {
    pub(crate) fn score(&self, recency_days: i64, frequency: u64, monetary: Money) -> Rfm {
        let recency_score = self.recency.score(-recency_days);
        let frequency_score = self.frequency.score(frequency);
        Rfm {
            recency_score,
            frequency_score,
            monetary_score: self.monetary.score(monetary),
            segment: Segment::of(recency_score, frequency_score),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(values: &[i64]) -> Vec<u8> {
        let quintiles = Quintiles::of(values.to_vec());
        values.iter().map(|value| quintiles.score(*value)).collect()
    }

    #[test]
    fn fifths_hold_equal_numbers() {
        assert_eq!(scores(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
    }

    #[test]
    fn equal_values_score_alike_in_the_middle_of_their_ranks() {
        assert_eq!(scores(&[7]), [3]);
        assert_eq!(scores(&[1, 1, 1, 1, 1, 1, 9, 9, 9, 9]), [2, 2, 2, 2, 2, 2, 5, 5, 5, 5]);
    }

    #[test]
    fn an_unseen_value_scores_as_the_next_smaller() {
        let quintiles = Quintiles::of(vec![10, 20, 30, 40, 50]);
        assert_eq!([0, 10, 29, 30, 99].map(|value| quintiles.score(value)), [1, 1, 2, 3, 5]);
        assert_eq!(Quintiles::<i64>::of(Vec::new()).score(3), 1);
    }
}
