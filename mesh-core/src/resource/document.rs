//! Files into documents, documents into trees, trees into objects.
//!
//! Files are split on document markers here, not by the YAML library, because after a syntax error the library has
//! lost its place: split first, and an error stays inside its document.

use std::borrow::Cow;
use std::sync::Arc;

use super::decode;
use super::kind::{self, Class};
use super::strict::did_you_mean;
use super::tree::{self, Failure, MAX_DEPTH, MAX_PROBLEMS, Path, Problem, Tree, quote};
use super::{Finding, Level, ObjectKey, Origin, Parsed, PodTemplate, Rejected, SourceFile};

/// See [`super::parse`].
pub(super) fn parse(file: &SourceFile<'_>) -> Parsed {
    let mut reader =
        Reader { file: Arc::from(file.name), document: 0, line: 1, content: 1, parsed: Parsed::default() };
    let text = file.text.strip_prefix('\u{feff}').unwrap_or(file.text);
    let extension = std::path::Path::new(file.name).extension();
    if extension.is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        reader.read_json(text);
    } else {
        reader.read_yaml(text);
    }
    reader.parsed.documents = reader.document;
    reader.parsed
}

/// One YAML document as a tree, and what is wrong with its keys; `Err` if there is no tree. Lines count from its own
/// start.
pub(super) fn yaml_tree(text: &str) -> Result<(Tree, Vec<Problem>), Problem> {
    if text.len() > MAX_DOCUMENT {
        let reason = format!("the document has {} bytes, the limit is {MAX_DOCUMENT}", text.len());
        return Err(Problem::error("", reason));
    }
    if nests_too_deep(text) {
        return Err(Problem::error("", format!("nested deeper than {MAX_DEPTH} levels")));
    }
    tree::build(serde_yaml_ng::Deserializer::from_str(text)).map_err(|failure| match failure {
        Failure::Limit(reason) => Problem::error("", reason),
        Failure::Syntax(error) => {
            let problem = Problem::error("", format!("not valid YAML: {error}"));
            let tabs = text.lines().any(|line| line.trim_start_matches(' ').starts_with('\t'));
            if tabs { problem.hint("tabs cannot indent") } else { problem }
        }
    })
}

struct Reader {
    file: Arc<str>,
    /// The current document, counted from 1.
    document: usize,
    /// The line of the file on which it starts, counted from 1.
    line: usize,
    /// The line of the file on which its content starts.
    content: usize,
    parsed: Parsed,
}

impl Reader {
    fn read_yaml(&mut self, text: &str) {
        let mut line = 1;
        for chunk in chunks(text) {
            self.document += 1;
            self.line = line;
            line += chunk.matches('\n').count();
            if self.document > MAX_DOCUMENTS {
                self.reject(format!("a file may have {MAX_DOCUMENTS} documents; the rest is not read"));
                return;
            }
            // Nothing but markers and comments is no document, however often it occurs.
            let content = chunk.lines().position(has_content);
            if content.is_some() || chunk.lines().any(|line| line.starts_with('%')) {
                self.content = self.line + content.unwrap_or_default();
                self.yaml_document(chunk);
            }
        }
    }

    fn yaml_document(&mut self, text: &str) {
        match yaml_tree(text) {
            Ok((tree, problems)) => self.tree(&tree, problems),
            Err(problem) => {
                let reason = shift_lines(&problem.reason, self.line - 1);
                self.refuse(vec![Problem { reason, ..problem }], None);
            }
        }
    }

    fn read_json(&mut self, text: &str) {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        while deserializer.end().is_err() {
            self.document += 1;
            if self.document > MAX_DOCUMENTS {
                self.reject(format!("a file may have {MAX_DOCUMENTS} documents; the rest is not read"));
                return;
            }
            match tree::build(&mut deserializer) {
                Ok((tree, problems)) => self.tree(&tree, problems),
                Err(Failure::Limit(reason)) => return self.reject(reason),
                Err(Failure::Syntax(error)) => return self.reject(format!("not valid JSON: {error}")),
            }
        }
    }

    /// A whole document.
    fn tree(&mut self, tree: &Tree, problems: Vec<Problem>) {
        if !problems.is_empty() {
            let key = header(tree).ok().and_then(|(version, kind)| rejected_key(tree, version, kind));
            self.refuse(problems, key);
        } else if !matches!(tree, Tree::Null) {
            self.object(tree, Path::Root(""), None);
        }
    }

