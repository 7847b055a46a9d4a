// Lists of what there is.

import {
  ask, badge, chosen, code, command, duration, empty, errors, found, h, heading, link, load, many, ms, scope, search, table,
} from "/kit.js";

const inNamespace = () => (chosen.namespace ? ` in ${chosen.namespace}` : "");

const named = (page, row) => h("a", { href: link(page, row.namespace, row.name) }, h("span", { class: "quiet" }, `${row.namespace}/`), row.name);

const id = (row) => `${row.kind ?? ""} ${row.namespace}/${row.name}`;

/** A list, or what to do if there is nothing in it. */
function listed(page, rows, { none, make, columns }) {
  if (rows.length === 0) return none();
  const wanted = rows.filter((row) => found(page, row.namespace, row.name, row.kind));
  return wanted.length > 0 ? table(make, columns, wanted, id) : empty("Nothing has such a name", "Change what stands in the field above.");
}

export async function workloadsPage(_, { redraw }) {
  const rows = await ask("workloads", scope());
  return () => [
    heading("Workloads", `${many(rows.length, "workload")}${inNamespace()}, ${many(rows.reduce((sum, row) => sum + row.pods, 0), "pod")}`, search("workloads", "Find a workload", redraw)),
    listed("workloads", rows, {
      make: "Workloads",
      none: () => empty("No workloads", "Nothing runs here that the mesh knows. Choose another namespace, or deploy something:", command("kubectl apply -f deploy/samples/bookinfo")),
      columns: [
        ["Workload", (row) => named("workloads", row)],
        ["App", (row) => row.app], ["Version", (row) => row.version],
        ["Pods", (row) => ready(row.ready, row.pods), true],
        ["In the mesh", (row) => enrolled(row)],
        ["Asked", (row) => load(row.inbound), true], ["Errors", (row) => errors(row.inbound), true], ["p95", (row) => ms(row.inbound.p95Ms), true],
        ["Asks", (row) => load(row.outbound), true],
      ],
    }),
  ];
}

export const ready = (count, all) => (count === all ? `${count}/${all}` : badge("warn", `${count}/${all} ready`));

function enrolled(row) {
  if (row.enrolled === 0) return badge("none", "no");
  return row.enrolled === row.pods ? badge("good", "yes") : badge("warn", `${row.enrolled} of ${row.pods}`);
}

export async function servicesPage(_, { redraw }) {
  const rows = await ask("services", scope());
  return () => [
    heading("Services", `${many(rows.length, "service")}${inNamespace()}`, search("services", "Find a service", redraw)),
    listed("services", rows, {
      make: "Services",
      none: () => empty("No services", "There is no Service or ServiceEntry here. Choose another namespace, or create one."),
      columns: [
        ["Service", (row) => h("span", {}, named("services", row), row.external && [" ", badge("none", "external")])],
        ["Ports", (row) => row.ports.map((port) => port.number).join(", ")],
        ["Endpoints", (row) => endpoints(row)],
        ["Waypoint", (row) => (row.waypointRefused ? h("span", { title: row.waypointRefused }, row.waypoint, " ", badge("bad", "refused")) : row.waypoint ?? "–")],
        ["Load", (row) => load(row), true], ["Errors", (row) => errors(row), true], ["p95", (row) => ms(row.p95Ms), true],
      ],
    }),
  ];
}

export function endpoints({ endpoints: { ready: count, total }, external }) {
  if (total === 0) return external ? "by name" : badge("bad", "none");
  return count === total ? `${total} ready` : badge(count ? "warn" : "bad", `${count} of ${total} ready`);
}

export async function policiesPage(_, { redraw }) {
  const rows = await ask("policies", scope());
  return () => [
    heading("Policies", `${many(rows.length, "resource")}${inNamespace()} about who may talk to whom, and how`, search("policies", "Find a policy", redraw)),
    listed("policies", rows, {
      make: "Policies",
      none: () => empty("No policies", "Without policies all may talk to all, encrypted between pods of the mesh. To refuse plaintext:", command("kubectl apply -f deploy/samples/bookinfo/policies/strict.yaml")),
      columns: [
        ["Policy", (row) => h("a", { href: link("policies", row.kind, row.namespace, row.name) }, h("span", { class: "quiet" }, `${row.namespace}/`), row.name)],
        ["Kind", (row) => row.kind], ["What it does", (row) => row.summary || "–"], ["For", (row) => audience(row)],
        ["Problems", (row) => problemCount(row.problems)],
      ],
    }),
  ];
}

export function audience(row) {
  switch (row.scope) {
    case "mesh": return "the whole mesh";
    case "namespace": return `namespace ${row.namespace}`;
    case "workloads": return row.workloads.length ? many(row.workloads.length, "workload") : badge("warn", "no workload");
    case "targets": return row.targets.join(", ");
    default: return row.hosts.join(", ") || "–";
  }
}

export function problemCount(problems) {
  if (problems.length === 0) return badge("good", "no problems");
  return badge(problems.some(({ level }) => level === "error") ? "bad" : "warn", many(problems.length, "problem"));
}

