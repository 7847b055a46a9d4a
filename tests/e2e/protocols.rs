//! Databases that speak for themselves: real clients, and real servers where they can be had, get through unchanged and are
//! counted by the names of their protocols.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle, Process};
use mesh_tests::scenario::{Dialled, dial, eventually, manifests, pod, start};

use crate::routing::{ask_once, sample, until};
use crate::scrape::{Scrape, counted};

/// A service with these ports.
fn service(name: &str, app: &str, ports: &[&str]) -> String {
    let ports: Vec<_> = ports.iter().map(|port| format!("{{{port}}}")).collect();
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: mesh}}, \
         spec: {{selector: {{app: {app}}}, ports: [{}]}}}}\n---\n",
        ports.join(", ")
    )
}

/// What a pod's command has printed.
fn run(pod: &PodHandle, words: &[&str]) -> Result<String> {
    let output = pod.exec(words)?;
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{words:?}: {out}{errors}");
    Ok(out.trim_end().to_owned())
}

/// Repeats a command until it is done without an error: a server takes a moment to begin.
fn run_soon(bed: &Bed, pod: &PodHandle, words: &[&str]) -> Result<String> {
    let mut last = Ok(String::new());
    let reached = bed.wait("a command without error", Duration::from_secs(30), |_| {
        last = run(pod, words);
        last.is_ok()
    });
    reached.with_context(|| format!("at last: {last:?}"))?;
    last
}

const MONGO: &str = "name: mongo, port: 27017, targetPort: 7000";

/// What the driver of `MongoDB` for Python does: the hello of old, and then messages.
const ORDERS: &str = "
import sys, pymongo
client = pymongo.MongoClient(sys.argv[1], int(sys.argv[2]), serverSelectionTimeoutMS=8000)
orders = client.shop.orders
for number in range(3):
    orders.insert_one({'number': number, 'text': 'x' * 100000})
print(len(list(orders.find({'number': 1}))))
client.admin.command('ping')
try:
    client.admin.command('customerNumber42')
finally:
    client.close()
";

#[test]
fn commands_of_mongodb_are_counted() -> Result<()> {
    let server = |name: &str, node: &str| pod("mesh", name, node, &["netprobe", "mongo", "--port", "7000"]);
    let all = [
        manifests(),
        server("db", "node-2"),
        server("other", "node-1"),
        service("db", "db", &[MONGO, "name: own, port: 27018, targetPort: 7000, appProtocol: MONGO"]),
        service("other", "other", &["name: mongo-other, port: 27017, targetPort: 7000"]),
        // What answers there has never heard of MongoDB.
        service("raw", "far", &[MONGO]),
    ];
    let bed = start(Bed::builder().nodes(2).manifests(all.concat()))?;
    let (client, node) = (bed.pod("mesh/client")?, bed.node("node-1")?);
    let vip = bed.status().service_ip("mesh/db")?.to_string();
    let order = |port: &str| {
        run_soon(&bed, &client, &["/usr/bin/python3", "-c", ORDERS, &vip, port]).context("the driver")
    };
    ensure!(order("27017")? == "0", "the server has no documents to give");
    let commands = |service: &str, command: &str, count: i64| {
        let labels = [("destination_service_name", service), ("cmd", command), ("reporter", "source")];
        counted(&node, "mesh_mongo_cmd_total", &labels, |seen| seen == count)
            .with_context(|| format!("{command} of {service}"))
    };
    for (command, count) in [("insert", 3), ("find", 1), ("ping", 1), ("other", 1)] {
        commands("db", command, count)?;
    }
    let hello = [("cmd", "isMaster"), ("destination_service_name", "db")];
    counted(&node, "mesh_mongo_cmd_total", &hello, |seen| seen > 0)?;
    let replies = [("op", "op_msg"), ("side", "reply"), ("destination_service_name", "db")];
    counted(&node, "mesh_mongo_op_total", &replies, |seen| seen >= 6)?;
    let hello = [("op", "op_query"), ("side", "request")];
    counted(&node, "mesh_mongo_op_total", &hello, |seen| seen > 0)?;
    let bytes = [("protocol", "mongo"), ("destination_service_name", "db")];
    counted(&node, "mesh_protocol_received_bytes_total", &bytes, |seen| seen > 300_000)?;
    // By `appProtocol`, whatever the name of the port.
    order("27018")?;
    commands("db", "insert", 6)?;
    let scrape = Scrape::of(&node)?;
    ensure!(scrape.count("mesh_mongo_decoding_error_total", &[]) == 0, "everything could be read");
    ensure!(scrape.select("istio_tcp_sent_bytes_total", &[("request_protocol", "mongo")]).count() == 0);

    // Where a rule says; Istio has no other rules for it than those for TCP.
    bed.apply(
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: db, namespace: mesh}, \
         spec: {hosts: [db], tcp: [{match: [{port: 27017}], route: [{destination: {host: other}}]}]}}",
    )?;
    bed.wait("the rule", Duration::from_secs(10), |_| {
        let _ = order("27017");
        commands("other", "insert", 3).is_ok()
    })?;
    what_cannot_be_read_passes(&bed, &client)
}

