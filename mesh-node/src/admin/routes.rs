//! Which path answers what.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap,
    HeaderValue,
};
use hyper::header::{HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use serde::Serialize;

use super::{Admin, BpfLog, Endpoint, dump, guard, kernel, profile, view};
use crate::report::Event;

/// An answer, complete in memory.
pub(super) type Reply = Response<Full<Bytes>>;

/// Answers a request.
pub(super) async fn answer(endpoint: Endpoint, admin: &Admin, request: &Parts) -> Reply {
    match answer_now(endpoint, admin, request) {
        Ok(reply) => reply,
        Err(Profile(time)) => match profile::take(time).await {
            Ok(bytes) => {
                let mut reply = reply(StatusCode::OK, "application/octet-stream", bytes);
                let name = HeaderValue::from_static("attachment; filename=\"profile.pb.gz\"");
                reply.headers_mut().insert(CONTENT_DISPOSITION, name);
                reply
            }
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
    }
}

/// An answer that takes time: what the processor does for so long.
struct Profile(Duration);

fn answer_now(endpoint: Endpoint, admin: &Admin, request: &Parts) -> Result<Reply, Profile> {
    if endpoint == Endpoint::Admin
        && let Err(why) = guard::check_host(request)
    {
        admin.reporter.count(Event::AdminHost);
        return Ok(text(StatusCode::FORBIDDEN, &format!("Refused: {why}.")));
    }
    let routes = routes(endpoint);
    let Some(route) = routes.iter().find(|route| route.path == request.uri.path()) else {
        return Ok(text(StatusCode::NOT_FOUND, &format!("Nothing here.\n\n{}", listing(routes))));
    };
    if !(route.allows(&request.method)) {
        let mut reply =
            text(StatusCode::METHOD_NOT_ALLOWED, &format!("Not with this method.\n\n{}", listing(routes)));
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static(route.methods()));
        return Ok(reply);
    }
    match route.answer {
        Answer::Now(answer) => Ok(answer(admin, request)),
        Answer::Profile => profile_wanted(admin, request),
    }
}

/// For how long, unless it is refused.
fn profile_wanted(admin: &Admin, request: &Parts) -> Result<Reply, Profile> {
    // A page in somebody's browser could not read it, but keep the process busy with it.
    if let Err(why) = guard::check_origin(request) {
        admin.reporter.count(Event::AdminHost);
        return Ok(text(StatusCode::FORBIDDEN, &format!("Refused: {why}.")));
    }
    let seconds = match parse_query(request.uri.query().unwrap_or_default()) {
        Ok(pairs) if pairs.is_empty() => Some(USUAL_PROFILE),
        Ok(pairs) => match &pairs[..] {
            [(key, value)] if key == "seconds" => value.parse().ok(),
            _ => None,
        },
        Err(_) => None,
    };
    match seconds.filter(|seconds| (1..=LONGEST_PROFILE).contains(seconds)) {
        Some(seconds) => Err(Profile(Duration::from_secs(seconds))),
        None => Ok(text(
            StatusCode::BAD_REQUEST,
            &format!("?seconds=N, with N from 1 to {LONGEST_PROFILE}, and nothing else."),
        )),
    }
}

/// One path of an endpoint.
struct Route {
    path: &'static str,
    about: &'static str,
    /// Whether POST changes something there.
    post: bool,
    answer: Answer,
}

/// How a path is answered.
enum Answer {
    Now(fn(&Admin, &Parts) -> Reply),
    /// With a profile, later.
    Profile,
}

impl Route {
    const fn get(path: &'static str, about: &'static str, answer: fn(&Admin, &Parts) -> Reply) -> Self {
        Self { path, about, post: false, answer: Answer::Now(answer) }
    }

    fn allows(&self, method: &Method) -> bool {
        method == Method::GET || method == Method::HEAD || self.post && method == Method::POST
    }

    const fn methods(&self) -> &'static str {
        if self.post { "GET, HEAD, POST" } else { "GET, HEAD" }
    }
}

