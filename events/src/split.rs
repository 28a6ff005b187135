//! The events of a request: one JSON object, or an array of them, each with the bytes it came with.

use serde::{Deserialize, de::IgnoredAny};

/// The bytes are neither a JSON object nor an array of values. Nothing of them is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is neither an event nor an array of events, as JSON")]
pub struct NoEvents;

/// The events of `body`, in order and as they are written there.
///
/// # Errors
/// The body is not JSON, or neither an object nor an array.
pub fn events_of(body: &[u8]) -> Result<Vec<&[u8]>, NoEvents> {
    let body = body.trim_ascii();
    match body.first() {
        Some(b'{') => {
            serde_json::from_slice::<IgnoredAny>(body).map_err(|_| NoEvents)?;
            Ok(vec![body])
        }
        Some(b'[') => elements(&body[1..]),
        _ => Err(NoEvents),
    }
}

/// The elements of an array, from behind its opening bracket to the end of the document.
fn elements(mut rest: &[u8]) -> Result<Vec<&[u8]>, NoEvents> {
    let mut events = Vec::new();
    rest = rest.trim_ascii_start();
    if rest == b"]" {
        return Ok(events);
    }
    loop {
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<IgnoredAny>();
        values.next().ok_or(NoEvents)?.map_err(|_| NoEvents)?;
        let (event, after) = rest.split_at(values.byte_offset());
        events.push(event.trim_ascii());
        match after.trim_ascii_start() {
            [b',', after @ ..] => rest = after,
            b"]" => return Ok(events),
            _ => return Err(NoEvents),
        }
    }
}

/// What an event is kept in order by: its `user_id`, so that a customer's events stay in theirs. `None` where it has none.
pub fn key_of(event: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Keyed {
        user_id: i64,
    }
    serde_json::from_slice::<Keyed>(event).ok().map(|keyed| keyed.user_id.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn events_keep_their_bytes() {
        assert_eq!(events_of(b" {\"a\" : 1.50} ").expect("one"), [b"{\"a\" : 1.50}"]);
        let body = br#" [ {"a":[1,{"b":"],["}]} ,{} , 7,null ] "#;
        let expected: [&[u8]; 4] = [br#"{"a":[1,{"b":"],["}]}"#, b"{}", b"7", b"null"];
        assert_eq!(events_of(body).expect("four"), expected);
        assert!(events_of(b"[ ]").expect("none").is_empty());
    }

    #[test]
    fn what_is_no_array_or_object_is_refused() {
        for body in ["", "7", "\"x\"", "{", "[", "[1", "[1,]", "[1 2]", "[,]", "[1]]", "{}{}", "[{}", "nul"] {
            assert_eq!(events_of(body.as_bytes()), Err(NoEvents), "{body}");
        }
    }

    #[test]
    fn the_key_is_the_customer() {
        assert_eq!(key_of(br#"{"price": 1, "user_id": 512}"#).as_deref(), Some("512"));
        assert_eq!(key_of(br#"{"user_id": "512"}"#), None);
        assert_eq!(key_of(b"[]"), None);
    }

    proptest! {
        #[test]
        fn whatever_an_array_holds_is_found_again(texts in prop::collection::vec(".{0,12}", 0..6), space in "[ \n\t]{0,2}") {
            let values: Vec<String> =
                texts.iter().map(|text| serde_json::json!({ "t": text, "n": [null, 1.5] }).to_string()).collect();
            let body = format!("{space}[{space}{}{space}]{space}", values.join(&format!("{space},{space}")));
            let found = events_of(body.as_bytes()).expect("an array");
            prop_assert_eq!(found, values.iter().map(String::as_bytes).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_end_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = events_of(&bytes);
            let _ = key_of(&bytes);
        }
    }
}