/// Bytes that are none of `MongoDB`'s go on unchanged, and are counted as nothing.
fn what_cannot_be_read_passes(bed: &Bed, client: &PodHandle) -> Result<()> {
    let to = format!("{}:27017", bed.status().service_ip("mesh/raw")?);
    eventually(bed, client, &to, Dialled::served)?;
    let seen = dial(client, &[&to, "--bytes", "300000", "--marker", "marked"])?;
    ensure!(seen.served() && seen.received == 300_006 && seen.start.starts_with("marked"), "{seen:?}");
    let node = bed.node("node-1")?;
    let raw = [("destination_service_name", "raw")];
    counted(&node, "mesh_mongo_decoding_error_total", &raw, |seen| seen >= 2)?;
    let scrape = Scrape::of(&node)?;
    ensure!(scrape.select("mesh_mongo_cmd_total", &raw).count() == 0, "nothing is guessed");
    Ok(())
}

#[test]
fn redis_and_mysql_are_counted_by_their_names() -> Result<()> {
    let all = [
        manifests(),
        service("cache", "far", &["name: redis, port: 6379, targetPort: 7379"]),
        service("sql", "far", &["name: mysql, port: 3306, targetPort: 7306"]),
    ];
    let bed = start(Bed::builder().nodes(2).manifests(all.concat()))?;
    let (client, far, node) = (bed.pod("mesh/client")?, bed.pod("mesh/far")?, bed.node("node-1")?);
    let _redis = far.spawn(&["redis-server", "--port", "7379", "--protected-mode", "no", "--save", ""])?;
    let vip = bed.status().service_ip("mesh/cache")?.to_string();
    let redis =
        |words: &[&str]| run_soon(&bed, &client, &[&["redis-cli", "-e", "-h", &vip][..], words].concat());
    ensure!(redis(&["SET", "key", "value"])? == "OK" && redis(&["GET", "key"])? == "value");
    let directory = tempfile::tempdir()?;
    let _mysql = mysql(&far, directory.path().to_str().context("a path in UTF-8")?)?;
    let vip = bed.status().service_ip("mesh/sql")?.to_string();
    let words = ["mariadb", "--no-defaults", "-h", &vip, "-N", "-e", "select 6 * 7"];
    let answer = run_soon(&bed, &client, &words)?;
    ensure!(answer == "42", "{answer}");
    for (protocol, service) in [("redis", "cache"), ("mysql", "sql")] {
        let labels = [("protocol", protocol), ("destination_service_name", service), ("reporter", "source")];
        for what in ["connections_opened", "received_bytes", "sent_bytes"] {
            counted(&node, &format!("mesh_protocol_{what}_total"), &labels, |seen| seen > 0)?;
        }
        let opened = Scrape::of(&node)?.count("mesh_protocol_connections_opened_total", &labels);
        counted(&node, "mesh_protocol_connections_closed_total", &labels, |seen| seen == opened)?;
        // Istio's metrics are what they are with any other TCP.
        let tcp = [("request_protocol", "tcp"), ("destination_service_name", service)];
        counted(&node, "istio_tcp_connections_opened_total", &tcp, |seen| seen > 0)?;
    }
    Ok(())
}

