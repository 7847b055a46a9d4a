//! Log levels that can be changed while the process runs.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::reload;

/// Changes the log levels of the process.
pub struct LogControl {
    initial: Levels,
    current: Mutex<Levels>,
    apply: Box<dyn Fn(Targets) -> Result<(), String> + Send + Sync>,
}

/// A filter layer whose levels [`LogControl`] changes.
pub type LevelLayer<S> = reload::Layer<Targets, S>;

impl LogControl {
    /// A filter layer for a subscriber, and what controls it. `levels` is a list as in `info,mesh_node::l4=debug`: a
    /// level for everything and levels for targets, each optional; the default level is `info`.
    ///
    /// # Errors
    /// If the list cannot be read.
    pub fn layer<S: Subscriber>(levels: &str) -> Result<(LevelLayer<S>, Self), LevelsError> {
        let initial = Levels::parse(levels)?;
        let (layer, handle) = reload::Layer::new(initial.targets());
        let apply = move |targets| handle.reload(targets).map_err(|error| error.to_string());
        let current = Mutex::new(initial.clone());
        Ok((layer, Self { initial, current, apply: Box::new(apply) }))
    }

    /// The levels in force, in the form that [`LogControl::layer`] reads.
    pub fn levels(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).to_string()
    }

    /// Changes the levels that `change` names and leaves the others; `reset` goes back to those at the start.
    ///
    /// # Errors
    /// If `change` cannot be read, or the subscriber is gone; then nothing is changed.
    pub fn change(&self, change: &str) -> Result<(), LevelsError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let next = if change == "reset" {
            self.initial.clone()
        } else {
            let mut next = current.clone();
            next.merge(change)?;
            next
        };
        (self.apply)(next.targets()).map_err(LevelsError::Gone)?;
        *current = next;
        Ok(())
    }
}

/// Why log levels were not changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LevelsError {
    /// Not a level.
    #[error("{0:?} is not a level: use off, error, warn, info, debug or trace")]
    Level(String),
    /// Not the name of a part of the process.
    #[error("{0:?} is not a target: use a module such as mesh_node::l4")]
    Target(String),
    /// More targets than anybody has modules.
    #[error("too many targets: at most {MAX_TARGETS}")]
    TooMany,
    /// The subscriber does not exist any more.
    #[error("logging cannot be changed: {0}")]
    Gone(String),
}

/// A level for everything and other levels for some targets.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Levels {
    base: LevelFilter,
    targets: BTreeMap<String, LevelFilter>,
}

impl Levels {
    fn parse(text: &str) -> Result<Self, LevelsError> {
        let mut levels = Self { base: LevelFilter::INFO, targets: BTreeMap::new() };
        levels.merge(text)?;
        Ok(levels)
    }

    fn merge(&mut self, text: &str) -> Result<(), LevelsError> {
        for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
            match directive.rsplit_once('=') {
                None => self.base = level(directive)?,
                Some((name, wanted)) => {
                    self.targets.insert(target(name)?.to_owned(), level(wanted)?);
                }
            }
        }
        if self.targets.len() > MAX_TARGETS { Err(LevelsError::TooMany) } else { Ok(()) }
    }

    fn targets(&self) -> Targets {
        Targets::new().with_default(self.base).with_targets(self.targets.clone())
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.base)?;
        self.targets.iter().try_for_each(|(target, level)| write!(f, ",{target}={level}"))
    }
}

fn level(text: &str) -> Result<LevelFilter, LevelsError> {
    // The library also takes numbers and an empty text.
    let known = text.bytes().all(|byte| byte.is_ascii_alphabetic()) && !text.is_empty();
    let parsed = LevelFilter::from_str(text).ok().filter(|_| known);
    parsed.ok_or_else(|| LevelsError::Level(text.chars().take(MAX_SHOWN).collect()))
}

fn target(text: &str) -> Result<&str, LevelsError> {
    let fits = !text.is_empty() && text.len() <= MAX_TARGET;
    let known = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:-.".contains(&byte));
    if fits && known { Ok(text) } else { Err(LevelsError::Target(text.chars().take(MAX_SHOWN).collect())) }
}

/// Targets that may have a level of their own.
const MAX_TARGETS: usize = 100;
/// Bytes of a target's name.
const MAX_TARGET: usize = 128;
/// Characters of a wrong level that an error repeats.
const MAX_SHOWN: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::Registry;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn levels_change_and_go_back() {
        let (layer, control) = LogControl::layer::<Registry>("warn, hyper=off").unwrap();
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            let enabled =
                || (tracing::enabled!(tracing::Level::DEBUG), tracing::enabled!(tracing::Level::WARN));
            assert_eq!((control.levels(), enabled()), ("warn,hyper=off".to_owned(), (false, true)));
            control.change(&format!("{}=trace", module_path!())).unwrap();
            assert_eq!(enabled(), (true, true));
            control.change("error").unwrap();
            assert_eq!(control.levels(), format!("error,hyper=off,{}=trace", module_path!()));
            control.change("reset").unwrap();
            assert_eq!((control.levels(), enabled()), ("warn,hyper=off".to_owned(), (false, true)));
        });
    }

    #[test]
    fn nonsense_changes_nothing() {
        let (_layer, control) = LogControl::layer::<Registry>("").unwrap();
        for bad in ["loud", "debug,mesh_node=", "=debug", "a b=debug", "x=debug=trace", "5", "info,\u{7}"] {
            assert!(control.change(bad).is_err(), "{bad}");
        }
        let many: Vec<_> = (0..=MAX_TARGETS).map(|n| format!("t{n}=debug")).collect();
        assert_eq!(control.change(&many.join(",")), Err(LevelsError::TooMany));
        assert_eq!(control.levels(), "info");
    }

    #[test]
    fn a_subscriber_that_is_gone_is_an_error() {
        let (layer, control) = LogControl::layer::<Registry>("info").unwrap();
        drop(layer);
        assert!(matches!(control.change("debug"), Err(LevelsError::Gone(_))));
        assert_eq!(control.levels(), "info");
    }
}
