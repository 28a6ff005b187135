//! What each endpoint answers when all is well.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use lakeward_change::Op;
use lakeward_features::OnlineStore;
use serde_json::{Value, json};

use crate::{
    app::{App, products},
    shop::{self, CATEGORIES, END, MINUTE, Order},
};

fn kept(order: &&Order) -> bool {
    order.cancelled_at.is_none()
}

fn money(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

fn time(micros: i64) -> String {
    chrono::DateTime::from_timestamp_micros(micros)
        .expect("in range")
        .to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

#[tokio::test]
async fn a_profile_says_what_the_orders_say() {
    let app = App::bare();
    let user = app.shop.orders.iter().find(|order| order.cancelled_at.is_some()).unwrap().user_id;
    let orders: Vec<_> = app.shop.orders.iter().filter(|order| order.user_id == user).collect();
    let kept: Vec<_> = orders.iter().copied().filter(kept).collect();
    let profile = app.ok(&format!("/api/v1/customers/{user}")).await;
    assert_eq!(profile["user_id"], user);
    assert_eq!(profile["name"], shop::customer_name(user));
    assert_eq!(profile["orders"], orders.len());
    assert_eq!(profile["frequency"], kept.len());
    assert_eq!(profile["monetary"], money(kept.iter().map(|order| order.cents()).sum()));
    assert_eq!(profile["last_order_at"], time(kept.iter().map(|order| order.created_at).max().unwrap()));
    assert_eq!(profile["as_of"], time(app.store.status().as_of.unwrap()));
    assert!((1..=5).contains(&profile["rfm"]["recency_score"].as_i64().unwrap()));
}

#[tokio::test]
async fn orders_come_newest_first_with_named_lines() {
    let app = App::bare();
    let mut orders: Vec<_> = app.shop.orders.iter().filter(|order| order.user_id == 3).collect();
    orders.sort_by_key(|order| (-order.created_at, -order.order_id));
    let answer = app.ok("/api/v1/customers/3/orders?limit=4").await;
    let ids: Vec<_> =
        answer["orders"].as_array().unwrap().iter().map(|order| order["order_id"].clone()).collect();
    assert_eq!(ids, orders.iter().take(4).map(|order| json!(order.order_id)).collect::<Vec<_>>());
    let first = &answer["orders"][0];
    assert_eq!(first["total_amount"], money(orders[0].cents()));
    assert_eq!(first["items"].as_array().unwrap().len(), orders[0].lines.len());
    for (item, (product_id, quantity, cents)) in
        first["items"].as_array().unwrap().iter().zip(&orders[0].lines)
    {
        assert_eq!(
            item,
            &json!({"product_id": product_id, "name": shop::product_name(*product_id), "quantity": quantity, "price_per_unit": money(*cents)})
        );
    }
}

#[tokio::test]
async fn recent_buyers_are_those_of_the_newest_orders() {
    let app = App::bare();
    let mut expected = Vec::new();
    let mut orders: Vec<_> = app.shop.orders.iter().collect();
    orders.sort_by_key(|order| (-order.created_at, -order.order_id));
    for order in orders {
        if !expected.contains(&order.user_id) {
            expected.push(order.user_id);
        }
    }
    let answer = app.ok("/api/v1/customers?limit=5").await;
    let ids: Vec<_> =
        answer["customers"].as_array().unwrap().iter().map(|c| c["user_id"].as_i64().unwrap()).collect();
    assert_eq!(ids, expected[..5]);
    assert_eq!(answer["customers"][0]["name"], shop::customer_name(expected[0]));
}

#[tokio::test]
async fn recommendations_hold_to_every_wish() {
    let app = App::trained();
    let all = app.ok("/api/v1/customers/5/recommendations?k=10&explain=true").await;
    assert_eq!(products(&all).len(), 10);
    assert_eq!(
        (&all["user_id"], &all["model_version"], &all["fallback"]),
        (&json!(5), &json!("r1"), &json!(false))
    );
    let scores: Vec<f64> =
        all["recommendations"].as_array().unwrap().iter().map(|row| row["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    assert!(
        all["recommendations"]
            .as_array()
            .unwrap()
            .iter()
            .all(|row| !row["reasons"].as_array().unwrap().is_empty())
    );

    let out: Vec<i64> = products(&all)[..3].to_vec();
    let without = app
        .ok(&format!("/api/v1/customers/5/recommendations?exclude={},{},{}", out[0], out[1], out[2]))
        .await;
    assert_eq!(products(&without)[..7], products(&all)[3..]);
    assert!(without["recommendations"][0].get("reasons").is_none());

    let dairy = app.ok("/api/v1/customers/5/recommendations?category=dairy").await;
    assert!(dairy["recommendations"].as_array().unwrap().iter().all(|row| row["category"] == "dairy"));
    assert_eq!(products(&dairy).len(), 10);

    let bought: BTreeSet<i64> = app
        .shop
        .orders
        .iter()
        .filter(|order| order.user_id == 5)
        .filter(kept)
        .flat_map(|order| order.lines.iter().map(|line| line.0))
        .collect();
    let new = app.ok("/api/v1/customers/5/recommendations?repeat=exclude").await;
    assert!(products(&new).iter().all(|product| !bought.contains(product)));
    assert!(
        products(&all).iter().any(|product| bought.contains(product)),
        "allowed repeats are there by default"
    );
}

#[tokio::test]
async fn a_list_is_short_only_if_the_shop_has_no_more() {
    let app = App::trained();
    let everything = app.shop.size.products as usize;
    for path in ["customers/5/recommendations?", "customers/999999/recommendations?", "products/popular?"] {
        let list = products(&app.ok(&format!("/api/v1/{path}k=100")).await);
        assert_eq!(list.len(), everything, "{path}");
        assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), everything, "{path} repeats itself");
    }
    let similar = products(&app.ok("/api/v1/products/1/similar?k=100").await);
    assert_eq!(similar.len(), everything - 1);
    assert!(!similar.contains(&1));
    let exclude: Vec<String> = (1..=app.shop.size.products - 4).map(|id| id.to_string()).collect();
    let rest =
        app.ok(&format!("/api/v1/customers/5/recommendations?k=20&exclude={}", exclude.join(","))).await;
    assert_eq!(products(&rest).len(), 4);
}

#[tokio::test]
async fn an_unknown_customer_gets_popular_products_flagged_as_fallback() {
    let app = App::trained();
    let answer = app.ok("/api/v1/customers/999999/recommendations?k=7").await;
    assert_eq!((&answer["fallback"], &answer["fallback_reason"]), (&json!(true), &json!("unknown_customer")));
    assert_eq!(products(&answer).len(), 7);
}

#[tokio::test]
async fn without_a_model_lists_are_popular_products_and_churn_says_why_not() {
    let app = App::bare();
    let list = app.ok("/api/v1/customers/5/recommendations?k=7").await;
    assert_eq!((&list["fallback"], &list["fallback_reason"]), (&json!(true), &json!("no_model")));
    assert_eq!(list["model_version"], Value::Null);
    assert_eq!(products(&list), products(&app.ok("/api/v1/products/popular?k=7").await));
    let churn = app.get("/api/v1/customers/5/churn").await;
    assert_eq!((churn.status, &churn.body["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("no_model")));
}

#[tokio::test]
async fn popular_products_are_those_in_most_kept_orders() {
    let app = App::bare();
    let mut purchases: BTreeMap<i64, i64> = BTreeMap::new();
    for order in app.shop.orders.iter().filter(kept) {
        for line in &order.lines {
            *purchases.entry(line.0).or_default() += 1;
        }
    }
    let mut ranked: Vec<_> = purchases.into_iter().map(|(product, count)| (-count, product)).collect();
    ranked.sort_unstable();
    let expected: Vec<i64> = ranked.iter().map(|(_, product)| *product).collect();
    assert_eq!(products(&app.ok("/api/v1/products/popular?k=12").await), expected[..12]);
    let fruit: Vec<i64> =
        expected.iter().copied().filter(|product| CATEGORIES[shop::category(*product)] == "fruit").collect();
    assert_eq!(products(&app.ok("/api/v1/products/popular?k=5&category=fruit").await), fruit[..5]);
}

#[tokio::test]
async fn a_session_is_answered_by_what_goes_with_its_items() {
    let app = App::trained();
    let body = json!({"items": [{"product_id": 4, "quantity": 2}, {"product_id": 8}, {"product_id": 777_777}], "k": 6, "explain": true});
    let answer = app.post("/api/v1/recommendations", body.to_string()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(answer.body["unknown_products"], json!([777_777]));
    assert_eq!(answer.body["fallback"], false);
    let list = products(&answer.body);
    assert_eq!(list.len(), 6);
    assert!(!list.contains(&4) && !list.contains(&8), "the session's own products are left out by default");
    let popular = products(&app.ok("/api/v1/products/popular?k=6").await);
    assert_ne!(list, popular, "a session says something");
    let empty = app.post("/api/v1/recommendations", json!({"items": [], "k": 6}).to_string()).await;
    assert_eq!(
        (&empty.body["fallback"], &empty.body["fallback_reason"]),
        (&json!(true), &json!("no_history"))
    );
    assert_eq!(products(&empty.body).len(), 6);
}

#[tokio::test]
async fn churn_risk_is_higher_for_those_who_stopped() {
    let app = App::trained();
    let mut risks = [Vec::new(), Vec::new()];
    for user in 1..=app.shop.size.customers {
        let churn = app.ok(&format!("/api/v1/customers/{user}/churn")).await;
        let risk = churn["churn_probability"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&risk));
        assert_eq!((&churn["model_version"], &churn["horizon_days"]), (&json!("c1"), &json!(30)));
        assert!(!churn["reasons"][0]["text"].as_str().unwrap().is_empty());
        risks[usize::from(user % 4 == 0)].push(risk);
    }
    let [stay, stopped] = risks.map(|risks| risks.iter().sum::<f64>() / risks.len() as f64);
    assert!(stopped > stay + 0.2, "stopped {stopped:.2}, others {stay:.2}");
}

#[tokio::test]
async fn revenue_minutes_are_the_kept_orders_by_minute() {
    let app = App::bare();
    let (from, to) = (END - 3 * shop::DAY, END);
    let mut expected: BTreeMap<i64, (i64, u64)> = BTreeMap::new();
    for order in app.shop.orders.iter().filter(kept).filter(|order| (from..to).contains(&order.created_at)) {
        let minute = expected.entry(order.created_at.div_euclid(MINUTE) * MINUTE).or_default();
        minute.0 += order.cents();
        minute.1 += 1;
    }
    assert!(expected.len() > 10);
    let answer = app.ok(&format!("/api/v1/revenue/minutes?from={}&to={}", time(from), time(to))).await;
    let expected: Vec<Value> = expected
        .into_iter()
        .map(|(minute, (cents, orders))| json!({"minute": time(minute), "revenue": money(cents), "orders": orders}))
        .collect();
    assert_eq!(answer["minutes"], Value::Array(expected));
    let hour = app.ok("/api/v1/revenue/minutes").await;
    let as_of = app.store.status().as_of.unwrap();
    assert_eq!(hour["to"], time((as_of / MINUTE + 1) * MINUTE));
    assert_eq!(hour["from"], time((as_of / MINUTE - 59) * MINUTE));
}

#[tokio::test]
async fn a_new_order_shows_at_once_everywhere() {
    let mut app = App::trained();
    let before = app.ok("/api/v1/customers/5").await;
    let mut order = app.shop.next_order(5, END + MINUTE);
    app.store.apply(&shop::changes(&order, Op::Insert, 1)).unwrap();
    let after = app.ok("/api/v1/customers/5").await;
    assert_eq!(after["frequency"].as_u64(), before["frequency"].as_u64().map(|count| count + 1));
    assert_eq!(after["last_order_at"], time(END + MINUTE));
    assert_eq!(after["as_of"], time(END + MINUTE), "stream time has moved on");
    let orders = app.ok("/api/v1/customers/5/orders?limit=1").await;
    assert_eq!(orders["orders"][0]["order_id"], order.order_id);
    let again = app.ok("/api/v1/customers/5/recommendations?k=48&repeat=exclude").await;
    assert!(order.lines.iter().all(|line| !products(&again).contains(&line.0)));
    let minutes = app.ok("/api/v1/revenue/minutes").await;
    assert_eq!(minutes["minutes"].as_array().unwrap().last().unwrap()["revenue"], money(order.cents()));

    order.status = "cancelled";
    order.cancelled_at = Some(END + 2 * MINUTE);
    app.store.apply(&shop::changes(&order, Op::Update, 2)[..1]).unwrap();
    let cancelled = app.ok("/api/v1/customers/5").await;
    assert_eq!(cancelled["frequency"], before["frequency"]);
    assert_eq!(cancelled["monetary"], before["monetary"]);
}
