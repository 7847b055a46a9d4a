//! The last good model on disk: what was told, as it was told, one entry after the other.
//!
//! Invariant: what is read back is what was told, up to some moment. An entry that was not written to its end, or not
//! as it should be, ends the reading; the control plane tells the rest again.

use std::{
    fs::{self, File, OpenOptions},
    hash::Hasher,
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use mesh_proto::names::ResourceType;

/// One thing that was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// An encoded `Resource`.
    Put(ResourceType, Bytes),
    /// The resource of this name is gone.
    Remove(ResourceType, String),
}

/// The file, open for more.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: BufWriter<File>,
    /// Bytes of the file.
    size: u64,
    /// What the file would have if it held what is in force and nothing else.
    compact: u64,
}

impl Journal {
    /// Removes what was kept in the state directory.
    pub fn remove(state: &Path) -> io::Result<()> {
        fs::remove_file(state.join(FILE))
    }

    /// Opens the journal of the state directory, and returns what was told before.
    pub fn open(state: &Path) -> io::Result<(Self, Vec<Entry>)> {
        fs::create_dir_all(state)?;
        let path = state.join(FILE);
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(mut file) => drop(file.read_to_end(&mut bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (entries, good) = parse(&bytes.into());
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        // What comes next must not stand behind something that cannot be read.
        file.set_len(good)?;
        let mut journal = Self { path, file: BufWriter::new(file), size: good, compact: good };
        io::Seek::seek(journal.file.get_mut(), io::SeekFrom::End(0))?;
        if good == 0 {
            journal.put(MAGIC)?;
        }
        Ok((journal, entries))
    }

    /// Notes something. It is with the system once [`Self::flush`] has returned.
    pub fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let frame = frame(entry);
        self.put(&frame)
    }

    /// Hands everything to the system, where it survives the end of this process.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    /// Whether most of the file is about what is not in force any more.
    pub fn is_bloated(&self) -> bool {
        self.size > self.compact.saturating_mul(2) + SLACK
    }

    /// Replaces everything that was noted by `entries`.
    pub fn rewrite(&mut self, entries: impl IntoIterator<Item = Entry>) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut size = 0;
        let mut file = BufWriter::new(File::create(&fresh)?);
        file.write_all(MAGIC)?;
        size += MAGIC.len();
        for entry in entries {
            let frame = frame(&entry);
            file.write_all(&frame)?;
            size += frame.len();
        }
        file.flush()?;
        file.get_ref().sync_data()?;
        fs::rename(&fresh, &self.path)?;
        self.file = file;
        self.size = u64::try_from(size).unwrap_or(u64::MAX);
        self.compact = self.size;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.size += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }
}

/// Length, kind, type, content and check sum.
fn frame(entry: &Entry) -> Vec<u8> {
    let (operation, kind, content) = match entry {
        Entry::Put(kind, bytes) => (PUT, *kind, bytes.as_ref()),
        Entry::Remove(kind, name) => (REMOVE, *kind, name.as_bytes()),
    };
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(content.len() + HEADER + SUM);
    frame.extend(length.to_le_bytes());
    frame.push(operation);
    frame.push(tag(kind));
    frame.extend(content);
    frame.extend(sum(&frame));
    frame
}

/// The entries that can be read, and where they end.
fn parse(bytes: &Bytes) -> (Vec<Entry>, u64) {
    let mut entries = Vec::new();
    if !bytes.starts_with(MAGIC) {
        return (entries, 0);
    }
    let mut at = MAGIC.len();
    while let Some((entry, length)) = parse_one(&bytes.slice(at..)) {
        entries.push(entry);
        at += length;
    }
    (entries, u64::try_from(at).unwrap_or(u64::MAX))
}