const fn routes(endpoint: Endpoint) -> &'static [Route] {
    match endpoint {
        Endpoint::Admin => ADMIN,
        Endpoint::Metrics => METRICS,
        Endpoint::Ready => READY,
    }
}

fn listing(routes: &[Route]) -> String {
    let lines = routes.iter().map(|route| format!("{:<22} {}\n", route.path, route.about));
    format!("This port answers:\n{}", lines.collect::<String>())
}

fn home(admin: &Admin, request: &Parts) -> Reply {
    if !accepts(&request.headers, "text/html") {
        return text(StatusCode::OK, &view::State::of(admin).text());
    }
    match nonce() {
        Ok(nonce) => page(&nonce),
        Err(error) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, &format!("No randomness for the page: {error}."))
        }
    }
}

/// The page is static but for a number that nobody can guess, which tells the browser that style and script are ours.
fn page(nonce: &str) -> Reply {
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut reply = reply(StatusCode::OK, HTML, PAGE.replace("{nonce}", nonce));
    let policy = HeaderValue::try_from(policy).expect("hex digits and a constant");
    reply.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    reply
}

fn nonce() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

fn state(admin: &Admin, _: &Parts) -> Reply {
    json(&view::State::of(admin))
}

fn config_dump(admin: &Admin, _: &Parts) -> Reply {
    json(&dump::dump(admin))
}

fn connections(admin: &Admin, request: &Parts) -> Reply {
    let all = view::connections(admin);
    if accepts(&request.headers, "application/json") {
        json(&all)
    } else {
        text(StatusCode::OK, &view::connections_text(&all))
    }
}

fn certs(admin: &Admin, request: &Parts) -> Reply {
    let all: Vec<_> = admin.state.certificates().iter().map(view::certificate).collect();
    if accepts(&request.headers, "application/json") {
        json(&all)
    } else {
        text(StatusCode::OK, &view::certificates_text(&all))
    }
}

fn ebpf(admin: &Admin, request: &Parts) -> Reply {
    let Some((inventory, counters)) = admin.state.kernel() else {
        return text(StatusCode::NOT_FOUND, "Nothing of this process is in the kernel: it is not a node.");
    };
    let view = kernel::Kernel::new(&inventory, counters);
    if accepts(&request.headers, "application/json") {
        json(&view)
    } else {
        text(StatusCode::OK, &view.text())
    }
}

/// Ends the process in the same way as SIGTERM: no new connections, those that are open get the time that `--drain` gives.
fn stop(admin: &Admin, request: &Parts) -> Reply {
    if request.method != Method::POST {
        let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "This needs POST: the process drains and ends.");
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return reply;
    }
    if let Err(why) = guard::check_origin(request) {
        admin.reporter.count(Event::AdminHost);
        return text(StatusCode::FORBIDDEN, &format!("Refused: {why}."));
    }
    match admin.state.stop() {
        Ok(()) => {
            text(StatusCode::OK, "Draining; the process ends when its connections have, or after --drain.")
        }
        Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, &why),
    }
}

/// Shows levels, or changes them with POST. `level` takes `debug`, `mesh_node::l4=trace`, a list of such, or `reset`;
/// `bpf` takes `off`, `info` or `debug`.
fn logging(admin: &Admin, request: &Parts) -> Reply {
    let changes = match parse_query(request.uri.query().unwrap_or_default()) {
        Ok(changes) => changes,
        Err(why) => return text(StatusCode::BAD_REQUEST, &format!("{why}\n\n{LOGGING_HELP}")),
    };
    if changes.is_empty() {
        return text(StatusCode::OK, &format!("level={}\n\n{LOGGING_HELP}", admin.state.log().levels()));
    }
    if request.method != Method::POST {
        let mut reply =
            text(StatusCode::METHOD_NOT_ALLOWED, &format!("Changes need POST.\n\n{LOGGING_HELP}"));
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return reply;
    }
    if let Err(why) = guard::check_origin(request) {
        admin.reporter.count(Event::AdminHost);
        return text(StatusCode::FORBIDDEN, &format!("Refused: {why}."));
    }
    match changes.iter().try_for_each(|(key, value)| change(admin, key, value)) {
        Ok(()) => text(StatusCode::OK, &format!("level={}", admin.state.log().levels())),
        Err(why) => text(StatusCode::BAD_REQUEST, &format!("{why}\n\n{LOGGING_HELP}")),
    }
}

