//! What a client asks for: the username's grammar, and the key of the session that it means.
//!
//! Pure: no clock, no I/O, no Kubernetes. The proxy calls [`Username::parse`] on an authenticated
//! username and [`resolve`] against the current catalogue; the session area and the controller use
//! [`SessionKey`] and read it back from a claim with [`SessionKey::parse_canonical`].

pub mod duration;
mod error;
mod grammar;
mod key;
mod near;
mod places;
mod resolve;

pub use crate::servers::{CityId, CountryId, Hostname, Place};
pub use error::{GrammarError, SelectError};
pub use grammar::{IDLE, Key, MAX_USERNAME, Params, TTL, Username};
pub use key::{CanonicalError, Mode, PoolName, SessionKey, SessionName};
pub use places::{PlaceRule, PlaceRules, Places};
pub use resolve::{Lifetimes, Limits, Scope, check_place, resolve, resolve_within};
