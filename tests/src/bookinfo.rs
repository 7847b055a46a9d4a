//! Bookinfo, the sample application that service mesh tutorials use, as one small program: four services with the
//! names, ports, paths, answers and ways to fail that the tutorials rely on.
//!
//! `productpage` asks `details` and `reviews`; `reviews` asks `ratings` from version v2 on. Each call carries on the
//! headers that tracing, routing by user and authorization need.

use std::collections::BTreeMap;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::{self, Headers, Request, Response};

mod pages;

/// Rules that send requests where they went anyway: where there are rules for requests, nodes look at them and count them.
pub fn routes() -> String {
    let route = |service: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {service}}}, \
             spec: {{hosts: [{service}], http: [{{route: [{{destination: {{host: {service}}}}}]}}]}}}}\n---\n"
        )
    };
    ["productpage", "details", "reviews", "ratings"].map(route).concat()
}

/// A shell's command that requests `url` a few times a second, for ever.
pub fn traffic(url: &str) -> String {
    format!("while :; do curl -s -o /dev/null --max-time 2 {url}; sleep 0.15; done")
}

/// Which of the four services a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The web page.
    ProductPage,
    /// What the book is.
    Details,
    /// How many stars reviewers give.
    Ratings,
    /// What reviewers say.
    Reviews,
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "productpage" => Self::ProductPage,
            "details" => Self::Details,
            "ratings" => Self::Ratings,
            "reviews" => Self::Reviews,
            other => return Err(format!("{other:?} is none of productpage, details, ratings, reviews")),
        })
    }
}

/// The stars that a version of `reviews` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stars {
    /// v1: does not ask for ratings.
    None,
    /// v2.
    Black,
    /// v3.
    Red,
}

impl FromStr for Stars {
    type Err = String;

    fn from_str(version: &str) -> Result<Self, Self::Err> {
        Ok(match version {
            "v1" => Self::None,
            "v2" => Self::Black,
            "v3" => Self::Red,
            other => return Err(format!("{other:?} is none of v1, v2, v3")),
        })
    }
}

/// Where the other services are.
#[derive(Debug, Clone)]
pub struct Peers {
    /// `details`, as host and port.
    pub details: String,
    /// `reviews`.
    pub reviews: String,
    /// `ratings`.
    pub ratings: String,
}

impl Peers {
    /// The usual names, changed by the environment variables of the original: `DETAILS_HOSTNAME`,
    /// `DETAILS_SERVICE_PORT` and so on, and `SERVICES_DOMAIN`.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let domain = variable("SERVICES_DOMAIN").map(|d| format!(".{d}")).unwrap_or_default();
        let peer = |name: &str| {
            let upper = name.to_uppercase();
            let host = variable(&format!("{upper}_HOSTNAME")).unwrap_or_else(|| name.to_owned());
            // Kubernetes sets variables of nearly the same names to addresses such as tcp://10.96.0.1:9080.
            let port = variable(&format!("{upper}_SERVICE_PORT")).and_then(|p| p.parse::<u16>().ok());
            format!("{host}{domain}:{}", port.unwrap_or(DEFAULT_PORT))
        };
        Self { details: peer("details"), reviews: peer("reviews"), ratings: peer("ratings") }
    }
}

/// One of the services.
#[derive(Debug)]
pub struct App {
    role: Role,
    stars: Stars,
    peers: Peers,
    /// The pod, as `reviews` reports it.
    pod: String,
    /// Ratings that were posted, by book.
    posted: Mutex<BTreeMap<u64, Value>>,
    /// Pages shown, which the page's own metrics tell.
    shown: AtomicU64,
}

impl App {
    /// `stars` matters to `reviews` only.
    pub fn new(role: Role, stars: Stars, peers: Peers, pod: String) -> Self {
        Self { role, stars, peers, pod, posted: Mutex::default(), shown: AtomicU64::new(0) }
    }

    /// Answers one request.
    pub fn answer(&self, request: &Request) -> Response {
        match self.role {
            Role::ProductPage => self.product_page(request),
            Role::Details => details(request),
            Role::Ratings => self.ratings(request),
            Role::Reviews => self.reviews(request),
        }
    }

