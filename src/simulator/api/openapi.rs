//! The least OpenAPI v3 description that makes kubectl leave the checking of fields to the server: that
//! patches of each kind take the parameter `fieldValidation`. There are no schemas.

use serde_json::{Map, Value, json};

use super::resources::Kind;

fn path(kind: Kind) -> String {
    match kind.group() {
        "" => format!("api/{}", kind.version()),
        group => format!("apis/{group}/{}", kind.version()),
    }
}

/// `/openapi/v3`: where the description of each group version is.
pub(super) fn index() -> Value {
    let mut paths = Map::new();
    for kind in Kind::ALL {
        let path = path(kind);
        paths.insert(path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}")}));
    }
    json!({"paths": paths})
}

/// `/openapi/v3/PATH`: the description of one group version.
pub(super) fn document(wanted: &str) -> Option<Value> {
    let mut paths = Map::new();
    for kind in Kind::ALL.into_iter().filter(|kind| path(*kind) == wanted) {
        let scope = if kind.namespaced() { "namespaces/{namespace}/" } else { "" };
        let operation = json!({
            "x-kubernetes-action": "patch",
            "x-kubernetes-group-version-kind":
                {"group": kind.group(), "version": kind.version(), "kind": kind.name()},
            "parameters": [
                {"name": "dryRun", "in": "query", "schema": {"type": "string"}},
                {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}},
            ],
            "responses": {"200": {"description": "OK"}},
        });
        paths.insert(format!("/{wanted}/{scope}{}/{{name}}", kind.plural()), json!({"patch": operation}));
    }
    let info = json!({"title": "gluetun-gateway simulator", "version": "v1"});
    (!paths.is_empty()).then(|| json!({"openapi": "3.0.0", "info": info, "paths": paths}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_says_that_the_server_checks_fields() {
        for kind in Kind::ALL {
            assert!(index()["paths"].get(path(kind)).is_some());
            let document = document(&path(kind)).unwrap();
            let operation = document["paths"]
                .as_object()
                .unwrap()
                .values()
                .find(|item| item["patch"]["x-kubernetes-group-version-kind"]["kind"] == kind.name())
                .unwrap();
            assert_eq!(operation["patch"]["parameters"][1]["name"], "fieldValidation");
        }
        assert!(document("apis/zz/v1").is_none());
    }
}
