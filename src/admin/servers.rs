//! `GET /servers`, `GET /locations` and `POST /servers/refresh`: where exits can be.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Schema, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::Admin;
use super::filter::Filter;
use super::input::Query;
use super::response::Failure;
use super::types::{CityLocations, CountryLocations, ErrorBody, Locations, Refreshed};
use crate::servers::{Catalogue, Server};

/// What a server without a city is listed under, as the original had it.
const NO_CITY: &str = "Unknown";

/// Servers by key, each as the list has it.
struct Servers<'a>(Vec<&'a Arc<Server>>);

impl Serialize for Servers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|server| (&server.key, &server.record)))
    }
}

/// A server as the list has it, for the document: what the list says more of a server is told as well.
pub(super) struct ServerRecord;

impl PartialSchema for ServerRecord {
    fn schema() -> RefOr<Schema> {
        let text = |about: &str, example: &str| {
            ObjectBuilder::new().schema_type(Type::String).description(Some(about)).examples([example])
        };
        ObjectBuilder::new()
            .description(Some("A server as Gluetun's list has it, with every field that it has there."))
            .property("vpn", text("Always WireGuard.", "wireguard"))
            .property("country", text("The country.", "Sweden"))
            .required("country")
            .property("city", text("The city.", "Gothenburg"))
            .property("hostname", text("Its name.", "se-got-wg-001"))
            .required("hostname")
            .additional_properties(Some(AdditionalProperties::FreeForm(true)))
            .into()
    }
}

impl ToSchema for ServerRecord {}

/// Where servers are wanted.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "the query is read by hand, for errors in the original's words")]
pub(super) struct WantedServers {
    /// The country: equal, contained, or every word contained, whatever the case and accents.
    #[param(example = "sweden", nullable = false)]
    country: Option<String>,
    /// The city, likewise.
    #[param(example = "malmö", nullable = false)]
    city: Option<String>,
    /// `true`, `1` or `yes` fetches the list anew first.
    #[param(example = "false", nullable = false)]
    force: Option<String>,
}

/// Whether places are wanted anew.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "the query is read by hand, for errors in the original's words")]
pub(super) struct WantedLocations {
    /// `true`, `1` or `yes` fetches the list anew first.
    #[param(example = "false", nullable = false)]
    force: Option<String>,
}

/// Servers
///
/// The WireGuard servers by their keys (`country-city-hostname`), filtered. Where the list cannot be
/// fetched anew, `force` tells the old one.
#[utoipa::path(
    get,
    path = "/servers",
    tag = "servers",
    operation_id = "listServers",
    params(WantedServers),
    responses(
        (status = 200, description = "The servers.", body = BTreeMap<String, ServerRecord>,
            example = json!({"sweden-gothenburg-se-got-wg-001": {"vpn": "wireguard", "country": "Sweden",
                "city": "Gothenburg", "hostname": "se-got-wg-001", "isp": "31173", "owned": true,
                "wgpubkey": "5JMPeO7gXIbR5CnUa/NPNK4L5GqUnreF0/Bozai4pl4=", "ips": ["185.213.154.66"]}})),
        (status = 400, description = "The query is not UTF-8.", body = ErrorBody,
            example = json!({"error": "The query parameter 'city' is not UTF-8: percent-encode it as UTF-8"})),
    ),
    security((), ("token" = []))
)]
pub(super) async fn servers(
    State(admin): State<Arc<Admin>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let query = Query::read(query.as_deref())?;
    let catalogue = catalogue(&admin, &query).await;
    let mut found = Filter::read(query.text("country"), query.text("city")).servers(&catalogue);
    // Of two with one key, `/start` takes the first.
    found.retain(|server| catalogue.by_key(&server.key).is_some_and(|first| Arc::ptr_eq(first, server)));
    Ok(Json(Servers(found)).into_response())
}

