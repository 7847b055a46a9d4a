//! The headers that carry a trace: W3C's `traceparent` and `tracestate`, and B3's, as several headers or as one.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::hex;

/// The trace that a request says it is part of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Incoming {
    /// The span that sent it.
    pub parent: Option<Parent>,
    /// Whether it is traced, if somebody has decided that.
    pub decided: Option<bool>,
    /// Whether somebody looks for faults: B3's flag, which goes on with the trace.
    pub debug: bool,
    /// The forms of it that the request has. Those are brought up to date, so that they do not contradict each other.
    pub forms: Forms,
    /// Whether `tracestate` belongs to it.
    pub(super) with_state: bool,
    /// Whether headers came that are of no use without a trace to go on with: ids of B3, `tracestate`.
    pub(super) rest: bool,
}

/// What a request says of the trace that it is part of. Nearly every one says at most that it is not traced, and every one is asked: what
/// is known without another look at its headers is kept beside them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TraceWord {
    /// Nothing.
    #[default]
    Nothing,
    /// Its headers may say something: nobody has read them with that in mind.
    Any,
    /// That it is not traced, and nothing else. It came with `x-b3-sampled: 0`, which is kept out of the map of its headers and written behind
    /// them when they go on; before rules are asked about headers it is put among them.
    Untraced,
    /// The same, but that was decided here: no rule of ours sees it, and it is written behind the headers as well.
    Unwritten,
}

impl TraceWord {
    /// Whether `x-b3-sampled: 0` is to be written behind the headers.
    pub fn is_behind(self) -> bool {
        matches!(self, Self::Untraced | Self::Unwritten)
    }
}

/// A span by its numbers, neither of which is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// The trace.
    pub trace: u128,
    /// The span.
    pub span: u64,
}

/// Forms in which headers carry a trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forms {
    /// W3C's.
    pub w3c: bool,
    /// B3's, several headers.
    pub b3: bool,
    /// B3's, one header.
    pub single: bool,
}

impl Forms {
    /// Whether it is B3's several headers and nothing else: who does not know of a trace is not told of it, but for that it is not traced.
    pub fn is_several(self) -> bool {
        self == Self { b3: true, ..Self::default() }
    }
}

/// What goes on: our own span as the parent of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// Our span, and its trace.
    pub at: Parent,
    /// Whose child it is.
    pub parent: Option<u64>,
    /// Whether it is traced.
    pub sampled: bool,
}

/// What a request says that has to do with being traced.
#[derive(Debug, Clone, Copy)]
pub struct Received<'h> {
    /// The trace that it is part of.
    pub incoming: Incoming,
    /// Whether somebody wants it to be traced (`x-envoy-force-trace`), who is yet to be trusted.
    pub forced: bool,
    /// `x-request-id`.
    pub request_id: Option<&'h [u8]>,
}

impl<'h> Received<'h> {
    /// What a request says that is known to say no more than its id.
    pub fn nothing(request_id: Option<&'h [u8]>) -> Self {
        Self { incoming: Incoming::default(), forced: false, request_id }
    }

    /// Reads it off the headers of a request. Where its trace has several forms, `first` says whose word counts: W3C's, or B3's.
    pub fn read(headers: &'h HeaderMap, first: Forms) -> Self {
        // Every request is asked, and most have nothing to say: one look at the headers has to do.
        let found = Found::among(headers);
        let incoming = if found.any { found.incoming(first) } else { Incoming::default() };
        let request_id = found.request_id.map(HeaderValue::as_bytes);
        Self { incoming, forced: found.forced, request_id }
    }
}

impl Incoming {
    /// Writes `own` over it: in the forms that are `wanted`, and in those that the request came with.
    pub fn pass_on(&self, headers: &mut HeaderMap, own: &Own, wanted: Forms) {
        let Own { at: Parent { trace, span }, parent, sampled } = *own;
        if wanted.w3c || self.forms.w3c {
            if self.rest && !self.with_state {
                // It is about a trace that nobody goes on with.
                headers.remove(TRACESTATE);
            }
            headers.insert(TRACEPARENT, traceparent(trace, span, sampled));
        }
        if self.forms.single {
            let state = match (sampled, self.debug) {
                (true, true) => 'd',
                (true, false) => '1',
                (false, _) => '0',
            };
            let parent = parent.map(|parent| format!("-{parent:016x}")).unwrap_or_default();
            set(headers, B3, format!("{}-{span:016x}-{state}{parent}", short(trace)).as_bytes());
        }
        if wanted.b3 && !self.forms.single || self.forms.b3 {
            self.pass_on_several(headers, own);
        }
    }

