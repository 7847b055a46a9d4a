//! Messages between programs, and files of users.

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use mesh_core::cni::{
    Call,
    conflist::{self, Edit, Kind},
};
use mesh_core::dns::{Query, Records, SECRET, Transport, Unanswerable};
use mesh_core::proxy_header::{self, Read};
use mesh_core::resource::{SourceFile, parse};
use mesh_core::tunnel::frame::{self, Frame, Refusal};
use mesh_core::tunnel::open::Open;
use mesh_proto::decode::Decoder;
use mesh_proto::names::ResourceType;
use prost::Message as _;

use crate::Target;
use crate::engine::way;

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target {
            name: "discovery",
            seeds: messages,
            words: &["\u{a}\u{4}", "cluster.local", "spiffe://", "\u{12}\0"],
            run: discovery,
        },
        Target { name: "config", seeds: documents, words: YAML, run: config },
        Target {
            name: "dns",
            seeds: queries,
            words: &["\u{3}www", "\0\0\u{1}\0\u{1}", "\u{c0}\u{c}", "\0\0\u{29}"],
            run: dns,
        },
        Target {
            name: "proxy",
            seeds: proxied,
            words: &["PROXY ", "TCP4 ", "TCP6 ", "UNKNOWN", "\r\n", "\0\u{c}", "\u{4}\0\u{2}"],
            run: proxy,
        },
        Target {
            name: "mesh1",
            seeds: frames,
            words: &["\u{1}\0", "\u{4}\u{1}", "for=\"10.0.0.1:1\""],
            run: mesh1,
        },
        Target {
            name: "cni",
            seeds: networks,
            words: &[
                "\"plugins\":[",
                "\"type\":\"mesh-cni\"",
                "\"prevResult\":{",
                "\"ips\":[{\"address\":",
                "null",
                "{}",
            ],
            run: cni,
        },
    ]
}

/// A header of a proxy is read to its end and not one byte further, in however many pieces it comes, and what stands behind it makes
/// no difference.
fn proxy(input: &[u8]) -> Result<u64> {
    let mut taken = 0;
    loop {
        match proxy_header::read(input.get(..taken).unwrap_or_default()) {
            Read::More(more) => {
                ensure!(more > 0 && more <= 4_096, "{more} bytes are asked for");
                taken += more;
                if taken > input.len() {
                    return Ok(1);
                }
            }
            Read::Whole(client) => {
                let known = client.map_or("nobody", |client| if client.is_ipv4() { "four" } else { "six" });
                ensure!(taken <= 16 + 4_096, "a header of {taken} bytes");
                return Ok(way(known));
            }
            Read::Wrong(wrong) => return Ok(way(&wrong.to_string())),
        }
    }
}

/// Our plugin goes into a network configuration once, comes out without a trace, and lets no pod through without the agent.
fn cni(input: &[u8]) -> Result<u64> {
    let text = String::from_utf8_lossy(input);
    let ours = serde_json::json!({"type": "mesh-cni", "socket": "/s"});
    let mut ways = String::new();
    for kind in [Kind::List, Kind::Single] {
        match conflist::insert(&text, kind, &ours) {
            Ok(Edit::Changed(after)) => {
                let again = conflist::insert(&after, Kind::List, &ours);
                ensure!(again == Ok(Edit::Unchanged), "once more: {again:?}");
                let Ok(Edit::Changed(without)) = conflist::remove(&after) else { bail!("it stays") };
                ensure!(conflist::remove(&without) == Ok(Edit::Unchanged), "a trace stays");
                if kind == Kind::List && conflist::remove(&text) == Ok(Edit::Unchanged) {
                    let [before, left] = [&*text, &*without].map(serde_json::from_str::<serde_json::Value>);
                    ensure!(before? == left?, "the meaning changed");
                }
                ways.push_str("changed ");
            }
            Ok(Edit::Unchanged) => ways.push_str("unchanged "),
            Err(error) => ways.push_str(&error.to_string()),
        }
    }
    let variable = |name: &str| {
        let value = match name {
            "CNI_COMMAND" => "ADD",
            "CNI_ARGS" => "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b",
            _ => "x",
        };
        Some(value.to_owned())
    };
    match Call::parse(variable, input) {
        Ok(call) => {
            let is_let_through = call.question.is_none() || call.conclude(Err("away".to_owned())).is_ok();
            ensure!(!is_let_through || text.contains("excludeNamespaces"), "let through without the agent");
            ways.push_str("parsed");
        }
        Err(error) => ways.push_str(&error.to_string()),
    }
    Ok(way(&ways))
}

