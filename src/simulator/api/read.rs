//! Lists and single reads: options, versions, pages. The semantics of `resourceVersion` are those of
//! the real server: unset is the newest state, `N` is "not older than N", which here is the newest
//! state too, and an exact `N` is read back from the history.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::{Value, json};

use super::json::text;
use super::resources::Kind;
use super::router::Query;
use super::selectors::Selector;
use super::shape::{Shape, encode};
use super::status::{Failure, FieldError};
use super::store::{Store, key};

/// The parameters of a list or watch.
#[derive(Clone, Debug)]
pub(super) struct ListOptions {
    pub(super) selector: Selector,
    /// `resourceVersion`; 0 if unset or zero, which mean the same here.
    pub(super) version: u64,
    exact: bool,
    limit: usize,
    from: Option<Continue>,
    pub(super) bookmarks: bool,
    pub(super) send_initial_events: Option<bool>,
    pub(super) timeout_seconds: u64,
}

/// Where a page begins: after a key, in the state of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Continue {
    version: u64,
    start: String,
}

impl Continue {
    fn encode(&self) -> String {
        let token = json!({"v": "meta.k8s.io/v1", "rv": self.version, "start": self.start});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn decode(token: &str) -> Result<Self, Failure> {
        let refuse = |why: &str| {
            Failure::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let json = URL_SAFE_NO_PAD
            .decode(token.trim_end_matches('='))
            .map_err(|error| refuse(&error.to_string()))?;
        let token: Value = serde_json::from_slice(&json).map_err(|error| refuse(&error.to_string()))?;
        let version = token["rv"].as_u64().filter(|version| *version > 0);
        let version = version.ok_or_else(|| refuse("incorrect encoded start resourceVersion"))?;
        Ok(Self { version, start: text(&token, &["start"]).to_owned() })
    }
}

fn number<T: std::str::FromStr>(value: &str, default: T) -> Result<T, Failure> {
    if value.is_empty() {
        return Ok(default);
    }
    value
        .parse()
        .map_err(|_| Failure::bad_request(format!("strconv.ParseInt: parsing \"{value}\": invalid syntax")))
}

impl ListOptions {
    /// Reads the query of a list or a watch.
    pub(super) fn parse(kind: Kind, query: &Query, watch: bool) -> Result<Self, Failure> {
        let errors = conflicts(query, watch);
        if !errors.is_empty() {
            return Err(Failure::invalid_as("meta.k8s.io", "ListOptions", "", &errors));
        }
        let given = query.get("resourceVersion");
        let version = if given.is_empty() { Ok(0) } else { given.parse::<u64>() };
        let version = version.map_err(|_| {
            let why = format!(
                "resourceVersion: Invalid value: \"{given}\": strconv.ParseUint: parsing \"{given}\": invalid \
                 syntax"
            );
            if watch {
                Failure::bare_internal(why)
            } else {
                Failure::bad_request(format!("invalid resource version: {why}"))
            }
        })?;
        let from = match query.get("continue") {
            "" => None,
            _ if version > 0 => {
                let why = "specifying resource version is not allowed when using continue";
                return Err(Failure::bad_request(why));
            }
            token => Some(Continue::decode(token)?),
        };
        let limit: i64 = number(query.get("limit"), 0)?;
        Ok(Self {
            selector: Selector::parse(kind, query.get("labelSelector"), query.get("fieldSelector"))?,
            version,
            exact: query.get("resourceVersionMatch") == "Exact",
            limit: usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX),
            from,
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.find("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
            timeout_seconds: number(query.get("timeoutSeconds"), 0)?,
        })
    }
}

/// Parameters that do not go together (`ValidateListOptions` of apimachinery).
fn conflicts(query: &Query, watch: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (version, matching) = (query.get("resourceVersion"), query.get("resourceVersionMatch"));
    let streaming = query.find("sendInitialEvents").is_some();
    let field = "resourceVersionMatch";
    if watch {
        if streaming && matching != "NotOlderThan" {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.push(FieldError::forbidden(field, why));
        }
        if !streaming && !matching.is_empty() {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden(field, why));
        }
        if !matches!(matching, "" | "NotOlderThan") {
            errors.push(FieldError::unsupported(field, matching, &["NotOlderThan"]));
        }
        return errors;
    }
    if !matching.is_empty() {
        if version.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(FieldError::forbidden(field, why));
        }
        if !query.get("continue").is_empty() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            errors.push(FieldError::forbidden(field, why));
        }
        if !matches!(matching, "Exact" | "NotOlderThan") {
            errors.push(FieldError::unsupported(field, matching, &["Exact", "NotOlderThan", ""]));
        }
        if matching == "Exact" && version == "0" {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(FieldError::forbidden(field, why));
        }
    }
    if streaming {
        let why = "sendInitialEvents is forbidden for list";
        errors.push(FieldError::forbidden("sendInitialEvents", why));
    }
    errors
}

