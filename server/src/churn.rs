//! A customer's churn risk, and what moves it, in words.

use lakeward_features::{ACTIVITY_COLUMNS, Activity};
use lakeward_propensity::{Error, Model, Reason};

const REASONS: usize = 4;

#[derive(Debug)]
pub(crate) struct Risk {
    pub probability: f64,
    pub reasons: Vec<Reason>,
}

/// # Errors
/// The model wants a feature that [`Activity`] does not have, or a feature is not finite.
pub(crate) fn assess(model: &Model, activity: &Activity) -> Result<Risk, Error> {
    let values = activity.to_array();
    let row = model.row(|name| {
        let at = ACTIVITY_COLUMNS.iter().position(|column| *column == name)?;
        values.get(at).copied()
    })?;
    Ok(Risk { probability: model.predict(&row)?, reasons: model.reasons(&row, REASONS)? })
}

/// A reason in words: this customer's value beside the typical one.
pub(crate) fn text(reason: &Reason) -> String {
    let (value, typical) = (reason.value, reason.typical);
    let days = |value: f64| match value.round() as i64 {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    };
    let orders = |value: f64| format!("{value:.0} {}", if value.round() == 1.0 { "order" } else { "orders" });
    match reason.feature.as_str() {
        "recency_days" => format!("last order {} ago; typical: {}", days(value), days(typical)),
        "tenure_days" => format!("first order {} ago; typical: {}", days(value), days(typical)),
        "orders_total" => format!("{} in all; typical: {typical:.0}", orders(value)),
        "spend_total" => format!("spent {value:.2} in all; typical: {typical:.2}"),
        "gap_mean_days" => format!("orders every {value:.1} days; typical: {typical:.1}"),
        "gap_std_days" => format!("time between orders varies by {value:.1} days; typical: {typical:.1}"),
        "gap_last_days" => format!("{} between the last two orders; typical: {typical:.0}", days(value)),
        "recency_over_gap" => {
            format!(
                "waiting {value:.1} times as long as their usual time between orders; typical: {typical:.1}"
            )
        }
        "distinct_weeks" => format!("bought in {value:.0} different weeks; typical: {typical:.0}"),
        other => match (window(other, "orders_"), window(other, "spend_")) {
            (Some(days), _) => format!("{} in the last {days} days; typical: {typical:.0}", orders(value)),
            (_, Some(days)) => format!("spent {value:.2} in the last {days} days; typical: {typical:.2}"),
            _ => format!("{other} is {value:.1}; typical: {typical:.1}"),
        },
    }
}

/// The days of a windowed feature: 30 of `orders_30d`.
fn window<'a>(feature: &'a str, prefix: &str) -> Option<&'a str> {
    feature
        .strip_prefix(prefix)?
        .strip_suffix('d')
        .filter(|days| days.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use lakeward_propensity::Direction;

    use super::*;

    fn said(feature: &str, value: f64, typical: f64) -> String {
        let feature = feature.to_owned();
        text(&Reason { feature, value, typical, direction: Direction::Raises, contribution: 1.0 })
    }

    #[test]
    fn every_feature_is_said_in_words_of_its_own() {
        for feature in ACTIVITY_COLUMNS {
            let text = said(feature, 12.0, 3.0);
            assert!(!text.contains(feature) && text.contains("12") && text.contains("typical: 3"), "{text}");
        }
        assert_eq!(said("recency_days", 0.2, 1.0), "last order less than a day ago; typical: 1 day");
        assert_eq!(said("orders_90d", 1.0, 4.0), "1 order in the last 90 days; typical: 4");
        assert_eq!(said("returns", 1.5, 0.0), "returns is 1.5; typical: 0.0");
    }
}
