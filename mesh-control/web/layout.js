// Places a graph in layers: who asks comes before who answers, and every namespace has a lane of its own, so that their
// boxes never overlap. Equal graphs are placed equally.

/** Between nodes of a layer, and around the nodes of a lane. */
const GAP = 26;
const PADDING = 20;
const TITLE = 22;
/** Of a place that a long edge passes a layer at. */
const PASSAGE = 30;

/** What was placed last: its nodes and edges, how, and where. */
let last = { nodes: new Map(), edges: new Map(), how: "", layout: null };

/**
 * Places as `place` does, but leaves everything where it is for as long as nothing new has come: what carries nothing for a
 * while leaves its place empty, until it is one of many.
 */
export function remembered(nodes, edges, options) {
  const how = JSON.stringify(options);
  const isKnown = how === last.how && nodes.every(({ id, lane }) => last.nodes.get(id)?.lane === lane) && edges.every(({ from, to }) => last.edges.has(`${from} ${to}`));
  if (!isKnown || nodes.length + edges.length < (last.nodes.size + last.edges.size) * 0.6) {
    last = {
      nodes: new Map(nodes.map((node) => [node.id, node])), edges: new Map(edges.map((edge) => [`${edge.from} ${edge.to}`, edge])),
      how, layout: place(nodes, edges, options),
    };
  }
  return last.layout;
}

/**
 * Places `nodes` ({id, lane, width, height}) and `edges` ({from, to}). With `down` layers are rows, else columns, `between`
 * apart. Gives back {width, height, places: Map id → {x, y}, lanes: [{lane, x, y, width, height}], routes: Map "from to" → points}.
 */
export function place(nodes, edges, { down, between }) {
  const known = new Map(nodes.map((node) => [node.id, { ...node, real: true }]));
  const all = edges.filter(({ from, to }) => from !== to && known.has(from) && known.has(to));
  const forward = withoutCycles([...known.keys()], all);
  const layers = layer([...known.keys()], forward);
  const { cells, chains } = withPassages(known, forward, layers);
  const lanes = order(cells, chains, layers);
  return coordinates(cells, lanes, { chains, down, between, edges: all });
}

/** Edges that close a cycle are turned round. */
function withoutCycles(ids, edges) {
  const out = new Map(ids.map((id) => [id, []]));
  const asked = new Map(ids.map((id) => [id, 0]));
  for (const edge of edges) {
    out.get(edge.from).push(edge);
    asked.set(edge.to, asked.get(edge.to) + 1);
  }
  const state = new Map();
  const turned = new Set();
  const visit = (id) => {
    state.set(id, "open");
    for (const edge of out.get(id)) {
      if (state.get(edge.to) === "open") turned.add(edge);
      else if (!state.has(edge.to)) visit(edge.to);
    }
    state.set(id, "done");
  };
  const roots = [...ids].sort((a, b) => asked.get(a) - asked.get(b) || (a < b ? -1 : 1));
  roots.forEach((id) => state.has(id) || visit(id));
  const unique = new Map();
  for (const edge of edges) {
    const [from, to] = turned.has(edge) ? [edge.to, edge.from] : [edge.from, edge.to];
    unique.set(`${from} ${to}`, { from, to });
  }
  return [...unique.values()];
}

/** The longest way to a node is its layer. */
function layer(ids, edges) {
  const layers = new Map(ids.map((id) => [id, 0]));
  for (let changed = true, rounds = 0; changed && rounds <= ids.length; rounds += 1) {
    changed = false;
    for (const { from, to } of edges) {
      if (layers.get(to) <= layers.get(from)) {
        layers.set(to, layers.get(from) + 1);
        changed = true;
      }
    }
  }
  // Who is asked by nobody stands just before whom it asks.
  const asked = new Set(edges.map(({ to }) => to));
  for (const id of ids) {
    const next = edges.filter(({ from }) => from === id).map(({ to }) => layers.get(to));
    if (!asked.has(id) && next.length > 0) layers.set(id, Math.min(...next) - 1);
  }
  return layers;
}

