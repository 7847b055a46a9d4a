//! What `MongoDB`'s clients and servers say to each other, as far as it is counted: the kind of each message and the command
//! in it (the wire protocol of `MongoDB`'s manual: `OP_MSG`, `OP_COMPRESSED`, and those that they replaced).
//!
//! Only the beginning of a message is read: its header, and of its first document the first key, which is the command.
//! Nothing is nested deeper than one document in another, and what comes after is skipped by its length.
//!
//! Invariants: reading ends, costs no more than the bytes it is given and what is held, which is [`MAX_START`] bytes at
//! most; after the first thing that cannot be read nothing is read any more, for the next message cannot be found.

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Reader {
    /// The beginning of a message that is not all there.
    held: Vec<u8>,
    /// Bytes until the next message begins.
    rest: usize,
    broken: Option<Unreadable>,
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// What kind of message.
    pub op: Op,
    /// Whether it answers another one.
    pub is_reply: bool,
    /// Its command, as a place in [`COMMANDS`]; nothing for replies, and for what has no commands or hides them.
    pub command: Option<Command>,
}

/// A command whose name is known, or [`Command::OTHER`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Command(usize);

/// The kinds of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// `OP_MSG`: a command, or the answer to one.
    Msg,
    /// `OP_QUERY`: a query, or a command of an old client; new ones say hello so.
    Query,
    /// `OP_REPLY`: the answer to it.
    Reply,
    /// `OP_GET_MORE`.
    GetMore,
    /// `OP_INSERT`.
    Insert,
    /// `OP_UPDATE`.
    Update,
    /// `OP_DELETE`.
    Delete,
    /// `OP_KILL_CURSORS`.
    KillCursors,
    /// `OP_COMPRESSED`: any of the others; what is in it is not looked at.
    Compressed,
}

/// Why what follows on a connection cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A message shorter than its header, or longer than any server takes.
    #[error("a message of a length that none has")]
    Length,
    /// No kind of message that is known.
    #[error("a message of an unknown kind")]
    Op,
    /// A message that ends before what belongs in it.
    #[error("a message that is cut off")]
    Cut,
    /// Flags that change the meaning of a message and are not known, or a section that is none.
    #[error("a message with flags or sections that are not known")]
    Form,
    /// A document longer than its message, or than any server takes.
    #[error("a document of a length that it cannot have")]
    Document,
}

impl Reader {
    /// Reads on, and tells `seen` of each message as soon as it is known what it is. Which pieces the bytes come in makes no
    /// difference.
    ///
    /// # Errors
    /// The first thing that cannot be read, from then on each time.
    pub fn read(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Message)) -> Result<(), Unreadable> {
        if let Some(unreadable) = self.broken {
            return Err(unreadable);
        }
        loop {
            let skipped = self.rest.min(bytes.len());
            self.rest -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(());
            }
            match self.begin(bytes) {
                Ok((message, taken)) => {
                    message.into_iter().for_each(&mut seen);
                    bytes = bytes.get(taken..).unwrap_or_default();
                }
                Err(unreadable) => {
                    self.broken = Some(unreadable);
                    self.held = Vec::new();
                    return Err(unreadable);
                }
            }
        }
    }

    /// The message that begins in what is held or else in `bytes`, if that is enough of it, and how many of `bytes` are done
    /// with.
    fn begin(&mut self, bytes: &[u8]) -> Result<(Option<Message>, usize), Unreadable> {
        let before = self.held.len();
        if before == 0 {
            // What is there in one piece is read where it is.
            let start = bytes.get(..MAX_START).unwrap_or(bytes);
            if let Some((message, length)) = message(start)? {
                self.rest = length;
                return Ok((Some(message), 0));
            }
            self.held.extend_from_slice(start);
            return Ok((None, start.len()));
        }
        self.held.extend_from_slice(bytes.get(..MAX_START - before).unwrap_or(bytes));
        match message(&self.held)? {
            Some((message, length)) => {
                // A message is longer than what was held of it without being enough.
                self.rest = length - before;
                self.held = Vec::new();
                Ok((Some(message), 0))
            }
            None => Ok((None, self.held.len() - before)),
        }
    }
}

impl Command {
    /// One whose name is not known.
    pub const OTHER: Self = Self(COMMANDS.len());
    /// As many commands as can be told apart, [`Command::OTHER`] included.
    pub const COUNT: usize = COMMANDS.len() + 1;

    /// Its name as the manual has it, or `other`.
    pub fn name(self) -> &'static str {
        COMMANDS.get(self.0).copied().unwrap_or("other")
    }

    /// Its place among all, which is below [`Command::COUNT`].
    pub fn index(self) -> usize {
        self.0
    }

    /// The command that a document with this first key is. Old names differ in case from new ones.
    fn named(key: &[u8]) -> Self {
        let known = COMMANDS.iter().position(|name| name.as_bytes().eq_ignore_ascii_case(key));
        known.map_or(Self::OTHER, Self)
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }
}

