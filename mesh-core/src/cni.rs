//! The CNI plugin's decisions: what a container runtime wants of it, what it asks the node's agent, what it says then.
//!
//! It stands at the end of the chain of a node's other plugins, changes nothing of what they have made, and keeps a pod
//! from starting until its traffic is captured. Rules: the CNI specification 1.1.
//!
//! Invariant: nothing but the agent's word, or an operator's list of namespaces, lets a pod of Kubernetes through.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::model::Snapshot;

pub mod conflist;

/// The name of the plugin's program, and its `type` in a configuration.
pub const PLUGIN: &str = "mesh-cni";

/// Versions of the specification that are spoken: those with chains.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Most bytes of a configuration, a question or an answer.
pub const MAX_BYTES: usize = 1 << 20;

/// What a runtime asks for, by `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verb {
    /// A container has a network now.
    Add,
    /// It has none any more.
    Del,
    /// Is it as it should be?
    Check,
    /// These attachments are all that there are.
    Gc,
    /// Would an `ADD` work?
    Status,
    /// Which versions of the specification?
    Version,
}

/// A pod as a runtime names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, where the runtime tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// What the plugin asks of the agent: one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// What for.
    pub verb: Verb,
    /// The runtime's id of the sandbox.
    #[serde(default)]
    pub container: String,
    /// The interface that the runtime has asked the chain for.
    #[serde(default)]
    pub interface: String,
    /// Path of its network namespace, as the host sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// Its addresses, from what the plugins before have made.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// For [`Verb::Gc`]: the sandboxes that there are.
    #[serde(default)]
    pub containers: Vec<String>,
    /// How long the answer may take, in milliseconds.
    #[serde(default)]
    pub patience_ms: u64,
}

/// What the agent says: one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase")]
pub enum Answer {
    /// The pod's traffic goes through the node.
    Captured,
    /// The pod is not enrolled.
    Outside {
        /// Why, for logs.
        reason: String,
    },
    /// Noted.
    Done,
    /// The pod must not start like this.
    Refused {
        /// Why.
        reason: String,
    },
}

/// An error as the specification has it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg}: {details}")]
pub struct CniError {
    /// From the specification below 100, ours from there on.
    pub code: u32,
    /// One sentence.
    pub msg: String,
    /// Who, and what to do about it.
    pub details: String,
}

impl CniError {
    /// A version that is not spoken.
    pub const VERSION: u32 = 1;
    /// A variable of the environment is missing or wrong.
    pub const ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// What was read is no JSON.
    pub const DECODE: u32 = 6;
    /// The configuration cannot work.
    pub const CONFIGURATION: u32 = 7;
    /// Nothing is wrong but the moment.
    pub const TRY_AGAIN: u32 = 11;
    /// The agent says no.
    pub const NOT_CAPTURED: u32 = 100;

    /// An error with this code.
    pub fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    /// As it is printed.
    pub fn render(&self, version: &str) -> String {
        json!({"cniVersion": version, "code": self.code, "msg": self.msg, "details": self.details})
            .to_string()
    }
}

/// What the plugin has to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The version to answer in.
    pub version: String,
    /// What is wanted.
    pub verb: Verb,
    /// Where the agent listens.
    pub socket: String,
    /// What to print if all is well: nothing for most verbs.
    pub output: Option<Value>,
    /// What to ask the agent; `None` where nothing is to be asked.
    pub question: Option<Question>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conf {
    cni_version: Option<String>,
    #[serde(default = "default_socket")]
    socket: String,
    #[serde(default)]
    exclude_namespaces: Vec<String>,
    wait_seconds: Option<u64>,
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<Attachment>>,
    /// The name that version 1.1.0 of the specification first had; libraries of today send both.
    #[serde(rename = "cni.dev/attachments")]
    attachments: Option<Vec<Attachment>>,
}

#[derive(Deserialize)]
struct Attachment {
    #[serde(rename = "containerID")]
    container: String,
}

