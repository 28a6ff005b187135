use lakeward_propensity::{Direction, Error, FORMAT, Model, Params, Table, Window, train};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::shop::{DAY, NAMES, history, names, rows, true_log_odds, window};

fn trained() -> Model {
    train(&history(300, 2_000), 330 * DAY, &Params::default(), json!({"lsn": "0/16B3748"})).unwrap()
}

#[test]
fn finds_what_is_true() {
    let model = trained();
    let by_name = |name| model.features().iter().find(|feature| feature.name == name).unwrap();
    // Weights are by standard deviation; back on the log scale they are the true ones.
    let weight = |name| by_name(name).coefficient / by_name(name).scale;
    assert!((weight(NAMES[0]) - 1.5).abs() < 0.15, "{}", weight(NAMES[0]));
    assert!((weight(NAMES[1]) + 1.0).abs() < 0.15, "{}", weight(NAMES[1]));
    assert!(by_name(NAMES[2]).coefficient.abs() < 0.1);
    for row in [[0.5, 8.0, 40.0], [20.0, 2.0, 40.0], [100.0, 0.0, 40.0]] {
        let truth = 1.0 / (1.0 + (-true_log_odds(&row)).exp());
        assert!((model.predict(&row).unwrap() - truth).abs() < 0.05);
    }
}

#[test]
fn only_ended_windows_are_learned_from() {
    let params = Params::default();
    let mut windows = history(300, 500);
    let model = train(&windows, 330 * DAY, &params, Value::Null).unwrap();
    assert_eq!(model.training().windows, [270 * DAY, 300 * DAY]);
    assert_eq!(model.training().rows, 1_000);
    // The earlier model that the backtest tests has seen nothing of the tested window.
    assert_eq!(model.backtest().unwrap().t0, 300 * DAY);

    windows.push(window(301, 500, 99));
    windows.reverse();
    let later = train(&windows, 330 * DAY, &params, Value::Null).unwrap();
    assert_eq!(later.to_bytes().unwrap(), model.to_bytes().unwrap(), "the window of day 301 has not ended");
    let before = train(&windows, 330 * DAY - 1, &params, Value::Null).unwrap();
    assert_eq!(before.training().windows, [240 * DAY, 270 * DAY]);
}

#[test]
fn one_window_is_enough_but_gives_no_backtest() {
    let model = train(&[window(0, 300, 1)], 30 * DAY, &Params::default(), Value::Null).unwrap();
    assert_eq!(model.backtest(), None);
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let params = Params::default();
    let refused =
        |windows: &[Window], params: &Params| train(windows, 330 * DAY, params, Value::Null).unwrap_err();
    assert!(matches!(refused(&[], &params), Error::NoTrainingWindow));
    assert!(matches!(refused(&[window(301, 50, 1)], &params), Error::NoTrainingWindow));
    let empty = Window::new(0, &Table::new(names(), vec![], 0).unwrap(), &[]).unwrap();
    assert!(matches!(refused(&[empty], &params), Error::NoTrainingWindow));
    let (values, _) = rows(5, 1);
    let table = Table::new(names(), values, 5).unwrap();
    let all_stay = Window::new(0, &table, &[false; 5]).unwrap();
    assert!(matches!(refused(&[all_stay], &params), Error::SingleClass { rows: 5 }));
    assert!(matches!(Window::new(0, &table, &[false; 4]), Err(Error::LabelCount { rows: 5, labels: 4 })));
    for l2 in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let params = Params { l2, ..Params::default() };
        assert!(matches!(refused(&history(300, 50), &params), Error::Parameter("l2")));
    }
    let params = Params { horizon_days: 0, ..Params::default() };
    assert!(matches!(refused(&history(300, 50), &params), Error::Parameter("horizon_days")));
    let params = Params { max_windows: 0, ..Params::default() };
    assert!(train(&history(300, 50), 330 * DAY, &params, Value::Null).is_err());
}