    fn pass_on_several(&self, headers: &mut HeaderMap, own: &Own) {
        let Own { at: Parent { trace, span }, parent, sampled } = *own;
        headers.insert(SAMPLED, HeaderValue::from_static(if sampled { "1" } else { "0" }));
        if !sampled && self.parent.is_none() {
            // Of a trace that nobody is told of, all there is to say is that.
            if self.rest {
                [TRACE_ID, SPAN_ID, PARENT_ID].iter().for_each(|name| _ = headers.remove(name));
            }
            return;
        }
        let digits = hex::of_128(trace);
        let (_, short) = digits.split_at(digits.len() / 2);
        set(headers, TRACE_ID, if trace >> 64 == 0 { short } else { &digits });
        set(headers, SPAN_ID, &hex::of_64(span));
        match parent {
            Some(parent) => set(headers, PARENT_ID, &hex::of_64(parent)),
            None if self.rest => _ = headers.remove(PARENT_ID),
            None => {}
        }
    }
}

/// Of 64 bits in B3 where it has no more.
fn short(trace: u128) -> String {
    if trace >> 64 == 0 { format!("{trace:016x}") } else { format!("{trace:032x}") }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &[u8]) {
    headers.insert(name, HeaderValue::from_bytes(value).expect("digits and dashes are a header's value"));
}

/// W3C's header, without an allocation for its text: those who ask for this form want it of every request.
fn traceparent(trace: u128, span: u64, sampled: bool) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    for (place, digits) in [(3..35, &hex::of_128(trace)[..]), (36..52, &hex::of_64(span))] {
        if let Some(place) = text.get_mut(place) {
            place.copy_from_slice(digits);
        }
    }
    if let Some(last) = text.last_mut() {
        *last += u8::from(sampled);
    }
    HeaderValue::from_bytes(&text).expect("digits and dashes are a header's value")
}

/// A header that counts only if it is there once.
#[derive(Clone, Copy, Default)]
enum Field<'h> {
    #[default]
    Absent,
    Once(&'h HeaderValue),
    Repeated,
}

impl<'h> Field<'h> {
    fn add(&mut self, value: &'h HeaderValue) {
        *self = if self.is_there() { Self::Repeated } else { Self::Once(value) };
    }

    fn is_there(&self) -> bool {
        !matches!(self, Self::Absent)
    }

    fn text(self) -> Option<&'h str> {
        match self {
            Self::Once(value) => Some(value.to_str().ok()?.trim()),
            Self::Absent | Self::Repeated => None,
        }
    }
}

/// What of a request's headers is about being traced.
#[derive(Default)]
struct Found<'h> {
    traceparent: Field<'h>,
    b3: Field<'h>,
    trace_id: Field<'h>,
    span_id: Field<'h>,
    sampled: Field<'h>,
    flags: Field<'h>,
    rest: bool,
    /// Whether there is anything of the above.
    any: bool,
    forced: bool,
    request_id: Option<&'h HeaderValue>,
}

impl<'h> Found<'h> {
    fn among(headers: &'h HeaderMap) -> Self {
        let mut found = Self::default();
        for (name, value) in headers {
            match name.as_str().as_bytes() {
                b"x-request-id" => _ = found.request_id.get_or_insert(value),
                b"x-envoy-force-trace" => found.forced = true,
                [b'x', b'-', b'b', ..] | [b't', b'r', b'a', ..] | [b'b', b'3'] => {
                    found.add(name.as_str(), value);
                }
                _ => {}
            }
        }
        found
    }