impl Op {
    /// Each of them.
    pub const ALL: [Self; 9] = [
        Self::Msg,
        Self::Query,
        Self::Reply,
        Self::GetMore,
        Self::Insert,
        Self::Update,
        Self::Delete,
        Self::KillCursors,
        Self::Compressed,
    ];

    /// Its name, as the manual has it but in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Msg => "op_msg",
            Self::Query => "op_query",
            Self::Reply => "op_reply",
            Self::GetMore => "op_get_more",
            Self::Insert => "op_insert",
            Self::Update => "op_update",
            Self::Delete => "op_delete",
            Self::KillCursors => "op_kill_cursors",
            Self::Compressed => "op_compressed",
        }
    }

    fn of(code: u32) -> Option<Self> {
        Some(match code {
            1 => Self::Reply,
            2001 => Self::Update,
            2002 => Self::Insert,
            2004 => Self::Query,
            2005 => Self::GetMore,
            2006 => Self::Delete,
            2007 => Self::KillCursors,
            2012 => Self::Compressed,
            2013 => Self::Msg,
            _ => return None,
        })
    }

    /// Bytes without which there is no such message, after its header.
    fn least(self) -> usize {
        match self {
            Self::Msg => FLAGS + 1 + LEAST_DOCUMENT,
            Self::Query => FLAGS + 1 + 8 + LEAST_DOCUMENT,
            Self::Reply => 20,
            Self::GetMore => 4 + 1 + 12,
            Self::Insert => 4 + 1 + LEAST_DOCUMENT,
            Self::Update => 4 + 1 + 4 + 2 * LEAST_DOCUMENT,
            Self::Delete => 4 + 1 + 4 + LEAST_DOCUMENT,
            Self::KillCursors => 8,
            Self::Compressed => 9,
        }
    }
}

/// The message that `start` begins with, and its length; `None` if more of it is needed.
fn message(start: &[u8]) -> Result<Option<(Message, usize)>, Unreadable> {
    let Some((header, body)) = start.split_first_chunk::<HEADER>() else { return Ok(None) };
    let length = length_at(header, 0).ok_or(Unreadable::Length)?;
    if !(HEADER..=MAX_MESSAGE).contains(&length) {
        return Err(Unreadable::Length);
    }
    let op = number(header, 12).and_then(Op::of).ok_or(Unreadable::Op)?;
    let whole = length - HEADER;
    if whole < op.least() {
        return Err(Unreadable::Cut);
    }
    let is_reply = op == Op::Reply || number(header, 8) != Some(0);
    let body = Body { there: body.get(..whole).unwrap_or(body), whole, most: MAX_START - HEADER };
    let command = match op {
        Op::Msg => body.command_of_msg(),
        Op::Query => body.command_of_query(),
        _ => Ok(None),
    };
    match command {
        Ok(command) => Ok(Some((Message { op, is_reply, command: command.filter(|_| !is_reply) }, length))),
        Err(Lacking::More) => Ok(None),
        Err(Lacking::Unreadable(unreadable)) => Err(unreadable),
    }
}

/// What follows a header, as far as it is there.
struct Body<'b> {
    there: &'b [u8],
    /// The length of all of it.
    whole: usize,
    /// The most that will ever be there.
    most: usize,
}

/// Why there is no command yet, or never.
enum Lacking {
    More,
    Unreadable(Unreadable),
}

impl From<Unreadable> for Lacking {
    fn from(unreadable: Unreadable) -> Self {
        Self::Unreadable(unreadable)
    }
}