fn change(admin: &Admin, key: &str, value: &str) -> Result<(), String> {
    match (key, value) {
        ("level", levels) => {
            admin.state.log().change(levels).map_err(|error| format!("Not changed: {error}."))
        }
        ("reset", _) => admin.state.log().change("reset").map_err(|error| format!("Not changed: {error}.")),
        ("bpf", "off") => admin.state.set_bpf_log(BpfLog::Off),
        ("bpf", "info") => admin.state.set_bpf_log(BpfLog::Info),
        ("bpf", "debug") => admin.state.set_bpf_log(BpfLog::Debug),
        ("bpf", _) => Err("Not a level of the kernel programs.".to_owned()),
        _ => Err("Not a parameter.".to_owned()),
    }
}

fn metrics(admin: &Admin, request: &Parts) -> Reply {
    let text = admin.scrape();
    if accepts(&request.headers, "application/openmetrics-text") {
        reply(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
    } else {
        reply(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", crate::report::classic_text(&text))
    }
}

fn profiles(_: &Admin, _: &Parts) -> Reply {
    let profiles = ADMIN.iter().filter(|route| route.path.starts_with("/debug/pprof/"));
    let lines = profiles.map(|route| format!("{:<22} {}\n", route.path, route.about));
    text(StatusCode::OK, &lines.collect::<String>())
}

/// As Go programs answer it; `go tool pprof` names a profile by it.
fn command_line(_: &Admin, _: &Parts) -> Reply {
    let words: Vec<_> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    reply(StatusCode::OK, "text/plain; charset=utf-8", words.join("\0"))
}

fn ready(admin: &Admin, request: &Parts) -> Reply {
    let asked = parse_query(request.uri.query().unwrap_or_default()).unwrap_or_default();
    let mut of = asked.iter().filter(|(key, _)| key == "of").map(|(_, instance)| instance.as_str());
    if of.any(|instance| admin.state.instance() != Some(instance)) {
        return text(StatusCode::SERVICE_UNAVAILABLE, "not ready: another process of this node answers here");
    }
    match admin.state.ready() {
        Ok(()) => text(StatusCode::OK, "ready"),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready: {why}")),
    }
}

/// Whether the client names a media type among those it takes, other than to refuse it.
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(media_type));
        named && !parts.any(|part| part == "q=0")
    })
}

/// The pairs of a query, percent-decoded; a parameter without `=` has an empty value.
fn parse_query(query: &str) -> Result<Vec<(String, String)>, &'static str> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .map(|(key, value)| Some((decode(key)?, decode(value)?)))
        .collect::<Option<_>>()
        .ok_or("The query is not text.")
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first == b'%' {
            let (digits, behind) = behind.split_at_checked(2)?;
            let digits = digits.iter().all(u8::is_ascii_hexdigit).then_some(digits)?;
            out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = behind;
        } else {
            out.push(*first);
        }
    }
    String::from_utf8(out).ok()
}

fn json(value: &impl Serialize) -> Reply {
    match serde_json::to_string_pretty(value) {
        Ok(body) => reply(StatusCode::OK, "application/json", body + "\n"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("Cannot be shown: {error}.")),
    }
}

fn text(status: StatusCode, body: &str) -> Reply {
    reply(status, "text/plain; charset=utf-8", format!("{}\n", body.trim_end()))
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let same_origin = HeaderValue::from_static("same-origin");
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), same_origin);
    reply
}