#[test]
fn a_constant_feature_changes_nothing() {
    let (values, churned) = rows(400, 3);
    let plain = Table::new(names(), values.clone(), 400).unwrap();
    let widened = values.chunks(3).flat_map(|row| [row[0], row[1], row[2], 7.7]).collect();
    let wide = Table::new([names(), vec!["constant".into()]].concat(), widened, 400).unwrap();
    let fit = |table: &Table| {
        let window = Window::new(0, table, &churned).unwrap();
        train(&[window], 30 * DAY, &Params::default(), Value::Null).unwrap()
    };
    let (plain_model, wide_model) = (fit(&plain), fit(&wide));
    assert_eq!(wide_model.features()[3].coefficient, 0.0);
    for row in plain.rows() {
        let unseen = [row[0], row[1], row[2], 1e6];
        assert!((wide_model.predict(&unseen).unwrap() - plain_model.predict(row).unwrap()).abs() < 1e-9);
    }
}

/// `twin` is `days` with noise. Given `days`, more of `twin` lowers the risk; alone it raises it, like `days`.
#[test]
fn no_weight_contradicts_its_feature() {
    let mut rng = StdRng::seed_from_u64(11);
    let mut values = Vec::new();
    let mut churned = Vec::new();
    for _ in 0..3_000 {
        let days: f64 = rng.random_range(0.0..4.0);
        let twin: f64 = days + rng.random_range(0.0..2.0);
        churned.push(rng.random_bool(1.0 / (1.0 + (1.0 - 2.5 * days + 1.5 * twin).exp())));
        values.extend([days.exp_m1(), twin.exp_m1()]);
    }
    let table = Table::new(vec!["days".into(), "twin".into()], values, 3_000).unwrap();
    let window = Window::new(0, &table, &churned).unwrap();
    let model = train(&[window], 30 * DAY, &Params::default(), Value::Null).unwrap();
    assert!(model.features()[0].coefficient > 0.1);
    assert_eq!(model.features()[1].coefficient, 0.0);
    let reasons = model.reasons(&[0.0, 0.0], 5).unwrap();
    assert_eq!(reasons.len(), 1);
    assert_eq!((reasons[0].feature.as_str(), reasons[0].direction), ("days", Direction::Lowers));
}

#[test]
fn columns_are_found_by_name() {
    let model = trained();
    let row = [12.0, 3.0, 41.0];
    let turned = ["extra", NAMES[2], NAMES[0], NAMES[1]].map(String::from).to_vec();
    let table = Table::new(turned, vec![9.0, 41.0, 12.0, 3.0], 1).unwrap();
    assert_eq!(model.predict_table(&table).unwrap(), [model.predict(&row).unwrap()]);
    let named = model.row(|name| NAMES.iter().position(|known| *known == name).map(|at| row[at])).unwrap();
    assert_eq!(named, row);
    assert!(matches!(model.row(|_| None), Err(Error::MissingColumn(name)) if name == NAMES[0]));
    let narrow = Table::new(vec![NAMES[0].into()], vec![1.0], 1).unwrap();
    assert!(matches!(model.predict_table(&narrow), Err(Error::MissingColumn(name)) if name == NAMES[1]));
    assert!(matches!(model.predict(&row[..2]), Err(Error::ValueCount { found: 2, expected: 3 })));
    assert!(
        matches!(model.predict(&[1.0, f64::NAN, 1.0]), Err(Error::NotFinite { column, .. }) if column == NAMES[1])
    );
}

#[test]
fn reasons_name_what_stands_out() {
    let model = trained();
    let reasons = model.reasons(&[140.0, 3.0, 41.0], 2).unwrap();
    assert_eq!(reasons.len(), 2);
    assert_eq!((reasons[0].feature.as_str(), reasons[0].direction), (NAMES[0], Direction::Raises));
    assert!(reasons[0].value > reasons[0].typical);
    let reasons = model.reasons(&[12.0, 11.0, 41.0], 1).unwrap();
    assert_eq!((reasons[0].feature.as_str(), reasons[0].direction), (NAMES[1], Direction::Lowers));
}