    fn add(&mut self, name: &str, value: &'h HeaderValue) {
        self.any = true;
        match name {
            "traceparent" => self.traceparent.add(value),
            "b3" => self.b3.add(value),
            "x-b3-traceid" => self.trace_id.add(value),
            "x-b3-spanid" => self.span_id.add(value),
            "x-b3-sampled" => self.sampled.add(value),
            "x-b3-flags" => self.flags.add(value),
            "x-b3-parentspanid" | "tracestate" => self.rest = true,
            _ => {}
        }
        self.rest |= self.trace_id.is_there() || self.span_id.is_there();
    }

    fn incoming(&self, first: Forms) -> Incoming {
        let w3c = w3c(self);
        let b3 = single(self).or_else(|| several(self));
        let forms = Forms {
            w3c: self.traceparent.is_there(),
            b3: [self.trace_id, self.span_id, self.sampled, self.flags].iter().any(Field::is_there),
            single: self.b3.is_there(),
        };
        let chosen = if first.w3c && !first.b3 { w3c.or(b3) } else { b3.or(w3c) };
        Incoming { forms, rest: self.rest, ..chosen.unwrap_or_default() }
    }
}

/// `00-<trace>-<span>-<flags>`; a later version may have more behind it (W3C Trace Context, 3.2).
fn w3c(found: &Found<'_>) -> Option<Incoming> {
    let mut parts = found.traceparent.text()?.split('-');
    let version = digits(parts.next()?, 2, false)?;
    let trace = digits(parts.next()?, 32, false)?;
    let span = digits(parts.next()?, 16, false)?;
    let flags = digits(parts.next()?, 2, false)?;
    if version == 0xff || version == 0 && parts.next().is_some() {
        return None;
    }
    Some(Incoming {
        parent: Some(parent(trace, span)?),
        decided: Some(flags & 1 == 1),
        with_state: true,
        ..Incoming::default()
    })
}

/// `<trace>-<span>[-<state>[-<parent>]]`, or the state alone.
fn single(found: &Found<'_>) -> Option<Incoming> {
    let text = found.b3.text()?;
    if let Some((decided, debug)) = state(text) {
        return Some(Incoming { decided: Some(decided), debug, ..Incoming::default() });
    }
    let mut parts = text.split('-');
    let trace = id(parts.next()?)?;
    let span = digits(parts.next()?, 16, true)?;
    let told = match parts.next() {
        Some(text) => Some(state(text)?),
        None => None,
    };
    Some(Incoming {
        parent: Some(parent(trace, span)?),
        decided: told.map(|(decided, _)| decided),
        debug: told.is_some_and(|(_, debug)| debug),
        ..Incoming::default()
    })
}

fn several(found: &Found<'_>) -> Option<Incoming> {
    let debug = found.flags.text() == Some("1");
    let decided = match found.sampled.text() {
        _ if debug => Some(true),
        Some("1" | "true") => Some(true),
        Some("0" | "false") => Some(false),
        _ => None,
    };
    let ids = found.trace_id.text().and_then(id).zip(found.span_id.text());
    let parent = ids.and_then(|(trace, span)| parent(trace, digits(span, 16, true)?));
    (parent.is_some() || decided.is_some()).then_some(Incoming {
        parent,
        decided,
        debug,
        ..Incoming::default()
    })
}

/// B3's words for a decision, and whether it is that of somebody who looks for faults.
fn state(text: &str) -> Option<(bool, bool)> {
    match text {
        "0" => Some((false, false)),
        "1" => Some((true, false)),
        "d" => Some((true, true)),
        _ => None,
    }
}

/// Neither is 0.
fn parent(trace: u128, span: u128) -> Option<Parent> {
    let span = u64::try_from(span).ok().filter(|span| *span != 0)?;
    (trace != 0).then_some(Parent { trace, span })
}

/// Of 64 or of 128 bits.
fn id(text: &str) -> Option<u128> {
    digits(text, 16, true).or_else(|| digits(text, 32, true))
}

/// Exactly so many hexadecimal digits; W3C's are in lower case.
fn digits(text: &str, count: usize, upper: bool) -> Option<u128> {
    if text.len() == count { hex::read(text.as_bytes(), upper) } else { None }
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");

#[cfg(test)]
mod tests;
