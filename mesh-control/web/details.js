// One workload, one service, one policy.

import { bytes, ask, badge, card, code, errors, facts, flow, h, heading, link, load, lock, many, ms, number, scope, table } from "/kit.js";
import { chart } from "/chart.js";
import { audience, endpoints, problem, problemCount, ready } from "/lists.js";

const crumb = (page, label) => h("p", { class: "crumb" }, h("a", { href: `#/${page}` }, label));

const list = (values) => (values.length ? values.join(", ") : "–");

const quiet = (text) => h("p", { class: "quiet" }, text);

export async function workloadPage([namespace, name]) {
  const it = await ask(`workloads/${encodeURIComponent(namespace)}/${encodeURIComponent(name)}`, { window: scope().window });
  const self = `${namespace}/${name}`;
  return () => [
    crumb("workloads", "Workloads"),
    heading(name, `${it.type} in ${namespace}`, membership(it)),
    card("What it is", facts([
      ["Identity", list(it.identities)], ["App", it.app], ["Version", it.version], ["Pods", ready(it.ready, it.pods)], ["Nodes", list(it.nodes)],
      ["Services", it.services.length ? h("span", {}, it.services.map((service, at) => [at > 0 && ", ", h("a", { href: link("services", ...service.split("/")) }, service)])) : "–"],
      ["Waypoint", waypoint(it)],
    ]), it.enrolled === 0 && h("p", { class: "hint" }, "Its traffic is not captured: neither its namespace nor its pods are labelled ", code("istio.io/dataplane-mode=ambient"), ".")),
    charts("Asked", it.series.inbound),
    it.series.outbound.some((point) => point.requestsPerSecond > 0 || point.connectionsPerSecond > 0) && charts("Asks", it.series.outbound),
    card("Who asks it", traffic(it.edges.filter((edge) => edge.to === self), "from", "Nobody has asked it in this time.")),
    card("Whom it asks", traffic(it.edges.filter((edge) => edge.from === self), "to", "It has asked nobody in this time.")),
    card("Pods", table("Pods", [
      ["Pod", (pod) => pod.name], ["Node", (pod) => pod.node ?? "–"], ["Addresses", (pod) => pod.addresses.join(", ")],
      ["Ready", (pod) => (pod.ready ? badge("good", "yes") : badge("warn", "no"))], ["In the mesh", (pod) => (!pod.enrolled ? badge("none", "no") : pod.capture ? badge("bad", "not yet") : badge("good", "yes"))],
      ...(it.instances.some((pod) => pod.capture || pod.certificate) ? [["What is wrong", (pod) => [pod.capture, pod.certificate && `no certificate: ${pod.certificate}`].filter(Boolean).join("; ") || "–"]] : []),
    ], it.instances, (pod) => pod.name)),
    card("Policies", policies(it.policies, "No policy is for this workload: everybody may talk to it.")),
  ];
}

export async function servicePage([namespace, name]) {
  const it = await ask(`services/${encodeURIComponent(namespace)}/${encodeURIComponent(name)}`, { window: scope().window });
  const kind = it.external ? "Outside of the mesh" : it.headless ? "Headless service" : "Service";
  return () => [
    crumb("services", "Services"),
    heading(name, `${kind} in ${namespace}`, endpoints(it)),
    card("What it is", facts([
      ["Host", it.hostname], ["Addresses", list(it.addresses)],
      ["Ports", list(it.ports.map((port) => `${port.number}/${port.protocol}${port.name ? ` ${port.name}` : ""}`))],
      ["Waypoint", waypoint(it)],
      ["Workloads", it.workloads.length ? h("span", {}, it.workloads.map((workload, at) => [at > 0 && ", ", h("a", { href: link("workloads", ...workload.split("/")) }, workload)])) : "–"],
    ]), it.endpoints.total === 0 && !it.external && h("p", { class: "hint" }, "Nothing answers: no pod has the labels that its selector asks for.")),
    charts("Asked", it.series),
    card("Who asks, and who answers", traffic(it.edges, "both", "Nobody has asked for it in this time.")),
    card("Policies", policies(it.policies, "No rule names this service: requests go to any of its endpoints.")),
  ];
}

export async function policyPage([kind, namespace, name]) {
  const it = await ask(`policies/${[kind, namespace, name].map(encodeURIComponent).join("/")}`);
  return () => [
    crumb("policies", "Policies"),
    heading(name, `${kind} in ${namespace}`, problemCount(it.problems)),
    card("What it is", facts([["What it does", it.summary || "–"], ["For", audience(it)], ["Hosts", it.hosts.length ? list(it.hosts) : null], ["Attached to", it.targets.length ? list(it.targets) : null]])),
    it.series.verdicts && h("section", { class: "charts", key: "verdicts", "aria-label": "What it has come to" }, h("h2", {}, "What it has come to"),
      h("div", { class: "row" }, verdicts(it)),
      quiet("Requests where the mesh looks at them, else connections. What the kernel lets pass between pods of one node is not counted.")),
    charts("Traffic that it is for", it.series.traffic),
    (it.scope === "mesh" || it.scope === "namespace" || it.scope === "workloads") && card("Workloads that it is for", it.workloads.length
      ? h("ul", { class: "columns" }, it.workloads.map((workload) => h("li", { key: workload }, h("a", { href: link("workloads", ...workload.split("/")) }, workload))))
      : quiet("It selects no workload: compare its selector with the labels of the pods.")),
    card("Problems", it.problems.length ? h("ol", { class: "problems" }, it.problems.map(problem)) : quiet("Analysis finds nothing wrong with it.")),
  ];
}

