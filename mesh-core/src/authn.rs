//! Who sent a request, as its token says: RequestAuthentication, and the claims that policies and routes ask for.

pub use self::claims::Claims;

mod claims;