fn networks() -> Vec<Vec<u8>> {
    let list = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"},{"type":"mesh-cni"},{"type":"portmap"}]}"#;
    let single = r#"{"cniVersion":"0.3.1","name":"n","type":"bridge","mtu":1400.5}"#;
    let call = r#"{"cniVersion":"1.0.0","name":"n","type":"mesh-cni","socket":"/s","excludeNamespaces":["a"],"waitSeconds":3,
        "prevResult":{"interfaces":[{"name":"e","sandbox":"/n"}],"ips":[{"address":"10.0.0.1/24","interface":0}]}}"#;
    [list, single, call].map(|text| text.as_bytes().to_vec()).to_vec()
}

/// One of each kind.
fn proxied() -> Vec<Vec<u8>> {
    let binary = |family: u8, body: &[u8]| {
        let length = u8::try_from(body.len()).unwrap_or(0);
        [b"\r\n\r\n\0\r\nQUIT\n\x21", &[family, 0, length][..], body].concat()
    };
    vec![
        b"PROXY TCP4 203.0.113.7 10.0.0.1 12345 80\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::7 ::1 12345 80\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        binary(0x11, &[9; 12]),
        binary(0x21, &[[9; 36].as_slice(), &[4, 0, 2, 9, 9]].concat()),
    ]
}

/// A message of the control plane is one of the model, or says which field is wrong; what it becomes can be told on.
fn discovery(input: &[u8]) -> Result<u64> {
    let mut ways = String::new();
    for kind in ResourceType::ALL {
        let mut decoder = Decoder::new("node-1");
        match decoder.payload(kind, input) {
            Ok(record) => {
                let told = mesh_proto::encode::payload(&record);
                let again = decoder.payload(kind, &told);
                ensure!(
                    again.as_ref() == Ok(&record),
                    "{kind:?}: told on it is another: {record:?} {again:?}"
                );
                ways.push_str("ok ");
            }
            Err(invalid) => ways.push_str(invalid.field),
        }
        let _ = decoder.resource(kind, Bytes::copy_from_slice(input));
    }
    Ok(way(&ways))
}