    /// An object, or a list of them. `implied` is the version and kind that a typed list gives its items.
    fn object(&mut self, tree: &Tree, path: Path<'_>, implied: Option<(&str, &str)>) {
        let (api_version, kind) = match (header(tree), implied) {
            (Ok(header), _) => header,
            (Err(_), Some(implied)) if tree.get("kind").is_none() && matches!(tree, Tree::Map(_)) => implied,
            (Err(error), _) => return self.without_header(tree, path, error),
        };
        if let Some(items) = kind::list_items(kind) {
            return self.list(tree, path, (api_version, items));
        }
        match kind::classify(api_version, kind) {
            Class::Used(used) => {
                let prefix = path.to_string();
                let decoded = decode::object(used, tree, &prefix, self.origin());
                match decoded.object {
                    Some(object) => {
                        self.report(decoded.problems);
                        self.parsed.objects.push(object);
                    }
                    None => self.refuse(decoded.problems, rejected_key(tree, api_version, kind)),
                }
            }
            Class::NotEnforced => {
                let mut problems = decode::envelope(tree, &path.to_string(), true);
                if !problems.iter().any(|problem| problem.level == Level::Error) {
                    let reason = format!("{kind} is not enforced yet: this document has no effect");
                    problems.push(Problem::warning(path, reason));
                }
                self.report(problems);
            }
            Class::Unsupported(kind) => {
                let mut problems = decode::envelope(tree, &path.to_string(), true);
                if !problems.iter().any(|problem| problem.level == Level::Error) {
                    problems.push(Problem::warning(path, kind.reason()).hint(kind.instead));
                }
                self.report(problems);
            }
            Class::NotUsed => {
                let mut problems = decode::envelope(tree, &path.to_string(), false);
                let reason = format!("{} is not used by the mesh", clean(kind));
                problems.push(Problem { level: Level::Info, ..Problem::error(path, reason) });
                self.report(problems);
                self.parsed.templates.extend(pod_template(tree, self.origin()));
            }
            Class::Wrong { field, reason, hint } => {
                let problem = Problem::error(Path::Key(&path, field), reason);
                let problem = hint.into_iter().fold(problem, Problem::hint);
                self.refuse(vec![problem], rejected_key(tree, api_version, kind));
            }
        }
    }

    fn list(&mut self, tree: &Tree, path: Path<'_>, (api_version, items_kind): (&str, &str)) {
        let implied = Some((api_version, items_kind)).filter(|(_, kind)| !kind.is_empty());
        let list = Path::Key(&path, "items");
        match tree.get("items") {
            None => {}
            Some(Tree::List(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.object(item, Path::Index(&list, index), implied);
                }
            }
            Some(other) => {
                let reason = format!("expected list, found {}", other.describe());
                self.refuse(vec![Problem::error(list, reason)], None);
            }
        }
    }

    /// Says why a tree is no object at all.
    fn without_header(&mut self, tree: &Tree, path: Path<'_>, error: HeaderError) {
        let line = self.content;
        let problem = match error {
            HeaderError::NoObject => {
                let found = tree.describe();
                Problem::error(
                    path,
                    format!("expected an object with apiVersion, kind and metadata, found {found}"),
                )
            }
            HeaderError::Missing(field) => {
                let reason = format!("required, but missing; the document starts on line {line}");
                let problem = Problem::error(Path::Key(&path, field), reason);
                match misspelt(tree, field) {
                    Some(key) => problem.hint(format!("is {} meant to be it?", quote(key))),
                    None => problem,
                }
            }
            HeaderError::NoString(field) => {
                let found = tree.get(field).map(Tree::describe).unwrap_or_default();
                Problem::error(Path::Key(&path, field), format!("expected string, found {found}"))
            }
        };
        self.refuse(vec![problem], None);
    }

    fn origin(&self) -> Origin {
        Origin { file: Arc::clone(&self.file), document: self.document }
    }

    fn report(&mut self, problems: Vec<Problem>) {
        let origin = self.origin();
        self.parsed.findings.extend(problems.into_iter().take(MAX_PROBLEMS).map(|problem| Finding {
            origin: origin.clone(),
            level: problem.level,
            field: problem.field,
            reason: problem.reason,
            hint: problem.hint,
        }));
    }

    /// Reports, and counts an object as lost.
    fn refuse(&mut self, problems: Vec<Problem>, key: Option<ObjectKey>) {
        self.report(problems);
        self.parsed.rejected.push(Rejected { origin: self.origin(), key });
    }

    fn reject(&mut self, reason: String) {
        self.refuse(vec![Problem::error("", reason)], None);
    }
}