impl Call {
    /// Reads what a runtime has put into the environment and on standard input.
    ///
    /// # Errors
    /// As the specification wants them printed.
    pub fn parse(variable: impl Fn(&str) -> Option<String>, input: &[u8]) -> Result<Self, CniError> {
        let verb = verb(&variable)?;
        let conf: Conf = serde_json::from_slice(input).map_err(|error| {
            CniError::new(CniError::DECODE, "the network configuration cannot be read", error.to_string())
        })?;
        let version = conf.cni_version.clone().unwrap_or_else(|| "1.0.0".to_owned());
        if verb != Verb::Version && !VERSIONS.contains(&version.as_str()) {
            let details = format!("cniVersion is {version:?}; {PLUGIN} speaks {}", VERSIONS.join(", "));
            return Err(CniError::new(CniError::VERSION, "incompatible CNI version", details));
        }
        let mut call = Self { version, verb, socket: conf.socket.clone(), output: None, question: None };
        match verb {
            Verb::Version => {
                call.output = Some(json!({"cniVersion": call.version, "supportedVersions": VERSIONS}));
            }
            // Without the agent no enrolled pod starts, but those that run are well, and so is the node's network:
            // to say otherwise would take the whole node out of every Service while the agent is replaced.
            Verb::Status => {}
            // Without a list nothing is known to be gone.
            Verb::Gc => {
                call.question = conf.valid.or(conf.attachments).map(|valid| {
                    let containers = valid.into_iter().map(|it| it.container).collect();
                    Question { containers, ..Question::about(verb, DEL_PATIENCE_MS) }
                });
            }
            Verb::Add | Verb::Del | Verb::Check => call.attachment(&variable, conf)?,
        }
        Ok(call)
    }

    fn attachment(&mut self, variable: impl Fn(&str) -> Option<String>, conf: Conf) -> Result<(), CniError> {
        let needed = |name: &str| {
            variable(name).filter(|value| !value.is_empty()).ok_or_else(|| {
                let details = format!("{name} is not set; a container runtime sets it");
                CniError::new(CniError::ENVIRONMENT, "a variable is missing", details)
            })
        };
        let container = needed("CNI_CONTAINERID")?;
        let interface = needed("CNI_IFNAME")?;
        let netns = if self.verb == Verb::Del { variable("CNI_NETNS") } else { Some(needed("CNI_NETNS")?) };
        let patience_ms = if self.verb == Verb::Del {
            DEL_PATIENCE_MS
        } else {
            conf.wait_seconds.unwrap_or(DEFAULT_WAIT_SECONDS).min(MAX_WAIT_SECONDS).saturating_mul(1000)
        };
        if self.verb == Verb::Add && conf.prev_result.is_none() {
            let details = format!(
                "there is no prevResult: {PLUGIN} makes no network, put it behind a plugin that does"
            );
            return Err(CniError::new(CniError::CONFIGURATION, "not part of a chain", details));
        }
        let ips = conf.prev_result.as_ref().map(addresses).unwrap_or_default();
        if self.verb == Verb::Add {
            self.output = conf.prev_result;
        }
        // What is no pod of Kubernetes is in no model of a mesh.
        let Some(pod) = pod(&variable("CNI_ARGS").unwrap_or_default()) else { return Ok(()) };
        // What the agent and its control plane need to run cannot wait for them.
        if conf.exclude_namespaces.contains(&pod.namespace) {
            return Ok(());
        }
        let netns = netns.filter(|path| !path.is_empty());
        let about = Question::about(self.verb, patience_ms);
        self.question = Some(Question { container, interface, netns, pod: Some(pod), ips, ..about });
        Ok(())
    }

    /// What comes of the agent's answer, or of there being none.
    ///
    /// # Errors
    /// The pod must not start, or is not as it should be.
    pub fn conclude(&self, answer: Result<Answer, String>) -> Result<Option<String>, CniError> {
        let output = || self.output.as_ref().map(Value::to_string);
        let pod = self.question.as_ref().and_then(|question| question.pod.as_ref());
        let pod = pod.map(|pod| format!("{}/{}", pod.namespace, pod.name)).unwrap_or_default();
        match answer {
            // The network goes in any case; the agent finds out by itself.
            _ if matches!(self.verb, Verb::Del | Verb::Gc) => Ok(output()),
            Ok(Answer::Captured | Answer::Outside { .. } | Answer::Done) => Ok(output()),
            Ok(Answer::Refused { reason }) => {
                let msg = format!("the mesh has not captured pod {pod}");
                let details = format!(
                    "{reason}; see the log of the mesh-node pod on this node, and `meshctl` for how the pod stands"
                );
                Err(CniError::new(CniError::NOT_CAPTURED, msg, details))
            }
            Err(why) => {
                let msg = format!("the mesh's agent on this node does not answer, so pod {pod} cannot start");
                let details = format!(
                    "mesh-node at {}: {why}; look at the mesh-node pod on this node, or take the namespace out of the mesh's \
                     reach by excludeNamespaces of {PLUGIN} if it must start without",
                    self.socket
                );
                Err(CniError::new(CniError::TRY_AGAIN, msg, details))
            }
        }
    }
}

