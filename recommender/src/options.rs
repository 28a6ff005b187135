//! What can be set for training.

use serde::{Deserialize, Serialize};

use crate::als::{Objective, Schedule};
use crate::error::{RecommenderError, Result};

/// Whether items that a customer already bought may be recommended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepeatPolicy {
    /// They may; the learned weights decide.
    #[default]
    Allow,
    /// They may not.
    Exclude,
}

/// Options of training; the defaults are meant for any data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    /// Length of the factor vectors, 1 to 1024.
    pub factors: usize,
    /// Sweeps over both sides.
    pub iterations: usize,
    /// `reg`, the strength of regularisation; greater than zero.
    pub regularization: f64,
    /// `a0`, the weight of a pair that was not observed; an observed single purchase has 1.
    pub unobserved_weight: f64,
    /// `nu`, how regularisation grows with a row's frequency: 0 not at all, 1 in proportion.
    pub frequency_exponent: f64,
    /// The first factors are drawn with this standard deviation over √factors.
    pub init_stddev: f64,
    /// Items bought by fewer users get no factors (popularity and personal frequency cover them).
    pub min_support: usize,
    /// Half-life of a purchase in what is popular now, in days.
    pub popularity_half_life_days: f64,
    /// At most so many users' last baskets are held out to choose the blend's weights.
    pub validation_users: usize,
    /// Whether the lists that the weights are chosen for may hold items bought before.
    pub repeat: RepeatPolicy,
    /// Seed of every random draw.
    pub seed: u64,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            factors: 32,
            iterations: 8,
            regularization: 0.003,
            unobserved_weight: 0.1,
            frequency_exponent: 1.0,
            init_stddev: 0.1,
            min_support: 5,
            popularity_half_life_days: 30.0,
            validation_users: 1_000,
            repeat: RepeatPolicy::Allow,
            seed: 42,
        }
    }
}

impl TrainOptions {
    pub(crate) fn check(&self) -> Result<()> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let checks = [
            ("factors", (1..=1024).contains(&self.factors), "must be 1 to 1024"),
            ("iterations", (1..=1000).contains(&self.iterations), "must be 1 to 1000"),
            ("regularization", positive(self.regularization), "must be greater than zero"),
            ("unobserved_weight", positive(self.unobserved_weight), "must be greater than zero"),
            ("frequency_exponent", (0.0..=2.0).contains(&self.frequency_exponent), "must be 0 to 2"),
            ("init_stddev", positive(self.init_stddev), "must be greater than zero"),
            (
                "popularity_half_life_days",
                positive(self.popularity_half_life_days),
                "must be greater than zero",
            ),
        ];
        match checks.into_iter().find(|(_, good, _)| !good) {
            Some((option, _, problem)) => Err(RecommenderError::InvalidOption { option, problem }),
            None => Ok(()),
        }
    }

    pub(crate) fn objective(&self) -> Objective {
        Objective {
            regularization: self.regularization,
            unobserved_weight: self.unobserved_weight,
            frequency_exponent: self.frequency_exponent,
        }
    }

    pub(crate) fn schedule(&self) -> Schedule {
        Schedule {
            dims: self.factors,
            iterations: self.iterations,
            init_stddev: self.init_stddev,
            seed: self.seed,
        }
    }
}
