// Which page is shown, and that it stays up to date.

import { ask, chosen, choose, command, empty, h, link, render } from "/kit.js";
import { graphPage } from "/graph.js";
import { nodesPage, policiesPage, problemsPage, servicesPage, workloadsPage } from "/lists.js";
import { policyPage, servicePage, workloadPage } from "/details.js";

const PAGES = [
  ["graph", "Graph", graphPage],
  ["workloads", "Workloads", workloadsPage, workloadPage],
  ["services", "Services", servicesPage, servicePage],
  ["policies", "Policies", policiesPage, policyPage],
  ["problems", "Problems", problemsPage],
  ["nodes", "Nodes", nodesPage],
];
const REFRESH = 5000;
const WINDOWS = [[60, "last minute"], [300, "last 5 minutes"], [900, "last 15 minutes"], [3600, "last hour"]];

const main = document.getElementById("main");
let mesh = null;
let timer = 0;
/** Answers to questions of another page or choice come too late. */
let turn = 0;
/** Whether anything stands there yet. */
let isFilled = false;
/** Draws the present page again from what was asked last. */
let redraw = () => {};

function where() {
  const parts = location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decodeURIComponent);
  return parts.length ? parts : ["graph"];
}

async function refresh({ moved = false } = {}) {
  clearTimeout(timer);
  turn += 1;
  const mine = turn;
  const [name, ...rest] = where();
  const page = PAGES.find(([id]) => id === name);
  const make = page && (rest.length ? page[3] : page[2]);
  frame(name);
  if (!make) {
    show(empty("There is no such page", h("p", {}, h("a", { href: "#/graph" }, "Go to the graph"))), moved);
    return;
  }
  if (moved) main.setAttribute("aria-busy", "true");
  try {
    mesh = await ask("mesh");
    if (mine !== turn) return;
    const view = await make(rest, { mesh, redraw: () => redraw(), refresh: () => refresh() });
    if (mine !== turn) return;
    redraw = () => show(view(), false);
    say(null);
    frame(name);
    performance.mark("drawing");
    show(view(), moved);
    performance.measure("draw", "drawing");
  } catch (error) {
    if (mine !== turn) return;
    if (error.status === 404) show(empty("It is not there", h("p", {}, error.message), h("p", {}, "It may have gone meanwhile. ", h("a", { href: link(name) }, `All ${name}`))), moved);
    else {
      if (error instanceof TypeError) console.error(error);
      say(error.message);
    }
  }
  if (!document.hidden) timer = setTimeout(refresh, REFRESH);
}

function show(content, moved) {
  if (!isFilled) main.replaceChildren();
  isFilled = true;
  main.setAttribute("aria-busy", "false");
  render(content, main);
  const title = main.querySelector("h1")?.textContent;
  document.title = title ? `${title} – Mesh` : "Mesh";
  if (moved) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
}

function say(problem) {
  const isReading = mesh && !mesh.ready;
  render(problem ? h("p", { class: "notice bad" }, h("strong", {}, problem), " What is shown is from before. It is asked again every 5 seconds.")
    : isReading ? h("p", { class: "notice" }, "The control plane is still reading its configuration.") : null, document.getElementById("notice"));
  if (problem && !isFilled) show(empty("Nothing to show yet", "The control plane has to answer first. If this page came through a port-forward, that may have ended:", command("meshctl dashboard")), false);
}

/** What is around the page. */
function frame(current) {
  const links = PAGES.map(([id, label]) =>
    h("a", { href: `#/${id}`, "aria-current": id === current && "page", key: id }, label));
  render(links, document.getElementById("nav"));
  const spaces = (mesh?.namespaces ?? []).map(({ name }) => name);
  if (chosen.namespace && mesh && !spaces.includes(chosen.namespace)) spaces.push(chosen.namespace);
  render([
    pick("Namespace", "namespace", [["", "all namespaces"], ...spaces.map((name) => [name, name])]),
    pick("Time", "window", WINDOWS),
    h("button", { type: "button", class: "theme", key: "theme", onclick: turnTheme, "aria-label": `Colours: ${theme()}. Change`, title: "Light, dark, or as the system has it" }, { light: "☀", dark: "☾", system: "◐" }[theme()]),
  ], document.getElementById("tools"));
  const foreign = Object.entries(mesh?.links ?? {}).filter(([, url]) => url)
    .map(([name, url]) => h("a", { href: url, rel: "noreferrer", key: name }, name[0].toUpperCase() + name.slice(1)));
  render([
    h("span", {}, mesh && `mesh-control ${mesh.version} · cluster ${mesh.cluster}`),
    h("span", { class: "links" }, foreign, h("a", { href: "/api/v1/mesh" }, "API")),
  ], document.getElementById("foot"));
}

function pick(label, name, options) {
  return h("select", {
    name, "aria-label": label, key: name, value: String(chosen[name]),
    onchange: (event) => {
      choose(name, name === "window" ? Number(event.target.value) : event.target.value);
      refresh();
    },
  }, options.map(([value, text]) => h("option", { value, key: `option ${value}` }, text)));
}

function theme() {
  try {
    return localStorage.getItem("theme") ?? "system";
  } catch {
    return "system";
  }
}

function turnTheme() {
  const next = { system: "light", light: "dark", dark: "system" }[theme()];
  try {
    localStorage.setItem("theme", next);
  } catch {
    // It lasts as long as the page.
  }
  paint(next);
  frame(where()[0]);
  redraw();
}

function paint(name) {
  document.documentElement.dataset.theme = name;
}

document.getElementById("skip").onclick = (event) => {
  event.preventDefault();
  main.focus();
};
addEventListener("hashchange", () => refresh({ moved: true }));
document.addEventListener("visibilitychange", () => document.hidden ? clearTimeout(timer) : refresh());
// Its layout depends on how wide it may be.
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width) redraw();
  width = innerWidth;
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
paint(theme());
refresh();