/// Countries and cities
#[utoipa::path(
    get,
    path = "/locations",
    tag = "servers",
    operation_id = "listLocations",
    params(WantedLocations),
    responses(
        (status = 200, description = "Every place, sorted by name.", body = Locations, example = json!({
            "countries": [{"name": "Sweden", "city_count": 1, "total_servers": 3, "cities": [
                {"name": "Gothenburg", "server_count": 3, "sample_hostname": "se-got-wg-001"}]}],
            "total_countries": 1, "total_cities": 1, "total_servers": 3})),
        (status = 400, description = "The query is not UTF-8.", body = ErrorBody,
            example = json!({"error": "The query parameter 'force' is not UTF-8: percent-encode it as UTF-8"})),
    ),
    security((), ("token" = []))
)]
pub(super) async fn locations(
    State(admin): State<Arc<Admin>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Locations>, Failure> {
    let query = Query::read(query.as_deref())?;
    Ok(Json(by_place(&*catalogue(&admin, &query).await)))
}

/// Fetch the server list anew
///
/// Answers once the new list is there. Where it cannot be had, the old one stays.
#[utoipa::path(
    post,
    path = "/servers/refresh",
    tag = "servers",
    operation_id = "refreshServers",
    responses(
        (status = 200, description = "The list is new.", body = Refreshed,
            example = json!({"message": "Server cache refreshed", "server_count": 537})),
        (status = 500, description = "It could not be fetched; the log tells why.", body = ErrorBody,
            example = json!({"error": "Failed to refresh server cache"})),
    ),
    security((), ("token" = []))
)]
pub(super) async fn refresh(State(admin): State<Arc<Admin>>) -> Result<Json<Refreshed>, Failure> {
    match admin.refresher.refresh().await {
        Ok(catalogue) => {
            Ok(Json(Refreshed { message: "Server cache refreshed", server_count: catalogue.len() }))
        }
        Err(error) => {
            tracing::warn!(%error, "the server list could not be refreshed on request");
            Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "Failed to refresh server cache"))
        }
    }
}

/// The list in use, after a refresh if one is asked for. Should that fail, the old list does.
async fn catalogue(admin: &Admin, query: &Query) -> Arc<Catalogue> {
    if query.flag("force") {
        match admin.refresher.refresh().await {
            Ok(catalogue) => return catalogue,
            Err(error) => {
                tracing::warn!(%error, "the server list could not be refreshed, the old one is told")
            }
        }
    }
    Arc::clone(&admin.catalogue.borrow())
}

fn by_place(catalogue: &Catalogue) -> Locations {
    let mut places: BTreeMap<&str, BTreeMap<&str, CityLocations>> = BTreeMap::new();
    for server in catalogue.servers() {
        let name = if server.city.is_empty() { NO_CITY } else { &*server.city };
        let new = || CityLocations {
            name: name.to_owned(),
            server_count: 0,
            sample_hostname: server.hostname.to_string(),
        };
        places.entry(&server.country).or_default().entry(name).or_insert_with(new).server_count += 1;
    }
    let countries: Vec<CountryLocations> = places
        .into_iter()
        .map(|(name, cities)| {
            let cities: Vec<_> = cities.into_values().collect();
            CountryLocations {
                name: name.to_owned(),
                city_count: cities.len(),
                total_servers: cities.iter().map(|city| city.server_count).sum(),
                cities,
            }
        })
        .collect();
    Locations {
        total_countries: countries.len(),
        total_cities: countries.iter().map(|country| country.city_count).sum(),
        total_servers: countries.iter().map(|country| country.total_servers).sum(),
        countries,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"[
        {"vpn":"wireguard","country":"Sweden","city":"Stockholm","hostname":"se-sto-wg-002"},
        {"vpn":"wireguard","country":"Albania","city":"Tirana","hostname":"al-tia-wg-001"},
        {"vpn":"wireguard","country":"Sweden","city":"Malmö","hostname":"se-mma-wg-001"},
        {"vpn":"wireguard","country":"Sweden","city":"Stockholm","hostname":"se-sto-wg-001"},
        {"vpn":"wireguard","country":"Norway","hostname":"no-1"}
    ]"#;

    #[test]
    fn places_are_sorted_and_counted() {
        let locations = by_place(&Catalogue::parse(LIST).unwrap());
        let told = serde_json::to_value(locations).unwrap();
        assert_eq!(
            told,
            serde_json::json!({
                "countries": [
                    { "name": "Albania", "city_count": 1, "total_servers": 1, "cities": [
                        { "name": "Tirana", "server_count": 1, "sample_hostname": "al-tia-wg-001" },
                    ]},
                    { "name": "Norway", "city_count": 1, "total_servers": 1, "cities": [
                        { "name": "Unknown", "server_count": 1, "sample_hostname": "no-1" },
                    ]},
                    { "name": "Sweden", "city_count": 2, "total_servers": 3, "cities": [
                        { "name": "Malmö", "server_count": 1, "sample_hostname": "se-mma-wg-001" },
                        { "name": "Stockholm", "server_count": 2, "sample_hostname": "se-sto-wg-002" },
                    ]},
                ],
                "total_countries": 3,
                "total_cities": 4,
                "total_servers": 5,
            })
        );
        assert_eq!(by_place(&Catalogue::default()), Locations::default());
    }

    #[test]
    fn servers_are_told_as_the_list_has_them() {
        let catalogue = Catalogue::parse(LIST).unwrap();
        let found = Filter::read(Some("sweden"), Some("malmö")).servers(&catalogue);
        assert_eq!(
            serde_json::to_string(&Servers(found)).unwrap(),
            r#"{"sweden-malmö-se-mma-wg-001":{"vpn":"wireguard","country":"Sweden","city":"Malmö","hostname":"se-mma-wg-001"}}"#
        );
    }
}