impl Question {
    fn about(verb: Verb, patience_ms: u64) -> Self {
        Self {
            verb,
            container: String::new(),
            interface: String::new(),
            netns: None,
            pod: None,
            ips: Vec::new(),
            containers: Vec::new(),
            patience_ms,
        }
    }
}

fn verb(variable: &impl Fn(&str) -> Option<String>) -> Result<Verb, CniError> {
    let name = variable("CNI_COMMAND").unwrap_or_default();
    serde_json::from_value(Value::String(name.clone())).map_err(|_| {
        let details = format!("CNI_COMMAND is {name:?}; {PLUGIN} is started by container runtimes");
        CniError::new(CniError::ENVIRONMENT, "no such command", details)
    })
}

/// The pod that `CNI_ARGS` names: `K8S_POD_NAMESPACE=…;K8S_POD_NAME=…;…`.
fn pod(args: &str) -> Option<PodRef> {
    let value = |key: &str| {
        let pairs = args.split(';').filter_map(|pair| pair.split_once('='));
        pairs
            .filter(|(name, value)| *name == key && !value.is_empty())
            .map(|(_, value)| value.to_owned())
            .next()
    };
    let uid = value("K8S_POD_UID");
    Some(PodRef { namespace: value("K8S_POD_NAMESPACE")?, name: value("K8S_POD_NAME")?, uid })
}

/// The addresses in the container that a result has, without those of interfaces of the host.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let inside = |ip: &Value| match ip.get("interface").and_then(Value::as_u64) {
        None => true,
        Some(index) => {
            let interface = result.get("interfaces").and_then(|all| all.get(usize::try_from(index).ok()?));
            let sandbox = interface.and_then(|it| it.get("sandbox")).and_then(Value::as_str);
            sandbox.is_some_and(|sandbox| !sandbox.is_empty())
        }
    };
    let ips = result.get("ips").and_then(Value::as_array).into_iter().flatten();
    let text = |ip: &Value| ip.get("address").and_then(Value::as_str).map(str::to_owned);
    ips.filter(|ip| inside(ip))
        .filter_map(|ip| text(ip)?.split('/').next()?.parse().ok())
        .map(crate::net::canonical_ip)
        .collect()
}

/// How a pod stands in what the agent knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing can be said yet, and why.
    Unknown(String),
    /// It is not to be captured, and why.
    Outside(String),
    /// It is to be captured.
    Enrolled,
}

/// How a pod stands that a runtime is about to start.
pub fn standing(snapshot: &Snapshot, pod: &PodRef) -> Standing {
    if !snapshot.is_loaded() {
        return Standing::Unknown("the agent has no configuration yet".to_owned());
    }
    let same = |name: &str, namespace: &str| name == pod.name && namespace == pod.namespace;
    let mut known = snapshot.local_pods().filter(|it| same(&it.name, &it.namespace));
    let Some(found) = known.next() else {
        return Standing::Unknown(format!(
            "the agent's configuration has no pod {}/{} on this node",
            pod.namespace, pod.name
        ));
    };
    match (&pod.uid, &found.pod_uid) {
        // One of the name was here before, as with StatefulSets: the word about this one is on its way.
        (Some(asked), Some(found)) if **asked != **found => Standing::Unknown(format!(
            "the agent's configuration has another pod of that name, with uid {found}"
        )),
        _ if found.enrolled => Standing::Enrolled,
        _ => Standing::Outside("neither its namespace nor its own labels enrol it".to_owned()),
    }
}

fn default_socket() -> String {
    "/run/mesh/cni.sock".to_owned()
}

/// A kubelet gives a sandbox two minutes, and so do we less than that.
const MAX_WAIT_SECONDS: u64 = 90;
/// An agent that is being replaced is back in less.
const DEFAULT_WAIT_SECONDS: u64 = 20;
/// What ends must not wait for anybody.
const DEL_PATIENCE_MS: u64 = 1000;

#[cfg(test)]
mod tests;
