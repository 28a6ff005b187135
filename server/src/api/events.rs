//! `events`: behaviour events come in.

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use lakeward_events::{Contract, Reason};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::{Checked, Unfit};
use crate::{
    extract::{Parameters, RawJson},
    problem::{FieldProblem, Problem},
    state::Shared,
    telemetry,
};

/// Largest body of a request, bytes.
pub(super) const BODY_BYTES: usize = 1 << 20;
const MAX_EVENTS: usize = 500;
/// So many faults are told of a request.
const MAX_FAULTS: usize = 100;

/// What becomes of events that do not conform to the contract.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Invalid {
    /// The request is refused, and nothing of it is taken.
    #[default]
    Refuse,
    /// All are taken; those that do not conform go to the topic of invalid events, with the reasons.
    Route,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// What becomes of events that do not conform to the contract: `route` for senders that cannot correct themselves.
    #[serde(default)]
    #[param(inline, default = "refuse", required = false)]
    invalid: Invalid,
}

/// A behaviour event. The contract in use decides; these are the fields of the shipped one, and further ones are kept.
#[derive(Deserialize, ToSchema)]
#[schema(as = BehaviourEvent)]
#[expect(dead_code, reason = "for the document alone: events are taken as they are written")]
pub(super) struct Event {
    /// Set by the sender, and the same when it sends the event again.
    #[schema(format = "uuid")]
    event_id: String,
    #[schema(format = "date-time")]
    event_time: String,
    /// view, cart, remove_from_cart or purchase.
    event_type: String,
    product_id: i64,
    category_id: i64,
    category_code: Option<String>,
    brand: Option<String>,
    price: f64,
    user_id: i64,
    #[schema(format = "uuid")]
    user_session: String,
}

/// One event, or several.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "for the document alone")]
#[serde(untagged)]
pub(super) enum Events {
    One(Event),
    Many(Vec<Event>),
}

/// Events that are durable.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Taken {
    /// How many, in all.
    accepted: usize,
    /// Those of them that do not conform; only with `invalid=route`.
    invalid: Vec<InvalidEvent>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InvalidEvent {
    /// Its place in the request, from 0.
    index: usize,
    reasons: Vec<Broken>,
}

/// A rule that a field breaks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Broken {
    /// Empty for the event as a whole.
    field: String,
    #[schema(example = "required")]
    rule: &'static str,
}

/// Send behaviour events
///
/// One event or an array of at most 500, checked against the contract and answered once they are durable. Order is kept for
/// each `user_id`. Sending a request again is safe: an event is known by its `event_id`.
#[utoipa::path(post, path = "/events", tag = "events", operation_id = "send_events", params(EventsQuery),
    request_body = Events,
    responses((status = 202, description = "All of them are durable", body = Taken), Checked, Unfit))]
pub(super) async fn take(
    State(context): Shared,
    Parameters(query): Parameters<EventsQuery>,
    RawJson(body): RawJson,
) -> Result<Response, Problem> {
    let Some(door) = &context.app.events else {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "events_not_configured",
            "this server takes no events: [events] brokers, in its configuration, says which Kafka they go to",
        ));
    };
    let events = lakeward_events::events_of(&body)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "malformed_json", error.to_string()))?;
    if events.is_empty() || events.len() > MAX_EVENTS {
        let detail = format!("must have 1 to {MAX_EVENTS} events; it has {}", events.len());
        return Err(Problem::invalid_body("", detail));
    }
    let contract = door.contract.load_full();
    let broken: Vec<_> = events
        .iter()
        .enumerate()
        .filter_map(|(index, event)| Some((index, contract.check(event).err()?)))
        .collect();
    if query.invalid == Invalid::Refuse && !broken.is_empty() {
        count("refused", events.len());
        let is_array = body.trim_ascii_start().first() == Some(&b'[');
        return Err(refused(&contract, &broken, is_array));
    }
    let keyed: Vec<_> = events.iter().map(|event| (lakeward_events::key_of(event), *event)).collect();
    if door.log.append(&keyed).await.is_err() {
        count("failed", events.len());
        let detail = "the events were not acknowledged in time; send them again, with the same event_id";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "events_not_taken", detail);
        return Ok(([(header::RETRY_AFTER, HeaderValue::from_static("1"))], problem).into_response());
    }
    count("taken", events.len());
    let invalid = broken.into_iter().map(|(index, reasons)| InvalidEvent {
        index,
        reasons: reasons
            .into_iter()
            .map(|reason| Broken { field: reason.field.to_string(), rule: reason.rule })
            .collect(),
    });
    let taken = Taken { accepted: events.len(), invalid: invalid.collect() };
    Ok((StatusCode::ACCEPTED, Json(taken)).into_response())
}

fn refused(contract: &Contract, broken: &[(usize, Vec<Reason>)], is_array: bool) -> Problem {
    let mut problem = Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "invalid_events",
        format!(
            "{} events do not conform to contract {} {}; nothing was taken",
            broken.len(),
            contract.id(),
            contract.version()
        ),
    );
    let faults = broken.iter().flat_map(|(index, reasons)| reasons.iter().map(move |reason| (index, reason)));
    problem.errors = faults
        .take(MAX_FAULTS)
        .map(|(index, reason)| {
            let event = if is_array { format!("/{index}") } else { String::new() };
            let field = if reason.field.is_empty() {
                String::new()
            } else {
                format!("/{}", reason.field.replace('~', "~0").replace('/', "~1").replace('.', "/"))
            };
            FieldProblem { pointer: event + &field, detail: format!("breaks the rule {}", reason.rule) }
        })
        .collect();
    problem
}

fn count(outcome: &'static str, events: usize) {
    metrics::counter!(telemetry::EVENTS, "outcome" => outcome).increment(events as u64);
}
