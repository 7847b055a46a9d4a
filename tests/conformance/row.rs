//! What a row consists of.

use std::pin::Pin;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::origin::Seen;
use serde_json::Value;

use crate::client::{Reply, Req, h1, h2};
use crate::stand::Stand;

/// A configuration, requests, and what has to come of them.
pub(crate) struct Row {
    pub(crate) id: String,
    /// Documents of YAML.
    pub(crate) config: Vec<String>,
    asks: Vec<(Req, Want)>,
    act: Option<Act>,
    alone: bool,
}

type Act = Box<dyn FnOnce(Case) -> Pin<Box<dyn Future<Output = Result<()>>>>>;

/// A row that runs.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) host: String,
    pub(crate) stand: Rc<Stand>,
}

/// What has to come of a request. Only what is named counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Want {
    status: Option<u16>,
    body: Option<String>,
    headers: Vec<(String, Option<String>)>,
    seen: Vec<(String, Option<String>)>,
    log: Vec<(String, String)>,
    unseen: bool,
}

/// A row without anything.
pub(crate) fn row(id: &str) -> Row {
    Row { id: id.to_owned(), config: Vec::new(), asks: Vec::new(), act: None, alone: false }
}

/// The name that a row has where names are DNS labels.
pub(crate) fn slug(id: &str) -> String {
    id.replace(['/', '_'], "-")
}

impl Row {
    /// A VirtualService for the row's host with these rules.
    pub(crate) fn http(self, rules: &str) -> Self {
        let slug = slug(&self.id);
        let name = format!("{slug}-{}", self.config.len());
        self.config(&virtual_service(&name, &format!("{slug}.test"), &expand(rules)))
    }

    /// Another document; `HOST` is the row's host, `NAME` its name.
    pub(crate) fn config(mut self, yaml: &str) -> Self {
        let slug = slug(&self.id);
        let yaml = expand(yaml).replace("HOST", &format!("{slug}.test")).replace("NAME", &slug);
        self.config.push(yaml);
        self
    }

    /// A service with the row's name and these pods behind it, and its DestinationRule.
    pub(crate) fn service(self, app: &str, destination_rule: &str) -> Self {
        self.config(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: NAME, namespace: conf}}, spec: {{selector: {{app: {app}}}, \
             ports: [{{name: http, port: 80, targetPort: http}}]}}}}"
        ))
        .config(&format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: NAME, namespace: conf}}, \
             spec: {{host: NAME, {destination_rule}}}}}"
        ))
    }

    /// A request, and what has to come of it. They are sent one after the other.
    pub(crate) fn ask(mut self, request: Req, want: Want) -> Self {
        self.asks.push((request, want));
        self
    }

    /// What requests alone do not tell.
    pub(crate) fn act<F: Future<Output = Result<()>> + 'static>(
        mut self,
        act: impl FnOnce(Case) -> F + 'static,
    ) -> Self {
        self.act = Some(Box::new(|case| Box::pin(act(case))));
        self
    }

    /// Runs after all others, and with nothing beside it: what it measures is time or memory.
    pub(crate) fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }

    pub(crate) async fn run(self, stand: Rc<Stand>) -> Result<()> {
        stand.loaded(&self.id)?;
        let case = Case { host: format!("{}.test", slug(&self.id)), id: self.id, stand };
        ensure!(!self.asks.is_empty() || self.act.is_some(), "the row asks nothing");
        for (number, (request, want)) in self.asks.into_iter().enumerate() {
            let what = format!("request {}: {} {}", number + 1, request.method, request.path);
            case.ask(request, &want, number).await.context(what)?;
        }
        match self.act {
            Some(act) => act(case).await,
            None => Ok(()),
        }
    }
}

impl Case {
    async fn ask(&self, request: Req, want: &Want, number: usize) -> Result<()> {
        let token = format!("{}#{number}", self.id);
        let reply = self.send(request.mark(&token)).await?;
        want.check(&reply).with_context(|| format!("answer {reply}"))?;
        if want.unseen {
            let seen = self.seen(&token);
            ensure!(seen.is_empty(), "the origin has seen it: {seen:?}");
        }
        if !want.log.is_empty() {
            let line = self.stand.log(&token).await?;
            for (field, value) in &want.log {
                let found = text(&line[field.as_str()]);
                ensure!(found == *value, "{field} is {found:?}, not {value:?} in {line}");
            }
        }
        Ok(())
    }

    /// Sends a request to the row's host, unless it names another.
    pub(crate) async fn send(&self, mut request: Req) -> Result<Reply> {
        if request.host.is_none() {
            request.host = Some(self.host.clone());
        }
        let address = request.port.unwrap_or(self.stand.http);
        let io = self.stand.connect(address, request.tls.as_ref(), request.h2).await?;
        if request.h2 { h2(io, &request).await } else { h1(io, &request).await }
    }

