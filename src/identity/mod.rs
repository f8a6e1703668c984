//! Who asks: the users file, password checks and what is remembered of them. What an account may do is in
//! [`crate::accounts`].
//!
//! Knows nothing of the proxy, of selectors or of Kubernetes. [`Authenticator`] is used by the proxy's
//! data threads; [`hash_password`] serves the command of that name. A username's parameters are the selector's business: here the account is the text up to the
//! first `-`, and nothing more is looked at before the password has been checked.

mod account;
mod authenticator;
mod basic;
mod cache;
mod hash;
mod throttle;
mod users;
mod verifier;

pub use account::{Account, AccountError};
pub use authenticator::{Authenticator, FAILURE_FLOOR, Login};
pub use basic::{AuthError, split_basic};
pub use hash::{PasswordError, hash_password};
pub use throttle::{Rate, RateError, Throttle};
pub use users::{FileMistake, Users};
pub(crate) use users::{MAX_FILE, fingerprint};