/// Refuses a version that the store has not reached.
fn reached(store: &Store, version: u64) -> Result<(), Failure> {
    let current = store.version();
    if version > current { Err(Failure::version_too_large(version, current)) } else { Ok(()) }
}

/// One object. `version` is the query's `resourceVersion`.
pub(super) fn get(
    store: &Store,
    kind: Kind,
    namespace: &str,
    name: &str,
    version: &str,
    shape: Shape,
) -> Result<Bytes, Failure> {
    if let Ok(version) = version.parse() {
        reached(store, version)?;
    }
    let object = store.get(kind, namespace, name).ok_or_else(|| Failure::not_found(kind, name))?;
    Ok(shape.object(kind, &object))
}

/// A list or a page of it. Versions up to `expired` are not answered any more.
pub(super) fn list(
    store: &Store,
    kind: Kind,
    namespace: Option<&str>,
    options: &ListOptions,
    expired: u64,
    shape: Shape,
) -> Result<Bytes, Failure> {
    reached(store, options.version)?;
    let at = match &options.from {
        Some(from) => Some(from.version),
        None => options.exact.then_some(options.version),
    };
    let too_old = || match &options.from {
        Some(_) => Failure::continue_expired(),
        None => Failure::list_expired(),
    };
    if at.is_some_and(|at| at <= expired) {
        return Err(too_old());
    }
    let snapshot = store.snapshot(kind, namespace, at).map_err(|_| too_old())?;
    let place = |object: &super::store::Object| {
        key(text(&object.value, &["metadata", "namespace"]), text(&object.value, &["metadata", "name"]))
    };
    let mut objects = snapshot.objects;
    if let Some(from) = &options.from {
        let first = objects.partition_point(|object| place(object) <= from.start);
        objects.drain(..first);
    }
    if !options.selector.is_empty() {
        objects.retain(|object| options.selector.matches(&object.value));
    }
    let mut meta = json!({"resourceVersion": snapshot.version.to_string()});
    if objects.len() > options.limit {
        let remaining = objects.len() - options.limit;
        objects.truncate(options.limit);
        let start = objects.last().map(|last| place(last)).unwrap_or_default();
        meta["continue"] = json!(Continue { version: snapshot.version, start }.encode());
        if options.selector.is_empty() {
            meta["remainingItemCount"] = json!(remaining);
        }
    }
    Ok(shape.list(kind, &objects, &meta))
}

