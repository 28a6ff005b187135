//! Errors as clients see them: RFC 9457 problem details.

use std::borrow::Cow;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

/// An error answer, `application/problem+json` (RFC 9457).
///
/// `code` is stable and meant for programs; `detail` is meant for people and may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// Identifies the kind of problem; a tag URI (RFC 4151) that ends in `code`.
    #[serde(rename = "type")]
    pub problem_type: String,
    /// The kind of problem in a few words.
    pub title: Cow<'static, str>,
    /// The HTTP status code.
    pub status: u16,
    /// What went wrong in this request and what to do about it.
    pub detail: String,
    /// The path of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Stable name of the kind of problem.
    pub code: Cow<'static, str>,
    /// The request's id, as in the `x-request-id` header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Which parts of the request are at fault.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldProblem>,
}

/// One fault in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldProblem {
    /// The query parameter, or the JSON pointer (RFC 6901) into the body.
    pub pointer: String,
    pub detail: String,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            problem_type: format!("tag:lakeward,2026:problem/{code}"),
            title: Cow::Borrowed(status.canonical_reason().unwrap_or("Error")),
            status: status.as_u16(),
            detail: detail.into(),
            instance: None,
            code: Cow::Borrowed(code),
            request_id: None,
            errors: Vec::new(),
        }
    }

    pub(crate) fn invalid_parameter(name: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let mut problem = Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_parameter",
            format!("query parameter {name}: {detail}"),
        );
        problem.errors.push(FieldProblem { pointer: name.to_owned(), detail });
        problem
    }

    pub(crate) fn invalid_body(pointer: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let mut problem = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_body",
            format!("request body {pointer}: {detail}"),
        );
        problem.errors.push(FieldProblem { pointer: pointer.to_owned(), detail });
        problem
    }

    pub(crate) fn unknown_customer(id: i64) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_customer", format!("there is no customer {id}"))
    }

    pub(crate) fn unknown_product(id: i64) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_product", format!("there is no product {id}"))
    }

    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "the server failed to answer; its log has the cause under this request id",
        )
    }

    /// The problem of a bare status, for answers that the router and its layers give without a body of ours.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => {
                ("not_found", "there is nothing at this path; /docs lists what there is")
            }
            StatusCode::METHOD_NOT_ALLOWED => (
                "method_not_allowed",
                "this path does not take this method; the allow header lists those it takes",
            ),
            StatusCode::PAYLOAD_TOO_LARGE => {
                ("payload_too_large", "the request body is larger than this server takes")
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                ("unsupported_media_type", "the request body must be application/json")
            }
            status if status.is_client_error() => ("bad_request", "the request cannot be answered as it is"),
            _ => return Self { status: status.as_u16(), ..Self::internal() },
        };
        Self::new(status, code, detail)
    }

    /// Renders the body. Handlers return [`Problem`] itself; the outermost layer renders, since it knows the request.
    pub(crate) fn render(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The problem travels as an extension of an empty answer; the problem layer writes it out with path and request id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        response.extensions_mut().insert(self);
        response
    }
}

pub(crate) const CONTENT_TYPE: &str = "application/problem+json";
