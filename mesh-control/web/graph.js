// The graph of what flows: drawn, or as a table.

import {
  LOCKS, ask, chosen, choose, code, command, empty, errors, facts, flow, bytes, h, hasRequests, heading, health, link, load,
  lock, lockMark, many, ms, number, percent, scope, table,
} from "/kit.js";
import { labels, path, remembered } from "/layout.js";

const NODE = { width: 148, height: 56 };
const SMALL = { width: 128, height: 54 };
const LEVELS = [["app", "Applications"], ["workload", "Workloads"], ["namespace", "Namespaces"]];
const NAMES = { unknown: "not in the mesh", PassthroughCluster: "other addresses", BlackHoleCluster: "refused addresses", InboundPassthroughCluster: "other ports" };

/** More than these are too many to take in at once. */
const CROWD = 60;

/** What the reader looks at: the id of a node, or both ids of an edge. */
let selected = null;

export async function graphPage(_, { mesh, redraw, refresh }) {
  const graph = await ask("graph", { ...scope(), level: chosen.level });
  const select = (id) => {
    selected = selected === id ? null : id;
    redraw();
  };
  return () => [
    heading("Traffic", words(graph), tabs("Detail", LEVELS, "level", refresh), tabs("Show as", [["graph", "Graph"], ["table", "Table"]], "view", redraw)),
    graph.nodes.length > CROWD && chosen.level !== "namespace" && h("p", { class: "notice" }, `These are ${many(graph.nodes.length, chosen.level === "app" ? "application" : "workload")}: choose a namespace above, or look at namespaces first.`),
    graph.edges.length === 0 ? nothing(mesh) : chosen.view === "table" ? asTable(graph) : drawn(graph, select),
  ];
}

function words(graph) {
  if (graph.edges.length === 0) return "Nothing flows at the moment";
  const total = graph.edges.reduce((sum, edge) => sum + edge.requestsPerSecond, 0);
  const wrong = graph.edges.reduce((sum, edge) => sum + edge.clientErrorsPerSecond + edge.serverErrorsPerSecond, 0);
  const open = graph.edges.filter((edge) => edge.secured === "plain" || edge.secured === "mixed").length;
  const parts = [`${number(total)} requests/s`, total > 0 && `${percent(wrong / total)} errors`, open > 0 ? `${many(open, "connection")} not fully protected` : "all protected"];
  return parts.filter(Boolean).join(" · ");
}

function tabs(label, options, name, then) {
  return h("div", { class: "tabs", role: "group", "aria-label": label, key: `tabs ${name}` }, options.map(([value, text]) =>
    h("button", {
      type: "button", key: value, "aria-pressed": String(chosen[name] === value),
      onclick: () => {
        choose(name, value);
        then();
      },
    }, text)));
}

function nothing(mesh) {
  if (mesh.counts.enrolled === 0) {
    return empty("No pod is in the mesh yet", "Label a namespace, and its pods are in the mesh at once, without a restart:",
      command("kubectl label namespace default istio.io/dataplane-mode=ambient"));
  }
  if (mesh.counts.proxies === 0) {
    return empty("No proxy has told of traffic yet", "Proxies tell every 5 seconds. If this stays, see whether nodes are connected:", h("p", {}, h("a", { href: "#/nodes" }, "Nodes")));
  }
  const filter = chosen.namespace ? `in namespace ${chosen.namespace} ` : "";
  return empty(`No traffic ${filter}in this time`, h("p", {}, `${many(mesh.counts.enrolled, "pod")} of the mesh, ${many(mesh.counts.proxies, "proxy", "proxies")} listening. Send a request to a service, or look at a longer time. It shows within 10 seconds.`),
    chosen.namespace && h("p", {}, "Another namespace may have some: choose ", code("all namespaces"), " above."));
}

const name = (node) => NAMES[node.name] ?? node.name;

function subtitle(node) {
  if (node.kind === "unknown") return "clients";
  if (node.kind === "outside") return "servers";
  if (node.kind === "service") return "service";
  if (chosen.level === "namespace") return many(node.workloads.length, "workload");
  return node.versions.filter((version) => version !== "latest").join(" · ") || "workload";
}