    fn product_page(&self, request: &Request) -> Response {
        match request.path() {
            "/" | "/index.html" => html(pages::index()),
            "/health" => html("Product page is healthy".to_owned()),
            "/login" => login(request),
            "/logout" => redirect("session=; Path=/; Max-Age=0; HttpOnly"),
            "/metrics" => {
                let shown = self.shown.load(Ordering::Relaxed);
                let text = format!("# TYPE bookinfo_pages_total counter\nbookinfo_pages_total {shown}\n");
                Response::new(200, "text/plain; version=0.0.4", text)
            }
            "/productpage" => {
                self.shown.fetch_add(1, Ordering::Relaxed);
                let headers = carried_on(request);
                let (_, details) = self.fetch_details(&headers, 0);
                let (_, reviews) = self.fetch_reviews(&headers, 0);
                html(pages::product(&details, &reviews, user(request).as_deref()))
            }
            path => match path.strip_prefix("/static/") {
                Some(_) => Response::new(200, "text/css; charset=utf-8", pages::STYLE),
                None => self.api(path, request),
            },
        }
    }

    /// `/api/v1/products[/ID[/reviews|/ratings]]`
    fn api(&self, path: &str, request: &Request) -> Response {
        let Some(rest) = path.strip_prefix("/api/v1/products") else { return not_found() };
        let mut parts = rest.split('/').filter(|part| !part.is_empty());
        let Some(id) = parts.next() else { return json_response(200, &json!([pages::product_json()])) };
        let Ok(id) = id.parse::<u64>() else { return not_found() };
        let headers = carried_on(request);
        let (status, value) = match (parts.next(), parts.next()) {
            (None, _) => self.fetch_details(&headers, id),
            (Some("reviews"), None) => self.fetch_reviews(&headers, id),
            (Some("ratings"), None) => {
                let answer = call(&self.peers.ratings, &format!("/ratings/{id}"), &headers, PAGE_TIMEOUT);
                answered(answer, "Sorry, product ratings are currently unavailable for this book.")
            }
            _ => return not_found(),
        };
        json_response(status, &value)
    }

    fn fetch_details(&self, headers: &Headers, id: u64) -> (u16, Value) {
        let answer = call(&self.peers.details, &format!("/details/{id}"), headers, PAGE_TIMEOUT);
        answered(answer, "Sorry, product details are currently unavailable for this book.")
    }

    /// Tries twice, which is what makes a delay of the ratings show as missing reviews in the fault tutorial.
    fn fetch_reviews(&self, headers: &Headers, id: u64) -> (u16, Value) {
        let attempt = || call(&self.peers.reviews, &format!("/reviews/{id}"), headers, PAGE_TIMEOUT);
        let first = attempt();
        let answer = if first.as_ref().is_ok_and(|r| r.status == 200) { first } else { attempt() };
        answered(answer, "Sorry, product reviews are currently unavailable for this book.")
    }

    fn reviews(&self, request: &Request) -> Response {
        let Some(id) = request.path().strip_prefix("/reviews/") else { return health(request, "Reviews") };
        let color = match self.stars {
            Stars::None => return json_response(200, &self.review_list(id, |_| None)),
            Stars::Black => "black",
            Stars::Red => "red",
        };
        let timeout = if self.stars == Stars::Black { BLACK_TIMEOUT } else { RED_TIMEOUT };
        let answer = call(&self.peers.ratings, &format!("/ratings/{id}"), &carried_on(request), timeout);
        let ratings: Option<Value> =
            answer.ok().filter(|r| r.status == 200).and_then(|r| serde_json::from_slice(&r.body).ok());
        let rating = |reviewer: &str| match &ratings {
            Some(ratings) => Some(json!({"stars": ratings["ratings"][reviewer], "color": color})),
            None => Some(json!({"error": "Ratings service is currently unavailable"})),
        };
        json_response(200, &self.review_list(id, rating))
    }

    fn review_list(&self, id: &str, rating: impl Fn(&str) -> Option<Value>) -> Value {
        let review = |(reviewer, text): &(&str, &str)| {
            let mut review = json!({"reviewer": reviewer, "text": text});
            if let Some(rating) = rating(reviewer) {
                review["rating"] = rating;
            }
            review
        };
        let reviews: Vec<Value> = pages::REVIEWS.iter().map(review).collect();
        json!({"id": id, "podname": self.pod, "clustername": "null", "reviews": reviews})
    }

    fn ratings(&self, request: &Request) -> Response {
        let Some(id) = request.path().strip_prefix("/ratings/") else { return health(request, "Ratings") };
        let Ok(id) = id.parse::<u64>() else {
            return json_response(400, &json!({"error": "please provide numeric product ID"}));
        };
        let mut posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
        if request.method == "POST" {
            match serde_json::from_slice::<Value>(&request.body) {
                Ok(ratings) if ratings.is_object() => drop(posted.insert(id, ratings)),
                _ => return json_response(400, &json!({"error": "please provide valid ratings JSON"})),
            }
        }
        let ratings = posted.get(&id).cloned().unwrap_or_else(|| json!({"Reviewer1": 5, "Reviewer2": 4}));
        json_response(200, &json!({"id": id, "ratings": ratings}))
    }
}