export async function problemsPage() {
  const { problems, incomplete } = await ask("problems", scope());
  const worst = problems.filter(({ level }) => level === "error").length;
  return () => [
    heading("Problems", problems.length ? `${many(worst, "error")}, ${many(problems.length - worst, "warning")}${inNamespace()}` : "What analysis finds in the configuration"),
    incomplete && h("p", { class: "notice" }, "There are too many objects to look at all of them together. ", code("meshctl analyze"), " has no such limit."),
    problems.length === 0
      ? empty("No problems found", `Everything${inNamespace()} was looked at: hosts and subsets that do not exist, selectors that select nothing, rules that take each other's place, what the mesh does not know. It is looked at again with every change.`)
      : h("ol", { class: "problems" }, problems.map(problem)),
  ];
}

export function problem(it) {
  const where = it.kind ? `${it.kind} ${it.namespace ? `${it.namespace}/` : ""}${it.name}` : it.origin;
  return h("li", { class: `card problem ${it.level === "error" ? "bad" : "warn"}`, key: `${it.code} ${it.origin} ${it.field} ${it.reason}` },
    h("p", { class: "what" }, badge(it.level === "error" ? "bad" : "warn", it.level), " ", h("strong", {}, where), " ", h("span", { class: "quiet" }, it.code)),
    h("p", {}, it.field && [code(it.field), ": "], it.reason),
    it.hint && h("p", { class: "hint" }, it.hint),
    it.kind && it.origin !== where && h("p", { class: "quiet" }, it.origin));
}

export async function nodesPage(_, { mesh }) {
  const { controlPlane, nodes, others } = await ask("nodes");
  const outOfStep = nodes.filter((node) => !inStep(node)).length;
  return () => [
    heading("Nodes", `${many(nodes.length, "node")}, ${outOfStep ? `${outOfStep} out of step` : "all in step"} · control plane ${controlPlane.version}, change ${controlPlane.sequence}`),
    nodes.length === 0
      ? empty("No nodes", "No pod runs anywhere that the mesh knows, and no node has connected. On a node:", command("mesh-node node --node NAME --control https://mesh-control:15012 --control-ca FILE"))
      : table("Nodes", columns("Node"), nodes, (node) => node.name),
    troubled(nodes),
    others.length > 0 && [h("h2", {}, "Gateways, waypoints and others"), table("Gateways and others", columns("Proxy").filter(([name]) => name !== "Pods" && name !== "Captured"), others, (it) => `${it.name} ${it.subscriptions[0]?.address}`)],
    mesh.counts.proxies === 0 && nodes.length > 0 && h("p", { class: "notice" }, "No proxy has told of its traffic. Those of another make do not."),
  ];
}

/** Pods that their nodes say something is wrong with. */
function troubled(nodes) {
  const rows = nodes.flatMap((node) => node.troubles.map((it) => ({ ...it, node: node.name })));
  return rows.length > 0 && [h("h2", {}, "Pods in trouble"), table("Pods in trouble", [
    ["Pod", (row) => h("strong", {}, h("span", { class: "quiet" }, `${row.namespace}/`), row.name)],
    ["Node", (row) => row.node],
    ["What is wrong", (row) => [row.capture && h("p", {}, badge("bad", "not captured"), " ", row.capture), row.certificate && h("p", {}, badge("warn", "no new certificate"), " ", row.certificate)]],
  ], rows, (row) => `${row.namespace}/${row.name}`)];
}

const inStep = (node) => (node.subscriptions.length > 0 || node.elsewhere) && node.subscriptions.every(({ synced }) => synced);

function columns(first) {
  return [
    [first, (node) => h("strong", {}, node.name)],
    ["State", state],
    ["Version", (node) => node.version ?? "–"],
    ["Pods", (node) => `${node.pods}, ${node.enrolled} in the mesh`],
    ["Captured", captured],
    ["Connections", (node) => node.connections ?? "–", true],
    ["Connected", (node) => (node.subscriptions.length ? `for ${duration(Math.max(...node.subscriptions.map((it) => it.connectedSeconds)))}` : "–")],
    ["Last report", (node) => (node.secondsSinceReport === null ? "none" : `${duration(node.secondsSinceReport)} ago`)],
    ["Subscription", subscription],
  ];
}

function state(node) {
  if (node.subscriptions.length === 0 && node.elsewhere) return badge("good", "connected to another replica");
  if (node.subscriptions.length === 0) return badge("bad", "not connected");
  return inStep(node) ? badge("good", "in step") : badge("warn", "behind");
}

function captured(node) {
  if (node.captured === null) return "–";
  return node.pending ? badge("warn", `${node.captured}, ${node.pending} waiting`) : badge("good", `${node.captured} captured`);
}

function subscription(node) {
  const types = node.subscriptions.flatMap((it) => it.types);
  if (types.length === 0) return "–";
  const wrong = types.filter((type) => type.lastRejection);
  return h("details", {}, h("summary", {}, wrong.length ? badge("bad", `${wrong.length} rejected`) : `${types.filter((type) => type.status === "SYNCED").length} of ${types.length} synced`),
    h("ul", { class: "plain" }, types.map((type) => h("li", {}, `${type.type}: ${type.status}`, type.lastRejection && h("p", { class: "hint" }, type.lastRejection)))));
}

