//! `meshctl trace`: what would become of a request, step by step, and why.

use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Result;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::cmd::analyze::{Source, load};
use crate::emit;
use crate::output::Format;

mod follow;

/// Follow a request through the configuration: which listener takes it, which service it is for, which waypoint, rule, destination
/// and endpoints, and what policy says on the way and at each of them.
///
/// Nothing is sent: it reads Kubernetes YAML, or a cluster, and decides with what nodes decide with. It does not know which
/// endpoints are healthy, who has been ejected, or what is drawn by lot: shares are told instead.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The method.
    method: Method,
    /// Where to, as the client writes it: `http://HOST[:PORT]/PATH`, or `https://`.
    url: Url,
    /// The pod that asks, as NAMESPACE/NAME; the name of a Deployment stands for any pod of it. With gateway/NAMESPACE/NAME
    /// it is somebody outside who asks that gateway: its Deployment, its Service, or its Gateway of Kubernetes.
    #[arg(long, value_name = "[gateway/]NAMESPACE/NAME")]
    from: From,
    /// A header of the request. Can be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    #[command(flatten)]
    source: Source,
    /// How the answer is printed.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", ignore_case = true)]
    output: Format,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
enum From {
    /// A pod, or any pod of a Deployment: namespace and name.
    Pod(String, String),
    /// Somebody outside, by the gateway of this namespace and name.
    Gateway(String, String),
}

impl FromStr for From {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split('/').collect::<Vec<_>>()[..] {
            [namespace, name] => Ok(Self::Pod(namespace.to_owned(), name.to_owned())),
            ["gateway", namespace, name] => Ok(Self::Gateway(namespace.to_owned(), name.to_owned())),
            _ => Err("name a pod as NAMESPACE/NAME, or a gateway as gateway/NAMESPACE/NAME"),
        }
    }
}

/// `http://HOST[:PORT]/PATH?QUERY`, or `https://`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Url {
    /// `http` or `https`.
    scheme: &'static str,
    /// With the port, if it was written.
    authority: String,
    host: String,
    port: u16,
    path: String,
    query: Option<String>,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("no address: {error}"))?;
        let (scheme, usual) = match uri.scheme_str() {
            Some("http") => ("http", 80),
            Some("https") => ("https", 443),
            _ => return Err("write http://HOST[:PORT]/PATH, or https://".to_owned()),
        };
        let authority = uri.authority().ok_or("no host")?;
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        Ok(Self {
            scheme,
            authority: authority.to_string(),
            host,
            port: authority.port_u16().unwrap_or(usual),
            path: uri.path().to_owned(),
            query: uri.query().map(str::to_owned),
        })
    }
}

impl Url {
    /// Whether the client speaks TLS: what is inside is bytes to the mesh, unless a gateway opens it.
    fn is_https(&self) -> bool {
        self.scheme == "https"
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let objects = load(&args.source)?;
    let mut headers = HeaderMap::new();
    args.header.iter().for_each(|(name, value)| _ = headers.append(name, value.clone()));
    let request = follow::Asked { method: &args.method, url: &args.url, headers: &headers, from: &args.from };
    let answer = follow::follow(&objects, &args.source.root_namespace, &request)?;
    emit(&match args.output {
        Format::Text => answer.text(),
        Format::Json => serde_json::to_string_pretty(&answer)? + "\n",
    })?;
    Ok(if answer.is_carried() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let name = name.parse().map_err(|_| format!("{name:?} is no name of a header"))?;
    Ok((name, value.parse().map_err(|_| format!("{value:?} is no value of a header"))?))
}

const EXAMPLES: &str = "\
Example: meshctl trace GET http://reviews:9080/reviews/0 --from default/productpage-v1 --config deploy/samples/bookinfo
         meshctl trace GET http://reviews:9080/ --from default/productpage-v1 --header end-user=jason -k
         meshctl trace GET https://shop.example/ --from gateway/istio-system/istio-ingressgateway -k";