const ADMIN: &[Route] = &[
    Route::get("/", "this node at a glance: a page for browsers, a table for terminals", home),
    Route::get("/state.json", "the same as JSON", state),
    Route::get("/config_dump", "everything the node decides with, as JSON", config_dump),
    Route::get("/connections", "live connections (Accept: application/json for JSON)", connections),
    Route::get("/certs", "certificates, without keys (Accept: application/json for JSON)", certs),
    Route::get("/ebpf", "kernel programs, links, maps and how full they are, counters (the same)", ebpf),
    Route {
        path: "/drain",
        about: "POST: no new connections, then the end",
        post: true,
        answer: Answer::Now(stop),
    },
    Route { path: "/quitquitquit", about: "the same", post: true, answer: Answer::Now(stop) },
    Route {
        path: "/logging",
        about: "log levels; POST ?level=... or ?bpf=... changes them",
        post: true,
        answer: Answer::Now(logging),
    },
    Route::get("/metrics", "metrics in Prometheus' text format, as port 15020 has them", metrics),
    Route::get("/debug/pprof/", "what there is of profiles", profiles),
    Route::get("/debug/pprof/cmdline", "the command line, its words apart by zero bytes", command_line),
    Route {
        path: "/debug/pprof/profile",
        about: "CPU profile of ?seconds=N (30), for `go tool pprof`",
        post: false,
        answer: Answer::Profile,
    },
];

const METRICS: &[Route] = &[
    Route::get("/metrics", "metrics in Prometheus' text format", metrics),
    Route::get("/stats/prometheus", "the same", metrics),
];

const READY: &[Route] = &[Route::get(
    "/healthz/ready",
    "200 if the node is ready, else 503 and why; with ?of=POD if it is that pod's",
    ready,
)];

const LOGGING_HELP: &str = "\
To change levels, POST with any of:
  ?level=debug                   the level of everything without a level of its own
  ?level=mesh_node::l4=trace     the level of one module; several with commas
  ?level=reset                   back to the levels at the start
  ?bpf=debug|info|off            how much the kernel programs say";

/// Seconds of a profile for which no time is given, as with Go programs.
const USUAL_PROFILE: u64 = 30;
/// Seconds of the longest.
const LONGEST_PROFILE: u64 = 120;

const HTML: &str = "text/html; charset=utf-8";
const PAGE: &str = include_str!("page.html");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_once() {
        let pairs = parse_query("level=mesh_node%3A%3al4%3Dtrace&reset&bpf=%2525").unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("level", "mesh_node::l4=trace"), ("reset", ""), ("bpf", "%25")]);
        for bad in ["a=%", "a=%4", "a=%zz", "a=%+1", "%ff=1", "a=%C3"] {
            assert!(parse_query(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn accept_headers_are_understood() {
        let with = |value| HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(value))]);
        assert!(accepts(&with("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"), "text/html"));
        assert!(accepts(
            &with("application/openmetrics-text;version=1.0.0;q=0.5"),
            "application/openmetrics-text"
        ));
        assert!(!accepts(&with("*/*"), "text/html"));
        assert!(!accepts(&with("text/html;q=0, */*"), "text/html"));
        assert!(!accepts(&HeaderMap::new(), "text/html"));
    }

    #[test]
    fn the_page_leads_to_what_can_be_looked_at() {
        let leads = |path: &str| PAGE.contains(&format!("<a href=\"{path}\">"));
        for route in ADMIN.iter().filter(|route| !route.path.starts_with("/debug/") && route.path != "/") {
            let changes = matches!(route.path, "/drain" | "/quitquitquit");
            assert_eq!(leads(route.path), !changes, "{}", route.path);
        }
        assert!(leads("/debug/pprof/"));
    }

    #[test]
    fn the_page_needs_nothing_from_outside() {
        for outside in ["http://", "https://", "src=", "@import", "url(", "innerHTML", "style=\"", "onclick"]
        {
            assert!(!PAGE.contains(outside), "{outside}");
        }
        assert_eq!(PAGE.matches("nonce=\"{nonce}\"").count(), 2, "style and script");
    }
}
