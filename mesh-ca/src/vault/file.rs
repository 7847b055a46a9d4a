//! A vault of files: one directory below the state directory, one file for each entry, readable by their owner alone.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::future::ready;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::{Change, Contents, MAX_ENTRY, Pending, Vault, VaultError};
use crate::{join, material};

/// A vault in the directory `<state>/<name>`, shared by any number of processes of one machine.
///
/// Who changes it holds `<state>/<name>.lock` alone, who reads it holds it together with other readers. Files are
/// replaced by renaming; those of a directory that is new appear all at once. Everything is synced before a change
/// counts as made. The futures of this vault are ready at once: they have done blocking, short file operations.
#[derive(Debug, Clone)]
pub struct FileVault {
    state: PathBuf,
    name: &'static str,
    files: &'static [&'static str],
}

impl FileVault {
    /// The CA of a state directory: `<state>/ca`.
    pub fn ca(state: &Path) -> Self {
        Self { state: state.to_owned(), name: "ca", files: material::FILES }
    }

    /// The join tokens of a state directory: `<state>/join`.
    pub fn join(state: &Path) -> Self {
        Self { state: state.to_owned(), name: "join", files: join::FILES }
    }

    /// [`Vault::read`] for those who do not await.
    pub fn read_now(&self) -> Result<Contents, VaultError> {
        let lock = match File::open(self.lock_path()) {
            Ok(file) => Some(file),
            // Nobody has ever changed anything here.
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(io(&self.lock_path())(e)),
        };
        if let Some(file) = &lock {
            self.lock(|| file.try_lock_shared())?;
        }
        self.read_files()
    }

    /// [`Vault::write`] for those who do not await.
    pub fn write_now(&self, base: &Contents, changes: &[Change]) -> Result<(), VaultError> {
        create_dir(&self.state)?;
        let path = self.lock_path();
        let file = private().create(true).truncate(false).open(&path).map_err(io(&path))?;
        self.lock(|| file.try_lock())?;
        if self.read_files()?.entries() != base.entries() {
            return Err(VaultError::Conflict { place: self.dir().display().to_string() });
        }
        if self.is_vacant()? {
            return self.fill(changes);
        }
        changes.iter().try_for_each(|change| self.apply(change))
    }

    fn dir(&self) -> PathBuf {
        self.state.join(self.name)
    }

    fn lock_path(&self) -> PathBuf {
        self.state.join(format!("{}.lock", self.name))
    }

    /// Waits for the lock, but not for ever: whoever waits may have other work on its thread.
    fn lock(&self, mut attempt: impl FnMut() -> Result<(), TryLockError>) -> Result<(), VaultError> {
        for _ in 0..LOCK_ATTEMPTS {
            match attempt() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(e)) => return Err(io(&self.lock_path())(e)),
            }
        }
        Err(VaultError::Busy { place: self.dir().display().to_string() })
    }

    fn read_files(&self) -> Result<Contents, VaultError> {
        let dir = self.dir();
        let mut entries = BTreeMap::new();
        for name in self.files {
            if let Some(data) = read(&dir.join(name))? {
                entries.insert((*name).to_owned(), data);
            }
        }
        Ok(Contents::new(format!("{}/", dir.display()), String::new(), entries))
    }

    /// Whether the directory is missing or empty.
    fn is_vacant(&self) -> Result<bool, VaultError> {
        let dir = self.dir();
        match fs::read_dir(&dir) {
            Ok(mut entries) => Ok(entries.next().is_none()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
            Err(e) => Err(io(&dir)(e)),
        }
    }

    /// All files of a new directory by one rename.
    fn fill(&self, changes: &[Change]) -> Result<(), VaultError> {
        let (dir, draft) = (self.dir(), self.state.join(format!("{}.draft", self.name)));
        if draft.exists() {
            // Left by a process that died here; the lock says that it is nobody's work in progress.
            fs::remove_dir_all(&draft).map_err(io(&draft))?;
        }
        create_dir(&draft)?;
        for change in changes {
            if let Some(data) = change.data() {
                write_new(&draft.join(change.name()), data)?;
            }
        }
        sync(&draft)?;
        fs::rename(&draft, &dir).map_err(io(&dir))?;
        sync(&self.state)
    }

    fn apply(&self, change: &Change) -> Result<(), VaultError> {
        let dir = self.dir();
        let path = dir.join(change.name());
        match change.data() {
            Some(data) => {
                let draft = dir.join(format!(".{}.draft", change.name()));
                remove(&draft)?;
                write_new(&draft, data)?;
                fs::rename(&draft, &path).map_err(io(&path))?;
            }
            None => remove(&path)?,
        }
        sync(&dir)
    }
}

impl Vault for FileVault {
    fn read(&self) -> Pending<'_, Contents> {
        Box::pin(ready(self.read_now()))
    }

    fn write<'a>(&'a self, base: &'a Contents, changes: &'a [Change]) -> Pending<'a, ()> {
        Box::pin(ready(self.write_now(base, changes)))
    }
}

/// The file's content; `None` if there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, VaultError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(path)(e)),
    };
    let mut data = Vec::new();
    file.take(MAX_ENTRY + 1).read_to_end(&mut data).map_err(io(path))?;
    if data.len() as u64 > MAX_ENTRY {
        return Err(VaultError::TooLarge { place: path.display().to_string() });
    }
    Ok(Some(data))
}

fn write_new(path: &Path, data: &[u8]) -> Result<(), VaultError> {
    let mut file = private().create_new(true).open(path).map_err(io(path))?;
    file.write_all(data).and_then(|()| file.sync_all()).map_err(io(path))
}

fn remove(path: &Path) -> Result<(), VaultError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(io(path)(e)),
        _ => Ok(()),
    }
}

/// For our eyes only.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

fn create_dir(path: &Path) -> Result<(), VaultError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io(path))
}

fn sync(dir: &Path) -> Result<(), VaultError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(io(dir))
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> VaultError + use<> {
    let place = path.display().to_string();
    move |source| VaultError::Io { place, source }
}

/// Together two seconds: the changes of others take some milliseconds, on a disk that is slow to sync some hundred.
const LOCK_ATTEMPTS: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
