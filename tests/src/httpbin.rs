//! The sample service that does as the path of a request says, with the paths of the well-known one: for circuit
//! breakers, retries and timeouts, and to see what a request looks like where it arrives.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::http::{Request, Response};

/// What one process does.
#[derive(Debug, Clone)]
pub struct App {
    /// The pod, as answers tell it.
    pub pod: String,
    /// The status of every answer, whatever is asked for: a pod that is broken.
    pub always: Option<u16>,
}

impl App {
    /// Answers one request; a delay is spent here.
    pub fn answer(&self, request: &Request) -> Response {
        if let Some(status) = self.always {
            return self.json(status, json!({}));
        }
        let mut parts = request.path().trim_start_matches('/').splitn(2, '/');
        match (parts.next().unwrap_or_default(), parts.next()) {
            ("get" | "headers", None) | ("anything", _) => self.json(200, seen(request)),
            ("hostname", None) => self.json(200, json!({})),
            ("status", Some(code)) => match code.parse() {
                Ok(code @ 200..=599) => self.json(code, json!({})),
                _ => Response::new(400, "text/plain", "Invalid status code\n"),
            },
            ("delay", Some(seconds)) => match seconds.parse().map(Duration::try_from_secs_f64) {
                Ok(Ok(delay)) => {
                    std::thread::sleep(delay.min(LONGEST_DELAY));
                    self.json(200, seen(request))
                }
                _ => Response::new(400, "text/plain", "Invalid delay\n"),
            },
            ("response-headers", None) => self.with_headers(request),
            ("websocket", Some("echo")) => websocket(request),
            _ => Response::new(404, "text/plain", "Not found\n"),
        }
    }

    /// The query's parameters as headers, as they are but for `%23`, which would end the query.
    fn with_headers(&self, request: &Request) -> Response {
        let mut response = self.json(200, json!({}));
        let query = request.target.split_once('?').map_or("", |(_, query)| query);
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            response.headers.push(name, value.replace("%23", "#"));
        }
        response
    }

    fn json(&self, status: u16, mut value: Value) -> Response {
        value["hostname"] = json!(self.pod);
        Response::new(status, "application/json", value.to_string() + "\n")
    }
}

/// The request as it arrived. Of header fields with the same name the last is shown.
fn seen(request: &Request) -> Value {
    let headers: Map<String, Value> =
        request.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), json!(value))).collect();
    let data = String::from_utf8_lossy(&request.body);
    json!({"method": request.method, "url": request.target, "headers": headers, "data": data})
}

/// Leaves HTTP; every byte comes back from then on. Frames are not looked into.
fn websocket(request: &Request) -> Response {
    let wanted = request.headers.first("upgrade").is_some_and(|it| it.eq_ignore_ascii_case("websocket"));
    if !wanted {
        return Response::new(426, "text/plain", "Upgrade to websocket\n");
    }
    let mut response = Response::new(101, "text/plain", "");
    response.headers.push("Connection", "Upgrade");
    response.headers.push("Upgrade", "websocket");
    response
}

/// The port of every `httpbin`.
pub const DEFAULT_PORT: u16 = 8080;

/// As long as the well-known one lets a request wait.
const LONGEST_DELAY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(target: &str) -> (u16, String) {
        let app = App { pod: "one".to_owned(), always: None };
        let response = app.answer(&Request::get(target));
        (response.status, response.text())
    }

    #[test]
    fn paths_say_what_happens() {
        for (target, status) in [
            ("/get?x=1", 200),
            ("/anything/a/b", 200),
            ("/status/418", 418),
            ("/status/99", 400),
            ("/delay/0.001", 200),
            ("/delay/soon", 400),
            ("/response-headers?x-a=b", 200),
            ("/websocket/echo", 426),
            ("/getx", 404),
            ("/", 404),
        ] {
            assert_eq!(answer(target).0, status, "{target}");
        }
        let (_, text) = answer("/anything/a?b=c");
        assert!(
            text.contains("\"url\":\"/anything/a?b=c\"") && text.contains("\"hostname\":\"one\""),
            "{text}"
        );
    }

    #[test]
    fn a_broken_one_always_fails() {
        let app = App { pod: String::new(), always: Some(500) };
        assert_eq!(app.answer(&Request::get("/get")).status, 500);
    }
}