// --- Drawn ---

function drawn(graph, select) {
  const isNarrow = innerWidth < 700;
  const { width, height } = isNarrow ? SMALL : NODE;
  const nodes = graph.nodes.map((node) => ({ id: node.id, lane: chosen.level === "namespace" ? "" : node.namespace, width, height }));
  const layout = remembered(nodes, graph.edges, { down: isNarrow, between: isNarrow ? 92 : 156 });
  const told = new Map(graph.edges.map((edge) => [edgeId(edge), labelText(edge)]));
  const spots = labels(layout.routes, told, isNarrow);
  const [wide, high] = [layout.width + 8, layout.height + 8];
  const scale = Math.min(1, Math.max(0.8, room() / wide));
  const svg = h("svg", {
    viewBox: `-4 -4 ${wide} ${high}`, class: "graph", width: Math.round(wide * scale), height: Math.round(high * scale),
    role: "group", "aria-label": "Graph of traffic. The table has the same figures.",
  },
  h("defs", {}, ["good", "warn", "bad", "none"].map((state) => h("marker", {
    id: `arrow-${state}`, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto",
  }, h("path", { d: "M0,0.5L8,4L0,7.5z", class: `head ${state}` })))),
  layout.lanes.map((lane) => laneBox(lane)),
  graph.edges.map((edge) => edgeLine(edge, layout, isNarrow)),
  graph.nodes.map((node) => nodeBox(node, layout.places.get(node.id), { width, height }, graph, select)),
  graph.edges.map((edge) => edgeLabel(edge, spots.get(edgeId(edge)), select)));
  return h("div", { class: `canvas ${selected ? "split" : ""}`, key: "canvas" },
    h("div", { class: "drawing", key: "drawing" }, svg, legend()),
    panel(graph, select));
}

function laneBox({ lane, x, y, width, height }) {
  return h("g", { class: "lane", key: `lane ${lane}` }, h("rect", { x, y, width, height, rx: 14 }), h("text", { x: x + 14, y: y + 18 }, lane));
}

function edgeId(edge) {
  return `${edge.from} ${edge.to}`;
}

function loop({ x, y }, { width, height }) {
  const [left, right, top] = [x + width / 2 - 44, x + width / 2 - 14, y - height / 2];
  return `M${left},${top}C${left},${top - 34} ${right},${top - 34} ${right},${top}`;
}

function edgeLine(edge, layout, down) {
  const points = layout.routes.get(edgeId(edge));
  const state = health(edge.errorShare);
  const at = layout.places.get(edge.from);
  const busy = edge.requestsPerSecond + edge.connectionsPerSecond;
  return h("path", {
    key: `line ${edgeId(edge)}`, class: `edge ${state} ${chosenEdge(edge)}`,
    d: points ? path(points, down) : loop(at, down ? SMALL : NODE),
    "stroke-width": (1.4 + Math.min(3, Math.log10(1 + busy))).toFixed(1), "marker-end": `url(#arrow-${state})`,
  });
}

function chosenEdge(edge) {
  if (!selected) return "";
  return [edgeId(edge), edge.from, edge.to].includes(selected) ? "on" : "off";
}

/** How wide the drawing may be. */
function room() {
  const isNarrow = innerWidth < 700;
  const beside = selected && innerWidth >= 1000 ? 19 * 15 + 15 : 0;
  return document.getElementById("main").clientWidth - beside - (isNarrow ? 51 : 83);
}

function labelText(edge) {
  const first = load(edge);
  const wrong = edge.errorShare ? `${percent(edge.errorShare)} err · ` : "";
  const second = hasRequests(edge) ? `${percent(edge.errorShare)} err · ${ms(edge.p95Ms)}` : `${wrong}${bytes(flow(edge))}`;
  return { first, second, width: Math.max(first.length * 6.8 + 24, second.length * 5.7 + 14), height: 36 };
}