/// Of each kind an empty one, and a workload with most of its fields.
fn messages() -> Vec<Vec<u8>> {
    use mesh_proto::workload::{Address, Workload, address};
    let workload = Workload {
        uid: "cluster/core/Pod/shop/web".to_owned(),
        name: "web".to_owned(),
        namespace: "shop".to_owned(),
        addresses: vec![vec![10, 0, 0, 1].into(), vec![0xfd; 16].into()],
        trust_domain: "cluster.local".to_owned(),
        service_account: "web".to_owned(),
        node: "node-1".to_owned(),
        ..Workload::default()
    };
    let address = Address { r#type: Some(address::Type::Workload(workload)) }.encode_to_vec();
    vec![Vec::new(), address]
}

/// A document is read in time that fits its length, and what is wrong with it is told.
fn config(input: &[u8]) -> Result<u64> {
    let text = String::from_utf8_lossy(input);
    let parsed = parse(&SourceFile { name: "a.yaml", text: &text });
    let reasons: Vec<&str> = parsed.findings.iter().take(3).map(|finding| finding.reason.as_str()).collect();
    for finding in &parsed.findings {
        ensure!(finding.reason.len() < 4_096, "a finding of {} bytes", finding.reason.len());
    }
    Ok(way(&format!("{} {}", parsed.objects.len().min(3), reasons.join(" "))))
}

fn documents() -> Vec<Vec<u8>> {
    DOCUMENTS.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// A packet gets an answer that fits, or none; and what is asked on comes back as it was asked.
fn dns(input: &[u8]) -> Result<u64> {
    let query = match Query::parse(input) {
        Ok(query) => query,
        Err(Unanswerable::Silent) => return Ok(1),
        Err(Unanswerable::Refused(answer)) => {
            ensure!(answer.len() <= 512, "a refusal of {} bytes", answer.len());
            ensure!(answer.get(..2) == input.get(..2), "another number");
            return Ok(2);
        }
    };
    let records = Records {
        aliases: Vec::new(),
        addresses: vec![[10, 0, 0, 1].into(); 100],
        others: Vec::new(),
        ttl: 5,
    };
    let answer = query.reply(&records, Transport::Udp);
    ensure!(
        answer.len() <= 4_096 && answer.get(..2) == input.get(..2),
        "an answer of {} bytes",
        answer.len()
    );
    let sent = query.forward(&[0x5a; SECRET], Transport::Udp);
    ensure!(Query::parse(sent.packet()).is_ok(), "what is asked on is no query");
    let verdict = sent.judge(input);
    let _ = query.relay(input.to_vec(), Transport::Udp);
    Ok(way(&format!("{:?} {verdict:?} {}", query.kind(), query.name().map_or(0, |name| name.len().min(9)))))
}

fn queries() -> Vec<Vec<u8>> {
    let head = |count: u8| [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, count];
    let name = b"\x03web\x04shop\x03svc\x07cluster\x05local\0";
    let mut all = Vec::new();
    for kind in [1, 28, 5, 12, 33, 65, 255] {
        all.push([&head(0)[..], name, &[0, kind, 0, 1]].concat());
    }
    all.push([&head(1)[..], name, &[0, 1, 0, 1], &[0, 0, 41, 4, 0xd0, 0, 0, 0x80, 0, 0, 0]].concat());
    all
}

/// A frame is written as it was read, and what is not complete is not taken.
fn mesh1(input: &[u8]) -> Result<u64> {
    let (mut rest, mut ways) = (input, String::new());
    for _ in 0..64 {
        match frame::first(rest) {
            Ok(Some((frame, length))) => {
                let Some(own) = rest.get(..length).filter(|own| !own.is_empty()) else {
                    anyhow::bail!("a frame of {length} bytes out of {}", rest.len());
                };
                let mut written = Vec::new();
                frame.write(&mut written);
                ensure!(written == own, "written down it is {written:02x?}");
                if let Frame::Open(_, payload) = frame {
                    ways.push_str(&opened(payload)?);
                }
                ways.extend([format!("{:?}", std::mem::discriminant(&frame))]);
                rest = rest.get(length..).unwrap_or_default();
            }
            Ok(None) => break,
            Err(error) => {
                ways.push_str(&error.to_string());
                break;
            }
        }
    }
    Ok(hash_of(&ways))
}

fn opened(payload: &[u8]) -> Result<String> {
    let open = match Open::parse(payload) {
        Ok(open) => open,
        Err(error) => return Ok(error.to_string()),
    };
    let mut written = Vec::new();
    open.write(&mut written, usize::from(u16::MAX));
    ensure!(Open::parse(&written).as_ref() == Ok(&open), "written down it is another");
    Ok("open".to_owned())
}

/// Kinds are told apart by numbers here.
fn hash_of(ways: &str) -> u64 {
    crate::engine::hash(ways.as_bytes())
}

fn frames() -> Vec<Vec<u8>> {
    let mut open = Vec::new();
    Open { forwarded: Some(b"for=\"10.0.0.1:1\""), ..Open::new(([10, 0, 0, 2], 80).into()) }
        .write(&mut open, 1_000);
    let all = [
        Frame::Open(1, &open),
        Frame::Accept(1),
        Frame::Refuse(3, Refusal::Status(403)),
        Frame::Data { stream: 1, bytes: b"abc", fin: false },
        Frame::Data { stream: 1, bytes: b"", fin: true },
        Frame::Credit(1, 65_536),
        Frame::Reset(1),
        Frame::Ping([7; 8]),
        Frame::Pong([7; 8]),
        Frame::Leave(9),
    ];
    let mut together = Vec::new();
    all.iter().for_each(|frame| frame.write(&mut together));
    let alone = all.iter().map(|frame| {
        let mut bytes = Vec::new();
        frame.write(&mut bytes);
        bytes
    });
    alone.chain([together.clone()]).collect()
}

const YAML: &[&str] = &[
    "\n",
    "  ",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "---\n",
    "&a ",
    "*a",
    "<<: ",
    "!!binary ",
    "|\n",
    ">\n",
    "\"",
    "'",
    "null",
    "~",
    "1e999",
    "0x",
    "\t",
    "spec:\n",
    "metadata: { name: a }\n",
    "kind: Service\n",
];
const DOCUMENTS: &[&str] = &[
    "apiVersion: v1\nkind: Service\nmetadata: { name: web, namespace: shop }\nspec:\n  clusterIP: 10.0.0.1\n  ports: [{ name: http, port: 80 }]\n",
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: web, namespace: shop }\nspec:\n  hosts: [web]\n  http:\n  - match: [{ uri: { regex: '/a(b|c)*' } }]\n    route: [{ destination: { host: web, subset: v1 }, weight: 90 }]\n",
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: a, namespace: shop }\nspec:\n  action: DENY\n  rules:\n  - from: [{ source: { principals: ['*/sa/b'], ipBlocks: [10.0.0.0/8] } }]\n    to: [{ operation: { ports: ['80'], paths: ['/a*'] } }]\n",
    "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"a\"}, \"spec\": {}}]}",
    "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
];
