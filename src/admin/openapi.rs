//! The OpenAPI 3.1 document, made from the handlers and types of this module. `docs` serves it, and
//! `docs/openapi.json` is a copy that a test holds to it (`UPDATE_DOCS=1` writes it).

use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, ObjectBuilder, OpenApi as Document, PathItem, Ref, RefOr, ResponseBuilder,
    Type,
};
use utoipa::{Modify, OpenApi};

use super::types::ErrorBody;
use super::{destroy, docs, metrics, probes, servers, start, status, v1};

/// The parts of the document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "gluetun-gateway",
        description = "The admin port of the gateway: VPN pods, servers, sessions, and why requests to the \
                       proxy port failed.\n\n\
                       Answers are JSON. A failure is `{\"error\": TEXT}`. Every answer carries \
                       `X-Request-Id`: the request's own where it has one of at most 64 letters, digits, \
                       `-`, `_` and `.`, else a new one.\n\n\
                       Where `ADMIN_TOKEN` is set, requests need `Authorization: Bearer TOKEN`, except the \
                       probes, the metrics, this document and its page.",
    ),
    servers((url = "/", description = "This gateway")),
    paths(
        start::start,
        destroy::destroy,
        destroy::stop,
        status::status,
        servers::servers,
        servers::locations,
        servers::refresh,
        v1::sessions::list,
        v1::sessions::show,
        v1::sessions::end,
        v1::errors::list,
        probes::health,
        probes::livez,
        probes::readyz,
        metrics::metrics,
        docs::document_of,
        docs::page_of,
    ),
    components(schemas(ErrorBody)),
    tags(
        (name = "pods", description = "VPN pods, one call each: as the original system had it."),
        (name = "servers", description = "Where pods can leave from."),
        (name = "v1", description = "Sessions, whoever made them, and the failures of the proxy port."),
        (name = "probes", description = "For Kubernetes and Prometheus; open to all."),
        (name = "document", description = "This document; open to all."),
    ),
    modifiers(&Common)
)]
struct Api;

/// What all operations have in common.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut Document) {
        document.info.license = None;
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("One of the tokens of `ADMIN_TOKEN`, where that is set."))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
        for item in document.paths.paths.values_mut() {
            operations(item).for_each(complete);
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, options, head, patch, trace, .. } = item;
    [get, put, post, delete, options, head, patch, trace].into_iter().filter_map(Option::as_mut)
}

/// Adds what any request may be answered, and the header of every answer.
fn complete(operation: &mut Operation) {
    if operation.security.is_some() {
        let mut refused = failure("A token is needed, and there is none or a wrong one.", REFUSED);
        let challenge = HeaderBuilder::new().schema(Some(ObjectBuilder::new().schema_type(Type::String)));
        refused.headers.insert("WWW-Authenticate".to_owned(), RefOr::T(challenge.build()));
        operation.responses.responses.entry("401".to_owned()).or_insert(RefOr::T(refused));
    }
    if operation.request_body.is_some() {
        for (status, description, text) in BODIES {
            let refused = RefOr::T(failure(description, text));
            operation.responses.responses.entry(status.to_owned()).or_insert(refused);
        }
    }
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            let id = HeaderBuilder::new()
                .description(Some("Names the request in the log."))
                .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
            response.headers.insert("X-Request-Id".to_owned(), RefOr::T(id.build()));
        }
    }
}

/// The text of a 401.
const REFUSED: &str = "A token is required: send Authorization: Bearer TOKEN";

/// What any request with a body may be answered.
const BODIES: [(&str, &str, &str); 2] = [
    ("408", "The body did not come in time.", "The body did not come within 10 seconds"),
    ("413", "The body is too large.", "The body is larger than 65536 bytes"),
];

fn failure(description: &str, text: &str) -> utoipa::openapi::Response {
    let body = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("ErrorBody")))
        .example(Some(serde_json::json!({ "error": text })))
        .build();
    ResponseBuilder::new().description(description).content("application/json", body).build()
}

/// The document, as JSON for people too.
pub(super) fn document() -> String {
    // A document that cannot be told is none; a test sees that it can.
    let mut text = Api::openapi().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests;