/// Makes an answer readable for people: the `pretty` parameter.
pub(super) fn pretty(json: Bytes) -> Bytes {
    let Ok(value) = serde_json::from_slice::<Value>(&json) else { return json };
    serde_json::to_vec_pretty(&value).map_or_else(|_| encode(&value), Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::api::store::Commit;

    fn filled() -> Store {
        let store = Store::new();
        for (namespace, name) in [("a", "x"), ("a", "y"), ("a", "z"), ("b", "x")] {
            let value = json!({"metadata": {"namespace": namespace, "name": name, "labels": {"n": name}}});
            store.commit(Kind::ConfigMap, namespace, name, None, Commit::Put(value)).unwrap();
        }
        store
    }

    fn ask(store: &Store, namespace: Option<&str>, query: &str, expired: u64) -> Result<Value, Failure> {
        let options = ListOptions::parse(Kind::ConfigMap, &Query::parse(query), false)?;
        let list = list(store, Kind::ConfigMap, namespace, &options, expired, Shape::Whole)?;
        Ok(serde_json::from_slice(&list).unwrap())
    }

    fn names(list: &Value) -> Vec<&str> {
        list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn pages_are_of_one_version_even_when_things_change() {
        let store = filled();
        let first = ask(&store, None, "limit=2", 0).unwrap();
        assert_eq!(names(&first), ["x", "y"]);
        assert_eq!(first["metadata"]["remainingItemCount"], 2);
        let token = first["metadata"]["continue"].as_str().unwrap();
        let z = store.get(Kind::ConfigMap, "a", "z").unwrap();
        store.commit(Kind::ConfigMap, "a", "z", Some(z.version), Commit::Remove(z.value.clone())).unwrap();
        let second = ask(&store, None, &format!("limit=2&continue={token}"), 0).unwrap();
        assert_eq!(names(&second), ["z", "x"]);
        assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        assert!(second["metadata"].get("continue").is_none());
        let expired = ask(&store, None, &format!("continue={token}"), store.version()).unwrap_err();
        assert_eq!((expired.code, expired.reason.as_deref()), (410, Some("Expired")));
        assert_eq!(ask(&store, None, "continue=abc", 0).unwrap_err().code, 400);
        assert_eq!(
            ask(&store, None, &format!("resourceVersion=5&continue={token}"), 0).unwrap_err().code,
            400
        );
    }

    #[test]
    fn selectors_and_namespaces() {
        let store = filled();
        assert_eq!(names(&ask(&store, Some("a"), "", 0).unwrap()), ["x", "y", "z"]);
        let selected = ask(&store, Some("a"), "labelSelector=n+in+(x,z)&limit=1", 0).unwrap();
        assert_eq!(names(&selected), ["x"]);
        assert!(selected["metadata"].get("remainingItemCount").is_none());
        assert_eq!(names(&ask(&store, None, "fieldSelector=metadata.name%3Dx", 0).unwrap()), ["x", "x"]);
    }

    #[test]
    fn versions() {
        let store = filled();
        let now = store.version();
        assert_eq!(names(&ask(&store, None, "resourceVersion=0", 0).unwrap()).len(), 4);
        assert_eq!(names(&ask(&store, None, &format!("resourceVersion={}", now - 1), 0).unwrap()).len(), 4);
        let exact = format!("resourceVersionMatch=Exact&resourceVersion={}", now - 1);
        assert_eq!(names(&ask(&store, None, &exact, 0).unwrap()).len(), 3);
        assert_eq!(ask(&store, None, &exact, now).unwrap_err().code, 410);
        assert_eq!(
            ask(&store, None, "resourceVersionMatch=Exact&resourceVersion=1", 0).unwrap_err().code,
            410
        );
        let future = ask(&store, None, &format!("resourceVersion={}", now + 1), 0).unwrap_err();
        assert_eq!((future.code, future.retry_after), (504, Some(1)));
        assert_eq!(ask(&store, None, "resourceVersion=abc", 0).unwrap_err().code, 400);
    }

    #[test]
    fn options_that_do_not_go_together() {
        let parse = |query: &str, watch| ListOptions::parse(Kind::Pod, &Query::parse(query), watch);
        for (query, watch) in [
            ("resourceVersionMatch=Exact", false),
            ("resourceVersionMatch=Exact&resourceVersion=0", false),
            ("resourceVersionMatch=Zz&resourceVersion=1", false),
            ("sendInitialEvents=true", false),
            ("sendInitialEvents=true", true),
            ("resourceVersionMatch=Exact&resourceVersion=1", true),
        ] {
            assert_eq!(parse(query, watch).unwrap_err().code, 422, "{query}");
        }
        let streaming = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=1";
        assert_eq!(parse(streaming, true).unwrap().send_initial_events, Some(true));
        assert_eq!(parse("resourceVersion=abc", true).unwrap_err().code, 500);
        assert_eq!(parse("limit=abc", false).unwrap_err().code, 400);
    }

    #[test]
    fn single_reads() {
        let store = filled();
        let get = |name, version: &str| get(&store, Kind::ConfigMap, "a", name, version, Shape::Whole);
        assert!(get("x", "").is_ok() && get("x", "0").is_ok());
        assert_eq!(get("nope", "").unwrap_err().code, 404);
        assert_eq!(get("x", "99999999999999").unwrap_err().code, 504);
        assert!(String::from_utf8(pretty(get("x", "").unwrap()).to_vec()).unwrap().contains("\n  "));
    }
}