/// Serves until the process ends, on all addresses of both families.
pub fn run(app: &App, port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))?;
    http::serve(&listener, |request| app.answer(request));
    Ok(())
}

fn details(request: &Request) -> Response {
    let Some(id) = request.path().strip_prefix("/details/") else { return health(request, "Details") };
    match id.parse::<u64>() {
        Ok(id) => json_response(200, &pages::details_json(id)),
        Err(_) => json_response(400, &json!({"error": "please provide numeric product id"})),
    }
}

fn health(request: &Request, name: &str) -> Response {
    match request.path() {
        "/health" => json_response(200, &json!({"status": format!("{name} is healthy")})),
        _ => not_found(),
    }
}

/// One call to another service; each address of its name is tried.
fn call(peer: &str, path: &str, headers: &Headers, timeout: Duration) -> io::Result<Response> {
    let mut request = Request::get(path);
    request.headers = headers.clone();
    request.headers.push("Host", peer);
    let mut error = io::Error::from(io::ErrorKind::NotFound);
    for addr in peer.to_socket_addrs()? {
        match http::fetch(addr, &request, timeout) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => error = e,
            other => return other,
        }
    }
    Err(error)
}

/// The peer's answer, or `sorry` with its status, 500 where there was none.
fn answered(answer: io::Result<Response>, sorry: &str) -> (u16, Value) {
    let status = answer.as_ref().map_or(500, |response| response.status);
    let value = answer.ok().filter(|r| r.status == 200).and_then(|r| serde_json::from_slice(&r.body).ok());
    match value {
        Some(value) => (200, value),
        None => (if status == 200 { 500 } else { status }, json!({"error": sorry})),
    }
}

/// The headers that every service hands on, and the user who is logged in.
fn carried_on(request: &Request) -> Headers {
    let mut headers = Headers::default();
    for (name, value) in request.headers.iter() {
        if CARRIED_ON.iter().any(|known| name.eq_ignore_ascii_case(known)) {
            headers.push(name, value);
        }
    }
    if headers.first("end-user").is_none()
        && let Some(user) = user(request)
    {
        headers.push("end-user", user);
    }
    headers
}

/// The user of the session cookie.
fn user(request: &Request) -> Option<String> {
    let cookies = request.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("cookie"));
    let mut pairs =
        cookies.flat_map(|(_, value)| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, user) = pairs.find(|(name, _)| *name == "session")?;
    Some(user.to_owned()).filter(|user| !user.is_empty())
}

fn login(request: &Request) -> Response {
    let body = String::from_utf8_lossy(&request.body).into_owned();
    let query = request.target.split_once('?').map_or("", |(_, query)| query);
    let fields = body.split('&').chain(query.split('&')).filter_map(|field| field.split_once('='));
    let name = fields.filter(|(name, _)| *name == "username").map(|(_, value)| value).next().unwrap_or("");
    // The name becomes part of headers: nothing that could end one may be in it.
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.@%".contains(*c)).collect();
    redirect(&format!("session={name}; Path=/; HttpOnly"))
}

fn redirect(cookie: &str) -> Response {
    let mut response = Response::new(302, "text/html; charset=utf-8", "");
    response.headers.push("Location", "/productpage");
    response.headers.push("Set-Cookie", cookie);
    response
}

fn html(page: String) -> Response {
    Response::new(200, "text/html; charset=utf-8", page)
}

fn json_response(status: u16, value: &Value) -> Response {
    Response::new(status, "application/json", value.to_string())
}

fn not_found() -> Response {
    Response::new(404, "text/plain; charset=utf-8", "Not found\n")
}

/// The port that all four services have by default.
pub const DEFAULT_PORT: u16 = 9080;

/// How long the page waits for each of its calls.
const PAGE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long v2 of `reviews` waits for ratings: longer than the page waits for v2, which the fault tutorial shows.
const BLACK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long v3 waits: it answers in time, without stars.
const RED_TIMEOUT: Duration = Duration::from_millis(2500);

const CARRIED_ON: [&str; 20] = [
    "x-request-id",
    "x-ot-span-context",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "traceparent",
    "tracestate",
    "x-cloud-trace-context",
    "grpc-trace-bin",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "user-agent",
    "end-user",
    "cookie",
    "authorization",
    "jwt",
];

#[cfg(test)]
mod tests;