function edgeLabel(edge, spot, select) {
  if (!spot) return null;
  const { x, y, first, second, width } = spot;
  const state = health(edge.errorShare);
  const choosing = choosable(edgeId(edge), select, edgeWords(edge));
  return h("g", { ...choosing, class: `label ${state} ${chosenEdge(edge)}`, key: `label ${edgeId(edge)}`, transform: `translate(${x.toFixed(1)},${y.toFixed(1)})`, "data-from": edge.from, "data-to": edge.to },
    h("rect", { x: -width / 2, y: -18, width, height: 36, rx: 8 }),
    h("g", { transform: `translate(${-(first.length * 6.8 + 16) / 2},-14) scale(0.9)` }, lockMark(edge.secured)),
    h("text", { x: 8, y: -3, "text-anchor": "middle", class: "first" }, first),
    h("text", { x: 0, y: 11, "text-anchor": "middle", class: "second" }, second));
}

function edgeWords(edge) {
  const [, word] = LOCKS[edge.secured];
  return `${edge.from} to ${edge.to}: ${load(edge)}, ${percent(edge.errorShare)} errors, ${ms(edge.p95Ms)} at the 95th percentile, ${word}`;
}

function choosable(id, select, label) {
  return {
    tabindex: "0", role: "button", "aria-pressed": String(selected === id), "aria-label": label,
    onclick: () => select(id),
    onkeydown: (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        select(id);
      } else if (event.key === "Escape" && selected) select(selected);
    },
  };
}

function nodeBox(node, { x, y }, { width, height }, graph, select) {
  const near = selected === node.id || graph.edges.some((edge) => edgeId(edge) === selected && [edge.from, edge.to].includes(node.id))
    || graph.edges.some((edge) => [edge.from, edge.to].includes(selected) && [edge.from, edge.to].includes(node.id));
  const state = health(node.inbound.errorShare);
  const label = `${name(node)}${node.namespace && ` in ${node.namespace}`}: asked ${load(node.inbound)}, ${percent(node.inbound.errorShare)} errors`;
  const most = Math.floor((width - 28) / 7.7);
  const short = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
  return h("g", {
    ...choosable(node.id, select, label), class: `node ${node.kind} ${state} ${selected ? (near ? "on" : "off") : ""}`,
    key: `node ${node.id}`, "data-node": node.id, transform: `translate(${(x - width / 2).toFixed(1)},${(y - height / 2).toFixed(1)})`,
  },
  h("title", {}, label),
  h("rect", { class: "body", width, height, rx: 11 }),
  h("rect", { class: "mark", x: 8, y: 10, width: 4, height: height - 20, rx: 2 }),
  h("text", { x: 22, y: height / 2 - 4, class: "name" }, short(name(node), most)),
  h("text", { x: 22, y: height / 2 + 14, class: "sub" }, short(subtitle(node), most + 3)));
}

function legend() {
  const item = (mark, text) => h("li", {}, mark, text);
  const bar = (state) => h("span", { class: `swatch ${state}`, "aria-hidden": "true" });
  return h("ul", { class: "key", "aria-label": "Legend" },
    item(bar("good"), "no errors"), item(bar("warn"), "some"), item(bar("bad"), "5 % or more"), item(bar("none"), "no requests"),
    item(lock("mutualTls"), ""), item(lock("plain"), ""), h("li", { class: "quiet" }, "second line: errors · 95th percentile, or bytes"));
}

// --- What is chosen ---

