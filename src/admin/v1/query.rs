//! The query of a request: read by its type, and what is wrong with it told in a sentence.

use axum::extract::FromRequestParts;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::admin::response::Failure;
use crate::identity::Account;

/// How many of a list are told if nobody says how many.
pub(super) const USUAL: usize = 100;
/// The most of a list that is told at once.
pub(super) const MOST: usize = 1000;

/// The query of a request.
pub(in crate::admin) struct Params<T>(pub(in crate::admin) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let query: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|rejection| bad(rejection.body_text()))
    }
}

/// 400 with that sentence.
pub(super) fn bad(message: impl Into<String>) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, message)
}

/// How many are wanted: 1 to 1000.
pub(super) fn limit(limit: Option<usize>) -> Result<usize, Failure> {
    match limit.unwrap_or(USUAL) {
        limit @ 1..=MOST => Ok(limit),
        other => Err(bad(format!("limit: {other} is not in 1 to {MOST}"))),
    }
}

/// The account that is asked for.
pub(super) fn account(account: Option<&str>) -> Result<(), Failure> {
    account.map_or(Ok(()), |account| {
        Account::parse(account).map(|_| ()).map_err(|error| bad(format!("account: {error}")))
    })
}
