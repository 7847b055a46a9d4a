// Figures over time.

import { Component, h } from "/kit.js";

const HEIGHT = 158;

/** A chart of `points` ({at, seconds, …}) with `lines` [{name, kind, value: point → number or null}], `show` making words of a value. */
export const chart = (title, points, lines, show) => h(Chart, { key: `chart ${title}`, title, points, lines, show });

class Chart extends Component {
  render({ title, points, lines, show }, { at }) {
    const point = points[at] ?? points[points.length - 1];
    const legend = lines.map((line) => h("li", { class: line.kind, key: line.name },
      h("span", { class: "mark", "aria-hidden": "true" }), `${line.name} `, h("strong", {}, point ? show(line.value(point)) : "–")));
    const minutes = Math.round((this.end() - this.begin()) / 60);
    const body = points.length < 2
      ? h("p", { key: "nothing", class: "quiet" }, "Not enough has happened yet: a point is made every 10 seconds.")
      : h("div", { key: "plot", class: "plot", role: "img", "aria-label": `${title}, the last ${minutes} minutes`, ref: (place) => (this.place = place) });
    return h("figure", { class: "chart", ref: (figure) => (this.figure = figure) }, h("figcaption", {}, title),
      h("ul", { class: "legend" }, legend, points[at] && h("li", { key: "when" }, `at ${clock(points[at].at)}`)), body);
  }

  componentDidMount() {
    this.componentDidUpdate();
  }

  componentDidUpdate() {
    if (!this.place) return this.componentWillUnmount();
    if (this.plot?.root.parentNode !== this.place) this.draw();
    // Moving the pointer changes the legend alone.
    if (this.drawn === this.props.points && this.colours === colour(this.place)) return;
    [this.drawn, this.colours] = [this.props.points, colour(this.place)];
    this.plot.setData(this.data());
  }

  componentWillUnmount() {
    this.watch?.disconnect();
    this.plot?.destroy();
    this.plot = this.drawn = null;
  }

  end() {
    const last = this.props.points[this.props.points.length - 1];
    return last ? last.at + last.seconds : 0;
  }

  begin() {
    return Math.min(this.props.points[0]?.at ?? 0, this.end() - 300);
  }

  data() {
    const { points, lines } = this.props;
    return [points.map(({ at, seconds }) => at + seconds / 2), ...lines.map((line) => points.map((point) => line.value(point) ?? null))];
  }

  draw() {
    this.componentWillUnmount();
    const { lines } = this.props;
    const tone = (at) => colour(this.figure.querySelectorAll(".legend .mark")[at]);
    const axis = {
      stroke: () => colour(this.place), font: `11px ${getComputedStyle(this.place).fontFamily}`,
      grid: { stroke: () => getComputedStyle(this.place).borderTopColor, width: 1 }, ticks: { show: false },
    };
    this.plot = new uPlot({
      width: this.place.clientWidth, height: HEIGHT, legend: { show: false }, padding: [6, 6, 0, 0],
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: { x: { range: () => [this.begin(), this.end()] }, y: { range: (_, __, most) => [0, most > 0 ? most * 1.05 : 1] } },
      axes: [
        { ...axis, grid: { show: false }, size: 24, space: 60, incrs: [60, 120, 300, 600, 900, 1800, 3600], values: (_, times) => times.map(clock) },
        { ...axis, size: 68, space: 36, values: (_, values) => values.map((value) => this.props.show(value)) },
      ],
      series: [{}, ...lines.map((line, at) => ({
        stroke: () => tone(at), width: 1.8, points: { show: false }, fill: line.filled && (() => tone(at).replace(/\)$/, " / 0.13)").replaceAll(",", "")),
      }))],
      hooks: { setCursor: [({ cursor: { idx } }) => idx !== this.state.at && this.setState({ at: idx })] },
    }, this.data(), this.place);
    this.watch = new ResizeObserver(() => this.plot.setSize({ width: this.place.clientWidth, height: HEIGHT }));
    this.watch.observe(this.place);
  }
}

const colour = (element) => getComputedStyle(element).color;

const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
