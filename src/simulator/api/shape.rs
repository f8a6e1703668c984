//! In which shape objects are answered: whole, metadata only, or as a table, by the `Accept` header;
//! and the encoding of each. Objects are stored encoded, so that the common shape costs a copy.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};

use super::decode::view;
use super::json::text;
use super::resources::Kind;
use super::status::Failure;
use super::store::Object;
use super::table;

/// What a table's rows carry of their objects: the `includeObject` parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Include {
    Nothing,
    #[default]
    Metadata,
    Object,
}

/// The shape of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// The objects.
    Whole,
    /// `PartialObjectMetadata`.
    Metadata,
    /// `Table`.
    Table(Include),
}

const META: &str = "meta.k8s.io/v1";

impl Shape {
    /// The first shape of an `Accept` header that this server has. Others (protobuf, YAML, CBOR) are
    /// passed over, as clients that name them always name JSON too.
    pub(super) fn negotiate(accept: Option<&str>, include: &str) -> Result<Self, Failure> {
        let include = match include {
            "None" => Include::Nothing,
            "Object" => Include::Object,
            _ => Include::Metadata,
        };
        let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else { return Ok(Self::Whole) };
        for media in accept.split(',') {
            let mut parts = media.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            if !matches!(kind, "application/json" | "application/*" | "*/*") {
                continue;
            }
            let (mut shape, mut version, mut group) = ("", "", "");
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                match key {
                    "as" => shape = value,
                    "v" => version = value,
                    "g" => group = value,
                    _ => {}
                }
            }
            match (shape, group, version) {
                ("", _, _) => return Ok(Self::Whole),
                ("Table", "meta.k8s.io", "v1") => return Ok(Self::Table(include)),
                ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => {
                    return Ok(Self::Metadata);
                }
                _ => {}
            }
        }
        Err(Failure::not_acceptable())
    }

    /// One object.
    pub(super) fn object(self, kind: Kind, object: &Object) -> Bytes {
        match self {
            Self::Whole => whole(kind, object),
            Self::Metadata => encode(&metadata_only(&object.value)),
            Self::Table(include) => self.row(kind, object, include, true),
        }
    }

    /// One object in a watch. A table's columns are told once, in the watch's first event.
    pub(super) fn watched(self, kind: Kind, object: &Object, first: bool) -> Bytes {
        match self {
            Self::Table(include) => self.row(kind, object, include, first),
            Self::Whole | Self::Metadata => self.object(kind, object),
        }
    }

    fn row(self, kind: Kind, object: &Object, include: Include, columns: bool) -> Bytes {
        let version = text(&object.value, &["metadata", "resourceVersion"]);
        encode(&json!({
            "kind": "Table", "apiVersion": META, "metadata": {"resourceVersion": version},
            "columnDefinitions": if columns { table::definitions(kind) } else { Value::Null },
            "rows": [row(kind, object, include)],
        }))
    }

    /// A list; `meta` is its metadata.
    pub(super) fn list(self, kind: Kind, objects: &[std::sync::Arc<Object>], meta: &Value) -> Bytes {
        match self {
            Self::Whole => {
                let size: usize = objects.iter().map(|object| object.json.len() + 1).sum();
                let mut list = BytesMut::with_capacity(size + 256);
                list.put_slice(
                    format!(
                        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
                        kind.name(),
                        kind.api_version()
                    )
                    .as_bytes(),
                );
                for (index, object) in objects.iter().enumerate() {
                    if index > 0 {
                        list.put_u8(b',');
                    }
                    list.put(whole(kind, object));
                }
                list.put_slice(b"]}");
                list.freeze()
            }
            Self::Metadata => {
                let items: Vec<Value> = objects.iter().map(|o| metadata_only(&o.value)).collect();
                encode(&json!({
                    "kind": "PartialObjectMetadataList", "apiVersion": META, "metadata": meta,
                    "items": items,
                }))
            }
            Self::Table(include) => {
                let rows: Vec<Value> = objects.iter().map(|o| row(kind, o, include)).collect();
                encode(&json!({
                    "kind": "Table", "apiVersion": META, "metadata": meta,
                    "columnDefinitions": table::definitions(kind), "rows": rows,
                }))
            }
        }
    }

    /// The object of a bookmark.
    pub(super) fn bookmark(self, kind: Kind, version: u64, initial_events_end: bool) -> Value {
        let mut meta = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
        if initial_events_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        match self {
            Self::Whole => json!({"kind": kind.name(), "apiVersion": kind.api_version(), "metadata": meta}),
            Self::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": META, "metadata": meta})
            }
            Self::Table(_) => json!({
                "kind": "Table", "apiVersion": META, "metadata": {"resourceVersion": version.to_string()},
                "columnDefinitions": null, "rows": [],
            }),
        }
    }
}