/** The waypoint that its connections go through, and why it is not used. */
const waypoint = (it) => it.waypoint && [it.waypoint, it.waypointRefused && [" ", badge("bad", "refused"), h("p", { class: "hint" }, it.waypointRefused)]];

function membership(it) {
  if (it.enrolled === 0) return badge("none", "not in the mesh");
  return it.enrolled === it.pods ? badge("good", "in the mesh") : badge("warn", `${it.enrolled} of ${it.pods} pods in the mesh`);
}

/** What a policy has allowed and refused; what can never be of its kind is left out. */
function verdicts(it) {
  const line = (name, kind, value) => ({ name, kind, value, filled: true });
  const tried = it.series.verdicts.some((point) => point.wouldDenyPerSecond > 0);
  const audits = it.series.verdicts.some((point) => point.auditedPerSecond > 0);
  return chart("Allowed and denied", it.series.verdicts, [
    (it.summary.startsWith("ALLOW") || it.series.verdicts.some((point) => point.allowedPerSecond > 0)) && line("allowed", "main", (point) => point.allowedPerSecond),
    line("denied", "bad", (point) => point.deniedPerSecond),
    tried && line("would be denied", "third", (point) => point.wouldDenyPerSecond),
    audits && line("audited", "second", (point) => point.auditedPerSecond),
  ].filter(Boolean), perSecond);
}

const perSecond = (value) => (value === null || value === undefined ? "–" : `${number(value)}/s`);

/** Requests and latency where there are requests, else connections; and bytes. */
function charts(title, points) {
  const requests = points.some((point) => point.requestsPerSecond > 0);
  const line = (name, kind, value, filled) => ({ name, kind, value, filled });
  const first = requests
    ? chart("Requests", points, [
      line("requests", "main", (point) => point.requestsPerSecond, true),
      line("errors", "bad", (point) => point.clientErrorsPerSecond + point.serverErrorsPerSecond, true),
    ], perSecond)
    : chart("Connections", points, [
      line("begun", "main", (point) => point.connectionsPerSecond, true),
      line("failed", "bad", (point) => point.failedConnectionsPerSecond, true),
    ], perSecond);
  const latency = requests && chart("Latency", points, [
    line("p99", "third", (point) => point.p99Ms), line("p95", "second", (point) => point.p95Ms), line("p50", "main", (point) => point.p50Ms),
  ], ms);
  const volume = chart("Bytes", points, [
    line("answers", "main", (point) => point.sentBytesPerSecond, true), line("requests", "second", (point) => point.receivedBytesPerSecond),
  ], (value) => bytes(value ?? 0));
  return h("section", { class: "charts", key: `charts ${title}`, "aria-label": title }, h("h2", {}, title), h("div", { class: "row" }, first, latency, volume));
}

function traffic(edges, end, none) {
  if (edges.length === 0) return quiet(none);
  const columns = [
    ...(end === "to" ? [] : [["From", (edge) => party(edge.from)]]),
    ...(end === "from" ? [] : [["To", (edge) => party(edge.to)]]),
    ["Protocol", (edge) => edge.protocols.join(", ").toUpperCase()], ["Load", (edge) => load(edge), true], ["Errors", (edge) => errors(edge), true],
    ["p50", (edge) => ms(edge.p50Ms), true], ["p99", (edge) => ms(edge.p99Ms), true], ["Bytes", (edge) => bytes(flow(edge)), true], ["Protection", (edge) => lock(edge.secured)],
  ];
  return table("Traffic", columns, edges, (edge) => `${edge.from} ${edge.to}`);
}

function party(id) {
  if (id === "unknown") return "not in the mesh";
  if (id.startsWith("outside:")) return id.slice("outside:".length);
  if (id.startsWith("service:")) return h("a", { href: link("services", ...id.slice("service:".length).split("/")) }, id.slice("service:".length));
  return h("a", { href: link("workloads", ...id.split("/")) }, id);
}

function policies(all, none) {
  if (all.length === 0) return quiet(none);
  return table("Policies", [
    ["Policy", (row) => h("a", { href: link("policies", row.kind, row.namespace, row.name) }, `${row.namespace}/${row.name}`)],
    ["Kind", (row) => row.kind], ["What it does", (row) => row.summary || "–"], ["For", audience], ["Problems", (row) => problemCount(row.problems)],
  ], all, (row) => `${row.kind} ${row.namespace}/${row.name}`);
}