function panel(graph, select) {
  if (!selected) return null;
  const close = h("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => select(selected) }, "×");
  const node = graph.nodes.find(({ id }) => id === selected);
  const edge = graph.edges.find((it) => edgeId(it) === selected);
  const box = (title, ...content) => h("aside", { class: "panel", "aria-label": title, key: "panel" }, close, h("h2", {}, title), ...content);
  if (node) {
    const workloads = node.workloads.map((it) => h("li", {}, h("a", { href: link("workloads", node.namespace, it) }, it)));
    const isService = node.kind !== "unknown" && node.kind !== "outside" && chosen.level === "app";
    return box(name(node),
      h("p", { class: "sub" }, [node.namespace, subtitle(node)].filter(Boolean).join(" · ")),
      facts([["Asked", figures(node.inbound)], ["Asks", figures(node.outbound)], ["Latency, p50 · p95 · p99", hasRequests(node.inbound) ? latencies(node.inbound) : null]]),
      neighbours("Asked by", graph.edges.filter((it) => it.to === node.id), "from", select),
      neighbours("Asks", graph.edges.filter((it) => it.from === node.id), "to", select),
      workloads.length > 0 && chosen.level !== "namespace" && [h("h3", {}, "Workloads"), h("ul", { class: "plain" }, workloads)],
      isService && h("p", {}, h("a", { href: link("services", node.namespace, node.name) }, `Service ${node.name}`)));
  }
  if (edge) {
    return box(`${short(edge.from)} → ${short(edge.to)}`,
      h("p", { class: "sub" }, edge.protocols.join(", ").toUpperCase(), " · ", lock(edge.secured)),
      h("p", {}, LOCKS[edge.secured][2]),
      facts([
        ["Requests", hasRequests(edge) ? `${number(edge.requestsPerSecond)}/s` : null],
        ["Errors", errors(edge)],
        ["of the client (4xx)", hasRequests(edge) ? `${number(edge.clientErrorsPerSecond)}/s` : null],
        ["of the server (5xx, no answer)", hasRequests(edge) ? `${number(edge.serverErrorsPerSecond)}/s` : null],
        ["Latency, p50 · p95 · p99", hasRequests(edge) ? latencies(edge) : null],
        ["Connections", edge.connectionsPerSecond > 0 ? `${number(edge.connectionsPerSecond)}/s` : null],
        ["Answers", bytes(edge.sentBytesPerSecond)], ["Requests' bytes", bytes(edge.receivedBytesPerSecond)],
        ["Protected", percent(edge.securedShare)],
      ]));
  }
  return box("No traffic any more", h("p", {}, "What was chosen has carried nothing in this time."));
}

const short = (id) => NAMES[id.replace("outside:", "")] ?? id.replace(/^service:/, "").replace(/^[^/]*\//, "");

const latencies = (rates) => [rates.p50Ms, rates.p95Ms, rates.p99Ms].map(ms).join(" · ");

const figures = (rates) => h("span", {}, load(rates), rates.errorShare !== null && [", ", errors(rates), " errors"]);

function neighbours(title, edges, end, select) {
  if (edges.length === 0) return null;
  return [h("h3", {}, title), h("ul", { class: "plain" }, edges.map((edge) => h("li", { key: edgeId(edge) },
    h("button", { type: "button", class: "text", onclick: () => select(edgeId(edge)) }, short(edge[end])), " ", h("span", { class: "quiet" }, load(edge), " · ", errors(edge)))))];
}

// --- As a table ---

function asTable(graph) {
  const rows = [...graph.edges].sort((a, b) => b.requestsPerSecond - a.requestsPerSecond || b.connectionsPerSecond - a.connectionsPerSecond);
  const named = (id) => {
    const node = graph.nodes.find((it) => it.id === id);
    return h("span", {}, h("span", { class: "quiet" }, node.namespace && chosen.level !== "namespace" ? `${node.namespace}/` : ""), name(node));
  };
  return table("Traffic", [
    ["From", (edge) => named(edge.from)], ["To", (edge) => named(edge.to)],
    ["Protocol", (edge) => edge.protocols.join(", ").toUpperCase()], ["Load", (edge) => load(edge), true], ["Errors", (edge) => errors(edge), true],
    ["p50", (edge) => ms(edge.p50Ms), true], ["p95", (edge) => ms(edge.p95Ms), true], ["p99", (edge) => ms(edge.p99Ms), true],
    ["Bytes", (edge) => bytes(flow(edge)), true], ["Protection", (edge) => lock(edge.secured)],
  ], rows, edgeId);
}