#[test]
fn bytes_describe_themselves() {
    let bytes: Value = serde_json::from_slice(&trained().to_bytes().unwrap()).unwrap();
    assert_eq!(bytes["format"], FORMAT);
    let model = &bytes["model"];
    assert_eq!(model["params"]["horizon_days"], 30);
    assert_eq!(model["features"][0]["name"], NAMES[0]);
    assert_eq!(model["training"]["windows"], json!([270 * DAY, 300 * DAY]));
    assert_eq!(model["training"]["watermark"]["lsn"], "0/16B3748");
    assert!(model["backtest"]["metrics"]["auc"].as_f64().unwrap() > 0.8);
}

#[test]
fn damaged_and_newer_bytes_are_refused() {
    let model = train(&[window(0, 60, 1)], 30 * DAY, &Params::default(), Value::Null).unwrap();
    let bytes = model.to_bytes().unwrap();
    for length in 0..bytes.len() - 1 {
        assert!(Model::from_bytes(&bytes[..length]).is_err(), "cut to {length}");
    }
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        // Only the line's end, outside the document, may change without harm.
        match Model::from_bytes(&changed) {
            Ok(read) => assert_eq!((at, read), (bytes.len() - 1, model.clone())),
            Err(error) => assert!(
                matches!(error, Error::Damaged(_) | Error::Json(_) | Error::NewerFormat { .. }),
                "{error}"
            ),
        }
    }
    let newer = String::from_utf8(bytes).unwrap().replace("\"format\":1", "\"format\":2");
    assert!(matches!(
        Model::from_bytes(newer.as_bytes()),
        Err(Error::NewerFormat { found: 2, supported: FORMAT })
    ));
    assert!(matches!(
        Model::from_bytes(br#"{"format":7,"other":"shape"}"#),
        Err(Error::NewerFormat { found: 7, .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn row_order_does_not_change_a_bit(seed in any::<u64>(), shuffle in Just((0..120).collect::<Vec<usize>>()).prop_shuffle()) {
        let (values, mut churned) = rows(120, seed);
        (churned[0], churned[1]) = (true, false);
        let mixed = shuffle.iter().flat_map(|&row| values[row * 3..][..3].to_vec()).collect();
        let mixed_churned: Vec<bool> = shuffle.iter().map(|&row| churned[row]).collect();
        let bytes = |values, churned: &[bool]| {
            let window = Window::new(0, &Table::new(names(), values, 120).unwrap(), churned).unwrap();
            train(&[window], 30 * DAY, &Params::default(), Value::Null).unwrap().to_bytes().unwrap()
        };
        prop_assert_eq!(bytes(values, &churned), bytes(mixed, &mixed_churned));
    }

    #[test]
    fn bytes_come_back_to_the_last_bit(seed in any::<u64>(), l2 in 0.001_f64..100.0) {
        let windows = [window(0, 200, seed), window(30, 200, seed ^ 1)];
        let params = Params { l2, ..Params::default() };
        let model = train(&windows, 60 * DAY, &params, json!({"version": 3})).unwrap();
        let bytes = model.to_bytes().unwrap();
        let read = Model::from_bytes(&bytes).unwrap();
        prop_assert_eq!(&read, &model);
        prop_assert_eq!(read.to_bytes().unwrap(), bytes);
    }

    #[test]
    fn reasons_add_up_to_the_prediction(seed in any::<u64>()) {
        let model = train(&[window(0, 200, seed)], 30 * DAY, &Params::default(), Value::Null).unwrap();
        let (row, _) = rows(1, seed ^ 7);
        let sum: f64 = model.reasons(&row, usize::MAX).unwrap().iter().map(|reason| reason.contribution).sum();
        let probability = model.predict(&row).unwrap();
        prop_assert!(((probability / (1.0 - probability)).ln() - sum - model.intercept()).abs() < 1e-6);
    }

    /// Whatever finite values come, the answer is a probability.
    #[test]
    fn any_finite_row_gets_a_probability(row in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::ZERO, 3)) {
        let model = train(&[window(0, 100, 5)], 30 * DAY, &Params::default(), Value::Null).unwrap();
        prop_assert!((0.0..=1.0).contains(&model.predict(&row).unwrap()));
    }
}
