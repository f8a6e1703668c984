//! Paths under `/simulator` that others answer than the API server: those who build a cluster around
//! it mount what is theirs ([`ApiServer::mount`](super::ApiServer::mount)), so that one port controls
//! all of it. The request loop asks [`Mounts::answer`] for every such path that is not its own.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use http::Method;
use serde_json::Value;
use serde_json::error::Category;

use super::status::Failure;

/// A request for a path under a mount.
#[derive(Clone, Copy, Debug)]
pub struct ControlRequest<'a> {
    /// Its method.
    pub method: &'a Method,
    /// What follows the mount's name, part by part: `["rules", "1"]` of `/simulator/pods/rules/1`.
    pub path: &'a [&'a str],
    /// Its body; JSON, whatever its `Content-Type` says, since curl's `-d` calls everything a form.
    pub body: &'a [u8],
}

impl ControlRequest<'_> {
    /// The body, read as a `T`.
    ///
    /// # Errors
    ///
    /// When it is no JSON or no `T`; the text names the place.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, ControlError> {
        serde_json::from_slice(self.body).map_err(|error| {
            ControlError::Invalid(match error.classify() {
                Category::Eof if self.body.is_empty() => "the body is empty: it has to be JSON".to_owned(),
                Category::Io | Category::Syntax | Category::Eof => format!("the body is no JSON: {error}"),
                Category::Data => error.to_string(),
            })
        })
    }
}

/// Why a request for a path under a mount is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// 400: the body or a part of the path is not what it has to be; the text says what is wrong.
    #[error("{0}")]
    Invalid(String),
    /// 404: what the path names is not there.
    #[error("{0}")]
    NotFound(String),
    /// 404: there is no such path.
    #[error("there is no such path")]
    NoSuchPath,
    /// 405: the path is there, and not for this method.
    #[error("the method is not allowed")]
    Method,
    /// 409: it makes no sense here and now.
    #[error("{0}")]
    Conflict(String),
}

/// Answers requests for the paths under a mount: with 200 and the value, or with an error.
pub(super) type Handler = dyn Fn(&ControlRequest<'_>) -> Result<Value, ControlError> + Send + Sync;

/// What is mounted, by name.
#[derive(Default)]
pub(super) struct Mounts(RwLock<BTreeMap<String, Arc<Handler>>>);

impl Mounts {
    pub(super) fn add(&self, name: &str, handler: Arc<Handler>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), handler);
    }

    /// The answer to a request for a path under `/simulator`, whose first part is a mount's name.
    pub(super) fn answer(&self, method: &Method, path: &[&str], body: &[u8]) -> Result<Value, Failure> {
        let Some((name, path)) = path.split_first() else { return Err(self.no_such_path()) };
        let handler = self.0.read().unwrap_or_else(PoisonError::into_inner).get(*name).cloned();
        let Some(handler) = handler else { return Err(self.no_such_path()) };
        handler(&ControlRequest { method, path, body }).map_err(|error| match error {
            ControlError::Invalid(why) => Failure::bad_request(why),
            ControlError::NotFound(what) => Failure::control(404, "NotFound", what),
            ControlError::NoSuchPath => Failure::no_such_resource(),
            ControlError::Method => Failure::method_not_allowed(),
            ControlError::Conflict(why) => Failure::control(409, "Conflict", why),
        })
    }

    fn no_such_path(&self) -> Failure {
        let mounts = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let names = ["faults", "requests"].into_iter().chain(mounts.keys().map(String::as_str));
        let paths: Vec<String> = names.map(|name| format!("/simulator/{name}")).collect();
        let message = format!("there is no such path; under /simulator there are {}", paths.join(", "));
        Failure::control(404, "NotFound", message)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(mounts: &Mounts, method: Method, path: &[&str], body: &str) -> Result<Value, (u16, String)> {
        mounts
            .answer(&method, path, body.as_bytes())
            .map_err(|failure| (failure.code, failure.message.clone()))
    }

    #[test]
    fn a_mount_answers_for_all_that_is_below_it() {
        let mounts = Mounts::default();
        mounts.add(
            "echo",
            Arc::new(|request| match request.path {
                ["none"] => Err(ControlError::NoSuchPath),
                ["gone"] => Err(ControlError::NotFound("7 is not there".into())),
                ["clash"] => Err(ControlError::Conflict("not now".into())),
                _ if request.method == Method::PUT => Err(ControlError::Method),
                path => Ok(json!({"path": path, "body": request.json::<u64>()?})),
            }),
        );
        assert_eq!(
            answer(&mounts, Method::POST, &["echo", "a", "b"], "3"),
            Ok(json!({"path": ["a", "b"], "body": 3}))
        );
        for (method, path, body, code, text) in [
            (Method::POST, &["echo"][..], "", 400, "empty"),
            (Method::POST, &["echo"], "3 4", 400, "no JSON"),
            (Method::POST, &["echo"], "\"x\"", 400, "expected u64"),
            (Method::GET, &["echo", "none"], "", 404, "could not find"),
            (Method::GET, &["echo", "gone"], "", 404, "7 is not there"),
            (Method::GET, &["echo", "clash"], "", 409, "not now"),
            (Method::PUT, &["echo"], "", 405, "method"),
            (Method::GET, &["eho"], "", 404, "/simulator/faults, /simulator/requests, /simulator/echo"),
            (Method::GET, &[], "", 404, "/simulator/echo"),
        ] {
            let (was, message) = answer(&mounts, method, path, body).unwrap_err();
            assert_eq!(was, code, "{path:?}: {message}");
            assert!(message.contains(text), "{path:?}: {message}");
        }
    }
}
