use lakeward_propensity::{Error, Metrics, Params, Table, Window, evaluate};

use crate::shop::{DAY, NAMES, history, names, rows, window};

#[test]
fn tests_on_the_window_at_the_date_and_trains_on_those_that_ended() {
    let windows = [history(300, 2_000), vec![window(330, 10_000, 77), window(360, 2_000, 78)]].concat();
    let report = evaluate(&windows, 330 * DAY, &Params::default()).unwrap();
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["windows"]["train"], serde_json::json!(["1970-09-28T00:00:00Z", "1970-10-28T00:00:00Z"]));
    assert_eq!(json["windows"]["test"], "1970-11-27T00:00:00Z");
    assert_eq!((json["rows"]["train"].as_u64(), json["rows"]["test"].as_u64()), (Some(4_000), Some(10_000)));
    assert_eq!(json["default"], json["scorers"]["logistic"]);
    for figure in ["auc", "pr_auc", "brier", "ece"] {
        let value = json["default"][figure].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&value), "{figure} {value}");
    }
    // The world is as the model assumes, so it must be nearly as good as the truth and well calibrated.
    let (logistic, recency) = (&report.scorers["logistic"], &report.scorers["recency"]);
    assert!(logistic.auc > recency.auc && logistic.brier < recency.brier);
    assert!(logistic.ece < 0.025, "{}", logistic.ece);
    let raw: Vec<f64> = windows[4].table().rows().map(|row| row[0] / 1e3).collect();
    assert_eq!(recency.auc, Metrics::of(&raw, windows[4].churned()).unwrap().auc, "one input ranks as it is");
}

#[test]
fn needs_a_window_on_either_side_of_the_date() {
    let params = Params::default();
    assert!(matches!(evaluate(&history(300, 50), 330 * DAY, &params), Err(Error::NoTestWindow)));
    assert!(matches!(evaluate(&[window(330, 50, 1)], 330 * DAY, &params), Err(Error::NoTrainingWindow)));
    let empty = Window::new(330 * DAY, &Table::new(names(), vec![], 0).unwrap(), &[]).unwrap();
    let windows = [history(300, 50), vec![empty]].concat();
    assert!(matches!(evaluate(&windows, 330 * DAY, &params), Err(Error::Empty)));
}

#[test]
fn works_without_recency_and_with_one_outcome_in_the_test() {
    let named =
        NAMES.map(|name| if name == "recency_days" { "days".into() } else { name.to_owned() }).to_vec();
    let windows: Vec<Window> = [(0, false), (30, true)]
        .map(|(day, test)| {
            let (values, mut churned) = rows(200, 9);
            if test {
                churned.fill(true);
            }
            Window::new(day * DAY, &Table::new(named.clone(), values, 200).unwrap(), &churned).unwrap()
        })
        .into();
    let report = evaluate(&windows, 30 * DAY, &Params::default()).unwrap();
    assert_eq!(report.scorers.keys().collect::<Vec<_>>(), ["logistic"]);
    assert_eq!((report.default.auc, report.default.pr_auc), (None, None));
    assert_eq!(report.rows.test_churned, 200);
}
