//! A browser without a window, driven by `WebDriver`: the few commands that the suite needs.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_tests::http::{self, Request};
use serde_json::{Value, json};

/// A browser with one page; ends with this value.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    /// What it keeps while it runs.
    profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one.
    pub fn start() -> Result<Self> {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("chromedriver: `cargo xtask setup` installs it")?;
        let output = driver.stdout.take().context("chromedriver has no output")?;
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            line.rsplit_once("successfully on port ")?.1.trim_end_matches('.').parse::<u16>().ok()
        });
        // It must not wait for somebody to read what else it says.
        thread::spawn(move || lines.for_each(drop));
        let profile = tempfile::tempdir()?;
        let address = ([127, 0, 0, 1], port.context("chromedriver does not say its port")?).into();
        let mut browser = Self { driver, address, session: String::new(), profile };
        browser.session = browser.open_session()?;
        Ok(browser)
    }

    fn open_session(&self) -> Result<String> {
        let directory = format!("--user-data-dir={}", self.profile.path().display());
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--hide-scrollbars",
            "--window-size=1280,900",
            &directory,
        ];
        let wanted = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "args": args },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let opened = self.send("POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } }))?;
        Ok(opened["sessionId"].as_str().context("no session")?.to_owned())
    }

    /// Goes to an address, and waits until it is there.
    pub fn go(&self, url: &str) -> Result<()> {
        self.command("POST", "url", &json!({ "url": url })).map(drop)
    }

    /// What a script of the page returns.
    pub fn script(&self, script: &str) -> Result<Value> {
        self.command("POST", "execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Repeats a script until it returns something that is not null, false or empty; gives that.
    pub fn until(&self, what: &str, patience: Duration, script: &str) -> Result<Value> {
        let deadline = Instant::now() + patience;
        loop {
            let value = self.script(script)?;
            let is_nothing = value.is_null() || value == json!(false) || value == json!("");
            if !is_nothing {
                return Ok(value);
            }
            if Instant::now() > deadline {
                let text = self.script("return document.body.innerText.slice(0, 1500)")?;
                bail!(
                    "{what} was not seen within {patience:?}; the page says:\n{}",
                    text.as_str().unwrap_or_default()
                );
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Clicks the first element that a selector finds, as somebody would: it has to be visible and not covered.
    pub fn click(&self, selector: &str) -> Result<()> {
        let found = self.command("POST", "element", &json!({ "using": "css selector", "value": selector }));
        let found = found.with_context(|| format!("nothing is {selector}"))?;
        let element = found.as_object().and_then(|it| it.values().next()).and_then(Value::as_str);
        let element = element.context("an element without a name")?;
        self.command("POST", &format!("element/{element}/click"), &json!({})).map(drop)
    }

    /// Presses keys, one after the other; see [`TAB`] and others.
    pub fn press(&self, keys: &[char]) -> Result<()> {
        let actions: Vec<Value> = keys
            .iter()
            .flat_map(|key| {
                ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() }))
            })
            .collect();
        let actions = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] });
        self.command("POST", "actions", &actions).map(drop)
    }

    /// A command of the browser's own protocol.
    pub fn devtools(&self, command: &str, parameters: &Value) -> Result<()> {
        let body = json!({ "cmd": command, "params": parameters });
        self.command("POST", "goog/cdp/execute", &body).map(drop)
    }

    /// How wide and high what it shows is.
    pub fn resize(&self, width: u32, height: u32, is_phone: bool) -> Result<()> {
        let scale = if is_phone { 2 } else { 1 };
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": is_phone });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics)
    }

    /// Whether the system of its user is dark.
    pub fn prefer(&self, scheme: &str) -> Result<()> {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": features }))
    }

    /// What has been logged since this was asked last: `browser` for what pages and scripts say, `performance` for
    /// everything that was loaded.
    pub fn log(&self, kind: &str) -> Result<Vec<Value>> {
        let entries = self.command("POST", "se/log", &json!({ "type": kind }))?;
        Ok(entries.as_array().cloned().unwrap_or_default())
    }

    /// Puts a picture of the whole page into `target/screenshots`.
    pub fn picture(&self, name: &str) -> Result<()> {
        let taken = self.command("GET", "screenshot", &Value::Null)?;
        let bytes = STANDARD.decode(taken.as_str().context("no picture")?)?;
        let place = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/screenshots");
        std::fs::create_dir_all(&place)?;
        Ok(std::fs::write(place.join(format!("{name}.png")), bytes)?)
    }

    fn command(&self, method: &str, what: &str, body: &Value) -> Result<Value> {
        self.send(method, &format!("/session/{}/{what}", self.session), body)
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let mut request = Request { method: method.to_owned(), ..Request::get(path) };
        if !body.is_null() {
            request.headers.push("content-type", "application/json");
            request.body = body.to_string().into_bytes();
        }
        let response = http::fetch(self.address, &request, Duration::from_secs(60))?;
        let answer: Value = serde_json::from_str(&response.text())?;
        let value = answer["value"].clone();
        ensure!(response.status == 200, "{path}: {} {}", value["error"], value["message"]);
        Ok(value)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.send("DELETE", &format!("/session/{}", self.session), &Value::Null);
        }
        // It may have ended already.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The key of that name, as `WebDriver` has it.
pub const TAB: char = '\u{e004}';
/// The key of that name.
pub const ENTER: char = '\u{e007}';
/// The key of that name.
pub const ESCAPE: char = '\u{e00c}';