#[derive(Clone, Copy)]
enum HeaderError {
    NoObject,
    Missing(&'static str),
    NoString(&'static str),
}

/// `apiVersion` and `kind`.
fn header(tree: &Tree) -> Result<(&str, &str), HeaderError> {
    if !matches!(tree, Tree::Map(_)) {
        return Err(HeaderError::NoObject);
    }
    let text = |field| match tree.get(field) {
        None => Err(HeaderError::Missing(field)),
        Some(value) => value.as_str().filter(|text| !text.is_empty()).ok_or(HeaderError::NoString(field)),
    };
    let kind = text("kind")?;
    Ok((text("apiVersion")?, kind))
}

/// The key of `tree` that was probably meant to be `field`.
fn misspelt<'t>(tree: &'t Tree, field: &'static str) -> Option<&'t str> {
    let Tree::Map(entries) = tree else { return None };
    entries.iter().map(|(key, _)| key.as_str()).find(|key| did_you_mean(key, &[field]).is_some())
}

/// The pods that an object of a kind that is not read further will make, if it says so where all such kinds do.
fn pod_template(tree: &Tree, origin: Origin) -> Option<PodTemplate> {
    let spec = tree.get("spec")?;
    let job = spec.get("jobTemplate").and_then(|job| job.get("spec"));
    let metadata = job.unwrap_or(spec).get("template")?.get("metadata")?;
    let Some(Tree::Map(labels)) = metadata.get("labels") else { return None };
    let text = |(key, value): &(String, Tree)| Some((key.clone(), value.as_str()?.to_owned()));
    let namespace = tree.get("metadata")?.get("namespace").and_then(Tree::as_str);
    let namespace = namespace.filter(|text| !text.is_empty()).unwrap_or("default");
    Some(PodTemplate {
        origin,
        namespace: Arc::from(namespace),
        labels: labels.iter().filter_map(text).collect(),
    })
}

/// Which object a refused tree would have been, as far as it can be told.
fn rejected_key(tree: &Tree, api_version: &str, kind: &str) -> Option<ObjectKey> {
    let Class::Used(kind) = kind::classify(api_version, kind) else { return None };
    let metadata = tree.get("metadata")?;
    let namespace = metadata.get("namespace").and_then(Tree::as_str).filter(|text| !text.is_empty());
    Some(ObjectKey {
        kind: kind.key(),
        namespace: Arc::from(if kind.is_namespaced() { namespace.unwrap_or("default") } else { "" }),
        name: Arc::from(metadata.get("name")?.as_str()?),
    })
}

/// A user's word in a sentence: as it is if it looks like a word, quoted and cut otherwise.
fn clean(word: &str) -> Cow<'_, str> {
    if word.len() <= 63 && word.bytes().all(|b| b.is_ascii_alphanumeric()) {
        Cow::Borrowed(word)
    } else {
        Cow::Owned(quote(word))
    }
}

/// The documents' texts. A chunk keeps the marker it begins with, so content on the marker's line counts.
/// No quoted or block scalar may hold a marker at the start of a line, so lines are all there is to look at.
fn chunks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let current = rest?;
        let mut end = 0;
        let mut begun = false;
        for line in current.split_inclusive('\n') {
            if begun && is_marker(line, "---") {
                break;
            }
            end += line.len();
            // Directives and comments before a marker belong to the document that it begins.
            begun = begun || !(line.trim().is_empty() || line.starts_with(['#', '%']));
            if is_marker(line, "...") {
                break;
            }
        }
        let (chunk, after) = current.split_at(end);
        rest = Some(after).filter(|after| !after.is_empty());
        Some(chunk)
    })
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Whether a line is more than a marker, a directive, a comment or space.
fn has_content(line: &str) -> bool {
    let marker = is_marker(line, "---") || is_marker(line, "...");
    let rest = if marker { line.get(3..).unwrap_or_default() } else { line };
    !(rest.trim().is_empty() || rest.trim_start().starts_with('#') || line.starts_with('%'))
}

/// Whether brackets or dashes pile up so much that the YAML scanner, whose time grows with the square of the depth,
/// should not see them. Counts brackets in strings as well, but only those that are never closed.
fn nests_too_deep(text: &str) -> bool {
    let mut depth = 0_usize;
    text.bytes().any(|byte| {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > MAX_OPEN
    })
}

/// `message` with every `line N` moved down by `offset`: the library counts from the start of the document.
fn shift_lines(message: &str, offset: usize) -> String {
    let mut shifted = String::with_capacity(message.len() + 8);
    let mut rest = message;
    while let Some(start) = rest.find("line ") {
        let (before, after) = rest.split_at(start + "line ".len());
        shifted.push_str(before);
        let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let (number, after) = after.split_at(digits);
        match number.parse::<usize>() {
            Ok(line) => shifted.push_str(&(line + offset).to_string()),
            Err(_) => shifted.push_str(number),
        }
        rest = after;
    }
    shifted.push_str(rest);
    shifted
}

/// Documents per file; a directory holds the objects of one cluster in many files.
const MAX_DOCUMENTS: usize = 100_000;
/// Bytes per document: what etcd, and so every Kubernetes cluster, takes for one object.
const MAX_DOCUMENT: usize = 1 << 20;
/// Brackets open at once before a document is refused unread.
const MAX_OPEN: usize = 1_000;
