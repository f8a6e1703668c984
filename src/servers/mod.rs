//! Where exits can be: the catalogue of VPN servers, its indexes, and where the list comes from.
//!
//! [`Catalogue`] is immutable and shared; a new list is a new catalogue, published on a `watch`
//! channel. The proxy resolves usernames against it, the controller draws candidates from it, the admin
//! port lists it. [`Keeper`] keeps it current: of Kubernetes it knows the Job that prints a list (`job`) and
//! the ConfigMap that keeps the last one (`cache`), and nothing of sessions and exits. Knows nothing of the proxy.

mod builtin;
mod cache;
mod catalogue;
mod iso;
mod job;
mod keeper;
mod list;
pub mod names;
mod origin;
mod refresh;
mod sources;

pub use builtin::catalogue as built_in;
pub use cache::CONFIG_MAP;
pub use catalogue::{Catalogue, City, Country};
pub use job::{JobError, JobFailure};
pub use keeper::Keeper;
pub use list::{CatalogueError, Server};
pub use names::{CityId, CountryId, Hostname, Place};
pub use origin::{Origin, SourceKind};
pub use refresh::{RefreshError, Refresher};
pub use sources::{LoadError, Source, load};