fn whole(kind: Kind, object: &Object) -> Bytes {
    match kind {
        Kind::EventV1 => encode(&view(kind, &object.value)),
        _ => object.json.clone(),
    }
}

fn metadata_only(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": META, "metadata": object["metadata"]})
}

fn row(kind: Kind, object: &Object, include: Include) -> Value {
    let mut row = json!({"cells": table::cells(kind, &object.value)});
    match include {
        Include::Nothing => {}
        Include::Metadata => row["object"] = metadata_only(&object.value),
        Include::Object => row["object"] = view(kind, &object.value),
    }
    row
}

/// Encodes a value. Its keys are text, so that this cannot fail.
pub(super) fn encode(value: &Value) -> Bytes {
    Bytes::from(serde_json::to_vec(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const KUBECTL: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,\
                           application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

    #[test]
    fn negotiation() {
        let ask = |accept: &str| Shape::negotiate(Some(accept), "");
        assert_eq!(ask(KUBECTL).unwrap(), Shape::Table(Include::Metadata));
        assert_eq!(Shape::negotiate(Some(KUBECTL), "Object").unwrap(), Shape::Table(Include::Object));
        for whole in [
            "",
            "*/*",
            "application/json",
            "application/vnd.kubernetes.protobuf, */*",
            "application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json",
        ] {
            assert_eq!(ask(whole).unwrap(), Shape::Whole, "{whole}");
        }
        let kube = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(ask(kube).unwrap(), Shape::Metadata);
        assert_eq!(ask("text/plain").unwrap_err().code, 406);
    }

    #[test]
    fn lists_of_each_shape_are_json() {
        let object = |name: &str| {
            Arc::new(Object::draft(json!({"kind": "Pod", "metadata": {"name": name}, "spec": {}})))
        };
        let objects = [object("a"), object("b")];
        let meta = json!({"resourceVersion": "5"});
        let list = |shape: Shape| -> Value {
            serde_json::from_slice(&shape.list(Kind::Pod, &objects, &meta)).unwrap()
        };
        let whole = list(Shape::Whole);
        assert_eq!(
            (&whole["kind"], &whole["items"][1]["metadata"]["name"]),
            (&json!("PodList"), &json!("b"))
        );
        assert_eq!(whole["metadata"]["resourceVersion"], "5");
        assert_eq!(list(Shape::Metadata)["items"][0]["kind"], "PartialObjectMetadata");
        let table = list(Shape::Table(Include::Metadata));
        assert_eq!(table["rows"][0]["cells"][0], "a");
        assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "a");
        let empty: Value = serde_json::from_slice(&Shape::Whole.list(Kind::Pod, &[], &meta)).unwrap();
        assert_eq!(empty["items"], json!([]));
    }

    #[test]
    fn a_watched_table_tells_its_columns_once() {
        let object = Object::draft(json!({"metadata": {"name": "a", "resourceVersion": "7"}}));
        let event = |first| -> Value {
            let shape = Shape::Table(Include::Nothing);
            serde_json::from_slice(&shape.watched(Kind::Lease, &object, first)).unwrap()
        };
        assert!(event(true)["columnDefinitions"].is_array());
        assert!(event(false)["columnDefinitions"].is_null());
        assert_eq!(event(false)["metadata"]["resourceVersion"], "7");
        assert!(event(false)["rows"][0].get("object").is_none());
    }
}