/** An edge over several layers has a cell in each of them, so that it goes past nodes and not through them. */
function withPassages(known, edges, layers) {
  const cells = new Map(known);
  const chains = new Map();
  for (const { from, to } of edges) {
    const chain = [from];
    for (let at = layers.get(from) + 1; at < layers.get(to); at += 1) {
      const id = `${from} ${to} ${at}`;
      const near = known.get(to).lane || known.get(from).lane;
      cells.set(id, { id, lane: near, width: PASSAGE, height: PASSAGE, real: false });
      layers.set(id, at);
      chain.push(id);
    }
    chains.set(`${from} ${to}`, [...chain, to]);
  }
  return { cells, chains };
}

/** For each lane its cells by layer, so ordered that few edges cross. */
function order(cells, chains, layers) {
  const near = new Map([...cells.keys()].map((id) => [id, []]));
  for (const chain of chains.values()) {
    chain.slice(1).forEach((id, before) => {
      near.get(id).push(chain[before]);
      near.get(chain[before]).push(id);
    });
  }
  const names = [...new Set([...cells.values()].map((cell) => cell.lane))];
  const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : 0);
  const first = (lane) => mean([...cells.values()].filter((cell) => cell.lane === lane).map((cell) => layers.get(cell.id)));
  names.sort((a, b) => first(a) - first(b) || (a < b ? -1 : 1));
  const depth = Math.max(0, ...layers.values()) + 1;
  const lanes = names.map((lane) => {
    const ids = [...cells.values()].filter((cell) => cell.lane === lane).map((cell) => cell.id).sort();
    const columns = Array.from({ length: depth }, (_, at) => ids.filter((id) => layers.get(id) === at));
    return { lane, columns };
  });
  for (let round = 0; round < 8; round += 1) {
    const rank = new Map();
    lanes.forEach(({ columns }, lane) => columns.forEach((ids) => ids.forEach((id, at) => {
      rank.set(id, lane * 1000 + (at + 0.5) / ids.length);
    })));
    for (const { columns } of lanes) {
      for (const ids of columns) {
        const wish = new Map(ids.map((id) => [id, near.get(id).length ? mean(near.get(id).map((it) => rank.get(it))) : rank.get(id)]));
        ids.sort((a, b) => wish.get(a) - wish.get(b) || (a < b ? -1 : 1));
      }
    }
  }
  return lanes;
}

function coordinates(cells, lanes, { chains, down, between, edges }) {
  // Along: from layer to layer. Across: within a layer.
  const along = (cell) => (down ? cell.height : cell.width);
  const across = (cell) => (down ? cell.width : cell.height);
  const depth = lanes[0]?.columns.length ?? 0;
  const thick = Array.from({ length: depth }, (_, at) =>
    Math.max(0, ...lanes.flatMap(({ columns }) => columns[at].map((id) => cells.get(id)).filter((cell) => cell.real).map(along))));
  const starts = [];
  thick.reduce((start, size, at) => {
    starts[at] = start;
    return start + size + between;
  }, PADDING + (down ? TITLE : 0));
  const places = new Map();
  const boxes = [];
  let lane0 = 0;
  for (const { lane, columns } of lanes) {
    const size = (ids) => ids.reduce((sum, id) => sum + across(cells.get(id)) + GAP, -GAP);
    const most = Math.max(0, ...columns.map(size));
    const begin = lane0 + PADDING + (down || !lane ? 0 : TITLE);
    columns.forEach((ids, at) => {
      let next = begin + (most - size(ids)) / 2;
      for (const id of ids) {
        const cell = cells.get(id);
        const middle = starts[at] + thick[at] / 2;
        const center = next + across(cell) / 2;
        places.set(id, down ? { x: center, y: middle } : { x: middle, y: center });
        next += across(cell) + GAP;
      }
    });
    const used = columns.map((ids, at) => (ids.some((id) => cells.get(id).real) ? at : -1)).filter((at) => at >= 0);
    const [low, high] = [Math.min(...used), Math.max(...used)];
    const from = starts[low] - PADDING - (down ? TITLE : 0);
    const to = starts[high] + thick[high] + PADDING;
    const end = begin + most + PADDING;
    if (lane) {
      boxes.push(down
        ? { lane, x: lane0, y: from, width: end - lane0, height: to - from }
        : { lane, x: from, y: lane0, width: to - from, height: end - lane0 });
    }
    lane0 = end + GAP;
  }
  const length = (starts[depth - 1] ?? 0) + (thick[depth - 1] ?? 0) + PADDING;
  const breadth = Math.max(0, lane0 - GAP);
  const routes = new Map(edges.map(({ from, to }) => [`${from} ${to}`, route({ from, to }, { chains, cells, places, down })]));
  const [width, height] = down ? [breadth, length] : [length, breadth];
  return { width, height, places, lanes: boxes, routes };
}

