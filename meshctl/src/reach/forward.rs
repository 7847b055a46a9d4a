//! A port of a pod, through the API server.

use std::fmt;
use std::rc::Rc;

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::api::core::v1;
use kube::api::{Api, LogParams};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::http::{self, MAX_ANSWER, TIMEOUT};

/// A port on the loopback interface of a pod.
pub(crate) struct Pod {
    runtime: Rc<Runtime>,
    pods: Api<v1::Pod>,
    namespace: String,
    name: String,
    port: u16,
}

impl Pod {
    pub(super) fn new(
        runtime: Rc<Runtime>,
        pods: Api<v1::Pod>,
        (namespace, name): (String, String),
        port: u16,
    ) -> Self {
        Self { runtime, pods, namespace, name, port }
    }

    /// The body of the answer, which must be a 200.
    pub(super) fn ask(&self, method: &str, path: &str) -> Result<String> {
        let asked = async {
            let answer = timeout(TIMEOUT, self.exchange(method, path)).await;
            answer.map_err(|_| anyhow!("no answer within {} s", TIMEOUT.as_secs()))?
        };
        let answer = self.runtime.block_on(asked).with_context(|| format!("{self} {path}"))?;
        http::body(&String::from_utf8(answer).context("the answer is not text")?)
            .with_context(|| format!("{self} {path}"))
    }

    /// The end of its log.
    pub(super) fn log(&self, most: u64) -> Result<String> {
        let params = LogParams { tail_lines: Some(MAX_LINES), ..LogParams::default() };
        let text = self.runtime.block_on(self.pods.logs(&self.name, &params));
        let text = text.with_context(|| format!("the log of {self}"))?;
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let start = text.len().saturating_sub(most);
        let start = (start..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        Ok(text.get(start..).unwrap_or_default().to_owned())
    }

    async fn exchange(&self, method: &str, path: &str) -> Result<Vec<u8>> {
        let forwarded = self.pods.portforward(&self.name, &[self.port]).await;
        let mut forwarder = forwarded.context("the API server does not forward the port")?;
        let mut stream = forwarder.take_stream(self.port).context("the port is not forwarded")?;
        stream.write_all(http::request(method, path, "localhost").as_bytes()).await?;
        let mut answer = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        // Closing goes through three processes; what says itself how long it is need not wait for that.
        while !http::is_whole(&answer) {
            match stream.read(&mut chunk).await? {
                0 => break,
                count => answer.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            }
            if answer.len() > MAX_ANSWER {
                bail!("the answer is larger than {} MiB", MAX_ANSWER >> 20);
            }
        }
        if answer.is_empty()
            && let Some(error) = forwarder.take_error(self.port)
            && let Some(error) = error.await
        {
            bail!("{}", error.trim());
        }
        forwarder.abort();
        Ok(answer)
    }
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name, port, .. } = self;
        write!(f, "pod {namespace}/{name} port {port}")
    }
}

impl fmt::Debug for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Lines of a log that are asked for.
const MAX_LINES: i64 = 20_000;