    /// What origins have seen of requests with this mark.
    pub(crate) fn seen(&self, token: &str) -> Vec<Seen> {
        self.stand.origin.seen(|seen| seen.header("user-agent").as_deref() == Some(token))
    }
}

impl Want {
    /// The status.
    pub(crate) fn status(status: u16) -> Self {
        Self { status: Some(status), ..Self::default() }
    }

    /// The whole body.
    pub(crate) fn body(mut self, body: &str) -> Self {
        self.body = Some(body.to_owned());
        self
    }

    /// A header of the answer.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), Some(value.to_owned())));
        self
    }

    /// A header that the answer must not have.
    pub(crate) fn no_header(mut self, name: &str) -> Self {
        self.headers.push((name.to_owned(), None));
        self
    }

    /// What the origin has seen: a field of [`Seen`], or a header as `h:name`.
    pub(crate) fn seen(mut self, field: &str, value: &str) -> Self {
        self.seen.push((field.to_owned(), Some(value.to_owned())));
        self
    }

    /// What the origin must not have seen.
    pub(crate) fn not_seen(mut self, field: &str) -> Self {
        self.seen.push((field.to_owned(), None));
        self
    }

    /// The origin has seen nothing.
    pub(crate) fn unseen(mut self) -> Self {
        self.unseen = true;
        self
    }

    /// A field of the line in the access log.
    pub(crate) fn log(mut self, field: &str, value: &str) -> Self {
        self.log.push((field.to_owned(), value.to_owned()));
        self
    }

    /// The response flags in the access log.
    pub(crate) fn flags(self, flags: &str) -> Self {
        self.log("response_flags", flags)
    }

    pub(crate) fn check(&self, reply: &Reply) -> Result<()> {
        if let Some(status) = self.status {
            ensure!(reply.status == status, "the status is {}, not {status}", reply.status);
        }
        if let Some(body) = &self.body {
            ensure!(reply.text() == *body, "the body is {:?}, not {body:?}", reply.text());
        }
        for (name, value) in &self.headers {
            let found = reply.header(name);
            ensure!(found == *value, "header {name} is {found:?}, not {value:?}");
        }
        if self.seen.is_empty() {
            return Ok(());
        }
        let seen = reply.seen()?;
        for (field, value) in &self.seen {
            let found = field_of(&seen, field)?;
            ensure!(found == *value, "the origin has seen {field} {found:?}, not {value:?}");
        }
        Ok(())
    }
}

fn field_of(seen: &Seen, field: &str) -> Result<Option<String>> {
    if let Some(name) = field.strip_prefix("h:") {
        return Ok(seen.header(name));
    }
    let all = serde_json::to_value(seen)?;
    match all.get(field) {
        Some(value) => Ok(Some(text(value))),
        None => bail!("there is no field {field}"),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A rule of a row that answers with a word, and the requests that get it.
pub(crate) fn says(word: &str) -> Want {
    Want::status(200).body(word)
}

/// The origin has answered.
pub(crate) fn ok() -> Want {
    Want::status(200)
}

/// No rule is for it.
pub(crate) fn not_found() -> Want {
    Want::status(404).body("").flags("NR").log("response_code_details", "route_not_found").unseen()
}

/// A VirtualService of the main gateway in the namespace of the rows.
pub(crate) fn virtual_service(name: &str, host: &str, rules: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}, namespace: conf}}, \
         spec: {{hosts: [\"{host}\"], gateways: [istio-system/edge], http: {rules}}}}}"
    )
}

/// `SAY(word)`, `ECHO` and `TO(subset)` are actions of a rule; the latter two send to the service `echo`.
fn expand(rules: &str) -> String {
    let mut out = String::new();
    let mut rest = rules;
    while let Some(at) = [rest.find("SAY("), rest.find("TO(")].into_iter().flatten().min() {
        out.push_str(&rest[..at]);
        let (head, tail) = rest[at..].split_once('(').unwrap_or_default();
        let (word, after) = tail.split_once(')').unwrap_or_default();
        let action = match head {
            "SAY" => format!("directResponse: {{status: 200, body: {{string: {word}}}}}"),
            _ => format!("route: [{{destination: {{host: {ORIGIN}, subset: {word}}}}}]"),
        };
        out.push_str(&action);
        rest = after;
    }
    out.push_str(rest);
    out.replace("ECHO", &format!("route: [{{destination: {{host: {ORIGIN}}}}}]"))
}

/// The service that most rows send to.
pub(crate) const ORIGIN: &str = "echo.conf.svc.cluster.local";