fn parse_one(bytes: &Bytes) -> Option<(Entry, usize)> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    let end = usize::try_from(length).ok()?.checked_add(HEADER)?;
    let framed = bytes.get(..end)?;
    if bytes.get(end..end.checked_add(SUM)?)? != sum(framed) {
        return None;
    }
    let kind = ResourceType::ALL.into_iter().find(|kind| tag(*kind) == framed[5])?;
    let content = bytes.slice(HEADER..end);
    let entry = match framed[4] {
        PUT => Entry::Put(kind, content),
        REMOVE => Entry::Remove(kind, String::from_utf8(content.to_vec()).ok()?),
        _ => return None,
    };
    Some((entry, end + SUM))
}

/// Stable over versions, unlike the order of the types.
fn tag(kind: ResourceType) -> u8 {
    match kind {
        ResourceType::Trust => 1,
        ResourceType::Mesh => 2,
        ResourceType::Authorization => 3,
        ResourceType::LocalPod => 4,
        ResourceType::Address => 5,
        ResourceType::Config => 6,
        // Never written: see `Discovery`.
        ResourceType::Credential => 7,
    }
}

fn sum(bytes: &[u8]) -> [u8; SUM] {
    #[expect(deprecated, reason = "the one hasher of the standard library whose result is defined")]
    let mut hasher = std::hash::SipHasher::new();
    hasher.write(bytes);
    hasher.finish().to_le_bytes()
}

const FILE: &str = "model";
const MAGIC: &[u8] = b"mesh model 1\n";
const PUT: u8 = 1;
const REMOVE: u8 = 2;
/// Bytes before the content.
const HEADER: usize = 6;
/// Bytes after it.
const SUM: usize = 8;
/// Bytes that are not worth a new file.
const SLACK: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        vec![
            Entry::Put(ResourceType::Address, Bytes::from_static(b"one")),
            Entry::Remove(ResourceType::LocalPod, "two".to_owned()),
            Entry::Put(ResourceType::Trust, Bytes::new()),
        ]
    }

    fn write(state: &Path, entries: &[Entry]) {
        let (mut journal, _) = Journal::open(state).unwrap();
        entries.iter().for_each(|entry| journal.append(entry).unwrap());
        journal.flush().unwrap();
    }

    fn read(state: &Path) -> Vec<Entry> {
        Journal::open(state).unwrap().1
    }

    #[test]
    fn what_was_noted_is_read_back() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(read(state.path()), []);
        write(state.path(), &entries());
        assert_eq!(read(state.path()), entries());
        write(state.path(), &entries());
        assert_eq!(read(state.path()).len(), 6);
    }

    /// Wherever the writing was cut off, or a byte went wrong, what stands before it is good and the rest is not.
    #[test]
    fn a_broken_end_costs_the_end() {
        let state = tempfile::tempdir().unwrap();
        write(state.path(), &entries());
        let path = state.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let left = read(state.path());
            assert!(left.len() < 3 && entries().starts_with(&left), "{cut}");
            let mut wrong = whole.clone();
            wrong[cut] ^= 0x40;
            fs::write(&path, &wrong).unwrap();
            let left = read(state.path());
            assert!(left.len() < 3 && entries().starts_with(&left), "{cut}");
            // It can be written on, and all of it be read.
            write(state.path(), &entries());
            assert_eq!(read(state.path()).len(), left.len() + 3);
        }
    }

    #[test]
    fn it_is_rewritten_when_most_of_it_is_history() {
        let state = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(state.path()).unwrap();
        let large = Entry::Put(ResourceType::Address, Bytes::from(vec![7; 100_000]));
        let mut count = 0;
        while !journal.is_bloated() {
            journal.append(&large).unwrap();
            count += 1;
        }
        assert!(count > 5, "{count}");
        journal.rewrite([large.clone()]).unwrap();
        assert!(!journal.is_bloated());
        journal.append(&entries()[0]).unwrap();
        journal.flush().unwrap();
        assert_eq!(read(state.path()), [large, entries().remove(0)]);
    }
}
