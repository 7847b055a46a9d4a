//! A bed on which Bookinfo has traffic, and a browser that looks at its mesh page.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mesh_tests::bed::{Bed, Process};
use mesh_tests::http::{self, Request};
use mesh_tests::{bookinfo, scenario};
use serde_json::Value;

use crate::driver::Browser;

/// All that the tests need.
pub struct Stand {
    /// The bed.
    pub bed: Bed,
    /// The browser.
    pub browser: Browser,
    /// What the page is told to link to, by name.
    pub links: [(&'static str, String); 3],
    page: SocketAddr,
    _traffic: Vec<Process>,
}

impl Stand {
    /// Starts everything; there is traffic when this returns.
    pub fn start() -> Result<Self> {
        let samples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples/bookinfo");
        let bed = Bed::builder().nodes(2).manifests(samples.as_path());
        let links = [
            ("kiali", "http://kiali.example:20001/kiali".to_owned()),
            ("grafana", "https://grafana.example/d/mesh".to_owned()),
            ("jaeger", elsewhere()?),
        ];
        let bed = links.iter().fold(bed, |bed, (name, url)| bed.control_arg(format!("--{name}={url}")));
        let bed = bed.start()?;
        scenario::captured(&bed, Duration::from_secs(20))?;
        bed.apply(&bookinfo::routes())?;
        bed.apply(&scenario::manifests())?;
        scenario::captured(&bed, Duration::from_secs(20))?;
        let page = bed.status().dashboard.context("the bed has no mesh page")?.parse()?;
        let traffic = bookinfo::traffic("http://productpage:9080/productpage");
        let mut traffic = vec![bed.pod("default/sleep")?.spawn(&["sh", "-c", &traffic])?];
        // Connections without requests: on one node, to another node, and from outside of the mesh.
        for (from, to) in [("mesh/client", "near"), ("mesh/client", "far"), ("outside/stranger", "near")] {
            let server = scenario::at(&bed.pod(&format!("mesh/{to}"))?);
            let dials = format!("while :; do netprobe dial {server} --timeout 1000; sleep 0.4; done");
            traffic.push(bed.pod(from)?.spawn(&["sh", "-c", &dials])?);
        }
        let browser = Browser::start()?;
        browser.resize(1280, 900, false)?;
        Ok(Self { bed, browser, links, page, _traffic: traffic })
    }

    /// Where the page is.
    pub fn base(&self) -> String {
        format!("http://{}", self.page)
    }

    /// Goes to a page by its hash, and waits until it shows something.
    pub fn open(&self, hash: &str) -> Result<()> {
        // Only a new document is sure to have nothing left of the page before.
        self.browser.go("about:blank")?;
        self.browser.go(&format!("{}/{hash}", self.base()))?;
        let there = "return document.querySelector('main')?.getAttribute('aria-busy') === 'false'";
        self.browser.until(&format!("the page {hash}"), PATIENCE, there).map(drop)
    }

    /// What the API answers to a path below `/api/v1/`, and with which status.
    pub fn api(&self, path: &str) -> Result<(u16, Value)> {
        self.get(&format!("/api/v1/{path}"), &self.page.to_string())
    }

    /// What the server answers to a request for `host`.
    pub fn get(&self, path: &str, host: &str) -> Result<(u16, Value)> {
        let mut request = Request::get(path);
        request.headers.push("Host", host);
        let response = http::fetch(self.page, &request, Duration::from_secs(5))?;
        Ok((response.status, serde_json::from_str(&response.text()).unwrap_or_default()))
    }

    /// Leaves a picture of what is shown.
    pub fn picture(&self, name: &str) -> Result<()> {
        self.browser.picture(name)
    }
}

/// The address of a page of somebody else's, whose title is [`ELSEWHERE`].
fn elsewhere() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(std::io::Result::ok) {
            let page = format!("<!doctype html><title>{ELSEWHERE}</title>");
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\n", page.len());
            // One that has gone again needs no answer.
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(format!("{head}connection: close\r\n\r\n{page}").as_bytes());
        }
    });
    Ok(format!("http://{address}/search"))
}

/// The title of a page that is not ours.
pub const ELSEWHERE: &str = "Traces of somebody else";
/// What takes as long as a few refreshes and reports.
pub const PATIENCE: Duration = Duration::from_secs(30);