/** The points that an edge goes through, from border to border. */
function route({ from, to }, { chains, cells, places, down }) {
  const direct = chains.get(`${from} ${to}`);
  const chain = direct ?? [...chains.get(`${to} ${from}`)].reverse();
  const shift = direct ? 0 : 12;
  const points = chain.map((id) => ({ ...places.get(id) }));
  const sign = direct ? 1 : -1;
  const reach = (id) => (down ? cells.get(id).height : cells.get(id).width) / 2;
  const [axis, other] = down ? ["y", "x"] : ["x", "y"];
  points[0][axis] += sign * reach(from);
  points[points.length - 1][axis] -= sign * reach(to);
  points.forEach((point) => (point[other] += shift));
  return points;
}

/** A smooth path through points, and the place of its label. */
export function path(points, down) {
  const axis = down ? "y" : "x";
  let text = `M${points[0].x},${points[0].y}`;
  for (let at = 1; at < points.length; at += 1) {
    const [a, b] = [points[at - 1], points[at]];
    const half = (b[axis] - a[axis]) / 2;
    text += down
      ? `C${a.x},${a.y + half} ${b.x},${b.y - half} ${b.x},${b.y}`
      : `C${a.x + half},${a.y} ${b.x - half},${b.y} ${b.x},${b.y}`;
  }
  return text;
}

/** Where the label of an edge stands: where edges of one node have parted, or have not come together yet. */
function labelPlace(points, isJoining, down) {
  const [a, b] = isJoining ? points : points.slice(-2);
  const away = down ? 0.66 : 0.56;
  const t = isJoining ? 1 - away : away;
  const eased = t * t * (3 - 2 * t);
  return down
    ? { x: a.x + (b.x - a.x) * eased, y: a.y + (b.y - a.y) * t }
    : { x: a.x + (b.x - a.x) * t, y: a.y + (b.y - a.y) * eased };
}

/**
 * Where the labels of edges stand: `sizes` is a Map "from to" → {width, height}. Those that would cover each other are moved
 * apart, across the direction of the layers.
 */
export function labels(routes, sizes, down) {
  const count = (end) => {
    const all = new Map();
    for (const id of routes.keys()) all.set(id.split(" ")[end], (all.get(id.split(" ")[end]) ?? 0) + 1);
    return all;
  };
  const [out, into] = [count(0), count(1)];
  const placed = [...routes].filter(([id]) => sizes.has(id)).map(([id, points]) => {
    const [from, to] = id.split(" ");
    return { id, ...sizes.get(id), ...labelPlace(points, into.get(to) > out.get(from), down) };
  });
  const [axis, size, other, thick] = down ? ["x", "width", "y", "height"] : ["y", "height", "x", "width"];
  const reach = Math.max(0, ...placed.map((label) => label[size])) + 4;
  for (let round = 0, hasMoved = true; round < 12 && hasMoved; round += 1) {
    hasMoved = false;
    placed.sort((a, b) => a[axis] - b[axis] || (a.id < b.id ? -1 : 1));
    for (const [at, a] of placed.entries()) {
      for (let next = at + 1; next < placed.length; next += 1) {
        const b = placed[next];
        if (b[axis] - a[axis] > 2 * reach) break;
        const over = (a[size] + b[size]) / 2 + 4 - (b[axis] - a[axis]);
        if (over > 0 && Math.abs(a[other] - b[other]) < (a[thick] + b[thick]) / 2) {
          a[axis] -= over / 2;
          b[axis] += over / 2;
          hasMoved = true;
        }
      }
    }
  }
  return new Map(placed.map((label) => [label.id, label]));
}