impl Body<'_> {
    /// Flags, then sections; the one with the command comes first with every driver. Where it does not, it is nobody's name.
    fn command_of_msg(&self) -> Result<Option<Command>, Lacking> {
        let flags = self.number(0)?;
        if flags & REQUIRED_FLAGS & !KNOWN_FLAGS != 0 {
            return Err(Unreadable::Form.into());
        }
        match self.byte(FLAGS)? {
            0 => self.key(FLAGS + 1).map(|key| Some(Command::named(key))),
            1 => {
                let length = self.length(FLAGS + 1)?;
                // The one with the command has to come after it.
                let fits = length > 4 && FLAGS + 1 + length + 1 + LEAST_DOCUMENT <= self.whole;
                if fits { Ok(Some(Command::OTHER)) } else { Err(Unreadable::Document.into()) }
            }
            _ => Err(Unreadable::Form.into()),
        }
    }

    /// Flags, the name of a collection, two numbers, and a document: a command if the collection is `$cmd`. Clients may
    /// wrap it in another one together with how it is to be read.
    fn command_of_query(&self) -> Result<Option<Command>, Lacking> {
        let Some(collection) = self.text(FLAGS, MAX_COLLECTION)? else {
            return Err(Unreadable::Form.into());
        };
        if !collection.ends_with(b".$cmd") {
            return Ok(None);
        }
        let at = FLAGS + collection.len() + 1 + 8;
        let key = self.key(at)?;
        if !matches!(key, b"$query" | b"query") {
            return Ok(Some(Command::named(key)));
        }
        // A document of one document.
        let is_document = self.byte(at + 4)? == DOCUMENT;
        let inner = at + 4 + 1 + key.len() + 1;
        if is_document {
            self.key(inner).map(|key| Some(Command::named(key)))
        } else {
            Ok(Some(Command::OTHER))
        }
    }

    /// The first key of the document at this place; nothing of an empty one, and of a key longer than any command's.
    fn key(&self, at: usize) -> Result<&[u8], Lacking> {
        let length = self.length(at)?;
        if !(LEAST_DOCUMENT..=MAX_DOCUMENT).contains(&length) || length > self.whole.saturating_sub(at) {
            return Err(Unreadable::Document.into());
        }
        if self.byte(at + 4)? == 0 {
            return Ok(b"");
        }
        Ok(self.text(at + 5, MAX_KEY)?.unwrap_or_default())
    }

    /// A text up to its zero; nothing for one of more than `most` bytes.
    fn text(&self, at: usize, most: usize) -> Result<Option<&[u8]>, Lacking> {
        let bytes = self.there.get(at..).unwrap_or_default();
        match bytes.iter().take(most + 1).position(|byte| *byte == 0) {
            Some(end) => Ok(bytes.get(..end)),
            None if bytes.len() > most => Ok(None),
            None => Err(self.lacking()),
        }
    }

    fn byte(&self, at: usize) -> Result<u8, Lacking> {
        self.there.get(at).copied().ok_or_else(|| self.lacking())
    }

    fn number(&self, at: usize) -> Result<u32, Lacking> {
        number(self.there, at).ok_or_else(|| self.lacking())
    }

    fn length(&self, at: usize) -> Result<usize, Lacking> {
        let number = self.number(at)?;
        length_of(number).ok_or(Lacking::Unreadable(Unreadable::Document))
    }

    /// What it means that something is not there.
    fn lacking(&self) -> Lacking {
        let complete = self.there.len() >= self.whole.min(self.most);
        if complete { Lacking::Unreadable(Unreadable::Cut) } else { Lacking::More }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn length_at(bytes: &[u8], at: usize) -> Option<usize> {
    number(bytes, at).and_then(length_of)
}

/// Lengths have a sign, which none of them uses.
fn length_of(number: u32) -> Option<usize> {
    i32::try_from(number).ok().and_then(|number| usize::try_from(number).ok())
}

/// Length, id, id of the message that is answered, kind: four bytes each.
const HEADER: usize = 16;
const FLAGS: usize = 4;
/// The most that is held of a message: its header, the name of a collection, a key and what is between them.
pub const MAX_START: usize = 512;
/// `maxMessageSizeBytes` of every server.
const MAX_MESSAGE: usize = 48_000_000;
/// `maxBsonObjectSize`, and the 16 KiB that a command may have around a document.
const MAX_DOCUMENT: usize = (16 << 20) + (16 << 10);
/// Length, and the zero at the end.
const LEAST_DOCUMENT: usize = 5;
/// Names of collections have up to 255 bytes with the name of the database.
const MAX_COLLECTION: usize = 255;
/// No command's name is longer than half of that.
const MAX_KEY: usize = 64;
/// A document in a document.
const DOCUMENT: u8 = 3;
/// Flags that a reader has to understand.
const REQUIRED_FLAGS: u32 = 0xffff;
/// A checksum follows; more follows without being asked for.
const KNOWN_FLAGS: u32 = 0b11;

/// What clients and tools use, by the names of the manual.
pub const COMMANDS: [&str; 58] = [
    "abortTransaction",
    "aggregate",
    "authenticate",
    "buildInfo",
    "bulkWrite",
    "collMod",
    "collStats",
    "commitTransaction",
    "connectionStatus",
    "count",
    "create",
    "createIndexes",
    "createUser",
    "currentOp",
    "dbStats",
    "delete",
    "distinct",
    "drop",
    "dropDatabase",
    "dropIndexes",
    "dropUser",
    "endSessions",
    "explain",
    "find",
    "findAndModify",
    "getCmdLineOpts",
    "getLastError",
    "getLog",
    "getMore",
    "getParameter",
    "getnonce",
    "hello",
    "hostInfo",
    "insert",
    "isMaster",
    "killCursors",
    "killOp",
    "killSessions",
    "listCollections",
    "listCommands",
    "listDatabases",
    "listIndexes",
    "logout",
    "mapReduce",
    "ping",
    "profile",
    "refreshSessions",
    "renameCollection",
    "replSetGetStatus",
    "saslContinue",
    "saslStart",
    "serverStatus",
    "setParameter",
    "startSession",
    "update",
    "usersInfo",
    "validate",
    "whatsmyuri",
];

#[cfg(test)]
mod tests;
