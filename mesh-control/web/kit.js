// What every page is made of: elements, words for figures, and the way to the API.

import { h as element } from "/lib/preact.mjs";

export { Component, render } from "/lib/preact.mjs";

/** An element. Properties that begin with `on` are listeners; what is null or false is left out. */
export function h(tag, props, ...children) {
  return element(tag, Object.fromEntries(Object.entries(props ?? {}).filter(([, value]) => value !== null && value !== false)), ...children);
}

/** What the reader has chosen for all pages. */
export const chosen = { namespace: "", window: 60, level: "app", view: "graph", search: {} };
try {
  Object.assign(chosen, JSON.parse(sessionStorage.getItem("mesh") ?? "{}"), { search: {} });
} catch {
  // A browser that keeps nothing forgets it.
}

/** Remembers a choice while the tab lives. */
export function choose(name, value) {
  chosen[name] = value;
  try {
    sessionStorage.setItem("mesh", JSON.stringify({ ...chosen, search: undefined }));
  } catch {
    // As above.
  }
}

/** Asks the API; an error says what failed. */
export async function ask(path, more = {}) {
  const query = new URLSearchParams(more).toString();
  const url = `/api/v1/${path}${query && "?" + query}`;
  let response;
  try {
    response = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(8000) });
  } catch (error) {
    const why = error.name === "TimeoutError" ? "it did not answer within 8 seconds" : "it does not answer";
    throw new Error(`The control plane cannot be reached: ${why}.`);
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    const error = new Error(body.error ?? `The control plane answered ${response.status} to ${url}.`);
    error.status = response.status;
    throw error;
  }
  return body;
}

/** The query for what the reader has chosen to see. */
export function scope() {
  const query = { window: chosen.window };
  if (chosen.namespace) query.namespace = chosen.namespace;
  return query;
}

export const link = (...parts) => "#/" + parts.map(encodeURIComponent).join("/");

// --- Words for figures ---

export function number(value) {
  if (!value) return "0";
  if (value < 0.01) return "<0.01";
  if (value < 10) return value.toFixed(2).replace(/\.?0+$/, "");
  if (value < 100) return value.toFixed(1).replace(/\.0$/, "");
  if (value < 10_000) return Math.round(value).toLocaleString("en");
  if (value < 1e6) return `${(value / 1e3).toFixed(1)}k`;
  return `${(value / 1e6).toFixed(1)}M`;
}

export const rate = (value) => `${number(value)}/s`;

export function bytes(value) {
  if (value < 1000) return `${Math.round(value)} B/s`;
  if (value < 1e6) return `${(value / 1e3).toFixed(1)} kB/s`;
  if (value < 1e9) return `${(value / 1e6).toFixed(1)} MB/s`;
  return `${(value / 1e9).toFixed(1)} GB/s`;
}

export function ms(value) {
  if (value === null || value === undefined) return "–";
  if (value < 10) return `${value.toFixed(1)} ms`;
  if (value < 1000) return `${Math.round(value)} ms`;
  return `${(value / 1000).toFixed(1)} s`;
}

export function percent(share) {
  if (share === null || share === undefined) return "–";
  if (share > 0 && share < 0.001) return "<0.1 %";
  return `${(share * 100).toFixed(share < 0.1 && share > 0 ? 1 : 0)} %`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "never";
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

export const many = (count, word, more = `${word}s`) => `${count} ${count === 1 ? word : more}`;

/** How bad a share of errors is: the word is shown beside the colour. */
export function health(share) {
  if (share === null || share === undefined) return "none";
  if (share >= 0.05) return "bad";
  return share >= 0.001 ? "warn" : "good";
}

/** Whether figures are those of requests; else of connections. */
export const hasRequests = (rates) => rates.requestsPerSecond > 0;

export function load(rates) {
  if (hasRequests(rates)) return rate(rates.requestsPerSecond);
  if (rates.connectionsPerSecond > 0) return `${number(rates.connectionsPerSecond)} conn/s`;
  return flow(rates) > 0 ? bytes(flow(rates)) : "–";
}

export const flow = (rates) => rates.sentBytesPerSecond + rates.receivedBytesPerSecond;

export const LOCKS = {
  mutualTls: ["closed", "mTLS", "All of it is encrypted with mutual TLS, or never leaves its node."],
  sameNode: ["closed", "same node", "It never leaves its node; the kernel knows both ends."],
  mixed: ["half", "partly plain", "Some of it is not protected."],
  plain: ["open", "plain", "It is not protected by the mesh."],
  nothing: ["none", "not sent", "It was answered before it was sent to anybody."],
};

const CLOSED = "M3 7V5a3 3 0 0 1 6 0v2M2 7h8v6H2z";
const OPEN = "M3 7V4a3 3 0 0 1 5.8-1M2 7h8v6H2z";

/** The drawing of a lock, 12 by 14. */
export function lockMark(secured, props = {}) {
  const [shape] = LOCKS[secured] ?? LOCKS.nothing;
  if (shape === "none") return h("g", props);
  return h("g", { class: `lock ${shape}`, ...props }, h("path", { d: shape === "closed" ? CLOSED : OPEN }));
}

export function lock(secured) {
  const [, word, title] = LOCKS[secured] ?? LOCKS.nothing;
  return h("span", { class: "locked", title },
    h("svg", { viewBox: "0 0 12 14", width: 12, height: 14, "aria-hidden": "true" }, lockMark(secured)), word);
}

// --- Parts of pages ---

export const badge = (kind, ...text) => h("span", { class: `badge ${kind}` }, ...text);

export const errors = (rates) => {
  const state = health(rates.errorShare);
  return h("span", { class: `errors ${state}` }, percent(rates.errorShare));
};

/** A table; columns are [heading, cell of a row, whether it is a figure]. */
export function table(caption, columns, rows, rowKey) {
  const head = columns.map(([heading, , isFigure]) => h("th", { scope: "col", class: isFigure && "figure" }, heading));
  const body = rows.map((row) =>
    h("tr", { key: rowKey(row) }, columns.map(([heading, cell, isFigure], place) =>
      h(place === 0 ? "th" : "td", {
        scope: place === 0 && "row", class: isFigure && "figure", "data-label": heading,
      }, cell(row)))));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("caption", { class: "hidden" }, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
}

export function empty(title, ...what) {
  return h("div", { class: "empty" }, h("h2", {}, title), ...what.map((it) => (it && typeof it === "string" ? h("p", {}, it) : it)));
}

export const code = (text) => h("code", {}, text);

export const command = (text) => h("pre", { tabindex: "0" }, h("code", {}, text));

/** A heading with what belongs beside it. */
export function heading(title, sub, ...beside) {
  return h("div", { class: "heading" }, h("div", {}, h("h1", {}, title), sub && h("p", { class: "sub" }, sub)),
    h("div", { class: "beside" }, ...beside));
}

export function card(title, ...content) {
  return h("section", { class: "card", key: `card ${title}` }, h("h2", {}, title), ...content);
}

export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => h("div", { key: name }, h("dt", {}, name), h("dd", {}, value))));
}

/** A field that leaves what does not contain its text out of a list. */
export function search(page, label, redraw) {
  return h("input", {
    type: "search", class: "search", placeholder: label, "aria-label": label, value: chosen.search[page] ?? "",
    oninput: (event) => {
      chosen.search[page] = event.target.value;
      redraw();
    },
  });
}

export const found = (page, ...texts) => {
  const wanted = (chosen.search[page] ?? "").toLowerCase();
  return texts.some((text) => String(text ?? "").toLowerCase().includes(wanted));
};