/// A server that asks nobody for a password. Its files are in `directory`.
fn mysql(pod: &PodHandle, directory: &str) -> Result<Process> {
    let data = format!("--datadir={directory}/data");
    fs::create_dir(format!("{directory}/data"))?;
    let install = ["mariadb-install-db", "--no-defaults", "--user=root", "--skip-test-db", &data];
    run(pod, &install).context("tables of the system")?;
    let (socket, pid) = (format!("--socket={directory}/sock"), format!("--pid-file={directory}/pid"));
    let words = ["mariadbd", "--no-defaults", "--user=root", "--port=7306", "--skip-grant-tables"];
    Ok(pod.spawn(&[&words[..], &["--skip-networking=0", &data, &socket, &pid]].concat())?)
}

/// By the header that names the operation, on whatever HTTP route the request is.
#[test]
fn operations_of_dynamodb_are_counted() -> Result<()> {
    let sleep = sample("bookinfo/sleep.yaml")?.replace("  containers:", "  nodeName: node-1\n  containers:");
    let parts = [sample("bookinfo/namespace.yaml")?, sleep, sample("httpbin/httpbin.yaml")?];
    let bed = start(Bed::builder().nodes(2).manifests(parts.join("\n---\n")))?;
    let (client, node) = (bed.pod("default/sleep")?, bed.node("node-1")?);
    bed.apply(
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: httpbin, namespace: default}, \
         spec: {hosts: [httpbin], http: [{route: [{destination: {host: httpbin}}], \
         headers: {response: {set: {x-routed: 'yes'}}}}]}}",
    )?;
    let ask = |operation: &str, path: &str| {
        let target = format!("x-amz-target: {operation}");
        ask_once(&client, &["-H", &target, "-d", "{}", &format!("http://httpbin:8000{path}")])
    };
    until(&bed, &client, &["-o", "/dev/null", "-D", "-", "http://httpbin:8000/get"], |answer| {
        answer.status == 200 && answer.body.contains("x-routed: yes")
    })?;
    ensure!(ask("DynamoDB_20120810.GetItem", "/anything")?.status == 200);
    ensure!(ask("DynamoDB_20120810.PutItem", "/status/400")?.status == 400);
    let error = "/response-headers?x-amzn-errortype=com.amazonaws.dynamodb.v20120810%23ThrottlingException";
    ensure!(ask("DynamoDB_20120810.Query", error)?.status == 200);
    ensure!(ask("DynamoDB_20120810.MyOwn", "/anything")?.status == 200);
    ensure!(ask("Kinesis_20131202.PutRecord", "/anything")?.status == 200);
    for (operation, code) in [("GetItem", "200"), ("PutItem", "400"), ("Query", "200"), ("other", "200")] {
        let labels = [
            ("operation", operation),
            ("response_code", code),
            ("destination_service_name", "httpbin"),
            ("reporter", "source"),
        ];
        counted(&node, "mesh_dynamodb_operations_total", &labels, |seen| seen == 1)
            .with_context(|| operation.to_owned())?;
    }
    let labels = [("operation", "Query"), ("error", "ThrottlingException")];
    counted(&node, "mesh_dynamodb_errors_total", &labels, |seen| seen == 1)?;
    let all = Scrape::of(&node)?.count("mesh_dynamodb_operations_total", &[]);
    ensure!(all == 4, "other services of Amazon are none: {all}");
    Ok(())
}
