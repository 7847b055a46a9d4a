// Figures over time.

import { h } from "/kit.js";

const WIDTH = 400;
const HEIGHT = 158;
const LEFT = 64;
const BOTTOM = 20;
const TOP = 8;

/** A chart of `points` ({at, seconds, …}) with `lines` [{name, kind, value: point → number or null}], `show` making words of a value. */
export function chart(title, points, lines, show) {
  const end = points.length ? points[points.length - 1].at + points[points.length - 1].seconds : 0;
  const begin = Math.min(points[0]?.at ?? 0, end - 300);
  const values = points.flatMap((point) => lines.map((line) => line.value(point) ?? 0));
  const most = nice(Math.max(0, ...values));
  const x = (at) => LEFT + ((at - begin) / Math.max(1, end - begin)) * (WIDTH - LEFT - 6);
  const y = (value) => TOP + (1 - value / most) * (HEIGHT - TOP - BOTTOM);
  const last = points[points.length - 1];
  const legend = lines.map((line) => h("li", { class: line.kind, "data-key": line.name },
    h("span", { class: "mark", "aria-hidden": "true" }), `${line.name} `, h("strong", {}, last ? show(line.value(last)) : "–")));
  const body = points.length < 2
    ? h("p", { class: "quiet" }, "Not enough has happened yet: a point is made every 10 seconds.")
    : h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}, the last ${Math.round((end - begin) / 60)} minutes` },
      [0, 0.5, 1].map((part) => grid(y(most * part), show(most * part))),
      times(begin, end).map(([at, text]) => h("text", { x: x(at), y: HEIGHT - 5, "text-anchor": "middle", class: "tick" }, text)),
      lines.map((line) => drawn(points, line, x, y)));
  return h("figure", { class: "chart", "data-key": `chart ${title}` }, h("figcaption", {}, title), h("ul", { class: "legend" }, legend), body);
}

function grid(y, text) {
  return [h("line", { x1: LEFT, x2: WIDTH - 6, y1: y, y2: y, class: "grid" }), h("text", { x: LEFT - 6, y: y + 3.5, "text-anchor": "end", class: "tick" }, text)];
}

function times(begin, end) {
  const step = end - begin > 1800 ? 900 : end - begin > 600 ? 300 : 120;
  const all = [];
  for (let at = Math.ceil(begin / step) * step; at < end; at += step) {
    if (at - begin > (end - begin) * 0.04 && end - at > (end - begin) * 0.04) {
      all.push([at, new Date(at * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })]);
    }
  }
  return all;
}

/** A line where there are values, with gaps where there are none. */
function drawn(points, line, x, y) {
  let text = "";
  let area = "";
  let open = null;
  let before = null;
  const close = () => {
    if (open !== null) area += `L${before},${y(0)}L${open},${y(0)}Z`;
    open = null;
  };
  for (const point of points) {
    const value = line.value(point);
    if (value === null || value === undefined) {
      close();
      continue;
    }
    const at = (x(point.at) + x(point.at + point.seconds)) / 2;
    const step = `${open === null ? "M" : "L"}${at.toFixed(1)},${y(value).toFixed(1)}`;
    text += step;
    area += step;
    open ??= at.toFixed(1);
    before = at.toFixed(1);
  }
  close();
  return h("g", { class: line.kind, "data-key": line.name }, line.filled && h("path", { d: area || "M0,0", class: "area" }), h("path", { d: text || "M0,0", class: "line" }));
}

/** A round figure that is not less. */
function nice(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 2.5, 5, 10].find((factor) => factor * power >= value * 1.02) ?? 10;
  return step * power;
}
