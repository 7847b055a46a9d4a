//! The version of what proxies and control planes say to each other, so that one can be upgraded after the other.

use std::sync::LazyLock;

/// The version that this program speaks. It is raised by one, once between two minor versions of the mesh, with a change that a
/// program of the version before would get wrong; what can be left unread needs none. Programs understand the version before
/// theirs and are understood by it.
pub const VERSION: u32 = 1;

/// The field of a subscriber's metadata in which it says its version.
pub const FIELD: &str = "MESH_PROTOCOL";

/// The version that this process speaks: [`VERSION`], or what the environment variable `MESH_PROTOCOL` says, so that two versions next
/// to each other can be tried before there are two. Whoever starts a process has it [`check`] that first.
pub fn own() -> u32 {
    static OWN: LazyLock<u32> = LazyLock::new(|| version(from_environment()).unwrap_or(VERSION));
    *OWN
}

/// Whether the environment says a version, or nothing of it.
///
/// # Errors
/// If it says what is no version.
pub fn check() -> Result<(), NoVersion> {
    version(from_environment()).map(drop)
}

/// What the environment says is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{FIELD}={said:?} in the environment is no version of the mesh's protocol, which is a whole number: unset it, it is only for tests \
     of two versions next to each other"
)]
pub struct NoVersion {
    said: String,
}

fn from_environment() -> Option<String> {
    std::env::var_os(FIELD).map(|said| said.to_string_lossy().into_owned())
}

fn version(said: Option<String>) -> Result<u32, NoVersion> {
    said.map_or(Ok(VERSION), |said| said.parse().map_err(|_| NoVersion { said }))
}

/// How a peer's version stands to one's own, where the two understand each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skew {
    /// Another implementation, which speaks what Istio's control plane and its proxies speak.
    Unsaid,
    /// The same.
    Same,
    /// The one before.
    Older,
    /// The next one.
    Newer,
}

/// The two do not understand each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "you speak version {said} of the mesh's protocol, and this is version {own}, which understands its neighbours alone: upgrade \
     one minor version at a time, the control plane first"
)]
pub struct TooFar {
    said: String,
    own: u32,
}

/// How what a peer says of itself stands to what this process speaks.
///
/// # Errors
/// If the versions are more than one apart, or it is none.
pub fn skew(said: Option<&str>) -> Result<Skew, TooFar> {
    skew_to(own(), said)
}

fn skew_to(own: u32, said: Option<&str>) -> Result<Skew, TooFar> {
    let Some(said) = said else { return Ok(Skew::Unsaid) };
    let too_far =
        || TooFar { said: said.chars().filter(|it| !it.is_control()).take(MAX_SAID).collect(), own };
    let version: u32 = said.parse().map_err(|_| too_far())?;
    match i64::from(version) - i64::from(own) {
        -1 => Ok(Skew::Older),
        0 => Ok(Skew::Same),
        1 => Ok(Skew::Newer),
        _ => Err(too_far()),
    }
}

const MAX_SAID: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_environment_says_is_a_number_or_refused() {
        assert_eq!([version(None), version(Some("7".to_owned()))], [Ok(VERSION), Ok(7)]);
        for wrong in ["", "v2", "-1", "2 "] {
            let refused = version(Some(wrong.to_owned())).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("MESH_PROTOCOL={wrong:?} in the environment")), "{refused}");
        }
    }

    #[test]
    fn neighbours_understand_each_other() {
        let said = |version: u32| skew(Some(&version.to_string()));
        assert_eq!(skew(None), Ok(Skew::Unsaid));
        assert_eq!(
            [VERSION - 1, VERSION, VERSION + 1].map(said),
            [Ok(Skew::Older), Ok(Skew::Same), Ok(Skew::Newer)]
        );
        for far in [VERSION + 2, u32::MAX] {
            assert!(said(far).unwrap_err().to_string().contains(&format!("version {far} of")));
        }
        for none in ["", "one", "-1", "99999999999"] {
            assert!(skew(Some(none)).is_err(), "{none:?}");
        }
    }
}
