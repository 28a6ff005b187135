//! Behaviour events that are made up: the same for the same number.

use serde_json::{Map, Value, json};

/// The event of a number, with all fields.
pub fn event(number: u64) -> Map<String, Value> {
    let event_type = ["view", "view", "view", "cart", "remove_from_cart", "purchase"][(number % 6) as usize];
    let value = json!({
        "event_id": format!("00000000-0000-5000-8000-{number:012x}"),
        "event_time": format!("2019-10-{:02}T{:02}:{:02}:{:02}Z", number % 30 + 1, number % 24, number % 60, number % 59),
        "event_type": event_type,
        "product_id": 1_000_000 + number * 7919 % 50_000,
        "category_id": 2_053_013_555_631_882_655_u64,
        "category_code": "electronics.smartphone",
        "brand": "samsung",
        "price": (number % 100_000) as f64 / 100.0,
        "user_id": 512_000_000 + number * 104_729 % 100_000,
        "user_session": format!("26dd6e6e-4dac-4778-8d2c-{:012x}", number / 5),
    });
    match value {
        Value::Object(event) => event,
        _ => Map::new(),
    }
}

pub fn bytes(event: Map<String, Value>) -> Vec<u8> {
    Value::Object(event).to_string().into_bytes()
}
