// Which page is shown, and that it stays up to date.

import { ask, chosen, choose, command, empty, h, link, morph } from "/kit.js";
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
    show(view(), moved);
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
  const fresh = h("main", { id: "main", tabindex: "-1", "aria-busy": "false" }, content);
  morph(main, fresh);
  const title = main.querySelector("h1")?.textContent;
  document.title = title ? `${title} – Mesh` : "Mesh";
  if (moved) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
}

function say(problem) {
  const notice = document.getElementById("notice");
  const fresh = h("div", { id: "notice", role: "status", "aria-live": "polite" });
  if (problem) {
    fresh.append(h("p", { class: "notice bad" }, h("strong", {}, problem), " What is shown is from before. It is asked again every 5 seconds."));
    if (main.querySelector(".loading")) main.replaceChildren(empty("Nothing to show yet", "The control plane has to answer first. If this page came through a port-forward, that may have ended:", command("meshctl dashboard")));
  } else if (mesh && !mesh.ready) {
    fresh.append(h("p", { class: "notice" }, "The control plane is still reading its configuration."));
  }
  morph(notice, fresh);
}

/** What is around the page. */
function frame(current) {
  const links = PAGES.map(([id, label]) =>
    h("a", { href: `#/${id}`, "aria-current": id === current && "page", "data-key": id }, label));
  morph(document.getElementById("nav"), h("nav", { id: "nav", "aria-label": "Pages" }, links));
  const spaces = (mesh?.namespaces ?? []).map(({ name }) => name);
  if (chosen.namespace && mesh && !spaces.includes(chosen.namespace)) spaces.push(chosen.namespace);
  const tools = h("div", { class: "tools", id: "tools" },
    pick("Namespace", "namespace", [["", "all namespaces"], ...spaces.map((name) => [name, name])]),
    pick("Time", "window", WINDOWS),
    h("button", { type: "button", class: "theme", "data-key": "theme", onclick: turnTheme, "aria-label": `Colours: ${theme()}. Change`, title: "Light, dark, or as the system has it" }, { light: "☀", dark: "☾", system: "◐" }[theme()]));
  const old = document.getElementById("tools");
  // A list that is open would close.
  if (old.querySelector("select:focus") === null || old.querySelectorAll("option").length !== tools.querySelectorAll("option").length) morph(old, tools);
  old.querySelectorAll("select").forEach((select) => (select.value = String(chosen[select.name])));
  const foreign = Object.entries(mesh?.links ?? {}).filter(([, url]) => url)
    .map(([name, url]) => h("a", { href: url, rel: "noreferrer", "data-key": name }, name[0].toUpperCase() + name.slice(1)));
  const foot = h("footer", { id: "foot", class: "foot" },
    mesh && h("span", {}, `mesh-control ${mesh.version} · cluster ${mesh.cluster}`),
    h("span", { class: "links" }, foreign, h("a", { href: "/api/v1/mesh" }, "API")));
  morph(document.getElementById("foot"), foot);
}

function pick(label, name, options) {
  return h("select", {
    name, "aria-label": label, "data-key": name,
    onchange: (event) => {
      choose(name, name === "window" ? Number(event.target.value) : event.target.value);
      refresh();
    },
  }, options.map(([value, text]) => h("option", { value, "data-key": `option ${value}` }, text)));
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
paint(theme());
refresh();
